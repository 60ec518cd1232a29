"""An event stream as the standard reads it (WHATWG HTML §9.2.6), over a socket of our own."""

# ruff: noqa: ASYNC109 (a timeout per wait is what tests want)
from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

from tests.harness import Response, Server, publish, request

TIMEOUT = 10.0


class Event(NamedTuple):
    """One dispatched event. `id` is the last id that was seen, not necessarily its own."""

    type: str
    data: str
    id: str

    @property
    def frame(self) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self.data)
        return decoded


class EventStream:
    """One response. Reads all the time; `next` waits for an event."""

    def __init__(
        self,
        server: Server,
        client_id: str,
        *,
        token: str | None = None,
        last_event_id: str | int | None = None,
        path: str = "/events",
        headers: Mapping[str, str] | None = None,
        behind: bytes = b"",
        reads: bool = True,
    ) -> None:
        """`behind`: bytes to send after the request; `reads` false: read nothing but the head."""
        self._server = server
        lines = {"Host": f"127.0.0.1:{server.port}", "Accept": "text/event-stream"} | dict(headers or {})
        if token != "":
            lines["Authorization"] = f"Bearer {token or server.token(client_id)}"
        if last_event_id is not None:
            lines["Last-Event-ID"] = str(last_event_id)
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._request = f"GET {path} HTTP/1.1\r\n{head}\r\n".encode() + behind
        self._reads = reads
        self.status = 0
        self.headers: dict[str, str] = {}
        self.events: list[Event] = []
        self.comments = 0
        self.retry: int | None = None
        self.last_event_id = ""
        self.problem: dict[str, Any] = {}
        self.text = b""
        self._given = 0
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self.ended = False

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._server.port, limit=2**16)
        self.writer.write(self._request)
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), TIMEOUT)).decode()
        first, *rest = head.split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest if line)}
        if self.headers["content-type"] == "application/problem+json":
            self.problem = json.loads(await self.reader.readexactly(int(self.headers["content-length"])))
        elif self._reads:
            self.read()
        return self

    def read(self) -> None:
        """Begin to read, where that was put off."""
        self._task = asyncio.create_task(self._read())

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        if self._task is not None:
            await self._task

    async def _read(self) -> None:
        rest = b""
        fields: dict[str, list[str]] = {}
        try:
            while data := await self.reader.read(2**16):
                self.text += data
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._line(line.decode(), fields)
                async with self._news:
                    self._news.notify_all()
        except ConnectionError:
            pass
        finally:
            self.ended = True
            async with self._news:
                self._news.notify_all()

    def _line(self, line: str, fields: dict[str, list[str]]) -> None:
        if not line:
            if fields.get("id"):
                self.last_event_id = fields["id"][-1]
            if data := fields.get("data"):
                name = (fields.get("event") or ["message"])[-1]
                self.events.append(Event(name, "\n".join(data), self.last_event_id))
            fields.clear()
        elif line.startswith(":"):
            self.comments += 1
        else:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "retry":
                self.retry = int(value)
            fields.setdefault(name, []).append(value)

    async def next(self, type: str | None = None, timeout: float = TIMEOUT) -> Event:
        """The next event; with `type` the next one whose frame has it, and those before it are passed over."""
        async with asyncio.timeout(timeout), self._news:
            while True:
                await self._news.wait_for(lambda: len(self.events) > self._given or self.ended)
                if len(self.events) <= self._given:
                    raise AssertionError(f"the stream ended while {type or 'an event'} was awaited: {self.events[-3:]}")
                self._given += 1
                event = self.events[self._given - 1]
                if type in (None, event.frame["type"]):
                    return event

    async def notifications(self, count: int) -> list[Event]:
        """The next so many notifications."""
        return [await self.next("notification") for _ in range(count)]

    async def end(self, timeout: float = TIMEOUT) -> None:
        """Wait for the end of the response."""
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(lambda: self.ended)

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [event.frame for event in self.events]


def send(server: Server, client_id: str, count: int = 1, **fields: Any) -> list[int]:
    answers = [publish(server, client_id=client_id, data={"n": n}, **fields) for n in range(count)]
    assert all(answer.status == 202 for answer in answers), answers
    return [answer.body["seq"] for answer in answers]


def acknowledge(server: Server, client_id: str, body: object, **options: Any) -> Response:
    headers = {"Authorization": f"Bearer {options.pop('token', None) or server.token(client_id)}"}
    return request(server, "POST", "/events/ack", body, key=None, headers=headers | options.pop("headers", {}))


def shown(server: Server, client_id: str) -> dict[str, Any]:
    return dict(request(server, "GET", f"/clients/{client_id}").body)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if await asyncio.to_thread(condition):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")
