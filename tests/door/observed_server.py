"""`notifier`, with a window into the process: how many tasks and connection objects it holds.

    python -m tests.door.observed_server serve

Each connection to the socket `observed` in the working directory is answered with one line of JSON. Nothing else
differs from the real command.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

from notifier.cli.main import run
from notifier.server import Server

SOCKET = "observed"
WATCHED = frozenset({"HttpProtocol", "Request", "WebSocketConnection", "RefusedConnection", "Session", "_Wait"})


def observe() -> bytes:
    gc.collect()
    counts = Counter(name for it in gc.get_objects() if (name := type(it).__name__) in WATCHED)
    return json.dumps({"tasks": len(asyncio.all_tasks()), "objects": sum(counts.values()), **counts}).encode() + b"\n"


async def answer(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        asked, _ = await loop.sock_accept(listener)
        await loop.sock_sendall(asked, observe())
        asked.close()


def window() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    Path(SOCKET).unlink(missing_ok=True)  # of a process that was killed
    listener.bind(SOCKET)
    listener.listen()
    listener.setblocking(False)
    return listener


def install() -> None:
    begin = Server.startup
    kept: list[Any] = []

    async def startup(self: Server, sockets: list[socket.socket] | None = None) -> None:
        kept.append(asyncio.create_task(answer(window())))
        await begin(self, sockets)

    Server.startup = startup  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    run()
