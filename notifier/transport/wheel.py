"""One timer for all connections: deadlines are kept in slots, and a slot is looked at when its time comes.

A timer of the event loop per connection would cost 0.9 KB each and a heap operation for every change.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from typing import Final, Protocol

GRAIN_S: Final = 0.25
"""How late a deadline may be met."""
LATE_S: Final = 1.0
"""A turn that is later than this comes after a pause of the whole process."""
SLICE: Final = 50
"""Connections that are served at once: a heartbeat is a write to each, and who connected together is due together."""
PAUSE_S: Final = 0.003
"""Between two slices, so that thousands of heartbeats take a fifth of the loop and not all of it."""


class Timed(Protocol):
    """Something with deadlines."""

    def on_timer(self, now: float) -> float | None:
        """`now` is the loop's time. In how many seconds to call again, or None."""


class Wheel:
    """Deadlines in seconds of the loop's time. Nothing can be taken back: who is gone answers None."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, list[Timed]] = {}
        self._next = int(loop.time() / GRAIN_S)
        self._turned_at = loop.time()
        self._handle: TimerHandle | None = loop.call_later(GRAIN_S, self._turn)

    def add(self, timed: Timed, delay_s: float) -> None:
        """Call `timed.on_timer` in `delay_s` seconds, at the earliest; GRAIN_S later at the latest, or when it is its
        turn among those that are due with it."""
        slot = max(int((self._loop.time() + delay_s) / GRAIN_S) + 1, self._next)
        held = self._slots.get(slot)
        if held is None:
            self._slots[slot] = [timed]
        else:
            held.append(timed)

    def stop(self) -> None:
        """No call any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._slots.clear()

    def _turn(self) -> None:
        self._handle = self._loop.call_later(GRAIN_S, self._turn)
        now, last = self._loop.time(), self._turned_at
        self._turned_at = now
        if now - last > LATE_S:
            return  # we were suspended: what has arrived meanwhile is read before anybody is judged by his silence
        current = int(now / GRAIN_S)
        due: list[Timed] = []
        while self._next <= current:
            due += self._slots.pop(self._next, ())
            self._next += 1
        if due:
            self._run(due, 0, now)

    def _run(self, due: list[Timed], start: int, now: float) -> None:
        """A slice, by the time of its turn: the process may have been suspended since."""
        if self._handle is None:
            return  # stopped
        for timed in due[start : start + SLICE]:
            again = timed.on_timer(now)
            if again is not None:
                self.add(timed, again)
        if start + SLICE < len(due):
            self._loop.call_later(PAUSE_S, self._run, due, start + SLICE, now)
