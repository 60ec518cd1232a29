"""`Engine.append`, sentence by sentence (notifier/engine/base.py)."""

from __future__ import annotations

import asyncio

import pytest

from notifier.engine.base import Appended, Draft, Duplicate
from notifier.engine.mail import ENOUGH
from notifier.errors import IdConflict, MailboxFull
from tests.engine.world import Ended, Settled, Wake, World


async def test_store_then_wake_then_done(world: World) -> None:
    """Store, durably; then wake every listener; then `done`."""
    world.listeners[0].takes = 1
    order: list[str] = []
    answer = world.append("alice", "a")
    answer.add_done_callback(lambda _: order.append("done"))
    assert not world.heard(Wake)
    outcome = await answer
    (wake,) = world.heard(Wake)
    assert isinstance(outcome, Appended)
    assert wake.notification.seq == outcome.seq
    assert await world.pending() == [outcome.seq]
    assert outcome.taken == 1


async def test_what_is_handed_out_is_what_came_in(world: World) -> None:
    data = '{"text": "Grüße \\u00e9  \U0001f600", "n": 1.50}'.encode()
    fields = {"data": data, "ttl": 60, "event": "a.b", "collapse_key": "schlüssel", "receipt": True}
    seq = await world.put("ålice", "id-1", **fields)
    (wake,) = world.heard(Wake, "ålice")
    page = await world.ask(world.engine.read, "ålice", 0, 10, 10_000)
    for found in (wake.notification, *page.notifications):
        assert (found.client_id, found.seq, found.id) == ("ålice", seq, "id-1")
        assert (found.data, found.event, found.collapse_key, found.receipt) == (data, "a.b", "schlüssel", True)
        assert found.accepted_ms == world.clock.now_ms()
        assert found.expires_ms == world.clock.now_ms() + 60_000
    assert len(page.notifications) == 1


async def test_effects_come_in_the_order_of_the_calls(world: World) -> None:
    """The effects of appends to one mailbox are ordered as the calls were. A listener hears of them in that order."""
    outcomes = await asyncio.gather(*(world.append("alice", f"n{n}" if n % 2 else "") for n in range(100)))
    seqs = [outcome.seq for outcome in outcomes]
    assert seqs == sorted(set(seqs))
    assert [wake.notification.seq for wake in world.heard(Wake)] == seqs
    assert await world.pending() == seqs
    afters = [wake.after for wake in world.heard(Wake)]
    assert afters == [0, *seqs[:-1]]


async def test_after_is_the_seq_before_it_in_the_mailbox(world: World) -> None:
    """`after` is the seq before it in the mailbox, 0 if it is the only one."""
    first = await world.put()
    await world.put("bob")
    second = await world.put()
    await world.acknowledge("alice", second)
    await world.put()
    assert [wake.after for wake in world.heard(Wake)] == [0, first, 0]


async def test_a_seq_is_the_microsecond_of_its_acceptance_or_the_next_one(world: World) -> None:
    first = await world.put()
    assert first == world.clock.now_us()
    assert await world.put("bob") == first + 1
    world.clock.advance(1)
    assert await world.put() == first + 1_000_000


# -- repeats ----------------------------------------------------------------------------------------------------------


async def test_the_time_of_acceptance_is_the_one_that_the_caller_says(world: World) -> None:
    now_us = world.clock.now_us()
    world.clock.advance(5)
    answer = asyncio.get_running_loop().create_future()
    world.engine.append(Draft("alice", "a", b"1", 60), answer.set_result, now_us)
    outcome = await answer
    assert (outcome.seq, outcome.accepted_ms) == (now_us, now_us // 1000)
    assert outcome.expires_ms == now_us // 1000 + 60_000
    assert (await world.append("alice", "b")).seq == now_us + 5_000_000


async def test_a_commit_begins_with_what_is_there_if_that_is_much(world: World) -> None:
    """`begin`: what comes later in the same tick goes with the next one."""
    first = [world.append(f"client-{n}") for n in range(ENOUGH)]
    world.engine.begin()
    second = [world.append(f"client-{n}") for n in range(ENOUGH)]
    world.engine.begin()  # the disk is busy: one commit at a time
    last = world.append("alice")
    outcomes = await asyncio.gather(*first, *second, last)
    assert world.errors.batches == [ENOUGH, ENOUGH + 1]
    seqs = [outcome.seq for outcome in outcomes]
    assert seqs == sorted(set(seqs)), "in the order of the calls"


async def test_a_commit_does_not_begin_with_little(world: World) -> None:
    """Several small requests of one tick share a commit."""
    few = [world.append(f"client-{n}") for n in range(ENOUGH - 1)]
    world.engine.begin()
    last = world.append("alice")
    await asyncio.gather(*few, last)
    assert world.errors.batches == [ENOUGH]


async def test_a_repeat_is_a_duplicate_and_changes_nothing(world: World) -> None:
    """A repeat of (client_id, id) within the dedup window is a Duplicate."""
    seq = await world.put("alice", "a", ttl=60)
    expires_ms = world.clock.now_ms() + 60_000
    world.clock.advance(1)
    again = await world.append("alice", "a", ttl=60)
    assert again == Duplicate(seq, expires_ms, "pending", None)
    assert len(world.heard(Wake)) == 1
    assert await world.pending() == [seq]
    assert world.engine.stats().pending == 1


async def test_an_id_counts_per_client(world: World) -> None:
    await world.put("alice", "a")
    assert isinstance(await world.append("bob", "a"), Appended)


@pytest.mark.parametrize(
    "change", [{"data": b"1 "}, {"data": b"2"}, {"event": "e"}, {"collapse_key": "k"}, {"ttl": 3601}], ids=str
)
async def test_other_content_under_the_same_id_is_a_conflict(world: World, change: dict[str, object]) -> None:
    """IdConflict if data, event, collapse_key or ttl differ."""
    seq = await world.put("alice", "a")
    assert isinstance(await world.append("alice", "a", **change), IdConflict)
    assert await world.pending() == [seq]
    assert not world.heard(Ended)


async def test_receipt_is_no_content(world: World) -> None:
    await world.put("alice", "a")
    assert isinstance(await world.append("alice", "a", receipt=True), Duplicate)


async def test_content_is_told_apart_at_its_seams(world: World) -> None:
    await world.put("alice", "a", event="x", collapse_key=None)
    assert isinstance(await world.append("alice", "a", event=None, collapse_key="x"), IdConflict)


async def test_the_second_of_two_at_once_is_told_when_the_first_is_durable(world: World) -> None:
    """The second of two at once is told when the first is durable."""
    answers = [world.append("alice", "a"), world.append("alice", "a"), world.append("alice", "a", data=b"2")]
    first, second, third = await asyncio.gather(*answers)
    assert isinstance(first, Appended)
    assert second == Duplicate(first.seq, first.expires_ms, "pending", None)
    assert isinstance(third, IdConflict)
    assert await world.pending() == [first.seq]


async def test_each_of_two_repeats_at_once_is_judged_by_what_was_accepted(world: World) -> None:
    seq = await world.put("alice", "a")
    wrong, right = await asyncio.gather(world.append("alice", "a", data=b"2"), world.append("alice", "a"))
    assert isinstance(wrong, IdConflict)
    assert isinstance(right, Duplicate)
    assert right.seq == seq


@pytest.mark.limits(mailbox_limit=1)
async def test_what_was_refused_is_no_content_to_differ_from(world: World) -> None:
    await world.put()
    outcomes = await asyncio.gather(world.append("alice", "a"), world.append("alice", "a", data=b"2"))
    assert [type(outcome) for outcome in outcomes] == [MailboxFull, MailboxFull]


async def test_a_repeat_while_the_first_commits_is_told_by_that_commit(world: World) -> None:
    held = world.disk.hold()
    first = world.append("alice", "a")
    await world.until_busy()
    second = world.append("alice", "a")
    held.set()
    assert isinstance(await first, Appended)
    assert isinstance(await second, Duplicate)


async def test_a_repeat_tells_the_end_of_the_first(world: World) -> None:
    """Duplicate.state is that of now."""
    seqs = {name: await world.put("alice", name, ttl=10 if name == "late" else 60) for name in ("read", "seen", "late")}
    await world.acknowledge("alice", seqs["read"], "client")
    await world.acknowledge("alice", seqs["seen"], "transport")
    await world.pass_time(11, "alice")
    purged = await world.put("alice", "purged", ttl=60)
    await world.ask(world.engine.purge, "alice", purged)
    await world.put("alice", "old", ttl=60, collapse_key="k")
    await world.put("alice", "new", ttl=60, collapse_key="k")
    found = {
        name: await world.append("alice", name, ttl=10 if name == "late" else 60, **fields)
        for name, fields in {
            "read": {}, "seen": {}, "late": {}, "purged": {}, "old": {"collapse_key": "k"}, "new": {"collapse_key": "k"}
        }.items()
    }  # fmt: skip
    assert {name: (d.state, d.acked_by) for name, d in found.items()} == {
        "read": ("delivered", "client"),
        "seen": ("delivered", "transport"),
        "late": ("expired", None),
        "purged": ("purged", None),
        "old": ("collapsed", None),
        "new": ("pending", None),
    }


async def test_mail_past_its_time_that_nobody_has_looked_at_is_told_as_expired(world: World) -> None:
    await world.put("alice", "a", ttl=10)
    world.clock.advance(10)
    assert (await world.append("alice", "a", ttl=10)).state == "expired"


@pytest.mark.limits(dedup_s=100)
async def test_after_the_window_an_id_is_new(world: World) -> None:
    first = await world.put("alice", "a", ttl=50)
    await world.acknowledge("alice", first)
    world.clock.advance(99.999)
    assert (await world.append("alice", "a", ttl=50)).state == "delivered"
    world.clock.advance(0.001)
    second = await world.append("alice", "a", data=b"2", ttl=50)
    assert isinstance(second, Appended)
    assert await world.pending() == [second.seq]


@pytest.mark.limits(dedup_s=10)
async def test_the_window_lasts_while_the_first_is_pending(world: World) -> None:
    """… or while the first is pending."""
    seq = await world.put("alice", "a", ttl=1000)
    world.clock.advance(900)
    assert (await world.append("alice", "a", ttl=1000)).seq == seq
    await world.acknowledge("alice", seq)
    assert isinstance(await world.append("alice", "a", ttl=1000), Appended)


# -- collapse ---------------------------------------------------------------------------------------------------------


async def test_collapse_ends_the_pending_ones_with_the_key(world: World) -> None:
    """Pending mail with the same collapse_key ends (`collapsed`) in the same commit."""
    other = await world.put(collapse_key="other")
    plain = await world.put()
    old = await world.put(collapse_key="k")
    bob = await world.put("bob", collapse_key="k")
    new = await world.put(collapse_key="k")
    assert world.heard(Ended) == [Ended("alice", "collapsed", (old,), None)]
    assert await world.pending() == [other, plain, new]
    assert await world.pending("bob") == [bob]
    assert world.engine.stats().pending == 4


async def test_collapse_within_one_commit(world: World) -> None:
    answers = [world.append("alice", f"n{n}", collapse_key="k") for n in range(4)]
    outcomes = await asyncio.gather(*answers)
    seqs = [outcome.seq for outcome in outcomes]
    assert await world.pending() == seqs[-1:]
    assert [seq for ended in world.heard(Ended) for seq in ended.seqs] == seqs[:-1]
    assert [wake.notification.seq for wake in world.heard(Wake)] == seqs[-1:], "what has ended already wakes nobody"
    assert world.engine.stats().pending == 1


async def test_a_repeat_collapses_nothing(world: World) -> None:
    await world.put("alice", "a", collapse_key="k")
    second = await world.put("alice", "b", collapse_key="k")
    answers = await asyncio.gather(
        world.append("alice", "a", collapse_key="k"), world.append("alice", "c"), world.append("alice", "b", ttl=1)
    )
    assert [type(answer) for answer in answers] == [Duplicate, Appended, IdConflict]
    assert await world.pending() == [second, answers[1].seq]
    assert [ended.seqs for ended in world.heard(Ended)] == [(second - 1,)]


async def test_collapse_past_a_repeat_in_the_same_commit(world: World) -> None:
    """A repeat changes nothing, not even what the one behind it collapses."""
    first = await world.put("alice", "a", collapse_key="k")
    repeat, new = await asyncio.gather(
        world.append("alice", "a", collapse_key="k"), world.append("alice", "b", collapse_key="k")
    )
    assert isinstance(repeat, Duplicate)
    assert await world.pending() == [new.seq]
    assert world.heard(Ended) == [Ended("alice", "collapsed", (first,), None)]
    assert world.engine.stats().pending == 1


async def test_collapse_past_a_repeat_in_the_next_commit(world: World) -> None:
    first = await world.put("alice", "a", collapse_key="k")
    held = world.disk.hold()
    repeat = world.append("alice", "a", collapse_key="k")
    await world.until_busy()
    new = world.append("alice", "b", collapse_key="k")
    held.set()
    assert isinstance(await repeat, Duplicate)
    seq = (await new).seq
    assert await world.pending() == [seq]
    assert world.heard(Ended) == [Ended("alice", "collapsed", (first,), None)]


async def test_a_wake_names_what_a_repeat_hides_for_the_moment(world: World) -> None:
    first = await world.put("alice", "a", collapse_key="k")
    held = world.disk.hold()
    new = world.append("alice", "b")
    await world.until_busy()
    repeat = world.append("alice", "a", collapse_key="k")
    held.set()
    await asyncio.gather(new, repeat)
    assert world.heard(Wake)[-1].after == first
    assert await world.pending() == [first, new.result().seq]


async def test_collapse_does_not_touch_what_an_acknowledgement_is_settling(world: World) -> None:
    old = await world.put("alice", "old", collapse_key="k")
    settling = world.ask(world.engine.acknowledge, "alice", old, "client")
    await world.put("alice", "new", collapse_key="k")
    await settling
    assert (await world.append("alice", "old", collapse_key="k")).state == "delivered"
    assert not world.heard(Ended)


# -- overflow ---------------------------------------------------------------------------------------------------------


@pytest.mark.limits(mailbox_limit=3)
async def test_a_full_mailbox_refuses(world: World) -> None:
    """A full mailbox: MailboxFull. A refused draft uses up no id."""
    seqs = [await world.put() for _ in range(3)]
    for id in ("a", "a", ""):
        assert isinstance(await world.append("alice", id), MailboxFull)
    await world.put("bob")
    await world.acknowledge("alice", seqs[0])
    assert isinstance(await world.append("alice", "a"), Appended)


@pytest.mark.limits(mailbox_limit=2)
async def test_what_is_past_its_time_does_not_fill_a_mailbox(world: World) -> None:
    for _ in range(2):
        await world.put(ttl=600)
    world.clock.advance(601)  # the sweep has not come round
    assert isinstance(await world.append(), Appended)


@pytest.mark.limits(mailbox_limit=3)
async def test_a_full_mailbox_refuses_within_one_commit(world: World) -> None:
    outcomes = await asyncio.gather(*(world.append("alice", f"n{n}" if n % 2 else "") for n in range(5)))
    assert [type(outcome) for outcome in outcomes] == [Appended] * 3 + [MailboxFull] * 2


@pytest.mark.limits(mailbox_bytes=10)
async def test_a_mailbox_is_full_by_bytes(world: World) -> None:
    await world.put(data=b"1234567")
    assert isinstance(await world.append(data=b"1234"), MailboxFull)
    seq = await world.put(data=b"123")
    assert isinstance(await world.append(data=b"1"), MailboxFull)
    await world.acknowledge("alice", seq - 1)
    assert isinstance(await world.append(data=b"1"), Appended)


@pytest.mark.limits(mailbox_bytes=10)
async def test_one_that_could_never_fit_is_refused_even_by_an_empty_mailbox(world: World) -> None:
    assert isinstance(await world.append(data=b"12345678901"), MailboxFull)


@pytest.mark.limits(mailbox_bytes=10, drop_oldest=True)
async def test_one_that_could_never_fit_drops_nothing(world: World) -> None:
    seq = await world.put(data=b"1")
    assert isinstance(await world.append(data=b"12345678901"), MailboxFull)
    assert await world.pending() == [seq]


@pytest.mark.limits(mailbox_limit=2)
async def test_a_repeat_is_answered_by_a_full_mailbox_too(world: World) -> None:
    first = await world.put("alice", "a")
    await world.put()
    assert (await world.append("alice", "a")).seq == first
    assert isinstance(await world.append("alice", "a", data=b"2"), IdConflict)


@pytest.mark.limits(mailbox_limit=2)
async def test_what_is_being_acknowledged_makes_room_at_once(world: World) -> None:
    await world.put()
    last = await world.put()
    settling = world.ask(world.engine.acknowledge, "alice", last, "client")
    assert isinstance(await world.append(), Appended)
    await settling


@pytest.mark.limits(mailbox_limit=2)
async def test_a_collapse_makes_room_for_itself(world: World) -> None:
    await world.put()
    old = await world.put(collapse_key="k")
    new = await world.put(collapse_key="k")
    assert (await world.pending())[1:] == [new]
    assert world.heard(Ended) == [Ended("alice", "collapsed", (old,), None)]


@pytest.mark.limits(mailbox_limit=3, drop_oldest=True)
async def test_drop_oldest(world: World) -> None:
    """… or the oldest end (`dropped`) in the same commit."""
    seqs = [await world.put("alice", f"n{n}") for n in range(5)]
    assert await world.pending() == seqs[2:]
    assert [ended[1:] for ended in world.heard(Ended)] == [
        ("dropped", (seqs[0],), {"overflow": 1}), ("dropped", (seqs[1],), {"overflow": 2})
    ]  # fmt: skip
    assert (await world.append("alice", "n0")).state == "dropped"
    assert world.engine.stats().pending == 3


@pytest.mark.limits(mailbox_bytes=10, drop_oldest=True)
async def test_drop_oldest_by_bytes(world: World) -> None:
    await world.put(data=b"12345")
    await world.put(data=b"12")
    kept = await world.put(data=b"123")
    new = await world.put(data=b"1234567")
    assert await world.pending() == [kept, new]


@pytest.mark.limits(mailbox_limit=2, drop_oldest=True)
async def test_drop_oldest_within_one_commit(world: World) -> None:
    outcomes = await asyncio.gather(*(world.append("alice", f"n{n}") for n in range(7)))
    assert all(isinstance(outcome, Appended) for outcome in outcomes)
    assert await world.pending() == [outcome.seq for outcome in outcomes[-2:]]
    assert sum(len(ended.seqs) for ended in world.heard(Ended)) == 5
    assert world.engine.stats().pending == 2


@pytest.mark.limits(mailbox_limit=1, drop_oldest=True)
async def test_a_repeat_drops_nothing(world: World) -> None:
    seq = await world.put("alice", "a")
    repeat, new = await asyncio.gather(world.append("alice", "a"), world.append("alice", "b"))
    assert repeat == Duplicate(seq, repeat.expires_ms, "pending", None)
    assert await world.pending() == [new.seq]
    assert [(e.reason, e.seqs) for e in world.heard(Ended)] == [("dropped", (seq,))]
    assert (await world.ask(world.engine.open, "alice")).losses.untold() == {"overflow": 1}
    assert world.engine.stats().pending == 1


@pytest.mark.limits(mailbox_limit=2, drop_oldest=True)
async def test_drop_oldest_leaves_alone_what_is_being_acknowledged(world: World) -> None:
    first = await world.put()
    second = await world.put()
    settling = world.ask(world.engine.acknowledge, "alice", first, "client")
    third = await world.put()
    await settling
    assert await world.pending() == [second, third]
    assert not world.heard(Ended)
    assert [s.seqs for s in world.heard(Settled)] == [(first,)]
