"""A repeat changes nothing (notifier/engine/base.py), not even for the moment until it is known to be one.

It is looked up by the commit that it came with. Until then it stands in the mailbox like a new one, in the place of the
mail that it would collapse or push out; and that mail is pending all the time.
"""

from __future__ import annotations

import asyncio

import apsw
import pytest

from notifier.engine.base import Appended, Duplicate
from tests.engine.world import Ended, Settled, Wake, World


async def test_a_page_read_with_a_repeat_holds_what_that_would_collapse(world: World) -> None:
    first = await world.put(id="x", collapse_key="k")
    second = await world.put()
    repeat = world.append(id="x", collapse_key="k")
    page = world.ask(world.engine.read, "alice", 0, 10, 1000)
    assert isinstance(await repeat, Duplicate)
    assert [n.seq for n in (await page).notifications] == [first, second]
    assert not world.heard(Ended)


async def test_a_page_read_before_a_repeat_holds_what_that_would_collapse(world: World) -> None:
    first = await world.put(id="x", collapse_key="k")
    second = await world.put()
    held = world.disk.hold()
    blocker = world.append("bob")
    page = world.ask(world.engine.read, "alice", 0, 10, 1000)
    await world.until_busy()
    repeat = world.append(id="x", collapse_key="k")
    held.set()
    await asyncio.gather(blocker, repeat)
    assert [n.seq for n in (await page).notifications] == [first, second]


async def test_what_a_repeat_would_collapse_is_settled_before_that_is_told(stored: World) -> None:
    first = await stored.put(id="x", collapse_key="k")
    second = await stored.put()
    repeat = stored.append(id="x", collapse_key="k")
    settled = stored.ask(stored.engine.acknowledge, "alice", second, "client")
    heard_then: list[Settled] = []
    settled.add_done_callback(lambda _: heard_then.extend(stored.heard(Settled)))
    await asyncio.gather(repeat, settled)
    assert {seq for one in heard_then for seq in one.seqs} == {first, second}
    assert all(one.seq < first for one in heard_then[:-1])
    assert await stored.pending() == []
    await stored.crash()
    assert await stored.pending() == []


async def test_mail_wakes_though_a_later_repeat_would_collapse_it(world: World) -> None:
    """In the same commit, and in the next."""
    await world.put(id="x", collapse_key="k")
    new, repeat = world.append(collapse_key="k", id="new"), world.append(id="x", collapse_key="k")
    outcome = await new
    assert isinstance(outcome, Appended)
    assert isinstance(await repeat, Duplicate)
    assert [wake.notification.seq for wake in world.heard(Wake)][-1] == outcome.seq
    assert await world.pending() == [outcome.seq]

    held = world.disk.hold()
    new = world.append(collapse_key="k", id="newer")
    await world.until_busy()
    repeat = world.append(id="x", collapse_key="k")
    held.set()
    outcome = await new
    assert isinstance(await repeat, Duplicate)
    assert [wake.notification.seq for wake in world.heard(Wake)][-1] == outcome.seq
    assert await world.pending() == [outcome.seq]


@pytest.mark.limits(mailbox_limit=2, drop_oldest=True)
async def test_a_page_read_with_a_repeat_holds_what_that_would_push_out(world: World) -> None:
    first = await world.put(id="x")
    second = await world.put()
    repeat = world.append(id="x")
    page = world.ask(world.engine.read, "alice", 0, 10, 1000)
    assert isinstance(await repeat, Duplicate)
    assert [n.seq for n in (await page).notifications] == [first, second]


async def test_a_page_read_before_a_commit_that_fails_holds_what_that_would_have_collapsed(world: World) -> None:
    first = await world.put(collapse_key="k")
    second = await world.put()
    held = world.disk.hold()
    blocker = world.append("bob")
    page = world.ask(world.engine.read, "alice", 0, 10, 1000)
    await world.until_busy()
    refused = world.append(collapse_key="k")
    held.set()
    await blocker
    assert [n.seq for n in (await page).notifications] == [first, second]
    await refused


async def test_a_purge_is_told_when_what_was_being_settled_has_left_for_good(stored: World) -> None:
    seq = await stored.put()
    order: list[str] = []
    settled = stored.ask(stored.engine.acknowledge, "alice", seq, "client")
    settled.add_done_callback(lambda _: order.append("settled"))
    purged = stored.ask(stored.engine.purge, "alice", None)
    purged.add_done_callback(lambda _: order.append("purged"))
    await asyncio.gather(settled, purged)
    assert order == ["settled", "purged"]
    await stored.crash()
    assert await stored.pending() == []


@pytest.mark.parametrize("running", [False, True])
async def test_a_purge_takes_what_a_repeat_would_collapse(stored: World, running: bool) -> None:
    """Whether the repeat waits for its commit, or is in it."""
    await stored.put(id="x", collapse_key="k")
    await stored.put()
    held = stored.disk.hold()
    repeat = stored.append(id="x", collapse_key="k")
    company = stored.append("bob")
    if running:
        await stored.until_busy()
    purged = stored.ask(stored.engine.purge, "alice", None)
    held.set()
    assert await purged == 2
    await asyncio.gather(repeat, company)
    assert await stored.pending() == []
    await stored.crash()
    assert await stored.pending() == []


# -- how the first stands after the commit that looked the repeat up --------------------------------------------------


async def test_what_the_same_commit_collapses_is_told_as_collapsed(world: World) -> None:
    """Of a first in that commit, and of one before it."""
    answers = [world.append(id=id, collapse_key="k") for id in ("a", "b", "a", "b")]
    first, second, again, last = await asyncio.gather(*answers)
    assert again == Duplicate(first.seq, first.expires_ms, "collapsed", None)
    assert last == Duplicate(second.seq, second.expires_ms, "pending", None)
    _, again = await asyncio.gather(world.append(id="c", collapse_key="k"), world.append(id="b", collapse_key="k"))
    assert (again.seq, again.state) == (second.seq, "collapsed")
    assert len(await world.pending()) == 1


async def test_what_only_the_next_commit_collapses_is_told_as_pending(world: World) -> None:
    held = world.disk.hold()
    first = world.append(id="a", collapse_key="k")
    await world.until_busy()
    again, second = world.append(id="a", collapse_key="k"), world.append(id="b", collapse_key="k")
    held.set()
    assert (await again).state == "pending"
    await asyncio.gather(first, second)
    assert (await world.append(id="a", collapse_key="k")).state == "collapsed"


@pytest.mark.limits(mailbox_limit=3, drop_oldest=True)
async def test_what_the_same_commit_pushes_out_is_told_as_dropped(world: World) -> None:
    seqs = [await world.put(id=id) for id in ("b", "c", "d")]
    new, *repeats = await asyncio.gather(*[world.append(id=id) for id in ("a", "b", "c")])
    assert [(repeat.seq, repeat.state) for repeat in repeats] == [(seqs[0], "dropped"), (seqs[1], "pending")]
    assert await world.pending() == [*seqs[1:], new.seq]


async def test_what_the_same_commit_settles_is_told_as_delivered(world: World) -> None:
    for acked_by in ("client", "transport"):
        seq = await world.put(id=acked_by)
        settled = world.ask(world.engine.acknowledge, "alice", seq, acked_by)
        repeat = await world.append(id=acked_by)
        assert (repeat.state, repeat.acked_by) == ("delivered", acked_by)
        await settled


async def test_what_the_same_commit_purges_is_told_as_purged(world: World) -> None:
    await world.put(id="a")
    purged = world.ask(world.engine.purge, "alice", None)
    assert (await world.append(id="a")).state == "purged"
    assert await purged == 1


async def test_what_a_commit_that_failed_would_have_ended_is_pending(stored: World) -> None:
    await stored.put(id="a", collapse_key="k")
    stored.disk.errors.append(apsw.BusyError("locked"))
    await asyncio.gather(stored.append(id="b", collapse_key="k"), stored.append(id="a", collapse_key="k"))
    assert (await stored.append(id="a", collapse_key="k")).state == "pending"
