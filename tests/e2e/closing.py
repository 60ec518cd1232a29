"""The close-code table of docs/protocol.md §4 as data: how a client comes to see each code.

The same cases are seen by a library (test_close_codes.py) and by Chromium's own WebSocket (tests/browser).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.handled_server import HANDLED, a_hand, hand
from tests.harness import Server, request

PING = '{"type":"ping"}'
Step = Callable[[Server, str, ExitStack], object]
"""Something that happens besides: (server, client_id, what to undo afterwards)."""
Says = Callable[[Server, str], tuple[str | bytes, ...]]


@dataclass(frozen=True)
class Case:
    code: int
    reason: str | None  # None: any
    sentence: str
    where: str = "main"
    token: Callable[[Server, str], str] = Server.token
    path: str = "/ws"
    foreign: bool = False  # the page's origin is not allowed
    before: Step | None = None
    says: Says = lambda *_: ()  # after welcome
    wire: bytes = b""  # after welcome, past the library: what only a broken client sends
    then: Step | None = None  # after welcome
    status: int = 0  # refused, no welcome: the HTTP status where the client sends no Origin

    @property
    def name(self) -> str:
        return f"{self.code} {self.sentence}"


def frame(first: int, payload: bytes, *, mask: bool = True) -> bytes:
    """A frame with this first byte (FIN, RSV, opcode), right or wrong; up to 125 bytes."""
    return bytes((first, (0x80 if mask else 0) | len(payload))) + (b"\0\0\0\0" if mask else b"") + payload


def occupy(server: Server, client_id: str, stack: ExitStack) -> ClientConnection:
    """Another connection, open until the end."""
    headers = {"Authorization": f"Bearer {server.token(client_id)}"}
    plain = connect(server.ws_url, additional_headers=headers, compression=None, proxy=None, ping_interval=None)
    socket = stack.enter_context(plain)
    socket.recv(timeout=10)
    return socket


def begin_to_leave(server: Server, client_id: str, stack: ExitStack) -> None:
    """SIGTERM, and wait until the drain is under way."""
    witness = occupy(server, "witness", stack)
    leave(server, client_id, stack)
    with contextlib.suppress(ConnectionClosed):
        while True:
            witness.recv(timeout=10)


def leave(server: Server, client_id: str, stack: ExitStack) -> None:
    os.kill(server.pid, signal.SIGTERM)


def engine_down(server: Server, client_id: str, stack: ExitStack) -> None:
    hand(server, "engine", "down")
    stack.callback(hand, server, "engine", "up")


def nine_tabs(server: Server, client_id: str, stack: ExitStack) -> None:
    for _ in range(8):
        occupy(server, client_id, stack)


def defect(server: Server, client_id: str, stack: ExitStack) -> None:
    hand(server, "defect", client_id)


def operator(method: str, path: str) -> Step:
    """A call to /clients/{client_id}…"""

    def call(server: Server, client_id: str, stack: ExitStack) -> None:
        answer = request(server, method, f"/clients/{quote(client_id)}{path}")
        assert answer.status < 300, answer

    return call


def _old(server: Server, client_id: str) -> str:
    return server.token(client_id, iat=int(time.time()) - 60)


def say(*frames: str | bytes) -> Says:
    return lambda server, client_id: frames


def _of_an_issuer(server: Server, client_id: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return jwt.encode({"sub": client_id, "exp": int(time.time()) + 60}, key, algorithm="ES256", headers={"kid": "1"})


def _auth_as_bob(server: Server, client_id: str) -> tuple[str, ...]:
    return (json.dumps({"type": "auth", "token": server.token("bob")}),)


CASES = (
    Case(1002, None, "reserved bits", wire=frame(0xC1, b"{}")),
    Case(1002, None, "a frame that is not masked", wire=frame(0x81, b"{}", mask=False)),
    Case(1002, None, "a reserved opcode", wire=frame(0x83, b"")),
    Case(1002, None, "a ping in fragments", wire=frame(0x09, b"")),
    Case(1002, None, "a continuation of nothing", wire=frame(0x80, b"{}")),
    Case(1002, None, "a close code that may not be sent", wire=frame(0x88, b"\x03\xed")),
    Case(1003, "binary", "a binary message", says=say(b"\0\1\2")),
    Case(1007, None, "a text that is not UTF-8", wire=frame(0x81, b'{"type":"\xff"}')),
    Case(1009, "too_large", "a message over 32 KiB", says=say('{"type":"' + "x" * 32 * 1024 + '"}')),
    Case(1009, "too_large", "a message in 1,025 fragments", wire=frame(0x01, b"") + frame(0x00, b"") * 1024),
    Case(4400, "bad_frame", "no JSON", says=say("hello")),
    Case(4400, "bad_frame", "JSON, but no object", says=say("[1]")),
    Case(4400, "bad_frame", "an ack without seq", says=say('{"type":"ack"}')),
    Case(4400, "bad_frame", "an ack with a seq of another type", says=say('{"type":"ack","seq":"1"}')),
    Case(4400, "bad_frame", "an auth without token", says=say('{"type":"auth"}')),
    Case(4400, "bad_frame", "ack= is neither auto nor client", path="/ws?ack=maybe", status=400),
    Case(1011, "internal", "a defect of the server's", before=defect, says=say(PING)),
    Case(1012, "draining", "the server goes away", where="gone", then=leave),
    Case(1012, "draining", "the server is going away", where="leaving", before=begin_to_leave, status=503),
    Case(1012, "disconnected", "an operator moves the client", then=operator("DELETE", "/connections?reconnect=true")),
    Case(1013, "overloaded", "MAX_CONNECTIONS are open", where="crowded", before=occupy, status=503),
    Case(1013, "engine_unavailable", "the engine is down", before=engine_down, status=503),
    Case(1013, "no_keys", "the JWKS was never loaded", where="keyless", token=_of_an_issuer, status=503),
    Case(4401, "token_missing", "no token", token=lambda *_: "", status=401),
    Case(4401, "token_invalid", "no JWT", token=lambda *_: "garbage", status=401),
    Case(4401, "token_expired", "a token of yesterday", token=lambda s, c: s.token(c, ttl=-86400), status=401),
    Case(4401, "token_expired", "the token ends while connected", token=lambda s, c: s.token(c, ttl=1)),
    Case(4403, "forbidden_origin", "a page of another site", foreign=True, status=403),
    Case(4403, "client_id_mismatch", "another client_id in the path", path="/ws/notifications/bob", status=403),
    Case(4403, "client_id_mismatch", "an auth with another client's token", says=_auth_as_bob),
    Case(4403, "revoked", "a revoked token", token=_old, before=operator("POST", "/revoke"), status=403),
    Case(4403, "revoked", "the token is revoked while connected", token=_old, then=operator("POST", "/revoke")),
    Case(
        4403,
        "banned",
        "an operator disconnects the client for good",
        then=operator("DELETE", "/connections?reconnect=false"),
    ),
    Case(4409, "replaced", "a ninth connection takes the place of the first", then=nine_tabs),
    Case(4429, "rate_limited", "300 frames at once that are neither acks nor pongs", says=say(*[PING] * 300)),
)
LEAVING = {"leaving": 3, "gone": 0.2}
"""Servers that end in a case, and how long their drain takes."""
BY_PAGES = tuple(case for case in CASES if not case.wire)
"""A browser frames correctly, whatever the page does."""


class Servers:
    """The servers of the cases, each started when it is first asked for."""

    def __init__(self, directory: Path, origin: str, stack: ExitStack) -> None:
        self._directory, self._stack = directory, stack
        self._common = {"allowed_origins": origin, "jwt_leeway_seconds": 0}
        self._running: dict[str, Server] = {}

    @contextmanager
    def of(self, case: Case) -> Iterator[Server]:
        if case.where in LEAVING:  # it does not come back
            directory = self._directory / secrets.token_hex(4)
            with Server(directory, drain_seconds=LEAVING[case.where], **self._common) as server:
                yield server
            return
        if case.where not in self._running:
            self._running[case.where] = self._start(case.where)
        yield self._running[case.where]

    def _start(self, where: str) -> Server:
        directory = self._directory / where
        match where:
            case "crowded":
                server = Server(directory, max_connections=1, **self._common).start()
            case "keyless":
                # Nobody listens on port 1, and so /readyz never says 200.
                server = Server(directory, jwt_secret=None, jwt_jwks_url="https://127.0.0.1:1/keys", **self._common)
                await_life(server.spawn())
            case _:
                server = Server(directory, command=HANDLED, environ=a_hand(), **self._common).start()
        self._stack.callback(server.close)
        return server


def await_life(server: Server) -> None:
    deadline = time.monotonic() + server.ready_timeout
    while True:
        with contextlib.suppress(OSError):
            if server.get("/livez")[0] == 200:
                return
        assert server.running, server.tail()
        assert time.monotonic() < deadline
        time.sleep(0.02)
