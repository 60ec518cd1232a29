"""Wakes that go wrong, in a way that a seed repeats: for engines in a test's own process, and for server processes.

Nothing that is promised may depend on a wake; only what an answer says of live connections may differ.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from notifier.engine.base import Handed, Listener, Notification

LATE_S = 0.05


class Deaf:
    """A listener whose wakes are lost, doubled, or late (and so out of order); everything else reaches it."""

    def __init__(self, listener: Listener, rng: random.Random, late_s: float = LATE_S) -> None:
        self._listener = listener
        self._rng = rng
        self._late_s = late_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def wake(self, notification: Notification, after: int) -> Handed:
        match self._rng.randrange(3):
            case 0:
                return Handed(0, 0)
            case 1:
                first = self._listener.wake(notification, after)
                self._listener.wake(notification, after)
                return first
            case _:
                loop = asyncio.get_running_loop()
                loop.call_later(self._rng.uniform(0, self._late_s), self._listener.wake, notification, after)
                return Handed(0, 0)
