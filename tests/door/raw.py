"""Bytes on a socket, exactly as a test wants them: no client library stands between a hostile case and the server."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

from tests.harness import Server

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
TIMEOUT_S = 15.0
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Answer(NamedTuple):
    """An HTTP answer; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document (RFC 9457)."""
        assert self.headers.get("content-type") == "application/problem+json", self
        return dict(json.loads(self.body))


class Frame(NamedTuple):
    """A frame that the server sent."""

    opcode: int
    payload: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.payload))

    @property
    def close(self) -> tuple[int, str]:
        return int.from_bytes(self.payload[:2]), self.payload[2:].decode()


class Raw:
    """A TCP connection to a server."""

    def __init__(self, server: Server, *, receive_buffer: int = 0) -> None:
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(("127.0.0.1", server.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Vanish with RST instead of FIN."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def settimeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def send(self, data: bytes) -> bool:
        """All of it. False if the server has ended the connection meanwhile: it need not read what it refuses."""
        try:
            self._socket.sendall(data)
        except (ConnectionError, TimeoutError):
            return False
        return True

    def send_some(self, data: bytes) -> int:
        """What the kernel takes at once."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            return self._socket.send(data, socket.MSG_DONTWAIT)
        return 0

    def finish(self) -> None:
        """Say that nothing more comes (FIN)."""
        self._socket.shutdown(socket.SHUT_WR)

    def receive(self, size: int = 65536) -> bytes:
        """What comes next; empty at the end of the stream, also after RST."""
        try:
            return self._socket.recv(size)
        except ConnectionError:
            return b""

    def _fill(self) -> bool:
        data = self.receive()
        self._buffer += data
        return bool(data)

    def to_end(self) -> bytes:
        """Everything until the server ends the connection."""
        while self._fill():
            pass
        rest, self._buffer = self._buffer, b""
        return rest

    def ended(self, within_s: float = TIMEOUT_S) -> bool:
        """Whether the server ends the connection in time. What it sends before is thrown away."""
        deadline = time.monotonic() + within_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                if not self.receive():
                    return True
            except TimeoutError:
                break
            finally:
                self._socket.settimeout(TIMEOUT_S)
        return False

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    def answer(self, head_only: bool = False) -> Answer | None:
        """The next HTTP answer, interim ones skipped; None if the connection ended without one."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill():
                assert not self._buffer, self._buffer
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1", first
        if status == "100":
            return self.answer(head_only)
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name, line
            assert name.lower() not in headers or name.lower() == "connection", line
            headers[name.lower()] = ", ".join(filter(None, (headers.get(name.lower()), value)))
        size = 0 if head_only or status == "101" else int(headers["content-length"])
        while len(self._buffer) < size:
            assert self._fill(), "the answer is cut off"
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Answer(int(status), headers, body)

    def ask(self, data: bytes) -> Answer | None:
        """Send and read the answer."""
        self.send(data)
        return self.answer(head_only=data.startswith(b"HEAD "))

    # -- WebSocket ----------------------------------------------------------------------------------------------------

    def upgrade(self, server: Server, client_id: str = "", *, token: str = "", query: str = "", **headers: str) -> Self:
        """A good handshake; `welcome` is still to be read."""
        token = token or server.token(client_id)
        answer = self.ask(handshake(server, token, query=query, **headers))
        assert answer is not None
        assert answer.status == 101, answer
        return self

    def frame(self) -> Frame | None:
        """The next frame; None when the stream ended."""
        while (size := _frame_size(self._buffer)) is None or len(self._buffer) < size:
            if not self._fill():
                return None
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        assert data[0] & 0x70 == 0, data
        assert data[1] & 0x80 == 0, "a server does not mask"
        start = {126: 4, 127: 10}.get(data[1], 2)
        return Frame(data[0] & 0x0F, data[start:])

    def frames(self) -> Iterator[Frame]:
        """Every frame until a close frame or the end."""
        while (frame := self.frame()) is not None:
            yield frame
            if frame.opcode == CLOSE:
                return

    def next(self, type: str) -> dict[str, Any]:
        """The next text frame of this type; pings before it are answered, others skipped."""
        for frame in self.frames():
            if frame.opcode == PING:
                self.send(masked(PONG, frame.payload))
            elif frame.opcode == TEXT and frame.json["type"] == type:
                return frame.json
            assert frame.opcode != CLOSE, frame.close
        raise AssertionError(f"the connection ended before {type!r} came")

    def closed(self) -> tuple[int, str]:
        """Code and reason of the close frame; 1006 without one."""
        for frame in self.frames():
            if frame.opcode == CLOSE:
                return frame.close
        return 1006, ""

    def say(self, frame: Mapping[str, object]) -> bool:
        return self.send(masked(TEXT, json.dumps(frame).encode()))


def _frame_size(data: bytes) -> int | None:
    if len(data) < 2:
        return None
    size, start = data[1] & 0x7F, 2
    if size >= 126:
        start = 4 if size == 126 else 10
        if len(data) < start:
            return None
        size = int.from_bytes(data[2:start])
    return start + size


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = None) -> bytes:
    """A frame of a client."""
    mask = os.urandom(4) if mask is None else mask
    return head(opcode, len(payload), fin=fin, rsv=rsv) + mask + xor(payload, mask)


def head(opcode: int, size: int, *, fin: bool = True, rsv: int = 0, is_masked: bool = True) -> bytes:
    """The first bytes of a frame, up to its mask."""
    first = bytes((fin << 7 | rsv << 4 | opcode,))
    bit = is_masked << 7
    if size < 126:
        return first + bytes((bit | size,))
    return first + (bytes((bit | 126,)) + size.to_bytes(2) if size < 65536 else bytes((bit | 127,)) + size.to_bytes(8))


def xor(payload: bytes, mask: bytes) -> bytes:
    if not payload:
        return b""
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(len(payload))


def request(method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    """A whole request. Content-Length is added where there is a body and no header that tells its size."""
    lines = {"Host": "127.0.0.1"} | dict(headers or {})
    if (body or method == "POST") and not {"Content-Length", "Transfer-Encoding"} & lines.keys():
        lines["Content-Length"] = str(len(body))
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/1.1\r\n{text}\r\n".encode("latin-1") + body


def notify(server: Server, body: bytes, **headers: str) -> bytes:
    """`POST /notify` with a good key."""
    return request("POST", "/notify", {"X-API-Key": server.key} | headers, body)


def handshake(server: Server, token: str, *, target: str = "/ws", query: str = "", **headers: str) -> bytes:
    """A good opening handshake. Headers: underscores stand for hyphens."""
    lines = {
        "Host": f"127.0.0.1:{server.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
    }
    if token:
        lines["Authorization"] = f"Bearer {token}"
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    return request("GET", target + (f"?{query}" if query else ""), lines)
