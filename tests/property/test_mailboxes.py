"""Mailboxes × connections: whatever happens in whatever order, what is promised holds, also when wakes go wrong.

PROPERTY_SEEDS=7,8 pytest tests/property       # these seeds instead of the usual ones
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from tests.harness.virtual import StepWriter, VirtualLoop
from tests.property.world import CLIENTS, Connection, World

STEPS = 2_000
SEEDS = [int(seed) for seed in os.environ.get("PROPERTY_SEEDS", "").split(",") if seed] or list(range(50))


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory where that can be had: what is killed here is the engine, not the machine."""
    shared = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(dir=shared if os.access(shared, os.W_OK) else None))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_life(seed: int, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notifier.engine.sqlite.Writer", StepWriter)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(live(seed, directory / "notifier.db"))


async def live(seed: int, path: Path) -> None:
    rng = random.Random(seed)
    world = World(path, rng, chaos=bool(seed % 2), drop_oldest=seed % 3 == 0, tight=seed % 4 < 2)
    await world.start()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: world.failures.append(context.get("exception") or AssertionError()))
    try:
        for _ in range(STEPS):
            world.now += 1
            await step(world, rng)
            for _ in range(rng.choice((0, 0, 0, 1, 2, 4, 8))):
                await asyncio.sleep(0)
            if world.failures:
                raise world.failures[0]
        await world.reopen()
    except Exception:
        print(f"PROPERTY_SEEDS={seed}", *world.log, sep="\n  ")
        raise
    await world.node.stop()
    print(f"seed {seed}: {world.covered}")


async def step(world: World, rng: random.Random) -> None:
    client_id = rng.choice(CLIENTS)
    mine = [c for c in world.connections if c.session.client_id == client_id]
    connection = rng.choice(mine) if mine else None
    what = rng.random()
    if what < 0.35:
        publish(world, rng, client_id)
    elif what < 0.55 and connection is not None and not world.repeating(client_id):
        acknowledge(world, rng, connection)
    elif what < 0.65 and connection is not None and connection.pings and not world.repeating(client_id):
        connection.session.receive_pong(rng.choice(connection.pings), world.now)
        connection.pump()
    elif what < 0.70:
        purge(world, rng, client_id)
    elif what < 0.80 and not (world.tight and world.repeating(client_id)):
        world.connect(client_id, rng.choice(("auto", "client")))
    elif what < 0.84 and connection is not None:
        connection.end((1006, ""))
    elif what < 0.88 and connection is not None:
        connection.session.paused = not connection.session.paused
        world.node.touch(connection)
    elif what < 0.90:
        await world.advance(rng.choice((1, 5, 30, 200)))
    elif what < 0.905:
        await world.crash()
    elif what < 0.907:
        await world.reopen()
    elif what < 0.91:
        world.send_transient(client_id)
    elif what < 0.92:
        await fail(world, rng)
    elif what < 0.95:
        await world.check()


async def fail(world: World, rng: random.Random) -> None:
    """A database that another program has locked for a while."""
    steps: list[Callable[[], None]] = []
    for _ in range(rng.randrange(1, 6)):
        client_id = rng.choice(CLIENTS)
        what = rng.random()
        if what < 0.4:
            steps.append(partial(publish, world, rng, client_id))
        elif what < 0.7:
            steps.append(partial(purge, world, rng, client_id))
        else:
            steps.append(partial(world.connect, client_id, rng.choice(("auto", "client"))))
    await world.fail(steps, rng.choice((0, 0, 5, 60, 200)))
    await world.check()


def purge(world: World, rng: random.Random, client_id: str) -> None:
    """One, or all."""
    if not world.displacing(client_id):
        seqs = [world.model.seqs.get(m.number, 1) for m in world.model.pending.get(client_id, ())]
        world.purge(client_id, rng.choice(seqs) if seqs and rng.random() < 0.8 else None)


def publish(world: World, rng: random.Random, client_id: str) -> None:
    """A new one, or a repeat of one of the last ids, perhaps with other content."""
    latest = list(islice(reversed(world.model.known.values()), 12))
    ids = [mail for mail in latest if mail.client_id == client_id and world.may_repeat(mail)]
    if ids and rng.random() < 0.25:
        known = rng.choice(ids)
        data, ttl, key = known.content
        size = len(data) - 2 if rng.random() < 0.8 else len(data) - 1
        world.publish(client_id, id=known.id, size=size, ttl=ttl, key=key, receipt=known.receipt)
    else:
        key = rng.choice((None, None, "k", "l"))
        id = f"id-{world.mails}" if rng.random() < 0.7 else ""
        world.publish(client_id, id=id, size=rng.randrange(20), ttl=rng.choice((5, 60, 600)), key=key, receipt=True)


def acknowledge(world: World, rng: random.Random, connection: Connection) -> None:
    session = connection.session
    seqs = sorted(connection.written)[-8:] or [0]
    seq = rng.choice(seqs) if rng.random() < 0.9 else seqs[-1] + 1
    confirm = ',"confirm":true' if rng.random() < 0.5 else ""
    session.receive(b'{"type":"ack","seq":%d%b}' % (seq, confirm.encode()), world.now)
    connection.pump()
