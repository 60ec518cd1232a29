"""Which server is soaked, and how the load speaks HTTP to it."""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

TIMEOUT_S = 30.0
IDLE_S = 2.0
"""An idle connection is used again for this long only: well within the server's own limit, so that no request can meet
its end and leave us in doubt about the outcome."""


@dataclass(frozen=True)
class Target:
    """A server process and its secrets."""

    port: int
    pid: int
    key: str
    jwt_secret: str

    def token(self, client_id: str, groups: tuple[str, ...] = (), ttl_s: int = 600) -> str:
        """A token of its own for every connection, as in real life."""
        now = int(time.time())
        claims: dict[str, Any] = {"sub": client_id, "iat": now, "exp": now + ttl_s}
        if groups:
            claims["groups"] = list(groups)
        return jwt.encode(claims, self.jwt_secret, algorithm="HS256")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; a JSON body is decoded."""

    status: int
    body: Any


class Line:
    """One connection, and since when nobody uses it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.free_since = 0.0


class Caller:
    """HTTP/1.1 with connections that are kept. A request that gets no answer is an error: nothing is tried twice."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._free: list[Line] = []
        self._count = itertools.count(1)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        key: str | None = "",
    ) -> Answer:
        """One request. `body`: bytes as they are, anything else as JSON. `key`: "" is the right one, None is none."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        line = await self._line()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                line.writer.write(self.request(method, path, data, headers, key))
                answer, stays = await _read(line.reader)
        except BaseException:
            line.writer.transport.abort()
            raise
        number = next(self._count)
        if not stays or number % 20 == 0:
            line.writer.close()
        elif number % 20 == 10:
            line.writer.transport.abort()
        else:
            line.free_since = time.monotonic()
            self._free.append(line)
        return answer

    def request(
        self, method: str, path: str, data: bytes, headers: Mapping[str, str] | None = None, key: str | None = ""
    ) -> bytes:
        """The bytes of a request."""
        lines = {"Host": f"127.0.0.1:{self._target.port}"} | dict(headers or {})
        if key is not None:
            lines["X-API-Key"] = key or self._target.key
        if data or method == "POST":
            lines["Content-Length"] = str(len(data))
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode() + data

    async def _line(self) -> Line:
        while self._free:
            line = self._free.pop()
            if time.monotonic() - line.free_since < IDLE_S and not line.reader.at_eof():
                return line
            line.writer.close()
        return Line(*await asyncio.open_connection("127.0.0.1", self._target.port))

    def hang_up(self) -> None:
        """Close the connections that were kept."""
        while self._free:
            self._free.pop().writer.close()


async def _read(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest if line)}
    data = await reader.readexactly(int(headers.get("content-length", 0)))
    is_json = "json" in headers.get("content-type", "")
    answer = Answer(int(first.split(" ", 2)[1]), json.loads(data) if is_json and data else data.decode())
    return answer, headers.get("connection", "") != "close"
