"""The books of the embedded engine: which mailbox holds what, what is lost, what is refused. In memory, no I/O.

Changes that must be durable are put into `_next`, the batch of the commit to come; `_kick` asks for that commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from notifier.clock import Clock
from notifier.engine.base import Draft, EndReason, Losses, LossReason
from notifier.engine.batch import Append, Batch, Ending
from notifier.engine.mailboxes import RECEIPT, Cell, Expiries, Mailbox
from notifier.errors import MailboxFull, NotifierError, StorageFull


class Ledger:
    """The state behind `MailboxEngine`."""

    def __init__(
        self,
        clock: Clock,
        *,
        dedup_s: int = 3600,
        mailbox_limit: int = 1000,
        mailbox_bytes: int = 4 * 1024 * 1024,
        drop_oldest: bool = False,
    ) -> None:
        self._clock = clock
        self._dedup_ms = dedup_s * 1000
        self._limit = mailbox_limit
        self._limit_bytes = mailbox_bytes
        self._drop_oldest = drop_oldest
        self._boxes: dict[str, Mailbox] = {}
        self._pending = 0
        self._expiries = Expiries()
        self._losses: dict[str, Losses] = {}
        self._revoked: dict[str, float] = {}
        self._cursors: dict[str, int] = {}
        self._last_seq = 0
        self._committed = 0
        self._low_disk = False
        self._next = Batch()

    def _kick(self) -> None:
        raise NotImplementedError

    def _refusal(self, draft: Draft) -> NotifierError | None:
        if self._low_disk:
            return StorageFull(
                "Less than MIN_FREE_DISK_BYTES are free. Publishing goes on by itself when there is room."
            )
        box = self._boxes.get(draft.client_id)
        if box is None or self._drop_oldest:
            return None
        count, size = box.load() if box.acking else (len(box), box.size)
        if draft.collapse_key is not None and box.keys and draft.collapse_key in box.keys:
            freed = [seq for seq in box.keys[draft.collapse_key] if seq > box.acking]
            count -= len(freed)
            size -= sum(map(box.size_of, freed))
        if count >= self._limit or size + len(draft.data) > self._limit_bytes:
            return MailboxFull(
                f"The mailbox holds {count} unacknowledged notifications ({size} bytes) and takes no more until the "
                "client acknowledges some, some expire, or they are purged."
            )
        return None

    def _place(self, item: Append) -> None:
        """Give it a seq and enter it in the index, where it is invisible until its commit returns."""
        draft = item.draft
        box = self._box(draft.client_id)
        if draft.collapse_key is not None and box.keys and draft.collapse_key in box.keys:
            item.collapsed = box.take([seq for seq in box.keys[draft.collapse_key] if seq > box.acking])
            self._pending -= len(item.collapsed)
        if self._drop_oldest:
            item.dropped = self._make_room(box, len(draft.data))
        item.after = box.last
        item.seq = self._last_seq = max(self._last_seq + 1, self._clock.now_us())
        box.put(item.seq, item.expires_ms, len(draft.data), RECEIPT if draft.receipt else 0, draft.collapse_key)
        self._pending += 1
        self._expiries.add(draft.client_id, item.expires_ms, item.accepted_ms)

    def _make_room(self, box: Mailbox, size: int) -> list[Cell] | None:
        dropped: list[Cell] = []
        while True:
            count, held = box.load()
            if count < self._limit and held + size <= self._limit_bytes:
                self._pending -= len(dropped)
                return dropped or None
            dropped += box.take(box.oldest(1))

    def _withdraw(self, item: Append) -> None:
        """Undo `_place`: this draft was not stored."""
        if not item.seq:
            return
        box = self._box(item.draft.client_id)
        box.take([item.seq])
        for cells in (item.collapsed, item.dropped):
            if cells:
                box.restore(cells)
                self._pending += len(cells)
        self._pending -= 1
        self._tidy(item.draft.client_id, box)

    def _tell_losses(self, client_id: str, told: dict[LossReason, int]) -> None:
        losses = self._losses.get(client_id)
        if losses is None:
            return
        for reason, total in told.items():
            if reason in losses.totals:
                losses.told[reason] = max(losses.told.get(reason, 0), min(total, losses.totals[reason]))
        self._next.rows += self._loss_rows(client_id, losses)
        if not losses.untold():
            del self._losses[client_id]

    def _loss_rows(self, client_id: str, losses: Losses) -> list[tuple[Any, ...]]:
        now_ms = self._clock.now_ms()
        return [("loss", client_id, r, total, losses.told.get(r, 0), now_ms) for r, total in losses.totals.items()]

    def _lose(self, client_id: str, reason: LossReason, count: int) -> Losses:
        losses = self._losses.setdefault(client_id, Losses({}, {}))
        if reason not in losses.totals:
            # A total starts above every earlier one of this client: a session may still hold that.
            losses.totals[reason] = losses.told[reason] = self._last_seq
        losses.totals[reason] += count
        self._next.rows += self._loss_rows(client_id, losses)
        self._kick()
        return Losses(dict(losses.totals), dict(losses.told))

    def _expire(self, client_id: str, box: Mailbox, now_ms: int | None = None) -> None:
        """Take out what is past its time. Told when a commit has made it final; nobody waits for that."""
        seqs = box.expired(self._clock.now_ms() if now_ms is None else now_ms)
        if seqs:
            self._end(client_id, box, "expired", seqs, None)

    def _end(
        self,
        client_id: str,
        box: Mailbox,
        reason: EndReason,
        seqs: Sequence[int],
        done: Callable[[NotifierError | None], None] | None,
    ) -> list[int]:
        ending = Ending(client_id, reason, box.take(seqs), done)
        self._pending -= len(ending.cells)
        self._next.endings.append(ending)
        self._kick()
        return ending.seqs

    def _tidy(self, client_id: str, box: Mailbox) -> None:
        if not len(box):
            self._boxes.pop(client_id, None)

    def _box(self, client_id: str) -> Mailbox:
        box = self._boxes.get(client_id)
        if box is None:
            box = self._boxes[client_id] = Mailbox()
        return box
