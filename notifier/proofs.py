"""What proves that the other end has read: pings whose pongs carry a position (RFC 6455 §5.5.2, §5.5.3), and which
losses it was told of. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from notifier import codec, protocol
from notifier.conversation import Out, ProtocolPing
from notifier.engine.base import Losses, LossReason

MAX_PINGS: Final = 1024
"""Unanswered pings of one session that are told apart. Pongs are cumulative, so the oldest can be given up."""

_pack: Final[Callable[[int], bytes]] = Struct(">Q").pack


class Proofs:
    """Of one session: the pings whose pongs may still come, and the losses that were told and not acknowledged."""

    __slots__ = ("_gap", "_gap_frame", "_given_up", "_heard_of", "_last", "_late", "_pings", "told")

    def __init__(self) -> None:
        self._pings: list[bytes] = []
        """Unanswered, oldest first."""
        self._last = b""
        self._late = 0
        """How many pings were given up whose pongs may still come."""
        self._given_up = 0
        """The highest position of those."""
        self._gap = b""
        """The ping that followed the last `gap` frame, until it is answered."""
        self._gap_frame: tuple[bytes, LossReason, int] | None = None
        """The last `gap` frame, with what it says."""
        self.told: tuple[int, dict[LossReason, int]] | None = None
        """The losses that were told and not acknowledged, with the highest seq that was written before that."""
        self._heard_of: dict[LossReason, int] = {}
        """Total of the losses, by reason, up to which there is nothing to tell."""

    def ping(self, position: int) -> bytes:
        """Payload of a ping whose pong proves that everything up to `position` was read. None of those that may still
        be answered has the same. Positions do not decrease."""
        payload = _pack(position)
        if self._last[:8] == payload:
            payload += (int.from_bytes(self._last[8:]) % 0xFFFF + 1).to_bytes(2)
        if len(self._pings) >= MAX_PINGS:
            self._give_up(MAX_PINGS // 2)
        self._last = payload
        self._pings.append(payload)
        return payload

    def pong(self, payload: bytes) -> int:
        """The position that this pong proves; 0 if its ping was given up, -1 if we did not ask for it."""
        pings = self._pings
        if pings and pings[0] == payload and not self._gap:  # as it nearly always is
            del pings[0]
            self._late = 0
            return proven(payload)
        if payload in pings:
            count = pings.index(payload) + 1
            if self._gap and self._gap in pings[:count]:
                self._gap = b""
            del pings[:count]
            self._late = 0  # pongs come in order: those before it have come, or never will
            return proven(payload)
        if self._late and 8 <= len(payload) <= 10 and proven(payload) <= self._given_up:
            self._late -= 1
            return 0
        return -1

    def acknowledged(self, seq: int) -> None:
        """Everything up to `seq` is proven otherwise: what would prove no more than that is given up."""
        pings = self._pings
        count = 0
        while count < len(pings) and pings[count] != self._gap and proven(pings[count]) <= seq:
            count += 1
        if count:
            self._give_up(count)

    # -- losses -------------------------------------------------------------------------------------------------------

    def tell_untold(self, losses: Losses, position: int, out: list[Out]) -> None:
        """Say in `out` what was lost before. `position`: everything up to there has been written."""
        self._heard_of = losses.totals
        untold = losses.untold()
        if untold:
            for reason, dropped in untold.items():
                out.append(codec.encode(protocol.Gap(reason, dropped)))
            self.told = position, self._heard_of
            self._ping_behind(position, out)

    def tell(self, reason: LossReason, dropped: int, total: int, position: int, out: list[Out]) -> None:
        """Say in `out` that so many more are lost, unless they were counted already in what was told before."""
        if total <= self._heard_of.get(reason, 0):
            return
        self._heard_of = {**self._heard_of, reason: total}
        self.told = position, self._heard_of
        last = self._gap_frame
        if last is not None and len(out) > 1 and out[-2] is last[0] and last[1] == reason:
            # Thousands may end in one commit: what stands side by side is one frame, with one ping behind it.
            dropped += last[2]
            out[-2] = frame = codec.encode(protocol.Gap(reason, dropped))
        else:
            frame = codec.encode(protocol.Gap(reason, dropped))
            out.append(frame)
            self._ping_behind(position, out)
        self._gap_frame = frame, reason, dropped

    def _ping_behind(self, position: int, out: list[Out]) -> None:
        """In both modes: its pong says that what was told has been read."""
        self._gap = self.ping(position)
        out.append(ProtocolPing(self._gap))

    def heard(self, seq: int) -> bool:
        """Whether who acknowledges `seq` now must have read what was told: mail that was written after it, or it has
        answered the ping of it. An acknowledgement that may have been sent before proves nothing of it."""
        return self.told is not None and (seq > self.told[0] or not self._gap)

    def acknowledge_told(self) -> dict[LossReason, int] | None:
        """What was told is acknowledged: up to these totals."""
        told, self.told, self._gap = self.told, None, b""
        return told[1] if told is not None else None

    def _give_up(self, count: int) -> None:
        pings = self._pings
        kept = self._gap and self._gap in pings[:count]
        self._late += count
        self._given_up = proven(pings[count - 1])
        del pings[:count]
        if kept:
            self._late -= 1
            pings.insert(0, self._gap)


def proven(payload: bytes) -> int:
    """The position in the payload of a ping."""
    position = 0
    for at in range(8):  # compiled, a quarter of what `int.from_bytes` costs
        position = position << 8 | payload[at]
    return position
