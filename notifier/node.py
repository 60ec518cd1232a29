"""One server process: where engine and hub meet. Publish goes through here to the engine; the engine's wakes come back
here and go to the hub's sessions; their acknowledgements go through here to the engine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog

from notifier.auth.tokens import Identity
from notifier.clock import Clock
from notifier.conversation import Acknowledgement, Limits
from notifier.diagnosis import Diagnosis
from notifier.engine.base import (
    LOSSES,
    AckedBy,
    Draft,
    EndReason,
    Engine,
    Handed,
    Listener,
    Losses,
    MailboxState,
    Notification,
    Outcome,
    Page,
    State,
    Target,
)
from notifier.errors import NotifierError, Revoked
from notifier.fanout import Fanout
from notifier.hub import SLICE, Carrier, Hub
from notifier.metrics import Gauges, Metrics
from notifier.protocol import Close

_log = structlog.get_logger("notifier.node")

PAGE_BYTES: Final = 128 * 1024
"""Bytes of `data` that a session reads at once, about. What does not fit (conversation.MAX_OUT) is read again."""
PAGE_COUNT: Final = 256
"""Notifications that it reads at once: frames of little `data` are as large as what is around it."""
RECONCILE_S: Final = 10.0
"""How often a node looks for wakes that were lost."""
MAX_WAITING: Final = 1_000

Waiter = Callable[[State, AckedBy | None], None]


class Node(Listener):
    """See the module."""

    def __init__(
        self,
        engine: Engine,
        hub: Hub,
        metrics: Metrics,
        clock: Clock,
        limits: Limits,
        *,
        max_per_client: int,
        reconcile_s: float = RECONCILE_S,
    ) -> None:
        self.engine = engine
        self.hub = hub
        self.metrics = metrics
        self.clock = clock
        self.limits = limits
        self.diagnosis = Diagnosis(clock)
        self.draining = False
        self.failure: NotifierError | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.waiting = 0
        self._max_per_client = max_per_client
        self._reconcile_s = reconcile_s
        self._waiters: dict[tuple[str, int], list[Waiter]] = {}
        self._touched: dict[Carrier, None] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._fanout: Fanout

    async def start(self) -> None:
        """Open the engine and listen to it. Raises what `Engine.start` raises."""
        self._loop = asyncio.get_running_loop()
        self._fanout = Fanout(self.hub, self._loop, self.metrics, self.diagnosis)
        await self.engine.start()
        self.engine.attach(self)
        self._tasks = [self._loop.create_task(self._reconcile()), self._loop.create_task(self._measure_lag())]

    async def stop(self) -> None:
        """Flush the engine and close it."""
        for task in self._tasks:
            task.cancel()
        self.engine.detach(self)
        await self.engine.stop()

    # -- publish ------------------------------------------------------------------------------------------------------

    def publish(self, draft: Draft, done: Callable[[Outcome], None], now_us: int) -> None:
        """Store it, durably; wake its sessions; then `done`. `now_us`: see Engine.append."""
        self.engine.append(draft, done, now_us)

    def send_transient(self, target: Target, frame: bytes) -> Handed:
        """`ttl: 0`: to whoever can take it now, on every node. Raises Busy, for what goes to many."""
        if target.client_id is None:
            self._fanout.admit(target.group)
        return self.engine.transient(target, frame)

    def in_flight(self, client_id: str, seq: int) -> bool:
        """Whether a session here has it written and unsettled: the difference of `sent` and `queued`."""
        return any(seq <= carrier.session.position for carrier in self.hub.of(client_id))

    def wait(self, client_id: str, seq: int, waiter: Waiter) -> Callable[[], None] | None:
        """Call `waiter` when it is settled or has ended otherwise. Returns what takes that back, or None if too many
        wait already."""
        if self.waiting >= MAX_WAITING:
            return None
        self.waiting += 1
        key = (client_id, seq)
        self._waiters.setdefault(key, []).append(waiter)
        return partial(self._forget, key, waiter)

    def _forget(self, key: tuple[str, int], waiter: Waiter) -> None:
        waiters = self._waiters.get(key)
        if waiters and waiter in waiters:
            waiters.remove(waiter)
            self.waiting -= 1
            if not waiters:
                del self._waiters[key]

    def _resolve(self, client_id: str, seqs: Sequence[int], state: State, acked_by: AckedBy | None) -> None:
        if not self._waiters:
            return
        for seq in seqs:
            waiters = self._waiters.pop((client_id, seq), ())
            self.waiting -= len(waiters)
            for waiter in waiters:
                waiter(state, acked_by)

    # -- what the engine tells ----------------------------------------------------------------------------------------

    def wake(self, notification: Notification, after: int) -> Handed:
        """See Listener.wake."""
        carriers = self.hub.of(notification.client_id)
        live = taken = 0
        for carrier in carriers:
            live += carrier.session.closing is None
            if carrier.session.offer(notification, after):
                taken += 1
                if notification.receipt:
                    self.engine.written(notification)
            self.touch(carrier)
        return Handed(live, taken)

    def settled(
        self, client_id: str, seq: int, acked_by: AckedBy, seqs: Sequence[int], live: list[int], at_us: int
    ) -> None:
        """See Listener.settled."""
        if seqs:
            self.metrics.settled(acked_by, len(seqs))
            for accepted_us in live:  # a seq is the microsecond of its acceptance
                self.metrics.delivered(max(0, at_us - accepted_us) / 1e6)
        for carrier in self.hub.of(client_id):
            if carrier.session.settled(seq):
                self.touch(carrier)
        if self._waiters:
            self._resolve(client_id, seqs, "delivered", acked_by)

    def ended(self, client_id: str, reason: EndReason, seqs: Sequence[int], losses: Losses | None) -> None:
        """See Listener.ended."""
        lost = LOSSES.get(reason)
        if lost is None:
            self.metrics.notifications_collapsed(len(seqs))
        else:
            self.metrics.notifications_lost(lost, len(seqs))
        self.diagnosis.dropped(client_id, lost or "collapsed", len(seqs))
        for carrier in self.hub.of(client_id):
            carrier.session.ended(seqs, lost, losses)
            self.touch(carrier)
        self._resolve(client_id, seqs, reason, None)

    def transient(self, target: Target, frame: bytes) -> Handed:
        """See Listener.transient."""
        if target.client_id is not None:
            return self._fanout.to_client(target.client_id, frame)
        if target.group is not None:
            return self._fanout.to_group(target.group, frame)
        return self._fanout.to_everyone(frame)

    def command(self, client_id: str, action: str) -> int:
        """See Listener.command."""
        codes = {
            "reconnect": (Close.RESTART, "disconnected"),
            "ban": (Close.FORBIDDEN, "banned"),
            "revoke": (Close.FORBIDDEN, "revoked"),
        }
        carriers = list(self.hub.of(client_id))
        for carrier in carriers:
            carrier.session.close(*codes[action])
            self.touch(carrier)
        return len(carriers)

    def failed(self, error: NotifierError) -> None:
        """See Listener.failed."""
        self.failure = error
        _log.critical("engine_failed", error=type(error).__name__, detail=error.detail)
        self.on_failure()

    # -- what carriers ask --------------------------------------------------------------------------------------------

    def touch(self, carrier: Carrier) -> None:
        """Its session has something to say: the carrier is pumped once this tick of the loop is through."""
        if not self._touched:
            self._loop.call_soon(self._pump)
        self._touched[carrier] = None

    def _pump(self) -> None:
        touched, self._touched = self._touched, {}
        for carrier in touched:
            carrier.pump()

    def admit(self, identity: Identity, done: Callable[[MailboxState | NotifierError], None]) -> None:
        """Look at the mailbox of a verified client; a token that an operator has revoked is refused."""
        self.engine.open(identity.client_id, partial(self._opened, identity, done))

    @staticmethod
    def _opened(
        identity: Identity, done: Callable[[MailboxState | NotifierError], None], state: MailboxState | NotifierError
    ) -> None:
        if not isinstance(state, NotifierError) and state.revoked_s is not None:
            issued = identity.issued_at
            if issued is None or issued <= state.revoked_s:
                return done(Revoked("Tokens issued to this client_id until now were revoked. Get a new one."))
        return done(state)

    def register(self, carrier: Carrier) -> None:
        """A session has begun. Over MAX_CONNECTIONS_PER_CLIENT the oldest goes."""
        self.hub.add(carrier)
        self.metrics.connection_opened(carrier.kind)
        held = [c for c in self.hub.of(carrier.session.client_id) if c.session.closing is None]
        if len(held) > self._max_per_client:
            oldest = held[0]
            oldest.session.close(Close.REPLACED, "replaced")
            self.touch(oldest)

    def unregister(self, carrier: Carrier, code: int, seconds: float) -> None:
        """A connection has ended. Its unacknowledged mail stays in the mailbox."""
        session, closing = carrier.session, carrier.session.closing
        session.release()
        self._touched.pop(carrier, None)
        if self.hub.remove(carrier):
            self.metrics.connection_closed(carrier.kind, code, seconds)
            reason = closing[1] if closing is not None else ""
            self.diagnosis.ended(session.client_id, code, reason, carrier.kind, carrier.address, seconds)

    def regroup(self, carrier: Carrier, identity: Identity) -> None:
        """A new token was accepted: its groups replace those of the last."""
        self.hub.leave(carrier)
        carrier.session.reauthenticated(identity)
        self.hub.join(carrier)

    def read(self, carrier: Carrier) -> None:
        """The session wants mail."""
        session = carrier.session
        count = min(session.wants, PAGE_COUNT)
        session.reading = True
        self.engine.read(session.client_id, session.seen, count, PAGE_BYTES, partial(self._page_read, carrier))

    def _page_read(self, carrier: Carrier, page: Page | NotifierError) -> None:
        session = carrier.session
        if isinstance(page, NotifierError):
            session.reading = False
            session.close(Close.TRY_LATER, "engine_unavailable")
        else:
            now_ms = self.clock.now_ms()
            for notification in session.mail(page):
                if self.engine.written(notification):
                    self.metrics.first_written(max(0, now_ms - notification.accepted_ms) / 1000)
                else:
                    self.metrics.notification_resent()
        self.touch(carrier)

    def acknowledge(self, carrier: Carrier, ack: Acknowledgement) -> None:
        """A session's client has acknowledged."""
        if not ack.confirm:
            self.engine.acknowledge(carrier.session.client_id, ack.seq, ack.acked_by, ack.told)
            return
        done = partial(self._confirm, carrier, ack.seq)
        self.engine.acknowledge(carrier.session.client_id, ack.seq, ack.acked_by, ack.told, done)

    def _confirm(self, carrier: Carrier, seq: int, error: NotifierError | None) -> None:
        if error is None:
            carrier.session.confirm(seq)
            self.touch(carrier)

    # -- all the time -------------------------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        """Find mail whose wake was lost."""
        while True:
            await asyncio.sleep(self._reconcile_s)
            client_ids = self.hub.client_ids()
            for at in range(0, len(client_ids), SLICE):
                self.engine.heads(client_ids[at : at + SLICE], self._compare)
                await asyncio.sleep(0)

    def _compare(self, heads: dict[str, int]) -> None:
        for client_id, head in heads.items():
            for carrier in self.hub.of(client_id):
                if head > carrier.session.seen:
                    carrier.session.behind = True
                    self.touch(carrier)

    async def _measure_lag(self) -> None:
        while True:
            due = self._loop.time() + 1.0
            await asyncio.sleep(1.0)
            self.metrics.loop_lag = max(0.0, self._loop.time() - due)

    def gauges(self) -> Gauges:
        """For a scrape."""
        stats = self.engine.stats()
        kinds: dict[str, int] = {}
        for kind, opened in self.metrics.opened.items():
            closed = sum(n for (k, _), n in self.metrics.closed.items() if k == kind)
            kinds[kind] = opened - closed
        oldest_s = max(0.0, self.clock.now() - stats.oldest_ms / 1000) if stats.oldest_ms else 0.0
        return Gauges(kinds, self.hub.clients, self.limits.full, stats, oldest_s)

    async def drain(self, seconds: float) -> None:
        """Send everybody elsewhere, spread over `seconds`, so that the next node is not stormed."""
        self.draining = True
        carriers = list(self.hub)
        random.shuffle(carriers)
        start = self._loop.time()
        for at, carrier in enumerate(carriers):
            carrier.session.drain(random.randrange(0, 1000))  # noqa: S311 - jitter, not a secret
            self.touch(carrier)
            pause = start + seconds * (at + 1) / len(carriers) - self._loop.time()
            if pause > 0.01 or at % SLICE == SLICE - 1:
                await asyncio.sleep(max(0.0, pause))
