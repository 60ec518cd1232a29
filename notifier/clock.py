"""What time it is: one wall clock that does not jump.

Expiry, tokens and seqs live by wall time, and a wall clock that is stepped (NTP, an operator, a resumed
virtual machine) would expire mail and tokens that are good. So the system clock is read once at the start
and carried on by the boot clock, which goes on while the machine is suspended; where the system clock goes
elsewhere it is followed at 1 % at most, and never backwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

from notifier.errors import ConfigurationError, Problem

BUILD_DATE: Final = datetime(2026, 11, 1, tzinfo=UTC)
"""No right clock shows less. Moved forward with each release."""
LATEST: Final = datetime(2201, 1, 1, tzinfo=UTC)
"""Seqs are microseconds and must stay below 2^53, which is in 2255."""

_SECOND_NS: Final = 1_000_000_000
_SECOND_US: Final = 1_000_000
_MAX_SLEW_US: Final = _SECOND_US // 100
_TOLERANCE_US: Final = 1_000  # not worth slewing, and without slewing a reading is cheaper by a third
_read_boot_clock: Final = partial(time.clock_gettime_ns, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Clock:
    """The time as the code asks for it; tests give a `ManualClock`."""

    __slots__ = ()

    def now_us(self) -> int:
        """Unix time in whole microseconds; never less than a value it gave before."""
        raise NotImplementedError

    def now_ms(self) -> int:
        """Unix time in whole milliseconds."""
        return self.now_us() // 1000

    def now(self) -> float:
        """Unix time in seconds."""
        return self.now_us() / 1_000_000

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment, for durations and deadlines."""
        raise NotImplementedError


class SystemClock(Clock):
    """The process's clock. Safe to ask from any thread: its state is one tuple, replaced as a whole."""

    __slots__ = ("_anchor", "_boot_ns", "_wall_ns")

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        boot_ns: Callable[[], int] = _read_boot_clock,
    ) -> None:
        self._wall_ns = wall_ns
        self._boot_ns = boot_ns
        # (wall time in µs at the anchor, boot time in ns at the anchor, µs gained in the second after it)
        self._anchor = (wall_ns() // 1000, boot_ns(), 0)

    def now_us(self) -> int:
        wall_us, base_ns, slew_us = self._anchor
        elapsed_ns = self._boot_ns() - base_ns
        if elapsed_ns >= _SECOND_NS:
            return self._follow(wall_us, base_ns, slew_us, elapsed_ns)
        if slew_us:
            return wall_us + elapsed_ns * (_SECOND_US + slew_us) // _SECOND_NS
        return wall_us + elapsed_ns // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    def _follow(self, wall_us: int, base_ns: int, slew_us: int, elapsed_ns: int) -> int:
        elapsed_us = elapsed_ns // 1000
        # The slew was meant for one second: however late we come, it counts for one second, or it would overshoot.
        now_us = wall_us + elapsed_us + slew_us
        behind_us = self._wall_ns() // 1000 - now_us
        slew_us = 0 if abs(behind_us) < _TOLERANCE_US else max(-_MAX_SLEW_US, min(_MAX_SLEW_US, behind_us))
        self._anchor = (now_us, base_ns + elapsed_us * 1000, slew_us)
        return now_us


class ManualClock(Clock):
    """A clock that stands still until a test moves it."""

    __slots__ = ("_monotonic_us", "_now_us")

    def __init__(self, start_s: float = 1_800_000_000.0) -> None:
        self._now_us = round(start_s * 1_000_000)
        self._monotonic_us = 0

    def advance(self, seconds: float) -> None:
        self._now_us += round(seconds * 1_000_000)
        self._monotonic_us += round(seconds * 1_000_000)

    def now_us(self) -> int:
        return self._now_us

    def monotonic(self) -> float:
        return self._monotonic_us / 1_000_000


def check_plausible(now: float) -> None:
    """Refuse a clock that is certainly wrong: seqs made by it would stay in the way for ever."""
    if now < BUILD_DATE.timestamp():
        problem = f"shows a time before {BUILD_DATE:%Y-%m-%d}, when this version was built"
    elif now >= LATEST.timestamp():
        problem = f"shows a time after {LATEST.year - 1}"
    else:
        return
    mend = "set it (for example by NTP) and start again"
    raise ConfigurationError(problems=[Problem("the system clock", problem, mend)])
