"""The values that go into a session and come out of it, and the numbers that bound them."""

from __future__ import annotations

from typing import Final

from notifier.engine.base import AckedBy, LossReason, Notification

BUCKET: Final = 200
REFILL_PER_S: Final = 100
WINDOW_FULL_S: Final = 60.0
TOKEN_WARNING_S: Final = 30.0
MAX_OUT: Final = 256 * 1024
"""Bytes of mail that may wait in `out`: a commit can wake a session many times before its carrier writes. One that is
larger than half of it is taken with it while the other half is free, so 128 KiB and the largest frame (513 KiB) are the
most; with the 256 KiB that may be unsent before them, stored mail stays below the 1 MiB that ends a connection."""
AROUND: Final = 128
"""The most bytes that a carrier writes around a frame of mail: its head (10), or the lines of an event (101); and the
ping that proves it (12)."""
MAX_TOKENS: Final = 16
"""Tokens of `auth` frames that may wait to be looked at, one after another."""


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


class Bucket:
    """How many frames a client may send: BUCKET at once, REFILL_PER_S in the long run."""

    __slots__ = ("_at", "_level")

    def __init__(self, now: float) -> None:
        self._level = float(BUCKET)
        self._at = now

    def take(self, now: float, count: int) -> bool:
        """Whether so many were left. `now`: the monotonic clock, seconds."""
        self._level = min(BUCKET, self._level + (now - self._at) * REFILL_PER_S)
        self._at = now
        if self._level < count:
            return False
        self._level -= count
        return True


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
