"""What operators ask of an engine, and receipts, sentence by sentence."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from notifier.engine.base import Appended, Duplicate, Overview, Receipt, Stats
from tests.engine.world import Ended, Settled, World


async def receipt(world: World, id: str, client_id: str | None = "alice") -> Receipt:
    found = await world.ask(world.engine.receipts, id, client_id)
    assert len(found) == 1, found
    assert isinstance(found[0], Receipt)
    return found[0]


# -- receipts ---------------------------------------------------------------------------------------------------------


async def test_a_receipt_is_kept_of_what_was_sent_with_one(world: World) -> None:
    seq = await world.put("alice", "a", receipt=True)
    await world.put("alice", "b")
    now_ms = world.clock.now_ms()
    assert await receipt(world, "a") == Receipt("a", "alice", seq, "pending", now_ms, None, None, None, 0)
    assert await world.ask(world.engine.receipts, "b", "alice") == []
    assert await world.ask(world.engine.receipts, "a", "bob") == []


async def test_several_clients_may_have_one_of_the_same_id(world: World) -> None:
    """More than one when several clients have one and `client_id` is None."""
    for client_id in ("alice", "bob"):
        await world.put(client_id, "a", receipt=True)
    found = await world.ask(world.engine.receipts, "a", None)
    assert {r.client_id for r in found} == {"alice", "bob"}


async def test_a_receipt_tells_who_acknowledged_and_when(world: World) -> None:
    seqs = {id: await world.put("alice", id, receipt=True) for id in ("a", "b")}
    accepted_ms = world.clock.now_ms()
    world.clock.advance(2)
    await world.acknowledge("alice", seqs["a"], "transport")
    await world.acknowledge("alice", seqs["b"], "client")
    for id, acked_by in (("a", "transport"), ("b", "client")):
        found = await receipt(world, id)
        assert (found.state, found.acked_by, found.accepted_ms, found.settled_ms) == (
            "delivered", acked_by, accepted_ms, accepted_ms + 2000,
        )  # fmt: skip


@pytest.mark.limits(mailbox_limit=2, drop_oldest=True)
@pytest.mark.parametrize("state", ["expired", "collapsed", "purged", "dropped"])
async def test_a_receipt_tells_how_it_ended(world: World, state: str) -> None:
    seq = await world.put("alice", "a", receipt=True, collapse_key="k", ttl=10)
    if state == "expired":
        await world.pass_time(10, "alice")
    elif state == "collapsed":
        await world.put(collapse_key="k")
    elif state == "purged":
        await world.ask(world.engine.purge, "alice", seq)
    else:
        await asyncio.gather(world.append(), world.append())
    found = await receipt(world, "a")
    assert (found.state, found.acked_by) == (state, None)
    assert found.settled_ms is not None


async def test_a_receipt_of_mail_past_its_time_that_nobody_has_looked_at(world: World) -> None:
    """It has ended, for good: an acknowledgement comes too late."""
    seq = await world.put("alice", "a", receipt=True, ttl=600)
    await world.put("bob", "a", receipt=True, ttl=700)
    world.clock.advance(600)  # the sweep has not come round
    assert {r.client_id: r.state for r in await world.ask(world.engine.receipts, "a", None)} == {
        "alice": "expired", "bob": "pending"
    }  # fmt: skip
    assert [(e.reason, e.seqs) for e in world.heard(Ended)] == [("expired", (seq,))]
    await world.acknowledge("alice", seq)
    found = await receipt(world, "a")
    assert (found.state, found.settled_ms) == ("expired", world.clock.now_ms())


async def test_a_receipt_of_mail_that_is_just_ending(world: World) -> None:
    await world.put("alice", "a", receipt=True, ttl=600)
    held = world.disk.hold()
    blocker = world.append("bob")
    await world.until_busy()
    world.clock.advance(600)
    opened = world.ask(world.engine.open, "alice")  # that has expired it, in the commit to come
    found = world.ask(world.engine.receipts, "a", "alice")
    held.set()
    await asyncio.gather(blocker, opened)
    assert [r.state for r in await found] == ["expired"]


async def test_the_first_end_stays(world: World) -> None:
    """The first end state stays for ever."""
    seq = await world.put("alice", "a", receipt=True)
    await world.ask(world.engine.purge, "alice", seq)
    await world.acknowledge("alice", seq)
    assert (await receipt(world, "a")).state == "purged"


async def test_written_is_kept_for_the_receipt(world: World) -> None:
    """Kept for its receipt, lazily."""
    await world.put("alice", "a", receipt=True)
    (notification,) = (await world.ask(world.engine.read, "alice", 0, 1, 1)).notifications
    sent_ms = world.clock.now_ms()
    world.engine.written(notification)
    assert ((await receipt(world, "a")).sent_ms, (await receipt(world, "a")).attempts) == (sent_ms, 1)
    await world.flush()
    world.clock.advance(1)
    world.engine.written(notification)
    await world.flush()
    assert ((await receipt(world, "a")).sent_ms, (await receipt(world, "a")).attempts) == (sent_ms, 2)


async def test_a_receipt_is_kept_for_a_week_after_its_expiry(world: World) -> None:
    await world.put("alice", "a", receipt=True, ttl=10)
    await world.pass_time(7 * 86_400 + 9.999, "alice")
    assert (await receipt(world, "a")).state == "expired"
    world.clock.advance(0.001)
    assert await world.ask(world.engine.receipts, "a", "alice") == []


@pytest.mark.limits(dedup_s=10)
async def test_an_id_used_anew_has_a_receipt_of_its_own(world: World) -> None:
    first = await world.put("alice", "a", receipt=True)
    await world.acknowledge("alice", first)
    world.clock.advance(11)
    second = await world.put("alice", "a", receipt=True)
    found = await receipt(world, "a")
    assert (found.seq, found.state, found.settled_ms) == (second, "pending", None)


# -- purge ------------------------------------------------------------------------------------------------------------


async def test_purge_ends_all_or_one(world: World) -> None:
    """End pending mail of the client (all, or the one with `seq`) as `purged`, durably; how many."""
    seqs = [await world.put() for _ in range(4)]
    await world.put("bob")
    assert await world.ask(world.engine.purge, "alice", seqs[1]) == 1
    assert await world.pending() == [seqs[0], *seqs[2:]]
    assert await world.ask(world.engine.purge, "alice", None) == 3
    assert await world.pending() == []
    assert await world.pending("bob") != []
    assert [(e.reason, e.seqs, e.untold) for e in world.heard(Ended)] == [
        ("purged", (seqs[1],), {"purged": 1}),
        ("purged", (seqs[0], *seqs[2:]), {"purged": 4}),
    ]


async def test_purge_of_what_is_not_there(world: World) -> None:
    seq = await world.put()
    assert await world.ask(world.engine.purge, "alice", seq + 1) == 0
    assert await world.ask(world.engine.purge, "nobody", None) == 0
    assert await world.pending() == [seq]


async def test_purge_leaves_alone_what_is_being_acknowledged(world: World) -> None:
    seqs = [await world.put("alice", id) for id in ("a", "b")]
    settling = world.ask(world.engine.acknowledge, "alice", seqs[0], "client")
    assert await world.ask(world.engine.purge, "alice", None) == 1
    await settling
    assert (await world.append("alice", "a")).state == "delivered"
    assert (await world.append("alice", "b")).state == "purged"


# -- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.limits(mailbox_limit=2, drop_oldest=True)
async def test_overview(world: World) -> None:
    """What an operator asks of one mailbox."""
    assert await world.ask(world.engine.overview, "alice") == Overview(0, 0, None, 0, {}, None)
    seq = await world.put()
    await world.acknowledge("alice", seq)
    await world.put()
    oldest_ms = world.clock.now_ms()
    world.clock.advance(5)
    await world.put(data=b"12345")
    found = await world.ask(world.engine.overview, "alice")
    assert found == Overview(2, 6, oldest_ms, seq, {}, None)
    await world.put()
    assert (await world.ask(world.engine.overview, "alice")).losses == {"overflow": 1}


async def test_stats(world: World) -> None:
    """Gauges of the whole engine."""
    assert world.engine.stats() == Stats(0, None, True)
    await world.put("bob")
    oldest_ms = world.clock.now_ms()
    world.clock.advance(5)
    await world.put()
    assert world.engine.stats() == Stats(2, oldest_ms, True)


async def test_erase_forgets_all_but_a_revocation(world: World) -> None:
    """Forget all that is kept of a client except a revocation, durably."""
    await world.ask(world.engine.revoke, "alice", 123.5)
    acked = await world.put("alice", "a", receipt=True)
    await world.acknowledge("alice", acked)
    await world.put("alice", "b", receipt=True)
    kept = await world.put("bob", "a", receipt=True)
    assert await world.ask(world.engine.erase, "alice") is None
    assert await world.ask(world.engine.overview, "alice") == Overview(0, 0, None, 0, {}, 123.5)
    assert await world.ask(world.engine.receipts, "a", "alice") == []
    assert await world.ask(world.engine.receipts, "b", "alice") == []
    assert isinstance(await world.append("alice", "a"), Appended), "the id is free again"
    assert await world.pending("bob") == [kept]
    assert (await receipt(world, "a", "bob")).state == "pending"


async def test_erase_of_the_unknown(world: World) -> None:
    assert await world.ask(world.engine.erase, "nobody") is None


@pytest.mark.parametrize("pending", [True, False], ids=["in the commit of the purge", "in its own commit"])
async def test_erase_leaves_the_ids_of_what_is_accepted_meanwhile(stored: World, pending: bool) -> None:
    """It is pending, so its id still counts: a repeat would be doubled."""
    old = await stored.put("alice", "old", receipt=True)
    if not pending:
        await stored.acknowledge("alice", old)
    held = stored.disk.hold()
    company = stored.append("bob")
    if not pending:
        await stored.until_busy()
    erased = stored.ask(stored.engine.erase, "alice")
    await stored.until_busy()
    new = stored.append("alice", "new", receipt=True)
    held.set()
    seq = (await new).seq
    assert await erased is None
    await company
    assert await stored.pending() == [seq]
    again = await stored.append("alice", "new", receipt=True)
    assert isinstance(again, Duplicate)
    assert (again.seq, again.state) == (seq, "pending")
    assert (await receipt(stored, "new")).state == "pending"
    assert await stored.ask(stored.engine.receipts, "old", "alice") == []
    await stored.crash()
    assert await stored.pending() == [seq]


async def test_a_revocation_holds_until_it_is_lifted(world: World) -> None:
    """Refuse tokens issued up to `at_s` (unix seconds) from now on, durably; None lifts it."""
    await world.ask(world.engine.revoke, "alice", 100.0)
    assert (await world.ask(world.engine.open, "alice")).revoked_s == 100.0
    assert (await world.ask(world.engine.open, "bob")).revoked_s is None
    await world.ask(world.engine.revoke, "alice", 200.0)
    assert (await world.ask(world.engine.open, "alice")).revoked_s == 200.0
    await world.ask(world.engine.revoke, "alice", None)
    assert (await world.ask(world.engine.open, "alice")).revoked_s is None


async def test_a_backup_is_an_engine_file(world: World, tmp_path: Path) -> None:
    """Write a consistent copy to `path` while running."""
    seqs = [await world.put("alice", f"n{n}", data=b'"%d"' % n) for n in range(50)]
    await world.acknowledge("alice", seqs[9])
    path = tmp_path / "backup.db"
    later = [world.append() for _ in range(5)]
    assert await world.ask(world.engine.backup, str(path)) is None
    await asyncio.gather(*later)
    copy = World("file", tmp_path)
    copy.path = path
    await copy.start()
    assert (await copy.pending())[:40] == seqs[10:]
    assert (await copy.append("alice", "n3", data=b'"3"')).state == "delivered"
    await copy.stop()
    assert len(await world.pending()) == 45


async def test_a_backup_that_cannot_be_written_is_told(world: World, tmp_path: Path) -> None:
    assert isinstance(await world.ask(world.engine.backup, str(tmp_path / "no" / "such.db")), Exception)
    assert isinstance(await world.append(), Appended)
    assert not world.heard(Settled)
