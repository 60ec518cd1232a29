"""HTTP/1.1 and WebSocket clients that cost little, because they share two cores with the server under test.

They understand what this server sends and nothing more: bodies with a Content-Length, frames that are not fragmented.
"""

from __future__ import annotations

import asyncio
import base64
import os
from typing import NamedTuple, Self

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
ConnectionLost = (OSError, EOFError)
"""What a killed server looks like (asyncio.IncompleteReadError is an EOFError)."""


class Unexpected(Exception):
    """The server answered the handshake with HTTP, or sent what these clients do not understand."""


class Answer(NamedTuple):
    status: int
    replayed: bool
    body: bytes


class HttpConnection:
    """One keep-alive connection; opens itself, and again after a loss."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._head = f"Host: 127.0.0.1:{port}\r\nX-API-Key: {key}\r\nContent-Length: ".encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, target: str, body: bytes = b"") -> Answer:
        """Raises ConnectionLost when the outcome is unknown."""
        try:
            if self._streams is None or self._streams[1].transport.is_closing() or self._streams[0].at_eof():
                self.close()  # what died while it was idle has no request in flight
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(
                b"%s %s HTTP/1.1\r\n%s%d\r\n\r\n%s" % (method.encode(), target.encode(), self._head, len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, found, rest = head.partition(b"\r\ncontent-length:")
            if not found:
                raise Unexpected(f"an answer without Content-Length: {head!r}")
            text = await reader.readexactly(int(rest[: rest.index(b"\r\n")]))
        except ConnectionLost:
            self.close()
            raise
        if b"\r\nconnection: close" in head:
            self.close()
        return Answer(int(head[9:12]), b"\r\nidempotent-replayed: true" in head, text)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class WebSocket:
    """A frontend's socket. Nothing is answered by itself: a pong is the reader's decision, once it has taken note."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._buffer = bytearray()

    @classmethod
    async def open(cls, port: int, target: str, token: str) -> Self:
        """Raises ConnectionLost, or Unexpected when the handshake was refused."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        socket = cls(reader, writer)
        try:
            nonce = base64.b64encode(os.urandom(16)).decode()
            writer.write(
                f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if head[9:12] == b"503":
                raise ConnectionRefusedError
            if head[9:12] != b"101":
                raise Unexpected(f"the handshake was refused: {head!r} {await reader.read(4096)!r}")
        except BaseException:
            socket.abort()
            raise
        return socket

    async def read(self) -> list[tuple[int, bytes]]:
        """The frames that have come, at least one: (opcode, payload). Raises ConnectionLost at the end."""
        frames: list[tuple[int, bytes]] = []
        while not frames:
            chunk = await self._reader.read(1 << 18)
            if not chunk:
                raise EOFError
            self._buffer += chunk
            self._parse(frames)
        return frames

    def _parse(self, frames: list[tuple[int, bytes]]) -> None:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            first, length, start = buffer[at], buffer[at + 1], at + 2
            if not first & 0x80 or first & 0x70 or length & 0x80:
                raise Unexpected(f"a frame that starts with {buffer[at : at + 2].hex()}")
            if length >= 126:
                start += 2 if length == 126 else 8
                if len(buffer) < start:
                    break
                length = int.from_bytes(buffer[at + 2 : start], "big")
            if len(buffer) < start + length:
                break
            at = start + length
            frames.append((first & 0x0F, bytes(buffer[start:at])))
        del buffer[:at]

    def send(self, opcode: int, payload: bytes) -> None:
        if self._writer.transport.is_closing():
            return  # the reader is about to notice
        # A mask of zeros leaves the payload as it is; masking protects proxies, of which there are none here.
        length = len(payload)
        size = bytes((0x80 | length,)) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
        self._writer.write(bytes((0x80 | opcode,)) + size + b"\0\0\0\0" + payload)

    def close(self) -> None:
        """Say good-bye; the server ends the connection."""
        self.send(CLOSE, (1000).to_bytes(2, "big"))

    def abort(self) -> None:
        self._writer.transport.abort()
