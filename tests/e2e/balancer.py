"""A load balancer in front of servers of which some are going and some are coming."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Self

from tests.e2e.proxy import relay

CHECK_S = 0.2


class Balancer:
    """Passes connections on to a server that it believes to be ready, and learns of /readyz `lag_s` too late.

    While it knows of no such server it keeps its callers waiting, as long as they care to wait: that is what a
    balancer has to do (HAProxy: `retries` with `timeout connect`; Envoy, Traefik, Caddy: retries) where two servers
    cannot be ready at once, because they share one file. What it has passed on it does not repeat.
    """

    def __init__(self, ports: list[int], lag_s: float) -> None:
        self._ports = ports
        self._lag_s = lag_s
        self._believed: set[int] = set()
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.held = 0
        """Connections that had to wait for a server."""

    async def __aenter__(self) -> Self:
        for port in self._ports:
            if await _is_ready(port):
                self._believed.add(port)
            self._start(self._watch(port, port in self._believed))
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._start(self._call(client, to_client))

    async def _watch(self, port: int, ready: bool) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            now = await _is_ready(port)
            if now != ready:
                ready = now
                self._start(self._learn(port, now))

    async def _learn(self, port: int, ready: bool) -> None:
        await asyncio.sleep(self._lag_s)
        async with self._news:
            (self._believed.add if ready else self._believed.discard)(port)
            self._news.notify_all()

    async def until_it_believes_in(self, port: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: port in self._believed)

    async def _call(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        writers = [to_client]
        try:
            server, to_server = await self._connect()
            writers.append(to_server)
            await asyncio.gather(relay(client, to_server), relay(server, to_client))
        finally:
            for writer in writers:
                writer.close()
            for writer in writers:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self._believed:
            self.held += 1
        while True:
            async with self._news:
                await self._news.wait_for(lambda: self._believed)
                port = next(iter(self._believed))
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(CHECK_S)


async def _is_ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
