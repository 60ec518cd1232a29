"""The load: so many operations a second, whatever happens, each of them picked by chance."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable

from bench.soaking.journal import Journal
from bench.soaking.publishers import DEDUP_S, GROUPS, TTL_S, Crowd, Publishers
from bench.soaking.readers import Readers
from bench.soaking.target import Caller, Target

SETTINGS: dict[str, object] = {
    "ttl_default_seconds": TTL_S,
    "dedup_seconds": DEDUP_S,
    "mailbox_limit": 100,
    "mailbox_bytes": 100_000,
    "mailbox_overflow": "drop_oldest",
    "max_inflight": 32,
    "heartbeat_seconds": 2,
    "heartbeat_timeout_seconds": 3,
    "min_free_disk_bytes": 0,
}
"""How the server is set up: every bound is reached within two minutes."""
LONGEST_S = 15.0
DEAF_S = 6.0
"""Longer than the heartbeat takes to find out."""
MOST_AT_ONCE = 600
ASK_EVERY_S = 1.0

Operation = Callable[[], Awaitable[None]]


class Churn:
    """One run against one server."""

    def __init__(self, target: Target, caller: Caller, *, rate: float, seconds: float, seed: int) -> None:
        self._rng = random.Random(seed)
        self._rate = rate
        self._seconds = seconds
        self.journal = Journal()
        self.crowd = Crowd(self._rng)
        longest_s = min(LONGEST_S, seconds / 4)
        self._readers = Readers(target, caller, self.journal, self._rng, longest_s)
        self._publishers = Publishers(target, caller, self.journal, self.crowd, self._readers, self._rng)
        self._tasks: set[asyncio.Task[None]] = set()

    def _operations(self) -> dict[Operation, float]:
        """What is done, and how often: weights."""
        crowd, readers, publishers, rng = self.crowd, self._readers, self._publishers, self._rng

        def of(names: list[str], visit: Callable[[str], Awaitable[None]]) -> Operation:
            return lambda: visit(crowd.one(names))

        def grouped(client_id: str) -> Awaitable[None]:
            return readers.websocket(client_id, groups=tuple(rng.sample(GROUPS, 2)))

        return {
            of(crowd.confirming, readers.websocket): 8,
            of(crowd.confirming, grouped): 3,
            of(crowd.silent, lambda client_id: readers.websocket(client_id, "auto")): 7,
            of(crowd.streaming, readers.events): 3,
            of(crowd.away + crowd.full, readers.websocket): 0.5,
            of(crowd.confirming, readers.tabs): 0.1,
            of(crowd.deaf, lambda client_id: readers.deaf(client_id, DEAF_S)): 0.5,
            readers.half_open: 2,
            readers.bad: 3,
            publishers.plain: 20,
            publishers.repeated: 4,
            publishers.collapsing: 7,
            publishers.short: 6,
            publishers.transient: 8,
            publishers.waiting: 4,
            publishers.batch: 2,
            publishers.many: 2,
            publishers.text: 3,
            publishers.broadcast: 0.3,
            publishers.overflowing: 0.3,
            publishers.long: 2,
            publishers.receipt: 3,
            publishers.purge: 0.5,
            publishers.erase: 0.3,
            publishers.revoke: 0.2,
            publishers.look: 2,
            publishers.disconnect: 0.5,
            publishers.bad: 6,
        }

    async def run(self) -> None:
        """All of it; returns when everybody has left and every mailbox was emptied."""
        weights = self._operations()
        operations, shares = list(weights), list(weights.values())
        asking = asyncio.create_task(self._keep_asking())
        began = time.monotonic()
        number = 0
        while (now := time.monotonic() - began) < self._seconds:
            if number <= now * self._rate:
                number += 1
                if len(self._tasks) >= MOST_AT_ONCE:
                    self.journal.counts["skipped"] += 1
                else:
                    self._start(self._rng.choices(operations, shares)[0])
            else:
                await asyncio.sleep(number / self._rate - now)
        self.journal.counts["operations"] = number - self.journal.counts["skipped"]
        while self._tasks:
            await asyncio.wait(self._tasks)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await self._settle()

    def _start(self, operation: Operation) -> None:
        task = asyncio.ensure_future(self._guarded(operation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, operation: Operation) -> None:
        try:
            await operation()
        except Exception as error:
            name = getattr(operation, "__name__", "a visit")
            self.journal.blame(f"{name} failed: {type(error).__name__}: {error}")

    async def _keep_asking(self) -> None:
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            await self._publishers.ask()

    async def _settle(self) -> None:
        """Everybody comes once more and takes what there is; then the server is asked for the rest."""
        for at in range(0, len(self.crowd.all), 10):
            await asyncio.gather(*map(self._readers.empty, self.crowd.all[at : at + 10]))
        left = len(self.journal.unseen)
        while left:
            for _ in range(0, left, 100):
                await self._publishers.ask(float("inf"))
            left, before = len(self.journal.unseen), left
            if left == before:
                break
