"""What outlives an engine: after an orderly stop, and after SIGKILL (the files as they were at that moment)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable

import pytest

from notifier.engine import sqlite as engine_module
from notifier.engine.base import Appended, Duplicate
from notifier.errors import EngineUnavailable, IdConflict
from tests.engine.world import World


@pytest.fixture(params=["stop", "kill"])
def end(request: pytest.FixtureRequest, stored: World) -> Callable[[], Awaitable[None]]:
    """End the engine and start another one on what it has left."""
    return stored.reopen if request.param == "stop" else stored.crash


End = Callable[[], Awaitable[None]]


@pytest.mark.parametrize("count", [510, 511, 512, 1_300])
async def test_a_commit_of_any_length_is_there(stored: World, end: End, count: int) -> None:
    """A statement holds 512 rows, and the last seq and what was acknowledged take one each: what is longer takes
    several, in one transaction."""
    old = await stored.put("bob")
    appends = [stored.append(f"c{n % 7}") for n in range(count)]
    settled = stored.ask(stored.engine.acknowledge, "bob", old, "client")
    seqs = [outcome.seq for outcome in await asyncio.gather(*appends)]
    assert await settled is None
    await end()
    assert await stored.pending("bob") == []
    assert sorted([seq for n in range(7) for seq in await stored.pending(f"c{n}")]) == seqs
    assert await stored.put("bob") > seqs[-1]


async def test_everything_answered_is_there(stored: World, end: End) -> None:
    """Durable when `done` gets Appended."""
    fields = {"data": '{"ü":1}'.encode(), "event": "e", "collapse_key": "k", "receipt": True, "ttl": 60}
    seq = await stored.put("alice", "a", **fields)
    accepted_ms = stored.clock.now_ms()
    stored.clock.advance(1)
    await end()
    ((found,),) = [(await stored.ask(stored.engine.read, "alice", 0, 10, 1000)).notifications]
    assert (found.client_id, found.seq, found.id, found.data) == ("alice", seq, "a", fields["data"])
    assert (found.event, found.collapse_key, found.receipt) == ("e", "k", True)
    assert (found.accepted_ms, found.expires_ms) == (accepted_ms, accepted_ms + 60_000)
    assert stored.engine.stats().pending == 1
    assert await stored.ask(stored.engine.heads, ["alice"]) == {"alice": seq}
    assert isinstance(await stored.append("alice", "a", **fields), Duplicate)
    new = await stored.put("alice", "b", collapse_key="k")
    assert await stored.pending() == [new]


async def test_what_was_settled_or_ended_stays_so(stored: World, end: End) -> None:
    """Durable … when `done` runs."""
    seqs = {id: await stored.put("alice", id, receipt=True) for id in ("acked", "proven", "purged", "kept")}
    await stored.acknowledge("alice", seqs["acked"])
    await stored.acknowledge("alice", seqs["proven"], "transport")
    await stored.ask(stored.engine.purge, "alice", seqs["purged"])
    await end()
    assert await stored.pending() == [seqs["kept"]]
    states = {id: await stored.append("alice", id) for id in seqs}
    assert {id: (d.state, d.acked_by) for id, d in states.items()} == {
        "acked": ("delivered", "client"),
        "proven": ("delivered", "transport"),
        "purged": ("purged", None),
        "kept": ("pending", None),
    }
    for id, state in (("acked", "delivered"), ("purged", "purged"), ("kept", "pending")):
        assert (await stored.ask(stored.engine.receipts, id, "alice"))[0].state == state
    assert isinstance(await stored.append("alice", "acked", data=b"2"), IdConflict)


async def test_seqs_go_on_even_when_all_mail_is_gone_and_the_clock_went_back(stored: World, end: End) -> None:
    last = [await stored.put() for _ in range(3)][-1]
    await stored.acknowledge("alice", last)
    stored.clock.advance(-86_400)
    await end()
    assert await stored.put() == last + 1
    await end()
    assert await stored.put("bob") == last + 2


@pytest.mark.limits(mailbox_limit=1, drop_oldest=True)
async def test_losses_are_told_until_a_client_has_heard_of_them(stored: World, end: End) -> None:
    await stored.put()
    await stored.put(ttl=10)
    await stored.pass_time(10, "alice")
    purged = await stored.put()
    await stored.ask(stored.engine.purge, "alice", purged)
    await end()
    state = await stored.ask(stored.engine.open, "alice")
    assert state.losses.untold() == {"overflow": 1, "expired": 1, "purged": 1}
    await stored.acknowledge("alice", 0, told=state.losses.totals)
    await stored.flush()
    await end()
    state = await stored.ask(stored.engine.open, "alice")
    assert state.losses is None or not state.losses.untold()


async def test_a_loss_is_as_durable_as_the_end_that_it_counts(stored: World) -> None:
    seq = await stored.put()
    purge = stored.ask(stored.engine.purge, "alice", seq)
    await purge
    await stored.crash()
    state = await stored.ask(stored.engine.open, "alice")
    assert state.losses is not None
    assert state.losses.untold() == {"purged": 1}


async def test_a_revocation_is_durable(stored: World, end: End) -> None:
    await stored.ask(stored.engine.revoke, "alice", 123.25)
    await stored.ask(stored.engine.revoke, "bob", 1.0)
    await stored.ask(stored.engine.revoke, "bob", None)
    await stored.ask(stored.engine.erase, "alice")
    await end()
    assert (await stored.ask(stored.engine.open, "alice")).revoked_s == 123.25
    assert (await stored.ask(stored.engine.open, "bob")).revoked_s is None


async def test_an_erasure_is_durable(stored: World, end: End) -> None:
    await stored.put("alice", "a", receipt=True)
    await stored.ask(stored.engine.erase, "alice")
    await end()
    assert await stored.ask(stored.engine.receipts, "a", None) == []
    assert (await stored.ask(stored.engine.open, "alice")).losses is None
    assert isinstance(await stored.append("alice", "a"), Appended)


async def test_the_cursor_outlives_an_orderly_end(stored: World) -> None:
    seq = await stored.put()
    await stored.acknowledge("alice", seq)
    await stored.reopen()
    assert (await stored.ask(stored.engine.overview, "alice")).cursor == seq


async def test_mail_that_expired_meanwhile_has_expired(stored: World, end: End) -> None:
    await stored.put(ttl=10)
    stored.clock.advance(10)
    await end()
    assert await stored.pending() == []
    state = await stored.ask(stored.engine.open, "alice")
    assert state.pending == 0


@pytest.mark.limits(dedup_s=100)
async def test_the_window_of_an_id_outlives_the_engine(stored: World, end: End) -> None:
    seq = await stored.put("alice", "a", ttl=10)
    await stored.acknowledge("alice", seq)
    stored.clock.advance(99)
    await end()
    assert isinstance(await stored.append("alice", "a", ttl=10), Duplicate)
    stored.clock.advance(1)
    assert isinstance(await stored.append("alice", "a", ttl=10), Appended)


async def test_stop_flushes_what_is_queued(stored: World) -> None:
    """Flush what is queued and close."""
    seqs = [await stored.put() for _ in range(2)]
    stored.engine.acknowledge("alice", seqs[0], "client")
    answers = [stored.append("alice", f"n{n}") for n in range(3)]
    purge = stored.ask(stored.engine.purge, "alice", seqs[1])
    await stored.end()
    assert all(isinstance(answer, Appended) for answer in await asyncio.gather(*answers))
    assert await purge == 1
    assert isinstance(await stored.append(), EngineUnavailable)
    await stored.start()
    assert await stored.pending() == [answer.result().seq for answer in answers]
    assert (await stored.ask(stored.engine.open, "alice")).losses.untold() == {"purged": 1}


async def test_a_killed_engine_has_committed_whole_batches(stored: World) -> None:
    """Atomic: all of it or nothing."""
    old = await stored.put(collapse_key="k")
    held = stored.disk.hold()
    answers = [stored.append(collapse_key="k"), stored.append("bob")]
    await stored.until_busy()
    before = stored.engine
    await stored.crash()
    assert await stored.pending() == [old]
    assert await stored.pending("bob") == []
    held.set()
    await asyncio.gather(*answers)
    assert before is not stored.engine


@pytest.mark.limits(dedup_s=1)
async def test_the_sweep_forgets_only_what_has_left_its_window(stored: World) -> None:
    settled = await stored.put("alice", "settled", receipt=True, ttl=1)
    await stored.acknowledge("alice", settled)
    pending = await stored.put("alice", "pending", ttl=40 * 86_400)
    stored.clock.advance(8 * 86_400)
    await stored.put("alice", "young")
    for _ in range(3):
        await stored.engine._sweep()
        stored.engine._sweep_pause = 0
    await stored.reopen()
    connection = sqlite3.connect(stored.path)
    ids = {id for (id,) in connection.execute("SELECT id FROM dedup")}
    receipts = connection.execute("SELECT count(*) FROM receipt").fetchone()
    connection.close()
    assert ids == {"pending", "young"}
    assert receipts == (0,)
    assert (await stored.append("alice", "pending", ttl=40 * 86_400)).seq == pending


async def test_losses_that_nobody_came_for_are_forgotten_in_memory_too(stored: World) -> None:
    for client_id in ("alice", "bob"):
        await stored.put(client_id)
        await stored.ask(stored.engine.purge, client_id, None)
    stored.clock.advance(29 * 86_400)
    await stored.engine._sweep()
    assert set(stored.engine._losses) == {"alice", "bob"}
    await stored.put("bob")
    await stored.ask(stored.engine.purge, "bob", None)
    stored.clock.advance(2 * 86_400)
    for again in (False, True):
        stored.engine._sweep_pause = 0
        await stored.engine._sweep()
        if again:
            await stored.reopen()
        assert (await stored.ask(stored.engine.open, "alice")).losses is None
        assert (await stored.ask(stored.engine.open, "bob")).losses.untold() == {"purged": 2}
        assert set(stored.engine._losses) == {"bob"}


@pytest.mark.limits(dedup_s=1)
async def test_what_has_to_be_kept_does_not_keep_the_sweep_from_what_came_later(
    stored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "SLICE", 2)
    for n in range(5):
        await stored.put("alice", f"kept-{n}", receipt=True, ttl=40 * 86_400)
    for n in range(3):
        await stored.acknowledge("bob", await stored.put("bob", f"over-{n}", receipt=True, ttl=1))
    stored.clock.advance(8 * 86_400)
    await stored.engine._sweep()
    assert stored.engine._sweep_pause, "a round has ended"
    await stored.reopen()
    connection = sqlite3.connect(stored.path)
    ids = {id for (id,) in connection.execute("SELECT id FROM receipt UNION SELECT id FROM dedup")}
    connection.close()
    assert ids == {f"kept-{n}" for n in range(5)}
