"""What stands between clients and a server: a slow line."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Self

BUFFER = 16 * 1024


class Line:
    """A TCP line with so many bytes a second towards the client, and no more room in it than a phone's has."""

    def __init__(self, port: int, bytes_per_s: float) -> None:
        self._to = port
        self._rate = bytes_per_s
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._listener.wait_closed()

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        call = asyncio.create_task(self._call(client, to_client))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        upstream = socket.socket()
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)  # before connect: it fixes the window
        upstream.setblocking(False)
        await asyncio.get_running_loop().sock_connect(upstream, ("127.0.0.1", self._to))
        server, to_server = await asyncio.open_connection(sock=upstream, limit=BUFFER)
        try:
            up = asyncio.create_task(relay(client, to_server))
            try:
                while chunk := await server.read(int(self._rate / 20)):
                    to_client.write(chunk)
                    await to_client.drain()
                    await asyncio.sleep(len(chunk) / self._rate)
            finally:
                up.cancel()
                await asyncio.gather(up, return_exceptions=True)
        except OSError:
            pass
        finally:
            for writer in (to_client, to_server):
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end of the one, which becomes the end of the other."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
