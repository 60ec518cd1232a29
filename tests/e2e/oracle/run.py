"""A run: load, kill, restart, many times over; then every mailbox is drained and the journal is judged."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop

from tests.e2e.oracle.journal import Entry, Journal, Violation
from tests.e2e.oracle.publisher import Publisher, Purger
from tests.e2e.oracle.subscriber import MANNERS, Subscriber
from tests.e2e.oracle.wire import Unexpected
from tests.harness import Server
from tests.harness.server import StartError

FEATURES = frozenset({"auto", "collapse", "ttl", "wait", "receipts", "purge"})
DRAIN_TIMEOUT = 30.0


@dataclass(frozen=True)
class Plan:
    """How large a run is. The moments of the kills and all choices of the load come from `seed`."""

    seed: int
    kills: int = 50
    accepted: int = 50_000  # go on without kills until so many are; at most `longest` seconds
    longest: float = 60.0
    deadline: float = 270.0  # of the whole run: what does not come to an end is a finding, too
    publishers: int = 48
    clients: int = 100
    devices: int = 130  # connections; some clients have two
    pause: float = 0.012  # mean pause of a publisher between two publishes, seconds
    life: tuple[float, float] = (0.1, 1.7)  # between readiness and SIGKILL, seconds
    stillborn: float = 0.1  # share of starts that are killed before they are ready (not counted as kills)
    features: frozenset[str] = FEATURES


@dataclass
class Report:
    """What came of it."""

    plan: Plan
    journal: Journal = field(default_factory=Journal)
    kills: int = 0
    stillborn: int = 0
    in_flight: int = 0
    """Kills that met a publish without its answer and an acknowledgement without its confirmation."""
    seconds: float = 0.0
    violations: list[Violation] = field(default_factory=list)

    def kinds(self) -> set[str]:
        return {violation.kind for violation in self.violations}

    def __str__(self) -> str:
        lines = [
            f"seed {self.plan.seed}: {self.kills} kills ({self.in_flight} with publish and ack in flight), "
            f"{self.stillborn} more before ready, {self.journal.counts['accepted']} accepted, {self.seconds:.0f} s",
            str(dict(sorted(self.journal.counts.items()))),
            *(f"{violation.kind}: {violation.text}" for violation in self.violations[:30]),
        ]
        if len(self.violations) > 30:
            lines.append(f"… and {len(self.violations) - 30} more")
        return "\n".join(lines)


def execute(server: Server, plan: Plan) -> Report:
    """Run it to the end, in an event loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Run(server, plan).run())


class Run:
    def __init__(self, server: Server, plan: Plan) -> None:
        self.server, self.plan = server, plan
        self.journal = Journal(plan.features)
        self.report = Report(plan, self.journal)
        self.up = asyncio.Event()
        self._random = random.Random(plan.seed)
        self.clients = [f"client-{number}" for number in range(plan.clients)]

    async def run(self) -> Report:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.plan.deadline):
                await self._load()
                await self._drain("last")
                # Everything was told settled: after one more crash only what is published then may come.
                await self._kill()
                await self._start()
                await self._drain("after")
                await self._kill()
        except* (TimeoutError, StartError) as failure:
            self.journal.surprised("stuck", f"{failure.exceptions!r}\n{self.server.tail()}")
        self.report.in_flight = sum(1 for epoch in self.journal.lost_publishes if self.journal.lost_acks[epoch])
        self.report.violations = self.journal.violations()
        self.report.seconds = time.monotonic() - began
        return self.report

    async def _load(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            publishers = self._publishers()
            purger = Purger(
                self.journal, self.server.port, self.server.key, self.clients[::10], self.up, self.plan.seed
            )
            writing = [tasks.create_task(self._guarded(one.run())) for one in publishers]
            if "receipts" in self.plan.features:
                writing += [tasks.create_task(self._guarded(one.ask_receipts())) for one in publishers[::4]]
            if "purge" in self.plan.features:
                writing.append(tasks.create_task(self._guarded(purger.run())))
            reading = [tasks.create_task(self._guarded(one.run())) for one in self._subscribers()]
            while self.report.kills < self.plan.kills:
                await self._one_life()
            await self._start()
            await self.journal.wait_accepted(self.plan.accepted, self.plan.longest)
            purger.stopping = True
            for one in publishers:
                one.stopping = True
            await asyncio.wait(writing, timeout=DRAIN_TIMEOUT)
            for task in (*writing, *reading):
                task.cancel()

    # --- the server -------------------------------------------------------------------------------------------

    async def _one_life(self) -> None:
        if self._random.random() < self.plan.stillborn:
            self.journal.started()
            self.server.spawn()
            await asyncio.sleep(self._random.uniform(0.02, 0.6))
            await self._kill()
            self.report.stillborn += 1
            return
        await self._start()
        await asyncio.sleep(self._random.uniform(*self.plan.life))
        await self._kill()
        self.report.kills += 1
        if self.report.kills % 10 == 0:
            print(f"  {self.report.kills} kills, {self.journal.counts['accepted']} accepted", flush=True)

    async def _start(self) -> None:
        self.journal.started()
        await self.server.astart()
        self.up.set()

    async def _kill(self) -> None:
        if not self.server.running:
            self.journal.surprised("died", f"the server ended by itself\n{self.server.tail()}")
        self.up.clear()
        self.journal.killed()
        self.server.kill()

    # --- the load ---------------------------------------------------------------------------------------------

    def _publishers(self) -> list[Publisher]:
        common = (
            self.journal,
            self.server.port,
            self.server.key,
            self.clients,
            self.up,
            self.plan.seed,
            self.plan.pause,
        )
        return [Publisher(f"p{number}", *common) for number in range(self.plan.publishers)]

    def _subscribers(self) -> list[Subscriber]:
        manners = [manner for manner in MANNERS if "auto" in self.plan.features or manner not in ("auto", "both")]
        made = []
        for number in range(self.plan.devices):
            client = self.clients[number % len(self.clients)]
            manner = manners[(number + number // len(self.clients)) % len(manners)]
            seed = f"{self.plan.seed}/{number}"
            token = self.server.token(client)
            made.append(Subscriber(client, manner, self.journal, self.server.port, token, self.up, seed))
        return made

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """A surprise is the oracle's finding, not the end of the run."""
        try:
            await work
        except Unexpected as surprise:
            self.journal.surprised("unexpected", str(surprise))

    async def _drain(self, name: str) -> None:
        """Publish one last notification to every client, and let each client take all it has up to there."""
        closer = Publisher(name, self.journal, self.server.port, self.server.key, [], self.up, self.plan.seed, 0)
        waiting: dict[asyncio.Task[None], str] = {}
        try:
            for client in self.clients:
                last = Entry(client, f"{name}-{client}", b'"last"')
                reader = Subscriber(
                    client, "confirm", self.journal, self.server.port, self.server.token(client), self.up, client
                )
                waiting[asyncio.create_task(self._guarded(reader.drain(last)))] = client
                await self._guarded(closer.publish(last, insist=True))
            _, stuck = await asyncio.wait(waiting, timeout=DRAIN_TIMEOUT)
            for task in stuck:
                self.journal.surprised("stuck", f"{waiting[task]} was not sent all its mail in {DRAIN_TIMEOUT} s")
        finally:
            closer.close()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--accepted", type=int, default=50_000)
    parser.add_argument("--features", default=",".join(sorted(FEATURES)), help="comma-separated")
    parser.add_argument("--bug", default=None, help="a mode of buggy_server")
    arguments = parser.parse_args()
    plan = Plan(arguments.seed, arguments.kills, arguments.accepted)
    plan = replace(plan, features=frozenset(filter(None, arguments.features.split(","))))
    command = None if arguments.bug is None else buggy(arguments.bug)
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory), command=command)
        try:
            report = execute(server, plan)
        finally:
            server.close()
        print(report)
        return 1 if report.violations else 0


def buggy(mode: str) -> list[str]:
    """The command of a server with one promise broken."""
    return [sys.executable, "-m", "tests.e2e.oracle.buggy_server", mode]


if __name__ == "__main__":
    sys.exit(main())
