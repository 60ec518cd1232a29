"""`Engine.open`, `read`, `heads`, `written`, `transient` and who listens, sentence by sentence."""

from __future__ import annotations

import asyncio

import pytest

from notifier.engine.base import MailboxState, Target
from tests.engine.world import Ended, Recorder, Wake, World


async def test_a_page_is_in_order_and_bounded(world: World) -> None:
    """The pending mail after `after`: at most `count`."""
    seqs = [await world.put() for _ in range(5)]
    await world.put("bob")
    page = await world.ask(world.engine.read, "alice", seqs[0], 2, 1 << 20)
    assert [n.seq for n in page.notifications] == seqs[1:3]
    assert (page.through, page.more) == (seqs[2], True)
    page = await world.ask(world.engine.read, "alice", page.through, 2, 1 << 20)
    assert ([n.seq for n in page.notifications], page.more) == (seqs[3:], False)


async def test_a_page_has_about_so_many_bytes_but_at_least_one(world: World) -> None:
    """… and about `size` bytes, but at least one if there is any."""
    seqs = [await world.put(data=b'"%b"' % (b"x" * 98)) for _ in range(4)]
    assert await world.pending(size=1) == seqs[:1]
    assert await world.pending(size=150) == seqs[:2]
    assert await world.pending(size=400) == seqs


async def test_an_empty_mailbox_gives_an_empty_page(world: World) -> None:
    page = await world.ask(world.engine.read, "nobody", 7, 10, 1000)
    assert (list(page.notifications), page.through, page.more) == ([], 7, False)


@pytest.mark.limits(mailbox_limit=5000)
async def test_many_and_large_mailboxes_at_once(world: World) -> None:
    """One turn of the engine reads a bounded number of bytes; everybody gets his page all the same."""
    data = b'"%b"' % (b"x" * 60_000)
    wanted = {f"c{n}": [await world.put(f"c{n}", data=data) for _ in range(8)] for n in range(20)}
    pages = await asyncio.gather(*(world.ask(world.engine.read, c, 0, 100, 1 << 20) for c in wanted))
    assert [[n.seq for n in page.notifications] for page in pages] == list(wanted.values())


async def test_only_durable_mail_is_handed_out(world: World) -> None:
    """Only durable mail …"""
    first = await world.put()
    held = world.disk.hold()
    answer = world.append()
    page = world.ask(world.engine.read, "alice", 0, 10, 1000)
    heads = await world.ask(world.engine.heads, ["alice"])
    await world.until_busy()
    late = world.ask(world.engine.read, "alice", 0, 10, 1000)
    assert heads == {"alice": first}
    held.set()
    second = (await answer).seq
    assert [n.seq for n in (await page).notifications] == [first]
    assert (await page).more
    assert [n.seq for n in (await late).notifications] == [first, second]


async def test_what_is_settled_meanwhile_is_not_handed_out(world: World) -> None:
    """… that is neither settled, ended nor expired when `done` runs."""
    seqs = [await world.put() for _ in range(3)]
    settling = world.ask(world.engine.acknowledge, "alice", seqs[0], "client")
    page = await world.ask(world.engine.read, "alice", 0, 10, 1000)
    await settling
    assert [n.seq for n in page.notifications] == seqs[1:]


async def test_what_the_next_commit_is_to_end_is_pending_until_then(world: World) -> None:
    """Should that commit fail, a page that passed over it would be the last to do so."""
    gone = await world.put(collapse_key="k")
    kept = await world.put()
    held = world.disk.hold()
    page = world.ask(world.engine.read, "alice", 0, 10, 1000)
    blocker = world.append("bob")
    await world.until_busy()
    purge = world.ask(world.engine.purge, "alice", gone)
    held.set()
    await asyncio.gather(blocker, purge)
    assert [n.seq for n in (await page).notifications] == [gone, kept]
    assert await world.pending() == [kept]


async def test_what_expires_while_it_is_read_is_neither_handed_out_nor_settled_by_what_comes_behind_it(
    world: World,
) -> None:
    """Nobody has got it: an acknowledgement of the next in the page must not make it delivered."""
    gone = await world.put(id="gone", ttl=10)
    kept = await world.put(ttl=11)
    held = world.disk.hold()
    blocker = world.append("bob")
    page = world.ask(world.engine.read, "alice", 0, 10, 1000)
    await world.until_busy()
    world.clock.advance(10)
    held.set()
    await blocker
    assert [n.seq for n in (await page).notifications] == [kept]
    await world.acknowledge("alice", kept)
    assert (await world.append(id="gone", ttl=10)).state == "expired"
    assert [(event.reason, event.seqs) for event in world.heard(Ended)] == [("expired", (gone,))]


async def test_heads_are_of_those_that_hold_mail(world: World) -> None:
    """The highest pending durable seq of each mailbox that has any."""
    await world.put()
    last = await world.put()
    bob = await world.put("bob")
    await world.acknowledge("bob", bob)
    assert await world.ask(world.engine.heads, ["alice", "bob", "nobody"]) == {"alice": last}


async def test_open_tells_an_unknown_client_nothing(world: World) -> None:
    assert await world.ask(world.engine.open, "nobody") == MailboxState(0, None, None)


async def test_written_tells_the_first_time(world: World) -> None:
    """Whether that was the first time, as far as known."""
    await world.put()
    page = await world.ask(world.engine.read, "alice", 0, 10, 1000)
    assert [world.engine.written(n) for n in (*page.notifications, *page.notifications)] == [True, False]


async def test_what_a_session_took_live_has_been_written(world: World) -> None:
    world.listeners[0].takes = 1
    await world.put()
    (wake,) = world.heard(Wake)
    assert not world.engine.written(wake.notification)


async def test_transient_reaches_every_listener_and_stores_nothing(world: World) -> None:
    """Hand a frame to every listener, store nothing."""
    world.listeners[0].takes = 2
    handed = world.engine.transient(Target(client_id="alice"), b"{}")
    assert (handed.connections, handed.taken) == (2 * (len(world.listeners) + (world.kind == "chaos")), 2)
    assert all(listener.frames == [(Target(client_id="alice"), b"{}")] for listener in world.listeners)
    assert world.engine.stats().pending == 0


async def test_a_command_reaches_every_listener(world: World) -> None:
    assert world.engine.command("alice", "ban") == len(world.listeners) + (world.kind == "chaos")
    assert all(listener.commands == [("alice", "ban")] for listener in world.listeners)


async def test_connections_and_taken_sum_up_all_nodes(world: World) -> None:
    """`connections` and `taken` sum up what all nodes did with the wake."""
    for listener in world.listeners:
        listener.takes = 3
    outcome = await world.append()
    assert outcome.taken == 3 * len(world.listeners)
    assert outcome.connections >= len(world.listeners)


async def test_a_detached_listener_hears_nothing_any_more(world: World) -> None:
    other = Recorder()
    world.engine.attach(other)
    await world.put()
    world.engine.detach(other)
    seq = await world.put()
    await world.ask(world.engine.purge, "alice", seq)
    assert len(other.events) == 1
    assert len(world.heard(Wake)) == 2
    assert len(world.heard(Ended)) == 1
