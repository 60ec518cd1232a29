"""The opening handshake (RFC 6455 §4.2), decided inside our HTTP class: who gets a session, and how a refusal is told.

malformed                           HTTP 400 / 426
refused, no Origin                  HTTP 401 / 403 / 503 with a problem document
refused, Origin (a browser, which   101, then at once the close frame that says why: page scripts see close codes,
cannot see HTTP errors)             but never the status of a failed handshake
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from notifier.auth.tokens import Identity
from notifier.engine.base import MailboxState
from notifier.errors import (
    BadHandshake,
    ClientIdMismatch,
    MethodNotAllowed,
    NotifierError,
    UpgradeRequired,
)
from notifier.protocol import SUBPROTOCOL, AckMode
from notifier.session import Session
from notifier.transport import frames
from notifier.transport.admission import Caller, address_of, examine, host_of, tokens_of
from notifier.transport.door import Door
from notifier.transport.http import LINGER_S
from notifier.transport.request import Head, Request
from notifier.transport.websocket import WebSocketConnection

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ALIAS = b"/ws/notifications/"


def is_websocket_path(path: bytes) -> bool:
    """Whether `path` speaks WebSocket."""
    return path == b"/ws" or (path.startswith(_ALIAS) and len(path) > len(_ALIAS) and b"/" not in path[len(_ALIAS) :])


class Hello(NamedTuple):
    """A well-formed handshake."""

    accept: bytes
    origin: str | None
    host: str
    subprotocol: bool
    token: str | None
    ack_mode: AckMode
    client_id: str | None
    """From the path, where it names one."""
    problem: NotifierError | None
    """Well-formed, but refused already: two tokens, or an `ack` that does not exist."""


class GetOnly(MethodNotAllowed):
    """`/ws` asked for with another method, and no upgrade."""

    headers = (("Allow", "GET"),)


class PlainWebSocketRoute:
    """`/ws` asked for without an upgrade: tell what it is (RFC 9110 §15.5.22)."""

    name = "ws"
    repeats = False

    def admit(self, head: Head) -> int:
        """See Route."""
        if not head.upgrade and head.method not in ("GET", "HEAD"):
            raise GetOnly("A WebSocket handshake is a GET.")
        if not head.upgrade:
            raise UpgradeRequired("Connect with a WebSocket client, version 13.")
        return 0

    def handle(self, request: Request) -> None:
        """See Route."""
        request.fail(UpgradeRequired("Connect with a WebSocket client, version 13."))


def shake_hands(door: Door, request: Request) -> None:
    """Decide on an upgrade request. Answers now, or when the token has been checked."""
    request.keep_alive = False
    address = address_of(door, request)
    try:
        hello = read(request, door.query_token)
    except NotifierError as error:
        door.node.metrics.handshake_refused(error.reason)
        request.fail(error)
        return None

    def refuse(error: NotifierError, client_id: str | None = None) -> None:
        door.refused(error, WebSocketConnection.kind, address, client_id, hello.token)
        _refuse(door, request, hello, error)

    if hello.problem is not None:
        return refuse(hello.problem)

    def check(identity: Identity) -> NotifierError | None:
        if hello.client_id is None or hello.client_id == identity.client_id:
            return None
        return ClientIdMismatch("The client_id of the path is not the one of the token.")

    def accept(identity: Identity, state: MailboxState) -> None:
        _accept(door, request, hello, identity, state, address)

    return examine(door, Caller(hello.origin, hello.host, hello.token, address), accept, refuse, check)


def read(request: Request, query_token: bool) -> Hello:
    """What the client says in its handshake.

    Raises: BadHandshake, if it is malformed.
    """
    if request.method != "GET":
        raise BadHandshake("A WebSocket handshake is a GET request.")
    if request.header(b"content-length") not in (None, b"0") or request.header(b"transfer-encoding") is not None:
        raise BadHandshake("A WebSocket handshake has no body.")
    if b"websocket" not in [name.strip() for name in (request.header(b"upgrade") or b"").lower().split(b",")]:
        raise UpgradeRequired("Connect with a WebSocket client, version 13.")
    if request.header(b"sec-websocket-version") != b"13":
        raise UpgradeRequired("Only version 13 of the protocol is spoken here.")
    key = request.header(b"sec-websocket-key") or b""
    try:
        good = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        good = False
    if not good:
        raise BadHandshake("Sec-WebSocket-Key is not 16 bytes in base64.")
    hosts = request.header(b"host")
    if hosts is None or b"," in hosts:
        raise BadHandshake("The Host header is missing, or there are two.")
    host = host_of(request)
    origin = request.header(b"origin")
    offered = [part.strip() for part in (request.header(b"sec-websocket-protocol") or b"").decode("latin-1").split(",")]
    offered = [part for part in offered if part]
    if offered and SUBPROTOCOL not in offered:
        raise BadHandshake(f"Offer the subprotocol {SUBPROTOCOL} beside any other: none of yours is spoken here.")
    tokens = tokens_of(request, query_token) | {part[7:] for part in offered if part.startswith("bearer.")}
    if len(tokens) > 1:
        raise BadHandshake("Two tokens came that differ. Bring one.")
    query = parse_qsl(request.query.decode("latin-1"), keep_blank_values=True)
    modes = [value for name, value in query if name == "ack"] or ["auto"]
    problem = None
    if len(modes) != 1 or modes[0] not in ("auto", "client"):
        problem = BadAckMode("ack is `auto` or `client`.")
    client_id = None
    if request.path.startswith(_ALIAS):
        client_id = unquote_to_bytes(request.path[len(_ALIAS) :]).decode("utf-8", "replace")
    return Hello(
        accept=base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()),
        origin=None if origin is None else origin.decode("latin-1"),
        host=host,
        subprotocol=bool(offered),
        token=tokens.pop() if tokens else None,
        ack_mode="client" if modes[0] == "client" else "auto",
        client_id=client_id,
        problem=problem,
    )


class BadAckMode(NotifierError):
    """`?ack=` is neither auto nor client."""

    status = 400
    code = "bad_handshake"
    title = "Unknown ack mode"
    mend = "Connect with ack=auto or ack=client."
    close_code = 4400
    reason = "bad_frame"


def _switching(hello: Hello) -> bytes:
    chosen = b"Sec-WebSocket-Protocol: notifier.v1\r\n" if hello.subprotocol else b""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (hello.accept, chosen)
    )


def _accept(door: Door, request: Request, hello: Hello, identity: Identity, state: MailboxState, address: str) -> None:
    protocol = request.protocol
    if protocol.gone or protocol.transport.is_closing():
        return
    session = Session(door.connection_id(), identity, hello.ack_mode, door.limits, door.time())
    connection = WebSocketConnection(door, protocol.transport, session, address)
    rest = protocol.take_over(connection, _switching(hello))
    session.start(state)
    door.node.register(connection)
    connection.pump()
    if rest:
        connection.data_received(rest)


def _refuse(door: Door, request: Request, hello: Hello, error: NotifierError) -> None:
    protocol = request.protocol
    if protocol.gone or protocol.transport.is_closing():
        return
    if hello.origin is None:
        request.fail(error)
        return
    refused = RefusedConnection(door, protocol.transport)
    protocol.take_over(refused, _switching(hello) + frames.encode_close(error.close_code, error.reason))


class RefusedConnection(asyncio.Protocol):
    """A browser that was told why by a close frame: gone when it has answered, or after a second."""

    __slots__ = ("_heard", "_transport")

    def __init__(self, door: Door, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._heard = 0
        door.wheel.add(self, LINGER_S / 4)

    def data_received(self, data: bytes) -> None:
        """Its close frame, or bytes that it sent before it knew."""
        self._heard += len(data)
        if data[:1] == b"\x88":
            self._transport.close()
        elif self._heard > 64 * 1024:
            self._transport.abort()

    def on_timer(self, now: float) -> None:
        """See Timed."""
        self._transport.abort()
