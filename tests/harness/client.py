"""A publisher and a frontend, as other people's libraries make them: http.client and `websockets`.

async with Client(server, "alice", ack="client") as alice:
    await alice.welcome
    frame = await alice.next(type="notification")
    await alice.ack(frame["seq"], confirm=True)
    await alice.next(type="settled")
"""

# ruff: noqa: ASYNC109 (a timeout per wait is what tests want; Closed and Refused are outcomes, no errors)
from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from tests.harness.server import Server

Frame = dict[str, Any]
TIMEOUT = 10.0


class Response(NamedTuple):
    """An HTTP answer. Header names are lower case; a JSON body is decoded, any other is text."""

    status: int
    body: Any
    headers: dict[str, str]


def request(
    server: Server,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    key: str | None = "",
    timeout: float = 40.0,
) -> Response:
    """One request on a connection of its own. `body`: bytes or text as they are, anything else as JSON.

    `key`: "" is the server's, None is none.
    """
    sent = dict(headers or {})
    if key is not None:
        sent.setdefault("X-API-Key", key or server.key)
    if body is not None and not isinstance(body, (bytes, str)):
        body = json.dumps(body)
        sent.setdefault("Content-Type", "application/json")
    data = body.encode() if isinstance(body, str) else body
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        connection.request(method, path, body=data, headers=sent)
        answer = connection.getresponse()
        text = answer.read().decode()
        got = {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()
    is_json = "json" in got.get("content-type", "") and "ndjson" not in got.get("content-type", "")
    return Response(answer.status, json.loads(text) if is_json and text else text, got)


def publish(
    server: Server,
    *,
    wait: int | None = None,
    headers: Mapping[str, str] | None = None,
    key: str | None = "",
    **fields: Any,
) -> Response:
    """`POST /notify` with `fields` as its body: `publish(server, client_id="alice", data={"n": 1})`."""
    path = "/notify" if wait is None else f"/notify?wait={wait}"
    return request(server, "POST", path, fields, headers=headers, key=key)


async def arequest(server: Server, method: str, path: str, body: object = None, **options: Any) -> Response:
    """`request` in a thread, for requests that the test must outlive (`wait`, several at once)."""
    return await asyncio.to_thread(request, server, method, path, body, **options)


async def apublish(server: Server, **fields: Any) -> Response:
    """`publish` in a thread, for a client of this event loop to settle what is waited for."""
    return await asyncio.to_thread(publish, server, **fields)


class Refused(Exception):
    """The handshake was answered by HTTP."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"{response.status} {response.body}")
        self.status, self.body, self.headers = response


class Closed(Exception):
    """The connection ended while something was awaited from it."""

    def __init__(self, code: int | None, reason: str | None, awaited: str) -> None:
        super().__init__(f"closed with {code} {reason!r} while awaiting {awaited}")
        self.code, self.reason = code, reason


class Client:
    """One WebSocket connection that reads all the time. Pings are answered by the library, as by a browser."""

    def __init__(
        self,
        server: Server,
        client_id: str,
        *,
        ack: str | None = None,
        token: str | None = None,
        browser: bool = False,
        origin: str | None = None,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        groups: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        """`token`: None mints one, "" sends none. `browser`: as a subprotocol. `options`: those of connect()."""
        self.client_id = client_id
        self.frames: list[Frame] = []  # all that came, in order
        self._inbox: list[Frame] = []  # what next() has not given out
        self._news = asyncio.Condition()
        self._ended = False
        token = server.token(client_id, groups=groups) if token is None else token
        parameters = dict(query or {}) | ({} if ack is None else {"ack": ack})
        sent = dict(headers or {})
        subprotocols = None
        if browser:
            subprotocols = [Subprotocol("notifier.v1"), *([Subprotocol(f"bearer.{token}")] if token else [])]
        elif token:
            sent.setdefault("Authorization", f"Bearer {token}")
        self._url = (url or server.ws_url) + (f"?{urlencode(parameters)}" if parameters else "")
        self._options: dict[str, Any] = {
            "origin": None if origin is None else Origin(origin),
            "subprotocols": subprotocols,
            "additional_headers": sent,
            "compression": None,
            "ping_interval": None,  # the server's heartbeat is what is tested
            "max_size": None,
            "open_timeout": TIMEOUT,
            "close_timeout": 2,
            "proxy": None,
            "user_agent_header": None,
        } | options

    async def __aenter__(self) -> Self:
        self.welcome: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        try:
            self.socket: ClientConnection = await connect(self._url, **self._options)
        except InvalidStatus as refused:
            answer = refused.response
            headers = {name.lower(): value for name, value in answer.headers.raw_items()}
            text = bytes(answer.body or b"").decode()
            body = json.loads(text) if "json" in headers.get("content-type", "") and text else text
            raise Refused(Response(answer.status_code, body, headers)) from None
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _read(self) -> None:
        try:
            while True:
                frame = json.loads(await self.socket.recv())
                self.frames.append(frame)
                if frame["type"] == "welcome" and not self.welcome.done():
                    self.welcome.set_result(frame)
                async with self._news:
                    self._inbox.append(frame)
                    self._news.notify_all()
        except ConnectionClosed:
            pass
        finally:
            self._ended = True
            if not self.welcome.done():
                self.welcome.set_exception(Closed(self.close_code, self.close_reason, "welcome"))
                self.welcome.exception()  # whoever awaits it gets it; nobody has to
            async with self._news:
                self._news.notify_all()

    async def next(self, type: str | None = None, timeout: float = TIMEOUT) -> Frame:
        """The first frame of this type (of any, welcome included) not given out before; others wait their turn."""

        def find() -> Frame | None:
            return next((frame for frame in self._inbox if type in (None, frame["type"])), None)

        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(lambda: find() is not None or self._ended)
            frame = find()
            if frame is None:
                raise Closed(self.close_code, self.close_reason, type or "a frame")
            self._inbox.remove(frame)
            return frame

    async def notifications(self, count: int, timeout: float = TIMEOUT) -> list[Frame]:
        """The next `count` notifications."""
        return [await self.next("notification", timeout) for _ in range(count)]

    async def send(self, frame: Frame | str | bytes) -> None:
        await self.socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def ack(self, seq: int, confirm: bool = False) -> None:
        await self.send({"type": "ack", "seq": seq} | ({"confirm": True} if confirm else {}))

    async def ping(self, timeout: float = TIMEOUT) -> None:
        """A round trip: what the server wrote before is in `frames` afterwards, what we sent before was read."""
        await self.send({"type": "ping"})
        await self.next("pong", timeout)

    async def closed(self, timeout: float = TIMEOUT) -> tuple[int | None, str | None]:
        """Wait for the end of the connection: (close code, reason); 1006 without a close frame."""
        async with asyncio.timeout(timeout):
            await asyncio.shield(self._reader)
        return self.close_code, self.close_reason

    async def close(self, code: int = 1000) -> None:
        await self.socket.close(code)
        await self._reader

    async def abort(self) -> None:
        """Vanish without a close frame."""
        self.socket.transport.abort()
        await self._reader

    @property
    def close_code(self) -> int | None:
        return self.socket.close_code

    @property
    def close_reason(self) -> str | None:
        return self.socket.close_reason
