"""An event loop whose time only moves when there is nothing else to do, and an engine's writer without a thread.

Together they make what is asynchronous a plain sequence of steps: nothing sleeps, and a seed repeats all of it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

from notifier.engine.writer import translate


class _Jump(selectors.DefaultSelector):
    """Does not wait for anything: there is nothing outside of the loop to wait for."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing will ever happen again"
        if timeout > 0:
            self.loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        selector = _Jump()
        super().__init__(selector)
        selector.loop = self
        self.now = 0.0

    def time(self) -> float:
        return self.now


class StepWriter:
    """In the place of `notifier.engine.writer.Writer`: a job is one step of the loop, its answer the next."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.dead = False

    def submit(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def run() -> None:
            if self.dead:
                return
            try:
                result: Any = job()
            except Exception as error:
                result = translate(error)
            self._loop.call_soon(answer, result)

        def answer(result: Any) -> None:
            if not self.dead:
                done(result)

        self._loop.call_soon(run)

    def stop(self) -> None:
        self.dead = True
