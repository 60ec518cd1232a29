"""`notifier`, with a hand inside that reaches over a Unix socket: for what nobody outside can cause.

    server = Server(tmp_path, command=HANDLED, environ=a_hand())
    hand(server, "defect", "alice")

engine down | up     the engine refuses everything, as when its disk is gone
defect CLIENT_ID     the next frame of this client finds a bug
torn CLIENT_ID       the next frame to this client finds a bug
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
from typing import Any

from tests.harness import Server

HANDLED = (sys.executable, "-m", "tests.e2e.handled_server")
_VARIABLE = "TEST_HAND"


def a_hand() -> dict[str, str]:
    """The environment of a server that is to be reached."""
    return {_VARIABLE: f"notifier-hand-{secrets.token_hex(8)}"}


def hand(server: Server, *words: str) -> None:
    """Do it, and come back when it is done."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect("\0" + server.environ[_VARIABLE])  # in the abstract namespace: no file is left
        connection.sendall(json.dumps(words).encode() + b"\n")
        assert connection.recv(64) == b"done\n", server.tail()


def install(name: str) -> None:
    from notifier.errors import EngineUnavailable
    from notifier.node import Node
    from notifier.session import Session
    from notifier.transport.carrier import SessionCarrier

    broken: set[str] = set()
    torn: set[str] = set()
    honest_start, honest_receive, honest_write = Node.start, Session.receive, SessionCarrier._write

    def receive(session: Session, payload: bytes, now: float) -> None:
        if session.client_id in broken:
            broken.discard(session.client_id)
            raise ZeroDivisionError("a planted defect")
        honest_receive(session, payload, now)

    def write(carrier: SessionCarrier, data: bytes) -> None:
        if carrier.session.client_id in torn:
            torn.discard(carrier.session.client_id)
            raise ZeroDivisionError("a planted defect")
        honest_write(carrier, data)

    def do(node: Node, words: list[str]) -> None:
        engine: Any = node.engine
        match words:
            case ["engine", state]:
                engine._error = EngineUnavailable("The disk is gone.") if state == "down" else None
            case ["defect", client_id]:
                broken.add(client_id)
            case ["torn", client_id]:
                torn.add(client_id)

    async def start(node: Node) -> None:
        async def reached(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            do(node, json.loads(await reader.readline()))
            writer.write(b"done\n")
            writer.close()

        await honest_start(node)
        node.test_hand = await asyncio.start_unix_server(reached, "\0" + name)  # type: ignore[attr-defined]

    Node.start = start  # type: ignore[method-assign]
    Session.receive = receive  # type: ignore[method-assign]
    SessionCarrier._write = write  # type: ignore[method-assign]


if __name__ == "__main__":
    from notifier.cli.main import run

    install(os.environ[_VARIABLE])
    if os.environ.get("WAKE_CHAOS"):
        from tests.harness import chaos_server

        chaos_server.install()
    run()
