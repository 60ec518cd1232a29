"""From a whole request to the FastAPI application and back: what is not publishing is asked for seldom, so it may have
a task and the price of a framework. Answers are whole too; nothing here streams.
"""

from __future__ import annotations

from typing import Any, Final

from notifier.errors import Forbidden, NotifierError, TooLarge, Unauthorized
from notifier.transport import cors
from notifier.transport.door import Door
from notifier.transport.problems import tell_defect
from notifier.transport.request import Request


def run(door: Door, server_state: Any, request: Request) -> None:
    """Start the application on `request`; it answers by `request.respond`."""
    if request.method == "OPTIONS" and cors.is_shared(request.path):
        return request.respond(200, b"", cors.preflight(door.origins, request, b"GET"))
    task = door.loop.create_task(_Call(door, request).run())
    server_state.tasks.add(task)
    return task.add_done_callback(server_state.tasks.discard)


_BEFORE: Final = (401, 403, 404, 405)
"""What the application tells before TooLarge (docs/protocol.md, Errors)."""


def decides(refusal: NotifierError) -> bool:
    """Whether the application may find something that is told before `refusal` (docs/protocol.md, Errors)."""
    return type(refusal) is TooLarge


class _Call:
    """One run of the application (ASGI 3, HTTP)."""

    def __init__(self, door: Door, request: Request) -> None:
        self._door = door
        self._request = request
        self._status = 500
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._received = False

    async def run(self) -> None:
        request = self._request
        path = request.path.decode("latin-1")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET" if request.method == "HEAD" else request.method,
            "scheme": "http",
            "path": path,  # still encoded: a handler decodes its parameter once, so that %2F is no separator
            "raw_path": request.path,
            "query_string": request.query,
            "root_path": "",
            "headers": request.head.headers,
            "client": (request.protocol.peer, 0),
            "server": None,
            "state": {"refusal": request.refusal},  # told after what is wrong with path, method and key
        }
        try:
            await self._door.application(scope, self._receive, self._send)
        except Exception as error:
            tell_defect(request, error)
            return
        if request.refusal is not None and self._status not in _BEFORE:
            self._door.node.metrics.request_refused(request.refusal.code)
            request.fail(request.refusal)
            return
        if self._status in (401, 403):
            self._door.turned_away(Unauthorized() if self._status == 401 else Forbidden(), request)
        lines = b"".join(b"%b: %b\r\n" % pair for pair in self._headers if pair[0] != b"content-length")
        if cors.is_shared(request.path):
            lines += cors.headers(self._door.origins, request)
        request.respond(self._status, b"".join(self._body), lines)

    async def _receive(self) -> dict[str, Any]:
        if self._received:
            return {"type": "http.disconnect"}
        self._received = True
        return {"type": "http.request", "body": self._request.body, "more_body": False}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = list(message.get("headers", ()))
        else:
            self._body.append(message.get("body", b""))
