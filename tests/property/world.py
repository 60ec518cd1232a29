"""Real sessions, node and engine over a file, with carriers that collect, beside the model of what they must do."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from notifier.auth.tokens import Identity
from notifier.clock import ManualClock
from notifier.conversation import Limits, ProtocolPing
from notifier.engine.base import (
    LOSSES,
    AckedBy,
    Appended,
    Draft,
    Duplicate,
    EndReason,
    EngineOptions,
    Handed,
    Losses,
    MailboxState,
    Notification,
    Page,
    Target,
)
from notifier.engine.sqlite import SQLiteEngine
from notifier.errors import EngineUnavailable, IdConflict, MailboxFull
from notifier.hub import Hub
from notifier.metrics import Metrics
from notifier.node import Node
from notifier.session import Session
from tests.harness.chaos import Deaf
from tests.harness.virtual import StepWriter
from tests.property.model import Mail, Model


class Connection:
    """A carrier that collects, and checks what it is given to write."""

    kind = "collected"
    address = "192.0.2.1"
    opened_at = 0.0
    unsent = 0

    def __init__(self, world: World, session: Session) -> None:
        self.world = world
        self.session = session
        self.since = world.model.operation
        self.written: set[int] = set()
        self.floor = 0  # others have settled everything up to here
        self.pings: list[bytes] = []
        self.transients = 0
        self.gaps: dict[str, int] = {}
        # A loss whose commit is under way may be told, and heard of, by another connection before this one begins; this
        # one then tells it again when it is durable.
        self.unsure = world.model.operation > world.model.sure
        self.due_gaps = dict(world.model.untold(session.client_id))
        self.totals = world.model.totals(session.client_id)
        self.closed: tuple[int, str] | None = None
        self.name = f"{session.client_id}{id(self) % 10_000}"
        world.log.append(("connect", self.name, self.due_gaps))

    def pump(self) -> None:
        session, node = self.session, self.world.node
        if self.closed is not None:
            return
        session.flush_settled()
        out, session.out = session.out, []
        for item in out:
            self._write(item)
        assert session.inflight <= session.limits.max_inflight, "the window was exceeded"
        if session.ack is not None:
            ack, session.ack = session.ack, None
            self.world.model.acknowledge(session.client_id, ack.seq, ack.acked_by)
            self.world.log.append(("acknowledge", self.name, ack.seq, ack.told))
            if ack.told is not None:
                self.world.model.hear(session.client_id, self.totals)
            node.acknowledge(self, ack)
        session.filled = False
        if session.closing is not None:
            self.end(session.closing)
        elif session.wants:
            node.read(self)

    def _write(self, item: Any) -> None:
        if isinstance(item, Notification):
            assert item.client_id == self.session.client_id, "mail of another client"
            assert item.seq > max(self.written, default=0), "out of order, or twice"
            assert (item.client_id, item.seq) not in self.world.over, "what is settled or has ended was written"
            self.written.add(item.seq)
            self.world.log.append(("wrote", self.name, item.seq, item.id))
            self.world.covered["written"] += 1
        elif isinstance(item, ProtocolPing):
            self.pings.append(item.payload)
        else:
            self._write_frame(msgspec.json.decode(item))

    def _write_frame(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "settled":
                box = self.world.model.pending.get(self.session.client_id, ())
                left = [m for m in box if self.world.model.seqs.get(m.number, 1 << 60) <= frame["seq"]]
                assert not left, "told as settled, and is not"
            case "gap":
                self.gaps[frame["reason"]] = self.gaps.get(frame["reason"], 0) + frame["dropped"]
            case "notification":
                self.transients += 1
            case other:
                assert other in ("welcome", "pong"), frame

    def carry(self, frames: list[bytes], encoded: dict[str, bytes]) -> int:
        taken = sum(self.session.transient(frame) for frame in frames)
        self.world.node.touch(self)
        return taken

    def abort(self) -> None:
        self.end((1006, ""))

    def end(self, why: tuple[int, str]) -> None:
        self.closed = why
        self.world.log.append(("closed", self.name, why))
        self.world.connections.remove(self)
        self.world.node.unregister(self, why[0], 0.0)

    def mail_written(self) -> set[int]:
        """Also what waits to be pumped."""
        return self.written | {item.seq for item in self.session.out if isinstance(item, Notification)}


class Witness:
    """An honest listener that hears everything before the node does."""

    def __init__(self, world: World) -> None:
        self.world = world

    def wake(self, notification: Notification, after: int) -> Handed:
        return Handed(0, 0)

    def settled(
        self, client_id: str, seq: int, acked_by: AckedBy, seqs: Sequence[int], live: Sequence[int], at_us: int
    ) -> None:
        self.world.over |= {(client_id, s) for s in seqs}
        self.world.log.append(("settled", client_id, seq, seqs))
        for connection in self.world.connections:
            if connection.session.client_id == client_id:
                connection.floor = max(connection.floor, seq)

    def ended(self, client_id: str, reason: EndReason, seqs: Sequence[int], losses: Losses | None) -> None:
        self.world.over |= {(client_id, s) for s in seqs}
        self.world.log.append(("ended", client_id, reason, seqs, losses))
        if reason not in LOSSES:
            return
        assert losses is not None
        lost = LOSSES[reason]
        for connection in self.world.connections:
            if connection.session.client_id != client_id or connection.session.closing is not None:
                continue
            operation = max(self.world.ended_in(client_id, seq, reason) for seq in seqs)
            if operation <= connection.since:
                continue  # told when it connected
            floor = max(connection.session.acked, connection.floor)
            unwritten = len({s for s in seqs if s > floor} - connection.mail_written())
            if unwritten:
                connection.due_gaps[lost] = connection.due_gaps.get(lost, 0) + unwritten
                connection.totals[lost] = self.world.totals_after[operation, client_id][lost]

    def transient(self, target: Target, frame: bytes) -> Handed:
        return Handed(0, 0)

    def command(self, client_id: str, action: str) -> int:
        return 0

    def failed(self, error: Exception) -> None:
        raise error


class World:
    def __init__(self, path: Path, rng: random.Random, *, chaos: bool, drop_oldest: bool, tight: bool) -> None:
        self.path = path
        self.rng = rng
        self.chaos = chaos
        self.tight = tight
        self.clock = ManualClock()
        self.limits = {
            "mailbox_limit": 4 if tight else 1000,
            "mailbox_bytes": 40 if tight else 1 << 20,
            "drop_oldest": drop_oldest,
            "dedup_s": 100,
        }
        self.window = rng.choice((1, 2, 5, 256))
        self.model = Model(self.limits["mailbox_limit"], self.limits["mailbox_bytes"], drop_oldest, 100_000)
        self.connections: list[Connection] = []
        self.over: set[tuple[str, int]] = set()
        self.by_seq: dict[tuple[str, int], int] = {}
        self.totals_after: dict[tuple[int, str], dict[str, int]] = {}
        self.under_way: dict[tuple[str, str], Any] = {}
        self.parked: set[tuple[str, str]] = set()
        self.failing = False
        self.purging: list[str] = []
        self.waits: dict[tuple[str, int], list[Any]] = {}
        self.mails = 0
        self.covered: dict[str, int] = {"written": 0}
        self.now = 0.0
        self.failures: list[BaseException] = []
        self.log: deque[tuple[Any, ...]] = deque(maxlen=100)
        """What happened last, to be read when it ends badly."""

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        metrics = Metrics("test", "sqlite")
        self.engine = SQLiteEngine(
            str(self.path), self.clock, metrics, EngineOptions(durability="page_cache", **self.limits)
        )
        limits = Limits(self.window, 25, 20, 10)
        self.node = Node(self.engine, Hub(), metrics, self.clock, limits, max_per_client=3, reconcile_s=0.04)
        self.engine.attach(Witness(self))  # type: ignore[arg-type]
        if self.chaos:
            honest = self.engine.attach
            deaf = Deaf(self.node, self.rng)
            self.engine.attach = lambda listener: honest(deaf)  # type: ignore[method-assign, assignment, arg-type]
        await self.node.start()
        self.engine.detach = lambda listener: None  # type: ignore[method-assign]

    async def crash(self) -> None:
        """The process is gone; what it had committed is in the file."""
        if self.parked:
            await self.quiesce()  # what came later may be in the file, what was parked is not: no order to rewind
        self.log.append(("crash",))
        writer = self.engine._writer
        assert isinstance(writer, StepWriter)
        writer.dead = True
        self.under_way.clear()
        self.parked.clear()
        self.purging.clear()
        self._forget_connections()
        for task in (*self.node._tasks, *self.engine._tasks):
            assert task is not None
            task.cancel()
        self.engine._store.close()
        self.engine._lock.release()
        await self.start()
        stored = {client_id: await self.pending(client_id) for client_id in CLIENTS}
        while not self._is(stored):
            assert self.model.rewind(), f"the file holds {stored}"
        for mail in (m for box in self.model.pending.values() for m in box):
            self.learn_seq(mail, next(n.seq for n in stored[mail.client_id] if n.id == mail.id))
        self.model.settle()

    def _is(self, stored: dict[str, Sequence[Notification]]) -> bool:
        """Whether this is what the model holds, mail and losses."""
        for client_id, found in stored.items():
            if [n.id for n in found] != [m.id for m in self.model.pending.get(client_id, ())]:
                return False
            losses = self.engine._losses.get(client_id)
            if (losses.untold() if losses is not None else {}) != self.model.untold(client_id):
                return False
        return True

    def _forget_connections(self) -> None:
        for connection in self.connections:
            connection.closed = (1006, "")
        self.connections.clear()
        self.waits.clear()

    async def reopen(self) -> None:
        """An orderly end: everything that was asked is done."""
        self.log.append(("reopen",))
        self._forget_connections()
        await self.node.stop()
        self.waits.clear()
        assert not self.under_way
        self.model.settle()
        await self.start()
        await self.check()

    # -- operations ---------------------------------------------------------------------------------------------------

    def publish(self, client_id: str, *, id: str, size: int, ttl: int, key: str | None, receipt: bool) -> None:
        now_ms = self.clock.now_ms()
        data = b'"' + b"x" * size + b'"'
        self.mails += 1
        mail = Mail(
            self.mails, client_id, id or f"made-{self.mails}", (data, ttl, key), key, len(data), now_ms + ttl * 1000,
            now_ms + self.model.dedup_ms, receipt,
        )  # fmt: skip
        first = self.under_way.get((client_id, mail.id))
        if first is None:
            expected = self.model.publish(mail, now_ms)
            self.note_totals(client_id)
            self.under_way[client_id, mail.id] = (expected, mail, self.model.operation)
        else:
            (kind, known), other, _ = first
            content = other.content if known is None else known.content
            if kind == "full":  # nothing was accepted that it could differ from
                expected = ("full", None)
            elif content != mail.content or (kind == "conflict" and other.content == mail.content):
                expected = ("conflict", known)
            else:
                expected = ("duplicate", known)
        operation = self.model.operation
        writer = self.engine._writer
        self.log.append(("publish", client_id, mail.id, key, ttl, expected[0]))

        def done(outcome: Any) -> None:
            assert self.engine._writer is writer, "an answer from beyond"
            self.under_way.pop((client_id, mail.id), None)
            self.parked.discard((client_id, mail.id))
            if self.failing:
                return self.judged(self.refused, expected, outcome)
            if expected[0] != "full":  # which is said at once
                self.model.sure = max(self.model.sure, operation)
            return self.judged(self.answered, expected, mail, outcome)

        draft = Draft(client_id, mail.id, data, ttl, None, key, receipt, not id)
        self.node.publish(draft, done, self.clock.now_us())
        if client_id in self.engine._parked:
            self.parked.add((client_id, mail.id))
            self.covered["parked"] = self.covered.get("parked", 0) + 1

    def repeating(self, client_id: str) -> bool:
        """A repeat is being looked up. Until then it stands in the index as if it were new, and a purge of the same
        moment misses what it displaces. Or whether there is room is not decided yet: an acknowledgement of the same
        moment makes some."""
        return any(c == client_id for c, _ in self.parked) or any(
            c == client_id and expected[0] != "accepted" for (c, _), (expected, *_) in self.under_way.items()
        )

    def displacing(self, client_id: str) -> bool:
        """Something under way may put mail out of the index: a purge waits until that is certain."""
        if client_id in self.purging:
            return True
        mine = [mail for (c, _), (_, mail, _) in self.under_way.items() if c == client_id]
        return self.repeating(client_id) or any(mail.key or self.tight for mail in mine)

    def may_repeat(self, mail: Mail) -> bool:
        """Whether a publisher may know its id, and it is certain what the answer will be."""
        if mail.id.startswith("made") and mail.number not in self.model.seqs:
            return False
        how = self.model.state.get(mail.number)
        return how is None or mail.until_ms > self.clock.now_ms() or how[2] <= self.model.sure

    def judged(self, check: Callable[..., None], *values: Any) -> None:
        """The engine guards itself against what callbacks raise, so that is kept for the next look."""
        try:
            check(*values)
        except BaseException as error:
            self.failures.append(error)

    def purged(self, count: int, expected: int) -> None:
        assert count == expected

    def answered(self, expected: Any, mail: Mail, outcome: Any) -> None:
        kind, first = expected
        self.covered[kind] = self.covered.get(kind, 0) + 1
        self.log.append(("answer", mail.client_id, mail.id, kind, outcome))
        match outcome:
            case Appended(seq=seq):
                assert kind == "accepted", (expected, outcome)
                self.learn_seq(mail, seq)
                if self.rng.random() < 0.2:
                    self.wait(mail.client_id, seq)
            case Duplicate(seq=seq, state=state):
                assert kind == "duplicate", (expected, outcome)
                assert self.model.seqs.get(first.number, seq) == seq
                how = self.model.state.get(first.number)
                assert state in ("pending", how[0] if how else "pending")
            case IdConflict():
                assert kind == "conflict", (expected, outcome)
            case MailboxFull():
                assert kind == "full", (expected, outcome)
            case other:
                raise AssertionError(other)

    def learn_seq(self, mail: Mail, seq: int) -> None:
        self.model.seqs[mail.number] = seq
        self.by_seq[mail.client_id, seq] = mail.number

    def note_totals(self, client_id: str) -> None:
        self.totals_after[self.model.operation, client_id] = self.model.totals(client_id)

    def ended_in(self, client_id: str, seq: int, reason: str) -> int:
        how, _, operation = self.model.state[self.by_seq[client_id, seq]]
        assert how == reason, (how, reason)
        return operation

    def wait(self, client_id: str, seq: int) -> None:
        results = self.waits.setdefault((client_id, seq), [])
        results.append([])
        mine = results[-1]
        self.log.append(("wait", client_id, seq))
        assert self.node.wait(client_id, seq, lambda state, by: mine.append((state, by))) is not None

    def purge(self, client_id: str, seq: int | None) -> None:
        expected = self.model.purge(client_id, seq)
        self.note_totals(client_id)
        operation = self.model.operation
        self.log.append(("purge", client_id, seq, expected))

        self.purging.append(client_id)

        def done(count: Any) -> None:
            self.purging.remove(client_id)
            if self.failing:
                return self.judged(self.refused, ("accepted" if expected else "nothing", None), count)
            self.judged(self.purged, count, expected)
            if count:  # that there is nothing is said at once
                self.model.sure = max(self.model.sure, operation)
            return None

        self.engine.purge(client_id, seq, done)

    def send_transient(self, client_id: str) -> None:
        """`ttl: 0`: who can take it has it."""
        mine = [c for c in self.connections if c.session.client_id == client_id]
        before = [c.transients for c in mine]
        able = [not c.session.paused and c.session.closing is None for c in mine]
        frame = b'{"type":"notification"}'
        handed = self.node.send_transient(Target(client_id=client_id), frame)
        assert (handed.connections, handed.taken) == (len(mine), sum(able))
        for connection in list(mine):
            connection.pump()
        assert [c.transients - n for c, n in zip(mine, before, strict=True)] == able

    def connect(self, client_id: str, ack: str) -> None:
        identity = Identity(client_id, 4e9, 0.0, ())

        def opened(state: Any) -> None:
            assert isinstance(state, MailboxState)
            session = Session("c", identity, "auto" if ack == "auto" else "client", self.node.limits, 0.0)
            connection = Connection(self, session)
            session.start(state)
            self.connections.append(connection)
            self.node.register(connection)
            connection.pump()

        self.node.admit(identity, opened)

    async def fail(self, steps: list[Callable[[], None]], seconds: float) -> None:
        """These steps, while no commit succeeds; whoever waits for one is told so, and nothing has happened. Then time
        passes, and what expires cannot be ended yet."""
        await self.quiesce()
        self.log.append(("fail", seconds))
        mark, store, before = self.model.operation, self.engine._store, list(self.connections)
        store.commit = self._refuse  # type: ignore[method-assign]
        self.failing = True
        for step in steps:
            step()
            for _ in range(self.rng.choice((0, 0, 1, 2, 3))):
                await asyncio.sleep(0)
        await asyncio.sleep(0.15)
        assert not self.under_way
        assert not self.purging
        while self.model.operation > mark:
            assert self.model.rewind()
        self.failing = False
        if seconds:
            await self.expire(seconds, 1.2)  # the engine looks once a second
        del store.commit  # type: ignore[attr-defined]
        if seconds:
            await self.expire(60, 2.4)
            assert self.engine.stats().pending == sum(map(len, self.model.pending.values())), "expired, and not found"
        await self.quiesce()
        for connection in [c for c in self.connections if c not in before]:
            box = self.model.pending.get(connection.session.client_id, ())
            seqs = {self.model.seqs[m.number] for m in box}
            if not connection.session.paused and connection.session.inflight < self.window:
                assert seqs <= connection.written, "a session passed over what came back"
            connection.end((1006, ""))  # it may have been told of a loss that was none

    async def expire(self, seconds: float, looks_s: float) -> None:
        """Time passes; nobody but the engine itself looks for what has expired."""
        self.clock.advance(seconds)
        self.model.expire(self.clock.now_ms())
        for client_id in CLIENTS:
            self.note_totals(client_id)
        await asyncio.sleep(looks_s)

    @staticmethod
    def _refuse(*_: Any) -> None:
        raise apsw.BusyError("locked")

    def refused(self, expected: Any, outcome: Any) -> None:
        """While no commit succeeds: failed, or said at once, or looked up. (What would have made room has not.)"""
        kinds = {"duplicate": Duplicate, "conflict": IdConflict, "nothing": int}
        allowed = (EngineUnavailable, MailboxFull, kinds.get(expected[0], EngineUnavailable))
        assert isinstance(outcome, allowed), (expected, outcome)
        self.covered["failed"] = self.covered.get("failed", 0) + 1

    async def advance(self, seconds: float) -> None:
        """Time passes, and all that has expired is found."""
        await self.quiesce()
        self.log.append(("advance", seconds))
        self.clock.advance(seconds)
        self.model.expire(self.clock.now_ms())
        for client_id in CLIENTS:
            self.note_totals(client_id)
        for client_id in CLIENTS:
            self.engine.open(client_id, lambda state: None)
            await self.quiesce()

    # -- checks -------------------------------------------------------------------------------------------------------

    async def quiesce(self) -> None:
        await asyncio.sleep(0.15)  # lazy acknowledgements, late wakes, and two looks for lost ones
        if self.failures:
            raise self.failures[0]
        assert not self.under_way
        self.model.settle()

    async def pending(self, client_id: str) -> Sequence[Notification]:
        found: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        self.engine.read(client_id, 0, 10_000, 1 << 30, found.set_result)  # type: ignore[arg-type]
        return (await found).notifications

    async def check(self) -> None:
        await self.quiesce()
        model = self.model
        count = sum(map(len, model.pending.values()))
        assert self.engine.stats().pending == count, model.pending
        for client_id in CLIENTS:
            box = [model.seqs[m.number] for m in model.pending.get(client_id, ())]
            assert [n.seq for n in await self.pending(client_id)] == box
            for connection in self.connections:
                if connection.session.client_id == client_id:
                    self.check_connection(connection, box)
        self.check_waits()
        if model.known:
            await self.check_receipt(self.rng.choice(list(model.known.values())))

    def check_connection(self, connection: Connection, box: list[int]) -> None:
        session = connection.session
        assert session.closing is None
        position = max(connection.written, default=0)
        passed_over = [seq for seq in box if seq <= position and seq not in connection.written]
        assert not passed_over, (connection.name, passed_over)
        open_ = [seq for seq in box if seq in connection.written]
        if not session.paused and session.inflight < self.window:
            assert set(box) <= connection.written, "not written, and the window is open"
        assert session.inflight == len([seq for seq in open_ if seq > session.acked])
        due = {reason: n for reason, n in connection.due_gaps.items() if n}
        if connection.unsure:
            assert all(connection.gaps.get(reason, 0) >= n for reason, n in due.items()), connection.name
        else:
            assert connection.gaps == due, connection.name

    def check_waits(self) -> None:
        for (client_id, seq), results in list(self.waits.items()):
            how = self.model.state.get(self.by_seq[client_id, seq])
            for result in results:
                assert [state for state, _ in result] == ([how[0]] if how else []), (client_id, seq)
            if how:
                del self.waits[client_id, seq]

    async def check_receipt(self, mail: Mail) -> None:
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.engine.receipts(mail.id, mail.client_id, found.set_result)
        receipts = [r for r in await found if r.seq == self.model.seqs.get(mail.number)]
        if receipts:
            how = self.model.state.get(mail.number, ("pending",))
            assert receipts[0].state == how[0]
            self.covered["receipt"] = self.covered.get("receipt", 0) + 1


CLIENTS = ("alice", "bob")
