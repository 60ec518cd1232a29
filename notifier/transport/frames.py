"""WebSocket frames of a server (RFC 6455 §5): a reader with the limits of docs/protocol.md, and a writer.

Why not a library's: measured on the path of an acknowledgement, this reader costs a third of the `websockets`
sans-I/O core and keeps nothing per connection while nothing is half-read (docs/performance.md has the figures).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from notifier.protocol import MAX_CLIENT_FRAME, Close

try:
    from websockets.speedups import apply_mask
except ImportError:  # no wheel for this platform
    from websockets.utils import apply_mask

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
MAX_FRAGMENTS: Final = 1024

unmask: Final[Callable[[bytes, bytes], bytes]] = apply_mask
"""XOR of a payload with the repeated 4-byte mask (§5.3)."""

_CLOSE_CODES: Final = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))


class FrameError(Exception):
    """The peer broke the framing: the close code and reason to end it with."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class FrameReader:
    """Turns bytes into messages: (opcode, payload), with fragments joined and text checked to be UTF-8."""

    __slots__ = ("_buffer", "_count", "_opcode", "_parts", "_size", "fragments")

    def __init__(self) -> None:
        self._buffer = b""
        self._parts: list[bytes] | None = None
        self._opcode = 0
        self._count = 0
        self._size = 0
        self.fragments = 0
        """How many frames the last message had that came in more than one; for who takes it to set back."""

    def single_text(self, data: bytes) -> bytes | None:
        """The message, if `data` is exactly one small whole text frame of ASCII, as an acknowledgement is; else None,
        and then `feed` is to decide."""
        if len(data) < 6 or data[0] != 0x81 or len(data) - 6 != data[1] & 0x7F or data[1] < 0x80:
            return None
        if self._buffer or self._parts is not None or len(data) > 131:
            return None
        payload = unmask(data[6:], data[2:6])
        return payload if payload.isascii() else None

    def single_pong(self, data: bytes) -> bytes | None:
        """The same for one whole pong, which is what acknowledges in `ack=auto`."""
        if len(data) < 6 or data[0] != 0x8A or len(data) - 6 != data[1] & 0x7F or data[1] < 0x80:
            return None
        if self._buffer or len(data) > 131:
            return None
        return unmask(data[6:], data[2:6])

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The messages that `data` completes. Control frames come between the fragments of a message (§5.4).

        Raises: FrameError, after all that was good has been yielded; the reader must not be used any more then.
        """
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        at, end = 0, len(data)
        while end - at >= 2:
            first, second = data[at], data[at + 1]
            opcode = first & 0x0F
            size = second & 0x7F
            self._check_head(first, second, opcode, size)
            start = at + 6
            if size > 125:
                wide = 2 if size == 126 else 8
                if end - at < 2 + wide:
                    break
                size = int.from_bytes(data[at + 2 : at + 2 + wide])
                start += wide
                self._check_size(size)
                if size < (126 if wide == 2 else 65536):
                    raise FrameError(Close.PROTOCOL_ERROR, "length")  # §5.2: in as few bytes as it can be
            elif opcode < 8:
                self._check_size(size)
            if end < start + size:
                break
            payload = data[start : start + size]
            mask = data[start - 4 : start]
            payload = unmask(payload, mask)
            at = start + size
            if opcode >= 8:
                yield opcode, payload
            elif first & 0x80 and self._parts is None:
                yield self._whole(opcode, payload)
            else:
                message = self._fragment(opcode, payload, bool(first & 0x80))
                if message is not None:
                    yield message
        if at < end:
            self._buffer = data[at:]

    def _check_head(self, first: int, second: int, opcode: int, size: int) -> None:
        if first & 0x70:
            raise FrameError(Close.PROTOCOL_ERROR, "reserved bits")  # §5.2: no extension was negotiated
        if not second & 0x80:
            raise FrameError(Close.PROTOCOL_ERROR, "not masked")  # §5.1
        if opcode >= 8:
            if opcode > PONG or not first & 0x80 or size > 125:
                raise FrameError(Close.PROTOCOL_ERROR, "control frame")  # §5.5
        elif opcode > BINARY:
            raise FrameError(Close.PROTOCOL_ERROR, "reserved opcode")  # §5.2
        elif (opcode == 0) != (self._parts is not None):
            raise FrameError(Close.PROTOCOL_ERROR, "fragmentation")  # §5.4

    def _check_size(self, size: int) -> None:
        if size + self._size > MAX_CLIENT_FRAME:
            raise FrameError(Close.TOO_LARGE, "too_large")

    def _fragment(self, opcode: int, payload: bytes, last: bool) -> tuple[int, bytes] | None:
        if self._parts is None:
            self._parts, self._opcode, self._count, self._size = [], opcode, 0, 0
        if payload:  # empty ones are counted, not kept
            self._parts.append(payload)
            self._size += len(payload)
        self._count += 1
        if self._count > MAX_FRAGMENTS:
            raise FrameError(Close.TOO_LARGE, "too_large")
        if not last:
            return None
        parts, self._parts, self._size = self._parts, None, 0
        self.fragments = self._count
        return self._whole(self._opcode, b"".join(parts))

    @staticmethod
    def _whole(opcode: int, payload: bytes) -> tuple[int, bytes]:
        if opcode == TEXT and not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                raise FrameError(Close.NOT_UTF8, "not UTF-8") from None  # §8.1
        return opcode, payload


def parse_close(payload: bytes) -> int:
    """The code of a close frame, 1005 if it has none (§7.4).

    Raises: FrameError, if the payload is malformed.
    """
    if not payload:
        return 1005
    code = int.from_bytes(payload[:2])
    if len(payload) < 2 or not (code in _CLOSE_CODES or 3000 <= code <= 4999):
        raise FrameError(Close.PROTOCOL_ERROR, "close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(Close.NOT_UTF8, "not UTF-8") from None
    return code


def encode(opcode: int, payload: bytes) -> bytes:
    """A whole frame of a server: final, not masked (§5.2)."""
    size, heads = len(payload), _HEADS[opcode]
    return (heads[size] if size < len(heads) else _head(opcode, size)) + payload


def _head(opcode: int, size: int) -> bytes:
    if size < 126:
        return bytes((0x80 | opcode, size))
    if size < 65536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2)
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8)


_HEADS: Final = [[_head(opcode, size) for size in range(1024 if opcode == TEXT else 126)] for opcode in range(PONG + 1)]


def encode_close(code: int, reason: str) -> bytes:
    """A close frame (§5.5.1)."""
    return encode(CLOSE, code.to_bytes(2) + reason.encode())
