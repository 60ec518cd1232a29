"""Mail past its time: found by the engine itself, whatever else happens to its mailbox."""

from __future__ import annotations

import asyncio
from typing import Any

import apsw
import pytest

from notifier.engine.base import Duplicate
from notifier.errors import EngineUnavailable
from tests.engine.world import Ended, Wake, World


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine looks more often than once a second."""
    monkeypatch.setattr("notifier.engine.sqlite.TICK_S", 0.005)


async def look(world: World, times: int = 2) -> None:
    """Until the engine has looked for what is due, so often."""
    looks = 0
    due = world.engine._expiries.due
    looked = asyncio.Event()

    def counted(now_ms: int) -> list[str]:
        nonlocal looks
        looks += 1
        if looks > times:  # those before are through
            looked.set()
        return due(now_ms)

    world.engine._expiries.due = counted  # type: ignore[method-assign]
    async with asyncio.timeout(10):
        await looked.wait()
    world.engine._expiries.due = due  # type: ignore[method-assign]
    await world.flush()


async def test_each_ends_in_its_time_though_nobody_looks(world: World) -> None:
    seqs = [await world.put(ttl=ttl) for ttl in (600, 10, 3600, 10)]
    for seconds, gone in ((9, ()), (2, (seqs[1], seqs[3])), (650, (seqs[0],)), (3600, (seqs[2],))):
        heard = len(world.heard(Ended))
        world.clock.advance(seconds)
        await look(world)
        assert [seq for e in world.heard(Ended)[heard:] for seq in e.seqs] == list(gone)
    assert world.engine.stats().pending == 0


async def test_nothing_is_kept_of_mail_that_has_left(world: World) -> None:
    """What finds the expired holds mailboxes, not all that ever passed through them for as long as that would have
    lasted."""
    for minute in range(20):
        answers = [world.append(f"client-{n}", ttl=7 * 86_400) for n in range(20)]
        seqs = [answer.seq for answer in await asyncio.gather(*answers)]
        assert len(world.engine._expiries) == 20
        await asyncio.gather(*(world.acknowledge(f"client-{n}", seq) for n, seq in enumerate(seqs)))
        if minute % 2:
            await look(world)  # and forgets what is empty
        world.clock.advance(60)
    await look(world)
    assert len(world.engine._expiries) == 0
    assert not world.engine._boxes


@pytest.mark.parametrize("found", ["by the engine", "by a session"])
async def test_what_could_not_be_ended_is_looked_at_again(world: World, found: str) -> None:
    """The commit that was to end it has failed, and nobody else looks at its mailbox."""
    seq = await world.put(ttl=10)
    later = await world.put(ttl=3600)
    gone = await world.put("bob", ttl=10)
    world.clock.advance(11)
    world.disk.errors = [apsw.BusyError("locked")]
    if found == "by a session":
        await world.ask(world.engine.open, "alice")
        await world.ask(world.engine.open, "bob")
    await look(world)
    assert world.errors.errors == ["commit"]
    for _ in range(2):  # within a second: it is past its time
        world.clock.advance(1)
        await look(world)
    assert [e.seqs for e in world.heard(Ended)] == [(seq,)]
    assert [e.seqs for e in world.heard(Ended, "bob")] == [(gone,)]
    assert world.engine.stats().pending == 1
    world.clock.advance(3700)
    await look(world)
    assert [e.seqs for e in world.heard(Ended)] == [(seq,), (later,)]


async def expire_before_it_is_committed(world: World, id: str) -> asyncio.Future[Any]:
    """The answer to a publish of 1 s that waited longer for the disk. What comes with it is told as well."""
    held = world.disk.hold()
    blocker = world.append("bob")
    await world.until_busy()
    answer = world.append(id=id, ttl=1)
    world.clock.advance(2)
    await world.ask(world.engine.open, "alice")
    held.set()
    await blocker
    return answer


async def test_what_expires_before_its_own_commit_ends_with_it(stored: World) -> None:
    seq = (await (await expire_before_it_is_committed(stored, "a"))).seq
    await stored.flush()
    assert [e.seqs for e in stored.heard(Ended)] == [(seq,)]
    assert not stored.heard(Wake)
    assert (await stored.append(id="a", ttl=1)).state == "expired"


async def test_what_expires_before_its_own_commit_fails_leaves_nothing(stored: World) -> None:
    """Neither an entry of the index that no record stands behind, nor a loss."""
    seq = await stored.put(ttl=1)
    stored.disk.errors = [None, apsw.BusyError("locked")]
    assert isinstance(await (await expire_before_it_is_committed(stored, "a")), EngineUnavailable)
    await look(stored)
    stored.clock.advance(1)
    await look(stored)
    assert stored.engine.stats().pending == 1, "bob's"
    assert [(e.seqs, e.untold) for e in stored.heard(Ended)] == [((seq,), {"expired": 1})]
    assert len(await stored.pending("bob")) == 1
    await stored.reopen()
    state = await stored.ask(stored.engine.open, "alice")
    assert state.losses.untold() == {"expired": 1}


async def test_a_repeat_that_expires_before_it_is_looked_up_is_no_loss(stored: World) -> None:
    seq = await stored.put(id="a", ttl=1)
    await stored.pass_time(2, "alice")
    assert isinstance(await (await expire_before_it_is_committed(stored, "a")), Duplicate)
    await stored.flush()
    assert [(e.seqs, e.untold) for e in stored.heard(Ended)] == [((seq,), {"expired": 1})]
    for again in (False, True):
        if again:
            await stored.reopen()
        state = await stored.ask(stored.engine.open, "alice")
        assert state.losses.untold() == {"expired": 1}
    later = await stored.put(ttl=1)
    await stored.pass_time(2, "alice")
    assert [(e.seqs, e.untold) for e in stored.heard(Ended)] == [((later,), {"expired": 2})]


async def test_what_was_there_at_the_start_expires(stored: World) -> None:
    seqs = [await stored.put(ttl=ttl) for ttl in (3600, 10)]
    await stored.reopen()
    stored.clock.advance(11)
    await look(stored)
    assert [e.seqs for e in stored.heard(Ended)] == [(seqs[1],)]
    stored.clock.advance(3700)
    await look(stored)
    assert [e.seqs for e in stored.heard(Ended)] == [(seqs[1],), (seqs[0],)]
