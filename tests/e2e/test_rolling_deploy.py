"""A new process takes over from an old one, behind a balancer that notices 5 s late, under load.

One SQLite file serves one process: the new one waits for its lock, and becomes ready when the old one has gone. So
there is a time without any server, and the balancer has to keep its callers waiting. What the two processes owe:
whoever the balancer sends to the old one too late is still served, nobody is cut off, nothing accepted is lost, and
the clients are sent away one after the other.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from tests.e2e.balancer import Balancer
from tests.e2e.oracle.wire import HttpConnection
from tests.harness import Client, Closed, Server
from tests.harness.server import StartError, free_port

LAG_S = 5.0
DRAIN_DELAY_S = LAG_S + 0.5
DRAIN_S = 2.0
CLIENTS = 60
PUBLISHERS = 12


@dataclass
class Journal:
    """What publishers were told and what clients saw."""

    accepted: dict[str, str] = field(default_factory=dict)  # id → client_id
    failed: list[str] = field(default_factory=list)
    received: dict[str, set[str]] = field(default_factory=dict)  # client_id → ids
    closes: list[tuple[float, int | None, str | None]] = field(default_factory=list)
    welcomes: list[float] = field(default_factory=list)
    reconnects: list[float] = field(default_factory=list)
    """When the clients, as they were told, tried to come back."""
    after_ms: list[int] = field(default_factory=list)

    def missing(self) -> set[str]:
        return {id for id, client_id in self.accepted.items() if id not in self.received.get(client_id, ())}


async def publisher(number: int, balancer: Balancer, key: str, journal: Journal, stop: asyncio.Event) -> None:
    """One notification after the other; every second publisher on a connection that it keeps."""
    connection = HttpConnection(balancer.port, key)
    turn = 0
    while not stop.is_set():
        turn += 1
        id, client_id = f"p{number}-{turn}", f"client {random.randrange(CLIENTS)}"
        body = json.dumps({"client_id": client_id, "id": id, "data": {"n": turn}}).encode()
        try:
            answer = await connection.request("POST", "/notify", body)
        except (OSError, EOFError) as lost:
            journal.failed.append(f"{id}: {lost!r}")
            continue
        if answer.status == 202:
            journal.accepted[id] = client_id
        else:
            journal.failed.append(f"{id}: {answer.status} {answer.body!r}")
        if number % 2:
            connection.close()
        await asyncio.sleep(random.uniform(0, 0.1))
    connection.close()


async def subscriber(client_id: str, balancer: Balancer, server: Server, journal: Journal) -> None:
    """Stays connected, acknowledges what comes, and comes back when and as it is told."""
    received = journal.received.setdefault(client_id, set())
    url = f"ws://127.0.0.1:{balancer.port}/ws"
    while True:
        async with Client(server, client_id, ack="client", url=url, open_timeout=60) as client:
            position = 0
            try:
                await client.welcome
                journal.welcomes.append(time.monotonic())
                while True:
                    frame = await client.next("notification", timeout=120)
                    assert frame["seq"] > position, "out of order, or twice on one connection"
                    position = frame["seq"]
                    received.add(frame["id"])
                    with suppress(ConnectionClosed):  # what it has received before the close is still to be read
                        await client.ack(position)
            except Closed as end:
                journal.closes.append((time.monotonic(), end.code, end.reason))
            told = [frame["after_ms"] for frame in client.frames if frame["type"] == "reconnect"]
        journal.after_ms += told
        await asyncio.sleep(sum(told) / 1000 + random.uniform(0, 1))
        journal.reconnects.append(time.monotonic())


async def replace(old: Server, new: Server) -> None:
    """As a supervisor does it: SIGTERM to the old one, and the new one is started beside it."""
    ended = asyncio.create_task(asyncio.to_thread(old.terminate))
    while True:
        try:
            await asyncio.to_thread(new.start)
            break
        except StartError as failure:
            if failure.status != 69:  # it waits 10 s for the lock
                raise
    assert await ended == 0


def spread(times: list[float], over_s: float) -> None:
    """They are neither at one moment nor in one heap."""
    first, last = min(times), max(times)
    assert last - first >= over_s / 2
    quarters = Counter(min(3, int(4 * (moment - first) / (last - first))) for moment in times)
    assert max(quarters.values()) <= 0.6 * len(times), quarters
    assert len(quarters) == 4, quarters


async def test_no_publish_fails_nothing_is_lost_and_the_clients_come_back_spread(tmp_path: Path) -> None:
    settings = {"drain_delay_seconds": DRAIN_DELAY_S, "drain_seconds": DRAIN_S}
    journal, stop = Journal(), asyncio.Event()
    with Server(tmp_path, **settings) as old:
        new = Server(tmp_path, port=free_port(), **settings)
        new.key, new.jwt_secret, new.environ = old.key, old.jwt_secret, old.environ | {"NOTIFIER_PORT": str(new.port)}
        with closing(new):
            async with Balancer([old.port, new.port], LAG_S) as balancer, asyncio.TaskGroup() as tasks:
                clients = [tasks.create_task(subscriber(f"client {n}", balancer, old, journal)) for n in range(CLIENTS)]
                publishers = [
                    tasks.create_task(publisher(n, balancer, old.key, journal, stop)) for n in range(PUBLISHERS)
                ]
                await eventually(lambda: len(journal.accepted) > 200)
                await replace(old, new)
                await balancer.until_it_believes_in(new.port)
                before = len(journal.accepted)
                await eventually(lambda: len(journal.accepted) > before + 200)
                stop.set()
                await asyncio.gather(*publishers)
                await eventually(lambda: not journal.missing())
                await eventually(lambda: len(journal.welcomes) == 2 * CLIENTS)
                for client in clients:
                    client.cancel()

    assert journal.failed == []
    assert balancer.held > 0, "there was no time without a server: the test is not about what it says"
    assert Counter((code, reason) for _, code, reason in journal.closes) == {(1012, "draining"): CLIENTS}
    assert len(journal.after_ms) == CLIENTS
    spread([moment for moment, _, _ in journal.closes], DRAIN_S)
    spread(journal.reconnects, DRAIN_S)


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 (other processes have no events)
            await asyncio.sleep(0.05)
