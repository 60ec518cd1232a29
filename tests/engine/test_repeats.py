"""A repeat changes nothing (notifier/engine/base.py), not even for the moment until it is known to be one.

It is looked up by the commit that it came with. Until then it stands in the mailbox like a new one, in the place of the
mail that it would collapse or push out; and that mail is pending all the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import apsw
import pytest

from notifier.engine.base import Appended, Duplicate
from notifier.errors import EngineUnavailable, MailboxFull
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
async def test_what_is_pushed_out_only_when_the_repeats_are_known_is_told_as_pending(world: World) -> None:
    seqs = [await world.put(id=id) for id in ("b", "c", "d")]
    new, *repeats = await asyncio.gather(*[world.append(id=id) for id in ("a", "b", "c")])
    assert [(repeat.seq, repeat.state) for repeat in repeats] == [(seqs[0], "pending"), (seqs[1], "pending")]
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


# -- and takes no room ------------------------------------------------------------------------------------------------


async def ids(world: World) -> list[str]:
    page = await world.ask(world.engine.read, "alice", 0, 1000, 1 << 30)
    return [notification.id for notification in page.notifications]


@pytest.mark.parametrize("new", ["new", ""], ids=["of the publisher", "of the server"])
@pytest.mark.parametrize("running", [False, True], ids=["with them", "while they commit"])
@pytest.mark.limits(mailbox_limit=10)
async def test_nothing_is_refused_because_of_repeats(world: World, new: str, running: bool) -> None:
    """A publisher sends its five again; five of ten places are taken, and stay free."""
    for n in range(5):
        await world.put(id=f"a{n}")
    held = world.disk.hold()
    repeats = [world.append("alice", f"a{n}") for n in range(5)]
    company = world.append("bob")
    if running:
        await world.until_busy()
    fresh = [world.append("alice", f"{new}{n}" if new else "") for n in range(6)]
    held.set()
    outcomes = await asyncio.gather(*repeats, *fresh, company)
    assert [type(outcome) for outcome in outcomes[:5]] == [Duplicate] * 5
    assert [type(outcome) for outcome in outcomes[5:11]] == [Appended] * 5 + [MailboxFull]
    assert len(await world.pending()) == 10
    assert world.engine.stats().pending == 11
    assert not world.heard(Ended)


@pytest.mark.parametrize("new", ["new", ""], ids=["of the publisher", "of the server"])
@pytest.mark.parametrize("running", [False, True], ids=["with them", "while they commit"])
@pytest.mark.limits(mailbox_limit=10, drop_oldest=True)
async def test_nothing_is_dropped_because_of_repeats(world: World, new: str, running: bool) -> None:
    """The mailbox is full: one new pushes out one, and that is the oldest."""
    seqs = [await world.put(id=f"a{n}") for n in range(10)]
    held = world.disk.hold()
    repeats = [world.append("alice", f"a{n}") for n in range(9)]
    company = world.append("bob")
    if running:
        await world.until_busy()
    fresh = world.append("alice", new)
    held.set()
    outcomes = await asyncio.gather(*repeats, company)
    assert [type(outcome) for outcome in outcomes[:9]] == [Duplicate] * 9
    seq = (await fresh).seq
    assert await world.pending() == [*seqs[1:], seq]
    assert world.heard(Ended) == [Ended("alice", "dropped", (seqs[0],), {"overflow": 1})]
    assert [wake.notification.seq for wake in world.heard(Wake)] == [*seqs, seq]


@pytest.mark.limits(mailbox_limit=4, drop_oldest=True)
async def test_what_waits_for_room_stays_in_its_order(world: World) -> None:
    """Also what would find room by itself, because it collapses."""
    for n in range(4):
        await world.put(id=f"a{n}", collapse_key="k" if n == 3 else None)
    answers = [
        world.append("alice", "a0"),
        world.append("alice", "b0"),
        world.append("alice"),
        world.append("alice", "b1", collapse_key="k"),
        world.append("alice", collapse_key="l"),
    ]
    outcomes = await asyncio.gather(*answers)
    assert [type(outcome) for outcome in outcomes] == [Duplicate, *[Appended] * 4]
    seqs = [outcome.seq for outcome in outcomes[1:]]
    assert seqs == sorted(seqs)
    assert await world.pending() == seqs
    assert [e.reason for e in world.heard(Ended)] == ["dropped", "dropped", "collapsed", "dropped"]


@pytest.mark.limits(mailbox_bytes=10)
async def test_what_a_repeat_puts_back_counts(world: World) -> None:
    """A repeat of the small one would collapse the large one; it is a repeat, so there is no room after all."""
    await world.put(id="small", data=b"1", collapse_key="k")
    large = await world.put(id="large", data=b"123456", collapse_key="k")
    repeat = world.append(id="small", data=b"1", collapse_key="k")
    assert isinstance(await world.append(data=b"12345"), MailboxFull)
    assert isinstance(await repeat, Duplicate)
    assert await world.pending() == [large]
    assert isinstance(await world.append(data=b"1234"), Appended)


@pytest.mark.limits(mailbox_limit=10, drop_oldest=True)
async def test_many_repeats_at_a_full_mailbox_are_looked_up_at_once(world: World) -> None:
    for n in range(10):
        await world.put(id=f"a{n}")
    turns: list[int] = []
    known = world.disk.known

    def counted(asked: list[Any]) -> Any:
        turns.append(len(asked))
        return known(asked)

    world.disk.known = counted  # type: ignore[attr-defined]
    outcomes = await asyncio.gather(*(world.append("alice", f"a{n}") for n in range(10)))
    assert [type(outcome) for outcome in outcomes] == [Duplicate] * 10
    assert turns == [10]


@pytest.mark.limits(mailbox_limit=2)
async def test_who_waits_for_a_commit_that_fails_is_told_and_who_waits_behind_goes_on(world: World) -> None:
    for n in range(2):
        await world.put(id=f"a{n}")
    await world.ask(world.engine.purge, "alice", (await world.pending())[0])
    first = world.append("alice", "b0")  # fills it, if it is new
    second, again = world.append("alice", "b1"), world.append("alice", "b1")
    third = world.append()
    world.disk.errors = [apsw.BusyError("locked")]
    outcomes = await asyncio.gather(first, second, again, third)
    assert [type(outcome) for outcome in outcomes] == [*[EngineUnavailable] * 3, Appended]
    assert world.engine.stats().pending == 2
    assert isinstance(await world.append("alice", "b1"), MailboxFull), "the id is not used up"


async def test_at_the_end_everybody_has_an_answer(a_world: Callable[..., World]) -> None:
    world = await a_world(mailbox_limit=2).start()
    await world.put(id="a0")
    answers = [world.append("alice", f"a{n}") for n in range(3)] + [world.append()]
    await world.end()
    assert [type(answer.result()) for answer in answers] == [Duplicate, Appended, MailboxFull, MailboxFull]
    await world.reopen()
    assert await ids(world) == ["a0", "a1"]
    await world.stop()


async def test_when_the_disk_fails_everybody_has_an_answer(a_world: Callable[..., World]) -> None:
    world = await a_world(mailbox_limit=2).start()
    await world.put(id="a0")
    world.disk.errors = [apsw.IOError("disk I/O error")]
    answers = [world.append("bob"), *(world.append("alice", f"a{n}") for n in range(3)), world.append()]
    await world.until_busy()
    answers += [world.append("alice", "b"), world.append("alice", "b"), world.append()]
    outcomes = await asyncio.gather(*answers)
    assert all(isinstance(outcome, EngineUnavailable) for outcome in outcomes), outcomes
    await world.stop()
