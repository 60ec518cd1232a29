"""Where engine and hub meet: wakes, waiters, admission, groups, drain. Real engine and sessions, time that jumps."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from notifier.auth.tokens import Identity
from notifier.clock import ManualClock
from notifier.conversation import Limits, ProtocolPing
from notifier.engine.base import Appended, Draft, Handed, MailboxState, Notification, Target
from notifier.engine.sqlite import SQLiteEngine
from notifier.errors import EngineUnavailable, NotifierError, Revoked
from notifier.hub import SLICE, Hub
from notifier.metrics import Metrics
from notifier.node import MAX_WAITING, Node
from notifier.session import Session
from tests.harness.chaos import Deaf
from tests.harness.virtual import StepWriter, VirtualLoop


class Collector:
    """A carrier that keeps what its session says."""

    kind = "test"
    address = "192.0.2.1"
    opened_at = 0.0
    unsent = 0

    def __init__(self, node: Node, identity: Identity, ack: str) -> None:
        self.node = node
        self.session = Session("c", identity, "auto" if ack == "auto" else "client", node.limits, 0.0)
        self.mail: list[int] = []
        self.frames: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None

    def pump(self) -> None:
        session = self.session
        session.flush_settled()
        out, session.out = session.out, []
        for item in out:
            if isinstance(item, Notification):
                self.mail.append(item.seq)
            elif not isinstance(item, ProtocolPing):
                self.frames.append(json.loads(item))
        if session.ack is not None:
            ack, session.ack = session.ack, None
            self.node.acknowledge(self, ack)
        if session.closing is not None:
            self.closed = self.closed or session.closing
        elif session.wants:
            self.node.read(self)

    def carry(self, frames: list[bytes], encoded: dict[str, bytes]) -> int:
        self.node.touch(self)
        return sum(self.session.transient(frame) for frame in frames)

    def abort(self) -> None:
        self.closed = (1006, "")

    def ack(self, seq: int, confirm: bool = False) -> None:
        self.session.receive(json.dumps({"type": "ack", "seq": seq, "confirm": confirm}).encode(), 0.0)
        self.pump()


class World:
    """A node on an engine in memory."""

    def __init__(self, loop: VirtualLoop, reconcile_s: float = 10.0, max_per_client: int = 8) -> None:
        self.loop = loop
        self.clock = ManualClock()
        self.metrics = Metrics("test", "sqlite")
        self.engine = SQLiteEngine(":memory:", self.clock, self.metrics)
        limits = Limits(4, 25, 20, 10)
        self.node = Node(
            self.engine, Hub(), self.metrics, self.clock, limits, max_per_client=max_per_client, reconcile_s=reconcile_s
        )

    async def publish(self, client_id: str = "alice", id: str = "", **fields: Any) -> Appended:
        outcome: asyncio.Future[Any] = self.loop.create_future()
        draft = Draft(client_id, id or f"{random.random()}", b"1", 60, fresh_id=not id, **fields)
        self.node.publish(draft, outcome.set_result, self.clock.now_us())
        found = await outcome
        await asyncio.sleep(0)
        assert isinstance(found, Appended)
        return found

    async def admit(self, identity: Identity) -> MailboxState | NotifierError:
        answer: asyncio.Future[Any] = self.loop.create_future()
        self.node.admit(identity, answer.set_result)
        found: MailboxState | NotifierError = await answer
        return found

    async def connect(self, client_id: str = "alice", *groups: str, ack: str = "client") -> Collector:
        identity = Identity(client_id, 2e9, self.clock.now(), groups)
        state = await self.admit(identity)
        assert isinstance(state, MailboxState)
        carrier = Collector(self.node, identity, ack)
        carrier.session.start(state)
        self.node.register(carrier)
        carrier.pump()
        await self.settle()
        return carrier

    async def settle(self) -> None:
        """All that has begun is done."""
        await asyncio.sleep(0.1)

    async def purge(self, client_id: str = "alice") -> None:
        self.engine.purge(client_id, None, lambda _: None)
        await self.settle()


Scenario = Callable[[World], Awaitable[None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a scenario against a node that has started."""
    monkeypatch.setattr("notifier.engine.sqlite.Writer", StepWriter)

    def run(scenario: Scenario, **options: Any) -> None:
        async def life() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            world = World(loop, **options)
            await world.node.start()
            await scenario(world)
            await world.node.stop()

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(life())

    return run


Run = Callable[..., None]


def test_live_mail_reaches_every_connection_of_its_client_only(run: Run) -> None:
    async def scenario(world: World) -> None:
        first, second, other = await world.connect(), await world.connect(), await world.connect("bob")
        outcome = await world.publish()
        assert (outcome.connections, outcome.taken) == (2, 2)
        assert first.mail == second.mail == [outcome.seq]
        assert other.mail == []

    run(scenario)


def test_stored_mail_is_read_on_connect_and_as_the_window_opens(run: Run) -> None:
    async def scenario(world: World) -> None:
        seqs = [(await world.publish()).seq for _ in range(10)]
        carrier = await world.connect()
        assert carrier.frames[0]["pending"] == 10
        assert carrier.mail == seqs[:4]
        carrier.ack(seqs[1])
        await world.settle()
        assert carrier.mail == seqs[:6]

    run(scenario)


def test_a_full_window_is_counted_as_a_connection_that_did_not_take_it(run: Run) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        for _ in range(4):
            await world.publish()
        outcome = await world.publish()
        assert (outcome.connections, outcome.taken) == (1, 0)
        assert world.node.gauges().window_full == 1

    run(scenario)


def test_an_acknowledgement_is_told_to_the_other_connections(run: Run) -> None:
    async def scenario(world: World) -> None:
        first, second = await world.connect(), await world.connect()
        seqs = [(await world.publish()).seq for _ in range(2)]
        first.ack(seqs[1])
        await world.settle()
        assert [f for f in second.frames if f["type"] == "settled"] == [{"type": "settled", "seq": seqs[1]}]
        assert [f for f in first.frames if f["type"] == "settled"] == []
        assert (await world.connect()).mail == []

    run(scenario)


def test_confirm_is_told_when_it_is_durable(run: Run) -> None:
    async def scenario(world: World) -> None:
        carrier = await world.connect()
        outcome = await world.publish()
        carrier.ack(outcome.seq, confirm=True)
        assert carrier.frames[-1]["type"] == "welcome"
        await world.settle()
        assert carrier.frames[-1] == {"type": "settled", "seq": outcome.seq}

    run(scenario)


def test_a_lost_wake_is_found_by_looking(run: Run) -> None:
    async def scenario(world: World) -> None:
        carrier = await world.connect()
        world.engine.detach(world.node)
        lost = await world.publish()
        world.engine.attach(world.node)
        assert carrier.mail == []
        await asyncio.sleep(10.1)
        assert carrier.mail == [lost.seq]

    run(scenario)


def test_wakes_that_go_wrong_deliver_all_the_same(run: Run) -> None:
    async def scenario(world: World) -> None:
        deaf = Deaf(world.node, random.Random(5))
        world.engine.detach(world.node)
        world.engine.attach(deaf)
        carrier = await world.connect()
        seqs = []
        for _ in range(40):
            seqs.append((await world.publish()).seq)
            if carrier.mail:
                carrier.ack(carrier.mail[-1])
        for _ in range(20):
            await asyncio.sleep(1)
            carrier.ack(carrier.mail[-1])
        assert carrier.mail == seqs
        world.engine.detach(deaf)
        world.engine.attach(world.node)

    run(scenario, reconcile_s=0.5)


# -- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["delivered", "purged", "collapsed", "expired"])
def test_a_waiter_is_told_how_it_ended(run: Run, end: str) -> None:
    async def scenario(world: World) -> None:
        carrier = await world.connect()
        seq = (await world.publish(collapse_key="k")).seq
        told: list[Any] = []
        world.node.wait("alice", seq, lambda state, acked_by: told.append((state, acked_by)))
        match end:
            case "delivered":
                carrier.ack(seq)
            case "purged":
                await world.purge()
            case "collapsed":
                await world.publish(collapse_key="k")
            case "expired":
                world.clock.advance(62)
                await asyncio.sleep(2)
        await world.settle()
        assert told == [(end, "client" if end == "delivered" else None)]
        assert world.node.waiting == 0

    run(scenario)


def test_a_waiter_that_has_gone_is_forgotten(run: Run) -> None:
    async def scenario(world: World) -> None:
        carrier = await world.connect()
        seq = (await world.publish()).seq
        told: list[Any] = []
        forget = world.node.wait("alice", seq, lambda *end: told.append(end))
        world.node.wait("alice", seq, lambda *end: told.append("other"))
        assert forget is not None
        forget()
        forget()
        assert world.node.waiting == 1
        carrier.ack(seq)
        await world.settle()
        assert told == ["other"]

    run(scenario)


def test_no_more_than_a_thousand_wait(run: Run) -> None:
    async def scenario(world: World) -> None:
        seq = (await world.publish()).seq
        forgets = [world.node.wait("alice", seq, lambda *_: None) for _ in range(MAX_WAITING)]
        assert None not in forgets
        assert world.node.wait("alice", seq, lambda *_: None) is None
        assert forgets[0] is not None
        forgets[0]()
        assert world.node.wait("bob", 1, lambda *_: None) is not None

    run(scenario)


# -- who may come in --------------------------------------------------------------------------------------------------


def test_a_revoked_token_is_refused_until_a_newer_one_comes(run: Run) -> None:
    async def scenario(world: World) -> None:
        now = world.clock.now()
        world.engine.revoke("alice", now, lambda _: None)
        await world.settle()
        for issued_at in (None, now - 1, now):
            assert isinstance(await world.admit(Identity("alice", 2e9, issued_at, ())), Revoked)
        assert isinstance(await world.admit(Identity("alice", 2e9, now + 1, ())), MailboxState)
        assert isinstance(await world.admit(Identity("bob", 2e9, None, ())), MailboxState)

    run(scenario)


def test_the_oldest_of_too_many_is_replaced(run: Run) -> None:
    async def scenario(world: World) -> None:
        first, second = await world.connect(), await world.connect()
        seq = (await world.publish()).seq
        third = await world.connect()
        assert first.closed == (4409, "replaced")
        assert second.closed is third.closed is None
        assert third.mail == [seq], "its unacknowledged mail stays pending"

    run(scenario, max_per_client=2)


def test_those_that_are_closing_do_not_count(run: Run) -> None:
    async def scenario(world: World) -> None:
        first, second = await world.connect(), await world.connect()
        first.session.close(1012, "draining")
        third = await world.connect()
        assert second.closed is third.closed is None

    run(scenario, max_per_client=2)


def test_a_connection_is_counted_out_once(run: Run) -> None:
    async def scenario(world: World) -> None:
        carrier = await world.connect()
        for _ in range(2):
            world.node.unregister(carrier, 1000, 1.5)
        assert world.metrics.closed == {("test", "1000"): 1}
        assert world.node.gauges().connections == {"test": 0}

    run(scenario)


def test_a_new_token_brings_new_groups(run: Run) -> None:
    async def scenario(world: World) -> None:
        carrier = await world.connect("alice", "a", "b")
        world.node.regroup(carrier, Identity("alice", 2e9, 0.0, ("b", "c")))
        assert [bool(world.node.hub.members(group)) for group in "abc"] == [False, True, True]
        world.node.regroup(carrier, Identity("bob", 2e9, 0.0, ("d",)))
        assert carrier.session.closing == (4403, "client_id_mismatch")
        assert [bool(world.node.hub.members(group)) for group in "abcd"] == [False, True, True, False]

    run(scenario)


@pytest.mark.parametrize(
    ("action", "close"),
    [("reconnect", (1012, "disconnected")), ("ban", (4403, "banned")), ("revoke", (4403, "revoked"))],
)
def test_an_operators_word_closes_the_connections_of_a_client(run: Run, action: str, close: tuple[int, str]) -> None:
    async def scenario(world: World) -> None:
        mine, other = [await world.connect(), await world.connect()], await world.connect("bob")
        assert world.engine.command("alice", action) == 2
        await world.settle()
        assert [carrier.closed for carrier in mine] == [close, close]
        assert other.closed is None

    run(scenario)


# -- ttl 0 ------------------------------------------------------------------------------------------------------------


def counts(handed: Handed) -> tuple[int, int]:
    return handed.connections, handed.taken


def test_transients_reach_a_client_a_group_or_everyone(run: Run) -> None:
    async def scenario(world: World) -> None:
        a, b, c = await world.connect("alice", "g"), await world.connect("bob", "g"), await world.connect("carol")
        frame = b'{"type":"notification"}'
        assert counts(world.node.send_transient(Target(client_id="alice"), frame)) == (1, 1)
        assert counts(world.node.send_transient(Target(group="g"), frame)) == (2, 2)
        assert counts(world.node.send_transient(Target(), frame)) == (3, 3)
        assert counts(world.node.send_transient(Target(client_id="nobody"), frame)) == (0, 0)
        assert counts(world.node.send_transient(Target(group="h"), frame)) == (0, 0)
        await world.settle()
        assert [len(carrier.frames) - 1 for carrier in (a, b, c)] == [3, 2, 1]

    run(scenario)


def test_who_cannot_take_it_now_does_not_get_it_and_is_counted(run: Run) -> None:
    async def scenario(world: World) -> None:
        slow, _ = await world.connect(), await world.connect()
        slow.session.paused = True
        assert counts(world.node.send_transient(Target(client_id="alice"), b'{"type":"notification"}')) == (2, 1)
        assert world.metrics.lost == {"slow_consumer": 1}

    run(scenario)


def test_a_broadcast_lets_the_loop_go_on(run: Run) -> None:
    async def scenario(world: World) -> None:
        carriers = [await world.connect(f"c{n}") for n in range(SLICE + 3)]
        world.node.send_transient(Target(), b'{"type":"notification"}')
        assert sum(bool(carrier.session.out) for carrier in carriers) == SLICE
        await world.settle()
        assert all(len(carrier.frames) == 2 for carrier in carriers)

    run(scenario)


# -- the end ----------------------------------------------------------------------------------------------------------


def test_an_engine_that_cannot_be_read_closes_with_1013(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        await world.publish()
        monkeypatch.setattr(world.engine, "read", lambda *args: args[-1](EngineUnavailable("down")))
        carrier = await world.connect()
        assert carrier.closed == (1013, "engine_unavailable")

    run(scenario)


def test_a_failure_of_the_engine_is_passed_on(run: Run) -> None:
    async def scenario(world: World) -> None:
        told: list[str] = []
        world.node.on_failure = lambda: told.append("failed")
        world.node.failed(EngineUnavailable("disk"))
        assert told == ["failed"]
        assert world.node.failure is not None

    run(scenario)


def test_a_drain_is_spread_over_its_time(run: Run) -> None:
    async def scenario(world: World) -> None:
        carriers = [await world.connect(f"c{n}") for n in range(20)]
        began = world.loop.time()
        drain = asyncio.ensure_future(world.node.drain(10.0))
        await asyncio.sleep(5)
        assert 8 <= sum(carrier.closed is not None for carrier in carriers) <= 12
        await drain
        assert world.loop.time() - began == pytest.approx(10, abs=0.1)
        await world.settle()
        assert all(carrier.closed == (1012, "draining") for carrier in carriers)
        assert all(carrier.frames[-1]["type"] == "reconnect" for carrier in carriers)
        assert len({carrier.frames[-1]["after_ms"] for carrier in carriers}) > 5, "jitter"
        assert world.node.draining

    run(scenario)


def test_a_drain_without_connections_takes_no_time(run: Run) -> None:
    async def scenario(world: World) -> None:
        began = world.loop.time()
        await world.node.drain(10.0)
        assert world.loop.time() == began

    run(scenario)


def test_gauges(run: Run, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.connect()
        await world.connect()
        await world.publish("bob")
        world.clock.advance(30)
        gauges = world.node.gauges()
        assert (gauges.connections, gauges.clients, gauges.oldest_s) == ({"test": 2}, 1, 30)
        assert (gauges.stats.pending, gauges.stats.up) == (1, True)

    run(scenario)
