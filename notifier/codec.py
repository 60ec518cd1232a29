"""Between frames and bytes: what a client said, and the frame of a notification, which is made once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from notifier import strictjson
from notifier.engine.base import Notification
from notifier.errors import BadJson
from notifier.protocol import Ack, Auth, ClientFrame, Named, Ping, ServerFrame

_decoder: Final = msgspec.json.Decoder(ClientFrame)
encode: Final[Callable[[ServerFrame], bytes]] = msgspec.json.Encoder().encode
_text: Final[Callable[[Any], bytes]] = msgspec.json.Encoder().encode
_ACK: Final = b'{"type":"ack","seq":'
_KNOWN: Final = frozenset(("ack", "auth", "ping"))
_QUOTES: Final = {Ack: 6, Auth: 8, Ping: 4}
"""How many quotation marks the names and texts of a frame have, if it holds nothing else."""


def plain_ack(payload: bytes) -> int:
    """The seq of an acknowledgement that is written as `JSON.stringify` does it and asks for nothing; 0 for all else,
    which `decode` is to look at."""
    if payload.startswith(_ACK) and payload.endswith(b"}") and len(payload) <= len(_ACK) + 17:
        digits = payload[len(_ACK) : -1]
        if digits.isdigit() and not digits.startswith(b"0"):
            return int(digits)
    return 0


def decode(payload: bytes) -> ClientFrame | None:
    """The frame that a client sent, or None if its `type` is not known (to be ignored).

    Raises: BadJson, if it is not a JSON object, or a known type with wrong fields.
    """
    try:
        frame: ClientFrame = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _decode_odd(payload)
        return None
    quotes = payload.count(b'"')
    if quotes == 8 and type(frame) is Ack and b'"confirm"' in payload:
        quotes -= 2
    if quotes != _QUOTES[type(frame)] or ord("\\") in payload or (type(frame) is Ack and frame.seq >> 64):
        strictjson.parse(payload)  # it holds more than the names that we know, each once: by the door's rules, then
    return frame


def _decode_odd(payload: bytes) -> None:
    """What is not one of our frames: unknown types pass, all else raises with the reason."""
    value = strictjson.parse(payload)
    if type(value) is not dict:
        raise BadJson('A frame is one JSON object, like {"type":"ack","seq":1}.')
    kind = value.get("type")
    if type(kind) is str and kind in _KNOWN:
        try:
            _decoder.decode(payload)
        except msgspec.ValidationError as error:
            seq = value.get("seq")
            if kind == "ack" and isinstance(seq, float) and seq >= 2**63:
                return  # beyond what a seq can be, so above any that was written: ignored like those
            raise BadJson(f"A frame of type {kind!r} is wrong: {error}.") from None


@lru_cache(maxsize=256)
def _second(s: int) -> str:
    return datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=4096)  # the answer and the frame tell the same two times, and so do their neighbours
def rfc3339(ms: int) -> str:
    """Unix milliseconds as RFC 3339 UTC with milliseconds."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


class Instant:
    """RFC 3339, remembering the last: what one commit has stored was accepted in the same millisecond or two."""

    __slots__ = ("_ms", "_text")

    def __init__(self) -> None:
        self._ms = 0
        self._text = rfc3339(0)

    def text(self, ms: int) -> str:
        """See rfc3339."""
        if ms != self._ms:
            self._ms, self._text = ms, rfc3339(ms)
        return self._text


class _Ending:
    """The end of a frame, remembering the last for the same reason."""

    __slots__ = ("_accepted_ms", "_expires_ms", "_text")

    def __init__(self) -> None:
        self._accepted_ms = self._expires_ms = -1
        self._text = b""

    def text(self, accepted_ms: int, expires_ms: int) -> bytes:
        if accepted_ms != self._accepted_ms or expires_ms != self._expires_ms:
            expires = f',"expires_at":"{rfc3339(expires_ms)}"' if expires_ms else ""
            self._text = f',"accepted_at":"{rfc3339(accepted_ms)}"{expires}}}'.encode()
            self._accepted_ms, self._expires_ms = accepted_ms, expires_ms
        return self._text


_ending: Final = _Ending()


def notification_frame(n: Notification) -> bytes:
    """The frame of `n`, made once. `data` is spliced in as it came."""
    if not n.frame:
        n.frame = _splice(n.id, n.seq, n.event, n.collapse_key, n.data, n.accepted_ms, n.expires_ms)
    return n.frame


_named: Final = msgspec.json.Decoder(Named)


def event_of(frame: bytes) -> str | None:
    """The event that a notification frame names."""
    return _named.decode(frame).event


def transient_frame(id: str, event: str | None, data: bytes, accepted_ms: int) -> bytes:
    """The frame of a `ttl: 0` notification: no place in the order, no end."""
    return _splice(id, 0, event, None, data, accepted_ms, 0)


def _splice(
    id: str, seq: int, event: str | None, collapse_key: str | None, data: bytes, accepted_ms: int, expires_ms: int
) -> bytes:
    text = id if '"' not in id and "\\" not in id else _text(id).decode()[1:-1]
    place, number = (b'","seq":', str(seq).encode()) if seq else (b'"', b"")
    named = b"" if event is None else f',"event":"{event}"'.encode()
    collapses = b"" if collapse_key is None else b',"collapse_key":' + _text(collapse_key)
    end = _ending.text(accepted_ms, expires_ms)
    return b"".join(
        (b'{"type":"notification","id":"', text.encode(), place, number, named, collapses, b',"data":', data, end)
    )
