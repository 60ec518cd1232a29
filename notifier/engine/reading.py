"""What sessions read of the embedded engine's mailboxes: the state to begin with, and pages.

A page is read in the turn of the writer that comes next, so it waits for no commit but the one under way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from notifier.clock import Clock
from notifier.engine import queries
from notifier.engine.base import EngineOptions, Losses, MailboxState, Notification, Page
from notifier.engine.batch import Batch, Wanted
from notifier.engine.ledger import Ledger
from notifier.engine.mailboxes import WRITTEN
from notifier.engine.observer import Observer, tell
from notifier.errors import EngineUnavailable, NotifierError

READ_BYTES: Final = 4 * 1024 * 1024
"""Bytes of mail that one turn reads, over all mailboxes: what a thousand clients that come back hold in memory."""


class Reading(Ledger):
    """The part of `MailboxEngine` that hands mail out."""

    def __init__(self, clock: Clock, observer: Observer, options: EngineOptions) -> None:
        super().__init__(clock, options)
        self._observer = observer
        self._reads: list[Wanted] = []
        self._sent: dict[int, list[int]] = {}
        self._error: NotifierError | None = EngineUnavailable("The engine has not started.")

    def open(self, client_id: str, done: Callable[[MailboxState | NotifierError], None]) -> None:
        """See Engine.open. Answers at once."""
        if self._error is not None:
            return done(self._error)
        box = self._boxes.get(client_id)
        if box is not None:
            self._expire(client_id, box)
        losses = self._losses.get(client_id)
        return done(MailboxState(
            len(box) if box else 0, losses and Losses(dict(losses.totals), dict(losses.told)),
            self._revoked.get(client_id), 0 if box or self._displaced(client_id) else self._committed,
        ))  # fmt: skip

    def read(
        self, client_id: str, after: int, count: int, size: int, done: Callable[[Page | NotifierError], None]
    ) -> None:
        """See Engine.read."""
        if self._error is not None:
            return done(self._error)
        self._reads.append(Wanted(client_id, after, count, size, done))
        self._kick()
        return None

    def written(self, notification: Notification) -> bool:
        """See Engine.written."""
        if notification.receipt:
            self._sent.setdefault(notification.seq, [self._clock.now_ms(), 0])[1] += 1
        box = self._boxes.get(notification.client_id)
        return box is not None and box.mark(notification.seq, WRITTEN)

    def _take_reads(self, batch: Batch) -> None:
        size, now_ms = READ_BYTES, self._clock.now_ms()
        for at, wanted in enumerate(self._reads):
            if size <= 0:
                self._reads = self._reads[at:]
                return
            box = self._boxes.get(wanted.client_id)
            if box is not None:
                self._expire(wanted.client_id, box, now_ms)
                wanted.seqs = box.after(wanted.after, self._committed, wanted.count, wanted.size)
                size -= sum(map(box.size_of, wanted.seqs))
            batch.reads.append(wanted)
        self._reads = []

    def _hand_over(self, wanted: Wanted, batch: Batch) -> None:
        if batch.read_error is not None:
            self._observer.engine_error("read")
            return tell(wanted.done, batch.read_error)
        box = self._boxes.get(wanted.client_id)
        now_ms = self._clock.now_ms()
        if box is not None:  # what the page leaves out ends now: an ack of what is behind it would settle it otherwise
            self._expire(wanted.client_id, box, now_ms)
        # Pending until the next commit, if that really ends it: a page that passed over it would be the last to do so.
        leaving = self._displaced(wanted.client_id)
        mail = [
            found
            for seq in wanted.seqs
            if (found := batch.found.get(seq)) and found.expires_ms > now_ms
            and ((box is not None and seq in box) or seq in leaving)
        ]  # fmt: skip
        through = wanted.seqs[-1] if wanted.seqs else wanted.after
        more = box is not None and bool(box.after(through, self._committed, 1, 1))
        more = more or any(through < seq <= self._committed for seq in leaving)
        return tell(wanted.done, Page(mail, through if more else max(through, self._committed), more))

    def _set_aside(self, batch: Batch) -> None:
        """Damaged records are kept for an operator. They are never delivered, so they are lost, and that is told."""
        now_ms = self._clock.now_ms()
        damaged = set(batch.damaged)
        for wanted in batch.reads:
            bad = [seq for seq in wanted.seqs if seq in damaged]
            box = self._boxes.get(wanted.client_id)
            if bad and box is not None:
                ending = self._ending(wanted.client_id, box, "purged", bad)
                ending.first = [(queries.SET_ASIDE, (seq, now_ms)) for seq in ending.seqs]
                self._next.endings.append(ending)
        for _ in damaged:
            self._observer.engine_error("damaged_record")
