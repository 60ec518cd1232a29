"""A disk that says no. Nothing of a failed commit has happened, and everybody who waited for it is told so."""

from __future__ import annotations

import asyncio
from typing import Any

import apsw
import pytest

from notifier.engine.base import Appended, Duplicate
from notifier.errors import EngineUnavailable, MailboxFull, NotifierError, StorageFull
from tests.engine.world import Ended, Settled, Wake, World

PASSING = [(apsw.FullError("disk full"), StorageFull), (apsw.BusyError("locked"), EngineUnavailable)]
FATAL = [apsw.IOError("disk I/O error"), apsw.CorruptError("malformed"), OSError(5, "Input/output error")]


def fail(world: World, error: Exception, times: int = 1) -> None:
    world.disk.errors = [error] * times


@pytest.fixture(params=PASSING, ids=["full", "busy"])
def passing(request: pytest.FixtureRequest) -> tuple[Exception, type[NotifierError]]:
    error: tuple[Exception, type[NotifierError]] = request.param
    return error


# -- failures that pass -----------------------------------------------------------------------------------------------


async def test_nothing_was_delivered_and_a_retry_is_safe(world: World, passing: Any) -> None:
    """Atomic: all of it or nothing; when `done` gets an error nothing was delivered, and a retry is safe."""
    error, told = passing
    fail(world, error)
    answers = [world.append("alice", "a"), world.append("alice"), world.append("bob", "b"), world.append("alice", "a")]
    outcomes = await asyncio.gather(*answers)
    assert [type(outcome) for outcome in outcomes] == [told] * 4, "every waiter gets the error"
    assert not world.heard(Wake)
    assert not world.heard(Wake, "bob")
    assert await world.pending() == []
    assert world.engine.stats().pending == 0
    assert world.errors.errors == ["commit"]
    await retry(world)
    assert isinstance(await world.append("alice", "a"), Appended), "the id is not used up"
    assert isinstance(await world.append("alice", "a"), Duplicate)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine looks at the disk more often than once a second."""
    monkeypatch.setattr("notifier.engine.sqlite.TICK_S", 0.02)


async def retry(world: World) -> None:
    """A full disk is believed to be full until it is looked at again."""
    async with asyncio.timeout(10):
        while not isinstance(outcome := await world.append("zoe"), Appended):
            assert isinstance(outcome, StorageFull)
            await asyncio.sleep(0.05)


async def test_a_full_disk_lets_acknowledgements_make_room(stored: World) -> None:
    seq = await stored.put()
    fail(stored, apsw.FullError("disk full"))
    assert isinstance(await stored.append(), StorageFull)
    assert isinstance(await stored.append(), StorageFull), "refused without trying"
    await stored.acknowledge("alice", seq)
    assert await stored.pending() == []
    await retry(stored)


@pytest.mark.limits(mailbox_limit=1)
async def test_a_full_mailbox_is_told_before_a_full_disk(stored: World) -> None:
    """429 comes before 507 (docs/protocol.md, Errors)."""
    await stored.put(id="a", collapse_key="k")
    fail(stored, apsw.FullError("disk full"))
    assert isinstance(await stored.append("bob"), StorageFull)
    assert isinstance(await stored.append(), MailboxFull)
    assert isinstance(await stored.append(data=b"x" * 5_000_000), MailboxFull)
    assert isinstance(await stored.append(collapse_key="k"), StorageFull), "there would be room in the mailbox"
    assert isinstance(await stored.append(id="a", collapse_key="k"), Duplicate)
    assert len(await stored.pending()) == 1


async def test_an_acknowledgement_is_told_the_error_and_tried_again(world: World, passing: Any) -> None:
    error, told = passing
    seq = await world.put()
    fail(world, error)
    answer = await world.ask(world.engine.acknowledge, "alice", seq, "client")
    assert type(answer) is told
    await world.listeners[0].until(lambda: bool(world.heard(Settled)))
    assert await world.pending() == []


async def test_an_acknowledgement_that_failed_is_told_once(world: World, passing: Any) -> None:
    seq = await world.put()
    fail(world, passing[0], 3)
    world.engine.acknowledge("alice", seq, "client")
    await world.listeners[0].until(lambda: bool(world.heard(Settled)))
    await world.flush()
    assert [s.seqs for s in world.heard(Settled)] == [(seq,)]


async def test_what_was_to_be_collapsed_comes_back(world: World, passing: Any) -> None:
    old = await world.put(collapse_key="k")
    fail(world, passing[0])
    assert isinstance(await world.append(collapse_key="k"), passing[1])
    assert await world.pending() == [old]
    assert not world.heard(Ended)
    assert world.engine.stats().pending == 1
    await retry(world)
    new = await world.put(collapse_key="k")
    assert await world.pending() == [new]


async def test_what_the_next_one_has_displaced_is_not_lost_from_sight(world: World, passing: Any) -> None:
    """While the commit of the second runs, and fails, a third has taken its place."""
    old = await world.put(collapse_key="k")
    fail(world, passing[0])
    held = world.disk.hold()
    second = world.append(collapse_key="k")
    await world.until_busy()
    third = world.append(collapse_key="k")
    held.set()
    assert isinstance(await second, passing[1])
    outcome = await third
    if isinstance(outcome, Appended):
        assert await world.pending() == [outcome.seq]
        assert world.heard(Ended) == [Ended("alice", "collapsed", (old,), None)]
    else:
        assert await world.pending() == [old]
    assert world.engine.stats().pending == 1


@pytest.mark.limits(mailbox_limit=2, drop_oldest=True)
async def test_what_was_to_be_dropped_comes_back(world: World, passing: Any) -> None:
    seqs = [await world.put() for _ in range(2)]
    fail(world, passing[0])
    outcomes = await asyncio.gather(world.append("alice", "a"), world.append(), world.append())
    assert [type(outcome) for outcome in outcomes] == [passing[1]] * 3
    assert await world.pending() == seqs
    assert not world.heard(Ended)
    assert world.engine.stats().pending == 2
    state = await world.ask(world.engine.open, "alice")
    assert state.losses is None or not state.losses.untold()


async def test_what_was_to_be_purged_comes_back(world: World, passing: Any) -> None:
    seqs = [await world.put(collapse_key="k"), await world.put(collapse_key="other")]
    fail(world, passing[0])
    assert isinstance(await world.ask(world.engine.purge, "alice", None), passing[1])
    assert await world.pending() == seqs
    assert world.engine.stats().pending == 2
    assert not world.heard(Ended)
    state = await world.ask(world.engine.open, "alice")
    assert state.losses is None or not state.losses.untold()
    assert await world.ask(world.engine.purge, "alice", None) == 2


async def test_what_was_to_expire_expires_later(world: World, passing: Any) -> None:
    seq = await world.put(ttl=10)
    world.clock.advance(10)
    fail(world, passing[0])
    await world.ask(world.engine.open, "alice")
    answer = await world.ask(world.engine.acknowledge, "bob", 0, "client")
    assert isinstance(answer, passing[1])
    await world.pass_time(0, "alice")
    assert [e.seqs for e in world.heard(Ended)] == [(seq,)]
    assert world.engine.stats().pending == 0


async def test_a_reader_sees_what_came_back(world: World, passing: Any) -> None:
    """A page that was read while a purge was under way must not pass over mail that the purge leaves after all."""
    first = await world.put()
    last = await world.put()
    fail(world, passing[0])
    purge = world.ask(world.engine.purge, "alice", first)
    page = await world.ask(world.engine.read, "alice", 0, 10, 1000)
    assert isinstance(await purge, passing[1])
    assert [n.seq for n in page.notifications] in ([first, last], [])
    assert page.through < first or page.notifications


async def test_who_comes_while_a_purge_fails_has_not_passed_over_what_it_leaves(world: World, passing: Any) -> None:
    """Nothing has ended that may come back, and `through` says so."""
    seq = await world.put()
    fail(world, passing[0])
    held = world.disk.hold()
    purge = world.ask(world.engine.purge, "alice", None)
    await world.until_busy()
    state = await world.ask(world.engine.open, "alice")
    held.set()
    assert isinstance(await purge, passing[1])
    assert state.through < seq
    assert await world.pending(after=state.through) == [seq]


async def test_a_page_that_a_failing_purge_overtakes_holds_what_that_leaves(world: World, passing: Any) -> None:
    """The page is read in one commit, the purge waits for the next, and that fails."""
    seqs = [await world.put() for _ in range(2)]
    world.disk.errors = [None, passing[0]]
    held = world.disk.hold()
    page, blocker = world.ask(world.engine.read, "alice", 0, 10, 1000), world.append("bob")
    await world.until_busy()
    purge = world.ask(world.engine.purge, "alice", None)
    held.set()
    found = await page
    await blocker
    assert isinstance(await purge, passing[1])
    assert [n.seq for n in found.notifications] == seqs or found.through < seqs[0]
    assert await world.pending() == seqs


async def test_purges_at_once_wait_for_each_other(world: World, passing: Any) -> None:
    """What the first leaves after all is the second's."""
    for _ in range(2):
        await world.put()
    fail(world, passing[0])
    held = world.disk.hold()
    first = world.ask(world.engine.purge, "alice", None)
    await world.until_busy()
    second = world.ask(world.engine.purge, "alice", None)
    held.set()
    assert isinstance(await first, passing[1])
    assert await second == 2
    assert await world.pending() == []


async def test_a_wake_tells_of_what_came_back(world: World, passing: Any) -> None:
    """`after` is the seq before it in the mailbox: a session that has not seen that one must not pass over it."""
    first = await world.put()
    fail(world, passing[0])
    held = world.disk.hold()
    purge = world.ask(world.engine.purge, "alice", first)
    await world.until_busy()
    answer = world.append()
    held.set()
    assert isinstance(await purge, passing[1])
    if isinstance(await answer, Appended):
        assert world.heard(Wake)[-1].after == first


async def test_a_revocation_that_failed_does_not_hold(world: World, passing: Any) -> None:
    fail(world, passing[0])
    assert isinstance(await world.ask(world.engine.revoke, "alice", 1.0), passing[1])
    assert (await world.ask(world.engine.open, "alice")).revoked_s is None


async def test_what_an_operator_was_told_has_failed_does_not_happen_later(stored: World, passing: Any) -> None:
    """Neither with the next commit nor at the next start."""
    await stored.ask(stored.engine.revoke, "bob", 2.0)
    acked = await stored.put("carol", "a", receipt=True)
    await stored.acknowledge("carol", acked)
    for method, *args in (
        (stored.engine.revoke, "alice", 1.0),
        (stored.engine.revoke, "bob", None),
        (stored.engine.erase, "carol"),
    ):
        fail(stored, passing[0])
        assert isinstance(await stored.ask(method, *args), passing[1])
    await stored.flush()
    await stored.put("zoe") if passing[1] is EngineUnavailable else await retry(stored)
    for again in (False, True):
        if again:
            await stored.reopen()
        assert (await stored.ask(stored.engine.open, "alice")).revoked_s is None
        assert (await stored.ask(stored.engine.open, "bob")).revoked_s == 2.0
        assert len(await stored.ask(stored.engine.receipts, "a", "carol")) == 1
        assert isinstance(await stored.append("carol", "a", receipt=True), Duplicate)


async def test_losses_are_told_though_an_erasure_has_failed(stored: World, passing: Any) -> None:
    seq = await stored.put()
    await stored.ask(stored.engine.purge, "alice", seq)
    fail(stored, passing[0])
    assert isinstance(await stored.ask(stored.engine.erase, "alice"), passing[1])
    for again in (False, True):
        if again:
            await stored.reopen()
        state = await stored.ask(stored.engine.open, "alice")
        assert state.losses.untold() == {"purged": 1}


@pytest.mark.limits(mailbox_limit=1)
async def test_a_refusal_stays_a_refusal(world: World, passing: Any) -> None:
    await world.put()
    fail(world, passing[0])
    answers = [world.append("alice", "a"), world.append("bob")]
    assert [type(outcome) for outcome in await asyncio.gather(*answers)] == [MailboxFull, passing[1]]


async def test_reads_go_on_while_commits_fail(world: World) -> None:
    seq = await world.put()
    fail(world, apsw.BusyError("locked"))
    answers = await asyncio.gather(world.append("bob"), world.pending())
    assert isinstance(answers[0], EngineUnavailable)
    assert answers[1] == [seq]


# -- fail-stop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", FATAL, ids=lambda error: type(error).__name__)
async def test_a_disk_that_failed_a_write_is_not_trusted_any_more(stored: World, error: Exception) -> None:
    """The engine has stopped for good (fail-stop): this process must end and be started anew."""
    kept = await stored.put("alice", "kept")
    acked = await stored.put("bob")
    fail(stored, error)
    held = stored.disk.hold()
    first = [
        stored.append("alice", "a"),
        stored.ask(stored.engine.acknowledge, "bob", acked, "client"),
        stored.ask(stored.engine.purge, "alice", None),
    ]
    await stored.until_busy()
    then = [
        stored.append("alice", "a"),
        stored.append("alice", "b"),
        stored.append("zoe", collapse_key="k"),
        stored.ask(stored.engine.acknowledge, "bob", acked, "client"),
        stored.ask(stored.engine.read, "alice", 0, 10, 1000),
        stored.ask(stored.engine.revoke, "alice", 1.0),
        stored.ask(stored.engine.erase, "bob"),
    ]
    held.set()
    answers = await asyncio.gather(*first, *then)
    assert all(isinstance(answer, EngineUnavailable) for answer in answers), answers
    assert all(isinstance(listener.failure, EngineUnavailable) for listener in stored.listeners)
    assert not stored.engine.stats().up
    late = [
        stored.append(),
        stored.ask(stored.engine.acknowledge, "bob", acked, "client"),
        stored.ask(stored.engine.open, "alice"),
        stored.ask(stored.engine.read, "alice", 0, 10, 1000),
        stored.ask(stored.engine.purge, "alice", None),
        stored.ask(stored.engine.receipts, "a", None),
        stored.ask(stored.engine.overview, "alice"),
        stored.ask(stored.engine.revoke, "alice", None),
        stored.ask(stored.engine.erase, "alice"),
    ]
    assert all(isinstance(answer, EngineUnavailable) for answer in await asyncio.gather(*late))
    assert [w.notification.seq for w in stored.heard(Wake)] == [kept], "nothing woken"
    assert not stored.heard(Settled, "bob")
    await stored.reopen()
    assert await stored.pending() == [kept]
    assert await stored.pending("bob") == [acked]
    assert isinstance(await stored.append("alice", "a"), Appended)


async def test_nothing_goes_to_a_disk_that_has_failed(stored: World) -> None:
    """Neither what expires then, nor cursors, nor what upkeep forgets."""
    await stored.put("bob", ttl=2)
    await stored.acknowledge("carol", await stored.put("carol"))
    page = stored.ask(stored.engine.read, "bob", 0, 10, 1000)
    stored.clock.advance(10)
    fail(stored, apsw.IOError("disk I/O error"))
    assert isinstance(await stored.append(), EngineUnavailable)
    await page
    written: list[str] = []
    for name in ("commit", "sweep", "sweep_losses"):
        setattr(stored.disk, name, lambda *_, name=name: written.append(name))
    stored.engine.acknowledge("alice", 0, "client")
    stored.engine._note_cursors(["carol"])
    stored.engine._expire("bob", stored.engine._box("bob"))
    stored.engine._kick()
    await stored.until_busy()
    assert await stored.ask(stored.engine.backup, str(stored.path) + "-copy") is None, "all jobs before it have run"
    assert written == []
    for task in stored.engine._tasks:
        async with asyncio.timeout(10):
            await task  # upkeep has an end, too
    assert written == []


async def test_reads_of_a_failing_disk_are_told(stored: World) -> None:
    await stored.put()

    def broken(*_: Any) -> Any:
        raise apsw.IOError("disk I/O error")

    stored.disk.read = broken  # type: ignore[attr-defined]
    assert isinstance(await stored.ask(stored.engine.read, "alice", 0, 10, 1000), EngineUnavailable)
    assert "read" in stored.errors.errors
