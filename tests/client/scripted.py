"""Servers that say what a test wants said: a real HTTP server and a real WebSocket server, on real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from websockets.asyncio.server import Request, ServerConnection, serve
from websockets.http11 import Response

Handler = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One connection, seen from the server."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        assert socket.request is not None
        self.token = socket.request.headers["Authorization"].removeprefix("Bearer ")
        self.path = socket.request.path

    async def welcome(self, pending: int = 0, client_id: str = "alice") -> None:
        await self.say({"type": "welcome", "client_id": client_id, "connection_id": "c1", "pending": pending})

    async def notification(self, seq: int | None, **fields: Any) -> None:
        frame = {"type": "notification", "id": f"n{seq}", "data": {"n": seq}, **fields}
        await self.say(frame if seq is None else frame | {"seq": seq})

    async def say(self, frame: dict[str, Any]) -> None:
        await self._socket.send(json.dumps(frame))

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            frame: dict[str, Any] = json.loads(await self._socket.recv())
            return frame

    async def close(self, code: int, reason: str = "") -> None:
        await self._socket.close(code, reason)

    async def until_closed(self) -> None:
        await self._socket.wait_closed()

    def abort(self) -> None:
        self._socket.transport.abort()


class WebSocketServer:
    """Gives the first connection to the first handler, and so on; the last one also gets all that follow."""

    def __init__(self) -> None:
        self.url = ""
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []


@asynccontextmanager
async def websocket_server(
    *handlers: Handler, refusals: list[Response] | None = None
) -> AsyncIterator[WebSocketServer]:
    """`refusals` are HTTP answers to the first handshakes; after them the handlers get theirs."""
    scripted = WebSocketServer()

    async def accept(socket: ServerConnection) -> None:
        peer = Peer(socket)
        scripted.peers.append(peer)
        try:
            await handlers[min(len(scripted.peers), len(handlers)) - 1](peer)
        except AssertionError as failure:
            scripted.failures.append(failure)
            raise

    def process_request(_: ServerConnection, __: Request) -> Response | None:
        return refusals.pop(0) if refusals else None

    async with serve(accept, "127.0.0.1", 0, process_request=process_request) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        scripted.url = f"http://127.0.0.1:{port}"
        yield scripted
    assert not scripted.failures


class Received:
    """What a publisher sent."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class HttpAnswers:
    """An HTTP server that gives these answers in turn: (status, body, headers), or None to hang up unanswered."""

    def __init__(self, answers: list[tuple[int, Any, dict[str, str]] | None]) -> None:
        self.answers = answers
        self.requests: list[Received] = []
        self.url = ""


@contextmanager
def http_server(*answers: tuple[int, Any, dict[str, str]] | None) -> Iterator[HttpAnswers]:
    script = HttpAnswers(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.requests.append(Received(self.command, self.path, dict(self.headers), body))
            answer = script.answers.pop(0)
            if answer is None:
                self.close_connection = True
                return
            status, content, headers = answer
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST  # noqa: N815 - the name that the base class looks for

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
