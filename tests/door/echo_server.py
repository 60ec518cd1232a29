"""An echo server on notifier's own frame reader and writer, for the Autobahn cases: python -m tests.door.echo_server

Prints its port. Only the limits of docs/protocol.md are raised to what those cases send; the loop is the same, uvloop.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import Any, cast

import uvloop

from notifier.protocol import Close
from notifier.transport import frames
from notifier.transport.frames import FrameError, FrameReader

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MAX_MESSAGE = 64 * 1024 * 1024
MAX_FRAGMENTS = 1_000_000


class Echo(asyncio.Protocol):
    """The handshake, then every message back, every ping answered, every close returned."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(Any, transport)
        self._head = b""
        self._open = False
        self._closed = False

    def data_received(self, data: bytes) -> None:
        if not self._open:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            key = re.search(rb"(?i)^sec-websocket-key: *(\S+)", head, re.MULTILINE)
            assert key is not None
            accept = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
            )
            self._open, self._reader = True, FrameReader()
        if self._closed or not data:
            return
        try:
            for opcode, payload in self._reader.feed(data):
                if opcode == frames.CLOSE:
                    code = frames.parse_close(payload)
                    self._end(b"" if code == 1005 else payload[:2])
                    return
                if opcode == frames.PING:
                    self._transport.write(frames.encode(frames.PONG, payload))
                elif opcode != frames.PONG:
                    self._transport.write(frames.encode(opcode, payload))
        except FrameError as error:
            self._end(error.code.to_bytes(2) + error.reason.encode())

    def _end(self, payload: bytes) -> None:
        self._closed = True
        self._transport.write(frames.encode(frames.CLOSE, payload))
        self._transport.close()


async def main() -> None:
    frames.MAX_CLIENT_FRAME, frames.MAX_FRAGMENTS = MAX_MESSAGE, MAX_FRAGMENTS
    assert Close.TOO_LARGE == 1009
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
