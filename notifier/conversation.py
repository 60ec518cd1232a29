"""The values that go into a session and come out of it."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from notifier.engine.base import AckedBy, LossReason, Notification

BUCKET: Final = 200
REFILL_PER_S: Final = 100
WINDOW_FULL_S: Final = 60.0
TOKEN_WARNING_S: Final = 30.0
MAX_OUT: Final = 256 * 1024
"""Bytes of mail that may wait in `out`: a commit can wake a session many times before its carrier writes."""


class Limits:
    """What the settings say about every session; one object for all of them. Times in seconds."""

    __slots__ = ("full", "heartbeat_s", "heartbeat_timeout_s", "leeway_s", "max_inflight")

    def __init__(self, max_inflight: int, heartbeat_s: float, heartbeat_timeout_s: float, leeway_s: float) -> None:
        self.max_inflight = max_inflight
        self.heartbeat_s = heartbeat_s
        self.heartbeat_timeout_s = heartbeat_timeout_s
        self.leeway_s = leeway_s
        self.full = 0
        """How many windows are full now: kept here, so that no scrape has to look at every session."""


class ProtocolPing:
    """A WebSocket ping to send (RFC 6455 §5.5.2); other carriers skip it."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


_pack: Final[Callable[[int], bytes]] = Struct(">Q").pack


def proof(position: int, last: bytes | None) -> bytes:
    """Payload of a ping whose pong proves that everything up to `position` was read; never the same as the `last`."""
    payload = _pack(position)
    if last is None or last[:8] != payload:
        return payload
    return payload + bytes((last[8] % 255 + 1 if len(last) > 8 else 1,))


def proven(payload: bytes) -> int:
    """The position that a `proof` is of."""
    position = 0
    for at in range(8):  # compiled, a quarter of what `int.from_bytes` costs
        position = position << 8 | payload[at]
    return position


Out = Notification | bytes | ProtocolPing
"""What a session says: mail, an encoded control frame, or a ping."""


class Acknowledgement:
    """To be committed: everything up to `seq`, and that these losses were told."""

    __slots__ = ("acked_by", "confirm", "seq", "told")

    def __init__(self, seq: int, acked_by: AckedBy, confirm: bool, told: dict[LossReason, int] | None) -> None:
        self.seq = seq
        self.acked_by: AckedBy = acked_by
        self.confirm = confirm
        self.told = told
