"""What every pump between a socket and a session has in common: writing within bounds, time, and the end. Carriers
differ in how they encode what a session says, in what they hear, and in how they say goodbye.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from notifier.conversation import WINDOW_FULL_S, Out
from notifier.errors import NotifierError
from notifier.hub import Carrier
from notifier.logs import defect
from notifier.protocol import Close
from notifier.session import Session
from notifier.transport.wheel import GRAIN_S

if TYPE_CHECKING:
    import asyncio

    from notifier.auth.tokens import Identity
    from notifier.transport.door import Door

_log = structlog.get_logger("notifier.carrier")

HIGH_WATER: Final = 256 * 1024
LOW_WATER: Final = 64 * 1024
MAX_UNSENT: Final = 1024 * 1024
STALL_S: Final = 30.0
_GONE: Final = -2
LINGER_S: Final = 1.0
"""How long the peer has to take our goodbye before it is cut off."""


class SessionCarrier(Carrier):
    """One connection. It never waits: what cannot be written is bounded, then it is cut off.
    An asyncio.Protocol by its methods, not by its base, so that it can be compiled (docs/performance.md)."""

    kind: ClassVar[str]
    window_full_s: ClassVar[float] = WINDOW_FULL_S
    """How long after the window has become full the session is looked at again."""

    __slots__ = (
        "_closed_code", "_door", "_early_at", "_look_at", "_stall", "_stall_at", "_transport", "_verifying", "_wrote",
        "address", "opened_at", "session",
    )  # fmt: skip

    def __init__(self, door: Door, transport: asyncio.Transport, session: Session, address: str) -> None:
        self.session = session
        self.address = address
        self.opened_at = door.time()
        self._door = door
        self._transport = transport
        self._wrote = 0
        self._stall = -1
        self._stall_at = 0.0
        self._closed_code = 0
        """What we ended it with; 0 while open; 1006 when aborted."""
        self._verifying = False
        """A token of an `auth` frame is being checked; the next one waits for that."""
        self._look_at = self._early_at = 0.0
        """When `session.tick` is due by the wheel; and before that because of a new token, 0 if not."""
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        door.wheel.add(self, 0.0)

    @staticmethod
    def encode(item: Out) -> bytes:
        """What a session says, as bytes of this carrier."""
        raise NotImplementedError

    def farewell(self, code: int, reason: str) -> None:
        """Write the last word and let the connection end."""
        raise NotImplementedError

    # -- from the network ---------------------------------------------------------------------------------------------

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        code = self._closed_code or 1006
        self._closed_code = code
        self._stall = _GONE
        self._door.closed(self, code, self._door.time() - self.opened_at)

    def pause_writing(self) -> None:
        self.session.paused = True

    def resume_writing(self) -> None:
        self.session.paused = False
        self._door.node.touch(self)

    # -- to the network -----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Write what the session says, and do what it asks for."""
        if self._closed_code:
            return
        try:
            session, node = self.session, self._door.node
            if session.others_settled:
                session.flush_settled()
            if out := session.out:
                data = self.encode(out[0]) if len(out) == 1 else b"".join([self.encode(item) for item in out])
                out.clear()  # the list stays: the next one needs it
                self._write(data)
            if session.ack is not None:
                ack, session.ack = session.ack, None
                node.acknowledge(self, ack)
            if session.ignored_acks:
                node.metrics.acks_were_ignored(session.ignored_acks)
                session.ignored_acks = 0
            if session.verify is not None:
                self._verify_next()
            if session.filled:
                session.note_filled(self._door.time())
                self._door.wheel.add(_Look(self), self.window_full_s)
            if session.closing is not None:
                self._close(*session.closing)
            elif session.wants:
                node.read(self)
        except Exception as error:
            self._broken(error)

    def carry(self, frames: list[bytes], encoded: dict[str, bytes]) -> int:
        """See hub.Carrier. Nothing of a broadcast is queued where nothing waits before it."""
        session = self.session
        if session.out or session.others_settled:
            self._door.node.touch(self)
            unsent = self._transport.get_write_buffer_size()
            return sum([session.transient(frame, unsent) for frame in frames])
        if session.paused or session.closing is not None or self._closed_code:
            return 0
        if self._transport.get_write_buffer_size() >= HIGH_WATER:
            return 0  # `paused` is told only when this tick of the loop is through
        try:
            data = encoded.get(self.kind)
            if data is None:
                data = encoded[self.kind] = b"".join([self.encode(frame) for frame in frames])
            self._write(data)
        except Exception as error:
            self._broken(error)  # a defect costs this connection, not those that come after it
            return 0
        return len(frames)

    def _verify_next(self) -> None:
        """One after another: so the token of the newest `auth` is the one that stays."""
        session = self.session
        if self._verifying or session.closing is not None or not session.verify:
            return
        self._verifying = True
        token = session.verify.pop(0)
        session.verify = session.verify or None
        self._door.verify(token, self._verified)

    def _verified(self, result: Identity | NotifierError) -> None:
        self._verifying = False
        if self._closed_code:
            return
        if isinstance(result, NotifierError):
            self.session.auth_failed(result)
        else:
            self._door.node.regroup(self, result)
            self._look_early()
        self._door.node.touch(self)

    def _write(self, data: bytes) -> None:
        if self._transport.is_closing():
            return  # the network was quicker, and connection_lost is on its way
        self._transport.write(data)
        self._wrote += len(data)
        unsent = self._transport.get_write_buffer_size()
        if unsent > MAX_UNSENT:
            self._cut_off()
        elif unsent and self._stall < 0:
            self._stall, self._stall_at = self._wrote - unsent, self._door.time()
            self._door.wheel.add(_Stall(self), STALL_S / 3)

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken."""
        return self._transport.get_write_buffer_size()

    def _close(self, code: int, reason: str) -> None:
        if not code:
            return self.abort()
        self._closed_code = code
        self.farewell(code, reason)
        return self._linger()

    def _linger(self) -> None:
        self._door.wheel.add(_Linger(self), LINGER_S)

    def _broken(self, error: Exception) -> None:
        defect(_log, "defect", error)
        self.session.close(Close.INTERNAL, "internal")
        if not self._closed_code:
            self._close(Close.INTERNAL, "internal")

    def _cut_off(self) -> None:
        self._door.node.metrics.slow_consumer()
        self.session.close(0, "slow_consumer")
        self.abort()

    def abort(self) -> None:
        """Cut it off, without a goodbye."""
        self._closed_code = 1006
        self._transport.abort()

    # -- time ---------------------------------------------------------------------------------------------------------

    def on_timer(self, now: float) -> float | None:
        """See Timed."""
        again = self._look(now)
        if again is not None:
            self._look_at = now + again
        return again

    def _look(self, now: float) -> float | None:
        if self._closed_code:
            return None
        try:
            again = self.session.tick(now, self._door.clock.now(), self._transport.get_write_buffer_size())
        except Exception as error:
            self._broken(error)
            return None
        self.pump()
        return None if self._closed_code else again

    def _look_early(self) -> None:
        """A token has come that may end before the next look. Timers cannot be taken back, so one is added only if it
        is the earliest: there are not more of them than grains of time before the regular look."""
        if self.session.closing is not None:
            return
        now = self._door.time()
        again = self.session.tick(now, self._door.clock.now(), self.unsent)
        if now + again + GRAIN_S < (self._early_at or self._look_at):
            self._early_at = now + again
            self._door.wheel.add(_Early(self, self._early_at), again)

    def check_early(self, now: float, at: float) -> float | None:
        """See `_look_early`; `at` is when this look was due. One that an earlier one has replaced ends."""
        if at != self._early_at:
            return None
        self._early_at = 0.0
        again = self._look(now)
        if again is None or now + again + GRAIN_S >= self._look_at:
            return None
        self._early_at = now + again
        return again

    def check_window(self, now: float) -> float | None:
        """`window_full_s` ago the window was full."""
        self._look(now)
        return None

    def check_stall(self, now: float) -> float | None:
        """Something is unsent: has the socket taken a byte since the last look?"""
        if self._stall == _GONE:
            return None  # a transport that was reset goes on telling its last buffer
        unsent = self._transport.get_write_buffer_size()
        if self._transport.is_closing() and not unsent:
            return None
        taken = self._wrote - unsent
        if not unsent:
            self._stall = -1
            return None
        if taken != self._stall:
            self._stall, self._stall_at = taken, now
        elif now - self._stall_at >= STALL_S:
            self._cut_off()
            return None
        return min(STALL_S / 3, max(0.25, self._stall_at + STALL_S - now))

    def linger_over(self) -> None:
        """The second that the peer had is over."""
        self._transport.abort()


class _Later:
    """A single look at a connection, apart from its regular one."""

    __slots__ = ("_carrier",)

    def __init__(self, carrier: SessionCarrier) -> None:
        self._carrier = carrier


class _Look(_Later):
    def on_timer(self, now: float) -> float | None:
        return self._carrier.check_window(now)


class _Early(_Later):
    __slots__ = ("_at",)

    def __init__(self, carrier: SessionCarrier, at: float) -> None:
        super().__init__(carrier)
        self._at = at

    def on_timer(self, now: float) -> float | None:
        again = self._carrier.check_early(now, self._at)
        if again is not None:
            self._at = now + again
        return again


class _Stall(_Later):
    def on_timer(self, now: float) -> float | None:
        return self._carrier.check_stall(now)


class _Linger(_Later):
    def on_timer(self, now: float) -> None:
        self._carrier.linger_over()
