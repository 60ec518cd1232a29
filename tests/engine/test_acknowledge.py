"""`Engine.acknowledge` and the losses that it tells, sentence by sentence."""

from __future__ import annotations

import asyncio

import pytest

from notifier.engine.base import Losses, MailboxState
from tests.engine.world import Ended, Settled, Wake, World


async def test_everything_up_to_the_seq_is_settled(world: World) -> None:
    """Settle everything up to `seq`, cumulatively."""
    seqs = [await world.put() for _ in range(5)]
    bob = await world.put("bob")
    await world.acknowledge("alice", seqs[2])
    assert await world.pending() == seqs[3:]
    assert await world.pending("bob") == [bob]
    assert world.heard(Settled) == [Settled("alice", seqs[2], "client", tuple(seqs[:3]), ())]
    assert world.engine.stats().pending == 3


async def test_who_acknowledged_is_told(world: World) -> None:
    seq = await world.put()
    await world.acknowledge("alice", seq, "transport")
    assert [s.acked_by for s in world.heard(Settled)] == ["transport"]


async def test_live_names_those_that_a_session_took_when_they_were_accepted(world: World) -> None:
    """… and `live` those of them that a session took when they were accepted."""
    queued = await world.put()
    world.listeners[0].takes = 1
    live = await world.put()
    await world.acknowledge("alice", live)
    assert [(s.seqs, s.live) for s in world.heard(Settled)] == [((queued, live), (live,))]


async def test_repeats_and_seqs_below_the_cursor_change_nothing(world: World) -> None:
    """Repeats, and seqs below the cursor, change nothing."""
    seqs = [await world.put() for _ in range(3)]
    await world.acknowledge("alice", seqs[1])
    heard = len(world.heard(Settled))
    for seq in (seqs[1], seqs[0], 0):
        await world.acknowledge("alice", seq, "transport")
    assert await world.pending() == seqs[2:]
    assert all(not s.seqs for s in world.heard(Settled)[heard:])
    assert (await world.ask(world.engine.overview, "alice")).cursor == seqs[1]


async def test_several_at_once_are_one_settlement_of_the_highest(world: World) -> None:
    seqs = [await world.put() for _ in range(4)]
    await asyncio.gather(*(world.acknowledge("alice", seq) for seq in (seqs[2], seqs[0], seqs[1])))
    assert world.heard(Settled) == [Settled("alice", seqs[2], "client", tuple(seqs[:3]), ())]


async def test_an_acknowledgement_is_durable_soon_without_a_done(world: World) -> None:
    """Durable within 1 s."""
    seq = await world.put()
    world.engine.acknowledge("alice", seq, "client")
    await world.listeners[0].until(lambda: bool(world.heard(Settled)))
    assert await world.pending() == []


async def test_nothing_is_told_before_it_is_durable(world: World) -> None:
    seq = await world.put()
    held = world.disk.hold()
    answer = world.ask(world.engine.acknowledge, "alice", seq, "client")
    await world.until_busy()
    assert not answer.done()
    assert not world.heard(Settled)
    held.set()
    await answer
    assert world.heard(Settled)


async def test_mail_accepted_while_the_acknowledgement_commits_stays(world: World) -> None:
    first = await world.put()
    held = world.disk.hold()
    ack = world.ask(world.engine.acknowledge, "alice", first, "client")
    await world.until_busy()
    second = world.append()
    held.set()
    await ack
    assert await world.pending() == [(await second).seq]


async def test_an_empty_or_unknown_mailbox_is_acknowledged_without_harm(world: World) -> None:
    await world.acknowledge("nobody", 12345)
    assert await world.pending("nobody") == []
    assert world.engine.stats().pending == 0


# -- losses -----------------------------------------------------------------------------------------------------------


async def losses(world: World, client_id: str = "alice") -> Losses:
    state = await world.ask(world.engine.open, client_id)
    assert isinstance(state, MailboxState)
    return state.losses or Losses({}, {})


@pytest.mark.limits(mailbox_limit=2, drop_oldest=True)
async def test_losses_are_counted_by_reason(world: World) -> None:
    """What left a mailbox unacknowledged."""
    for _ in range(3):
        await world.put(ttl=10)
    last = await world.put(ttl=100)
    await world.pass_time(10, "alice")
    await world.put()
    await world.ask(world.engine.purge, "alice", last)
    assert (await losses(world)).untold() == {"overflow": 2, "expired": 1, "purged": 1}
    assert [(e.reason, e.untold) for e in world.heard(Ended)] == [
        ("dropped", {"overflow": 1}),
        ("dropped", {"overflow": 2}),
        ("expired", {"overflow": 2, "expired": 1}),
        ("purged", {"overflow": 2, "expired": 1, "purged": 1}),
    ]


async def test_a_collapse_is_no_loss(world: World) -> None:
    """A collapse is no loss."""
    await world.put(collapse_key="k")
    await world.put(collapse_key="k")
    assert (await losses(world)).untold() == {}


async def test_told_losses_are_forgotten_and_later_ones_are_not(world: World) -> None:
    """Forget the losses that were told up to these totals."""
    await world.put(ttl=10)
    await world.pass_time(10, "alice")
    told = (await losses(world)).totals
    await world.put(ttl=10)
    await world.pass_time(10, "alice")
    await world.acknowledge("alice", 0, told=told)
    assert (await losses(world)).untold() == {"expired": 1}
    await world.acknowledge("alice", 0, told=(await losses(world)).totals)
    assert (await losses(world)).untold() == {}


async def test_two_sessions_cannot_tell_the_same_loss_twice(world: World) -> None:
    """Two sessions that tell the same loss cannot acknowledge it twice."""
    await world.put(ttl=10)
    await world.pass_time(10, "alice")
    told = (await losses(world)).totals
    await world.acknowledge("alice", 0, told=told)
    await world.put(ttl=10)
    await world.pass_time(10, "alice")
    await world.acknowledge("alice", 0, told=told)
    assert (await losses(world)).untold() == {"expired": 1}


async def test_totals_only_ever_grow(world: World) -> None:
    """Totals only ever grow, so that two sessions that tell the same loss cannot acknowledge it twice."""
    for _ in range(5):
        await world.put()
    await world.ask(world.engine.purge, "alice", None)
    told = (await losses(world)).totals
    await world.acknowledge("alice", 0, told=told)
    seq = await world.put()
    await world.ask(world.engine.purge, "alice", seq)
    assert (await losses(world)).totals["purged"] > told["purged"]
    await world.acknowledge("alice", 0, told=told)
    assert (await losses(world)).untold() == {"purged": 1}


async def test_what_was_told_of_another_client_counts_for_that_client_only(world: World) -> None:
    for client_id in ("alice", "bob"):
        await world.put(client_id, ttl=10)
    await world.pass_time(10, "alice", "bob")
    await world.acknowledge("alice", 0, told=(await losses(world)).totals)
    assert (await losses(world, "bob")).untold() == {"expired": 1}


# -- expiry -----------------------------------------------------------------------------------------------------------


async def test_expired_mail_has_ended_before_it_is_counted(world: World) -> None:
    """Expired mail has ended before it is counted."""
    await world.put(ttl=10)
    await world.put(ttl=11)
    world.clock.advance(10)
    assert (await world.ask(world.engine.open, "alice")).pending == 1


async def test_expired_mail_ends_without_anybody_looking(world: World) -> None:
    seq = await world.put(ttl=10)
    world.clock.advance(12)
    await world.listeners[0].until(lambda: bool(world.heard(Ended)))
    assert world.heard(Ended) == [Ended("alice", "expired", (seq,), {"expired": 1})]
    assert world.engine.stats().pending == 0


async def test_what_is_being_acknowledged_does_not_expire(world: World) -> None:
    seq = await world.put(ttl=10)
    answer = world.ask(world.engine.acknowledge, "alice", seq, "client")
    await world.pass_time(10, "alice")
    await answer
    assert not world.heard(Ended)
    assert [s.seqs for s in world.heard(Settled)] == [(seq,)]


async def test_what_has_expired_cannot_be_acknowledged_any_more(world: World) -> None:
    seq = await world.put("alice", "a", ttl=10)
    await world.pass_time(10, "alice")
    await world.acknowledge("alice", seq)
    assert (await world.append("alice", "a", ttl=10)).state == "expired"
    assert not [s for s in world.heard(Settled) if s.seqs]


async def test_mail_that_expires_while_it_commits_wakes_nobody(world: World) -> None:
    held = world.disk.hold()
    answer = world.append(ttl=10)
    await world.until_busy()
    world.clock.advance(10)
    opened = await world.ask(world.engine.open, "alice")
    held.set()
    seq = (await answer).seq
    await world.flush()
    assert opened.pending == 0
    assert world.heard(Ended) == [Ended("alice", "expired", (seq,), {"expired": 1})]
    assert not world.heard(Wake)
