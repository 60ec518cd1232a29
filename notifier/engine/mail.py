"""The mailboxes of the embedded engine: append, acknowledge, and the turn of the writer that makes them durable.

While a commit runs, callers queue up in `_next`; the following commit takes all of them (group commit). Answers and
wakes wait for the commit. Acknowledgements ride on the next commit, alone they wait up to 20 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from notifier.clock import Clock
from notifier.engine import queries
from notifier.engine.base import (
    AckedBy,
    Appended,
    Draft,
    EngineOptions,
    Listener,
    LossReason,
    Outcome,
)  # fmt: skip
from notifier.engine.batch import Append, Batch, Ending, Settling
from notifier.engine.ledger import UNDECIDED
from notifier.engine.mailboxes import LIVE, WRITTEN
from notifier.engine.observer import Observer, listener_failed, tell
from notifier.engine.reading import Reading
from notifier.engine.writer import FatalEngineError, Known, Store, Writer, translate
from notifier.errors import NotifierError, StorageFull

LAZY_S: Final = 0.02
"""How long an acknowledgement waits for company."""
ENOUGH: Final = 384
"""Drafts with which a turn is begun at once, not at the end of the tick: the disk works while others still come in."""


class MailboxEngine(Reading):
    """The part of `SQLiteEngine` that every notification passes."""

    def __init__(self, path: str, clock: Clock, observer: Observer, options: EngineOptions) -> None:
        super().__init__(clock, observer, options)
        self._store = Store(path, options.durability, options.dedup_s)
        self._listeners: list[Listener] = []
        self._under_way: dict[tuple[str, str], Append] = {}
        self._appends_since_sweep = 0
        self._busy = False
        self._scheduled = False
        self._lazy: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._writer: Writer

    # -- what goes in -------------------------------------------------------------------------------------------------

    def append(self, draft: Draft, done: Callable[[Outcome], None], now_us: int) -> None:
        """See Engine.append."""
        if self._error is not None:
            return done(self._error)
        item = Append(draft, done, now_us // 1000)
        if not draft.fresh_id:
            first = self._under_way.get(item.key)
            if first is not None:
                first.followers = [*(first.followers or ()), item]
                return None
            self._under_way[item.key] = item
        refusal = self._place(item, now_us) if draft.client_id not in self._parked else UNDECIDED
        if refusal is not None:
            if refusal is UNDECIDED:
                return self._park(item)
            if draft.fresh_id:
                return done(refusal)
            item.refusal = refusal  # a repeat is answered even so, hence look first
        self._next.appends.append(item)
        self._kick()
        return None

    def begin(self) -> None:
        """See Engine.begin."""
        if len(self._next.appends) >= ENOUGH:
            self._flush()

    def acknowledge(
        self,
        client_id: str,
        seq: int,
        acked_by: AckedBy,
        told: dict[LossReason, int] | None = None,
        done: Callable[[NotifierError | None], None] | None = None,
    ) -> None:
        """See Engine.acknowledge."""
        if self._error is not None:
            if done is not None:
                done(self._error)
            return
        seq = min(seq, self._committed)  # what nobody can have seen yet is not acknowledged beforehand
        settling = self._next.settlings.get(client_id)
        if settling is None:
            settling = self._next.settlings[client_id] = Settling(client_id, seq, acked_by)
        elif seq > settling.seq:
            settling.seq, settling.acked_by = seq, acked_by
        box = self._boxes.get(client_id)
        if box is not None and seq > box.acking:
            box.acking = seq
        if told:
            self._tell_losses(client_id, told)
        if done is not None:
            settling.dones = [*(settling.dones or ()), done]
            self._kick()
        elif not self._busy and not self._scheduled and self._lazy is None:
            self._lazy = self._loop.call_later(LAZY_S, self._flush)

    # -- one turn of the writer ---------------------------------------------------------------------------------------

    def _kick(self) -> None:
        """Flush at the end of this tick of the loop, with whatever else comes in during it."""
        if not self._busy and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        if self._busy or self._error is not None:
            return  # after a fail-stop nothing more goes to the disk: it may hold what nobody was told of
        batch, self._next = self._next, Batch()
        for settling in batch.settlings.values():
            box = self._boxes.get(settling.client_id)
            if box is not None:
                settling.seqs = box.upto(min(settling.seq, self._committed))
                settling.receipts = box.receipts
        if self._sent:
            sent, self._sent = self._sent, {}
            batch.steps += [(queries.SENT, (seq, first_ms, times)) for seq, (first_ms, times) in sent.items()]
        self._take_reads(batch)
        self._busy, self._leaving = True, batch.displaced
        batch.close()
        now_ms, started = self._clock.now_ms(), self._clock.monotonic()
        if batch.appends:
            self._appends_since_sweep += len(batch.appends)
            self._observer.engine_batch(len(batch.appends))
        job = partial(batch.run, self._store, now_ms, translate)
        self._writer.submit(job, partial(self._turned, batch, started))

    def _turned(self, batch: Batch, started: float, result: Any) -> None:
        self._observer.engine_operation("commit", self._clock.monotonic() - started)
        if isinstance(result, NotifierError):
            batch.error = batch.read_error = result  # it did not even run
        self._finish(batch)

    def _finish(self, batch: Batch) -> None:
        """A turn has ended. What the commit holds is final now: tell everybody, in the order of the batch.

        The next turn is begun before that, so that the disk works while we tell; but not before what was not stored
        after all has been taken back, because later drafts may stand on it.
        """
        self._busy, self._leaving = False, {}
        if batch.error is not None:
            self._failed(batch, batch.error)
            if self._parked:
                self._unpark(batch.parked, batch.known)
        else:
            known = batch.known
            if known:
                for item in batch.appends:
                    if item.key in known:
                        self._withdraw(item, batch)
            self._committed = max(self._committed, batch.last)
            if self._parked:
                self._unpark(batch.parked, known)
            if self._next.urgent or self._reads:
                self._flush()
            for item in batch.appends:
                self._appended(batch, item, known.get(item.key) if known else None)
            for item in batch.parked:
                if item.key in known:
                    self._appended(batch, item, known[item.key])
            now_us = self._clock.now_us()
            for settling in batch.settlings.values():
                self._settled(settling, now_us)
            for ending in batch.endings:
                self._ended(ending)
                tell(ending.done, None)
            for done in batch.dones:
                tell(done, None)
        unsure = batch.left_in_place() if self._error is None else ()
        for wanted in batch.reads:
            if wanted.client_id in unsure:
                self._reads.append(wanted)
            else:
                self._hand_over(wanted, batch)
        if batch.damaged:
            self._set_aside(batch)
        if self._busy:
            return
        if self._next.urgent or self._reads:
            self._flush()
        elif (self._next.settlings or self._next.steps) and self._lazy is None:
            self._lazy = self._loop.call_later(LAZY_S, self._flush)

    def _appended(self, batch: Batch, item: Append, known: Known | None) -> None:
        draft = item.draft
        outcome: Outcome
        if not draft.fresh_id:
            del self._under_way[item.key]
        if known is not None:
            outcome = batch.repeat(known, item.digest(), self._clock.now_ms())
        elif item.refusal is not None:
            outcome = item.refusal
        else:
            if item.collapsed is not None:
                self._ended(item.collapsed)
            if item.dropped is not None:
                self._ended(item.dropped)
            outcome = self._wake(item)
        tell(item.done, outcome)
        if item.followers is None:
            return
        if known is None and isinstance(outcome, Appended):
            known = Known(item.seq, item.digest(), item.expires_ms, 0, None, pending=True)
        for follower in item.followers:
            if known is not None:
                tell(follower.done, batch.repeat(known, follower.digest(), self._clock.now_ms()))
            else:
                tell(follower.done, outcome)  # nothing was accepted that it could differ from

    def _wake(self, item: Append) -> Appended:
        connections = taken = 0
        client_id = item.draft.client_id
        box = self._boxes.get(client_id)
        leaving = self._displaced(client_id)
        # The next in this very commit may have collapsed it, or pushed it out. What a later one is to end is pending.
        if box is not None and (box.last == item.seq or item.seq in box or item.seq in leaving):
            notification = item.notification()
            after = box.before(item.seq)  # now: what was withdrawn meanwhile may have come back
            if leaving:
                after = max(after, *(seq for seq in leaving if seq < item.seq), 0)
            for listener in self._listeners:
                try:
                    handed = listener.wake(notification, after)
                except Exception as error:
                    listener_failed(error)
                    continue
                connections += handed.connections
                taken += handed.taken
            if taken:
                box.mark(item.seq, LIVE | WRITTEN)
        return Appended(item.seq, item.accepted_ms, item.expires_ms, connections, taken)

    def _settled(self, settling: Settling, now_us: int) -> None:
        client_id = settling.client_id
        box = self._boxes.get(client_id)
        if box is not None:
            seqs, live = box.settle(settling.seqs)
            self._pending -= len(seqs)
            if not box:
                self._emptied.add(client_id)
            if seqs:
                self._cursors[client_id] = seqs[-1]
            if box and box.first <= settling.seq:  # a repeat had displaced it, and it has come back: not settled yet
                for done in settling.dones or (None,):
                    self.acknowledge(client_id, settling.seq, settling.acked_by, None, done)
                settling.seq, settling.dones = box.first - 1, None
            for listener in self._listeners:
                try:
                    listener.settled(client_id, settling.seq, settling.acked_by, seqs, live, now_us)
                except Exception as error:
                    listener_failed(error)
        if settling.dones is not None:
            for done in settling.dones:
                tell(done, None)

    def _ended(self, ending: Ending) -> None:
        """An end is durable: tell the nodes."""
        if not ending.seqs:
            return  # those that were to end were never stored
        box = self._boxes.get(ending.client_id)
        if box is not None:
            self._tidy(ending.client_id, box)
        for listener in self._listeners:
            try:
                listener.ended(ending.client_id, ending.reason, ending.seqs, ending.losses)
            except Exception as error:
                listener_failed(error)

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def _failed(self, batch: Batch, error: NotifierError) -> None:
        """Nothing of this commit happened: nobody who waits for it is told otherwise, and nothing is delivered."""
        self._observer.engine_error("commit")
        if isinstance(error, FatalEngineError):
            self._error = error
        for item in reversed(batch.appends):
            self._withdraw(item, batch)
            self._under_way.pop(item.key, None)
        for item in batch.parked:
            item.refusal = error
            self._under_way.pop(item.key, None)
        for item in (*batch.appends, *batch.parked):
            for waiting in (item, *(item.followers or ())):
                tell(waiting.done, waiting.refusal or error)
        for ending in batch.endings:
            self._restore(ending)
            tell(ending.done, error)
        for done in batch.dones:
            tell(done, error)
        for settling in batch.settlings.values():
            for done in settling.dones or ():
                tell(done, error)
            if self._error is None:
                self.acknowledge(settling.client_id, settling.seq, settling.acked_by)
        self._next.steps = [step for step in batch.steps if step[0] not in queries.ORDERS] + self._next.steps
        if isinstance(error, StorageFull):
            self._low_disk = True
        if isinstance(error, FatalEngineError):
            self._stop_for_good(error)

    def _stop_for_good(self, error: NotifierError) -> None:
        batch, self._next = self._next, Batch()
        parked, self._parked = self._parked, {}
        for item in (item for items in parked.values() for item in items if item.refusal is None):
            if item.certain:
                batch.parked.append(item)
        if batch.appends or batch.parked or batch.endings or batch.dones or batch.settlings:
            self._failed(batch, error)
            return
        reads, self._reads = self._reads, []
        for wanted in reads:
            tell(wanted.done, error)
        for listener in self._listeners:
            listener.failed(error)
