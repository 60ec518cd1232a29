"""The books of the embedded engine: which mailbox holds what, what is lost, what is refused. In memory, no I/O.

Changes that must be durable are put into `_next`, the batch of the commit to come; `_kick` asks for that commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from notifier.clock import Clock
from notifier.engine import queries
from notifier.engine.base import LOSSES, EndReason, Engine, EngineOptions, Losses, LossReason
from notifier.engine.batch import Append, Batch, Displaced, Ending
from notifier.engine.mailboxes import RECEIPT, Cell, Expiries, Mailbox, size_of
from notifier.engine.writer import Known
from notifier.errors import MailboxFull, NotifierError, StorageFull

_NONE: Final[set[int]] = set()
UNDECIDED: Final = MailboxFull("Not before it is known which of the mailbox's latest are repeats.")
"""Said to nobody: see `Ledger._park`."""


def _storage_full() -> StorageFull:
    """Told behind MailboxFull, which the disk's space would not mend."""
    return StorageFull("Less than MIN_FREE_DISK_BYTES are free. Publishing goes on by itself when there is room.")


class Ledger(Engine):
    """The state behind `MailboxEngine`."""

    def __init__(self, clock: Clock, options: EngineOptions) -> None:
        self._clock = clock
        self._limit = options.mailbox_limit
        self._limit_bytes = options.mailbox_bytes
        self._drop_oldest = options.drop_oldest
        self._boxes: dict[str, Mailbox] = {}
        self._pending = 0
        self._expiries = Expiries()
        self._emptied: set[str] = set()
        self._losses: dict[str, Losses] = {}
        self._highest_total = 0
        self._revoked: dict[str, float] = {}
        self._cursors: dict[str, int] = {}
        self._last_seq = 0
        self._committed = 0
        self._low_disk = False
        self._next = Batch()
        self._leaving: dict[str, Displaced] = {}
        """`displaced` of the batch that is being committed."""
        self._parked: dict[str, list[Append]] = {}

    def heads(self, client_ids: Sequence[str], done: Callable[[dict[str, int]], None]) -> None:
        """See Engine.heads. Answers at once."""
        boxes, committed = self._boxes, self._committed
        found = {}
        for client_id in client_ids:
            box = boxes.get(client_id)
            if box is not None and (head := box.last if box.last <= committed else max(box.upto(committed), default=0)):
                found[client_id] = head
        done(found)

    def _kick(self) -> None:
        raise NotImplementedError

    def _place(self, item: Append, now_us: int) -> NotifierError | None:
        """Give it a seq and enter it in the index, where it is invisible until its commit returns; or refuse it."""
        draft = item.draft
        client_id, size = draft.client_id, len(draft.data)
        if size > self._limit_bytes:
            return MailboxFull(f"It has {size} bytes, and a whole mailbox may have {self._limit_bytes}.")
        box = self._boxes.get(client_id)
        if self._low_disk and not box:
            return _storage_full()
        if box is None:
            box = self._boxes[client_id] = Mailbox()
        elif box and (refusal := self._make_room(item, box, size)) is not None:
            return refusal
        item.seq = self._last_seq = seq = max(self._last_seq + 1, now_us)
        box.put(seq, item.expires_ms, size, RECEIPT if draft.receipt else 0, draft.collapse_key)
        if not item.certain:
            box.asked = seq
        self._pending += 1
        self._expiries.add(client_id, box, item.expires_ms, item.accepted_ms)
        return None

    def _make_room(self, item: Append, box: Mailbox, size: int) -> NotifierError | None:
        """What it collapses leaves; a full mailbox refuses it, or drops its oldest. Or UNDECIDED."""
        draft = item.draft
        if box.asked > self._committed and self._might_be_full(draft.client_id, box, size):
            return UNDECIDED
        if len(box) >= self._limit or box.size + size > self._limit_bytes:
            self._expire(draft.client_id, box, item.accepted_ms)  # what is past its time keeps nobody out
        same: list[int] = []
        if draft.collapse_key is not None and box.keys and draft.collapse_key in box.keys:
            same = [seq for seq in box.keys[draft.collapse_key] if seq > box.acking]
        count, held = box.load() if box.acking else (len(box), box.size)
        count -= len(same)
        if count >= self._limit or held + size > self._limit_bytes:
            held -= sum(map(box.size_of, same))
            full = count >= self._limit or held + size > self._limit_bytes
            if full and not self._drop_oldest:
                return MailboxFull(
                    f"The mailbox holds {count} unacknowledged notifications ({held} bytes) and takes no more "
                    "until the client acknowledges some, some expire, or they are purged."
                )
            if full and not item.certain and not self._low_disk:
                return UNDECIDED
        if self._low_disk:
            return _storage_full()
        if same:
            item.collapsed = self._ending(draft.client_id, box, "collapsed", same)
        dropped: list[Cell] = []
        while self._drop_oldest:
            count, held = box.load()
            if count < self._limit and held + size <= self._limit_bytes:
                break
            dropped += box.take(box.oldest(1))
        if dropped:
            self._pending -= len(dropped)
            self._displace(draft.client_id, dropped)
            losses = self._lose(draft.client_id, "overflow", len(dropped))
            item.dropped = Ending(draft.client_id, "dropped", dropped, losses)
        return None

    def _might_be_full(self, client_id: str, box: Mailbox, size: int) -> bool:
        """Whether there may be no room, whichever of its latest are repeats, and put back what they have displaced."""
        count, held = len(box), box.size + size
        for displaced in (self._next.displaced.get(client_id), self._leaving.get(client_id)):
            if displaced is not None:
                count += len(displaced.seqs)
                held += displaced.size
        return count >= self._limit or held > self._limit_bytes

    def _park(self, item: Append) -> None:
        """A repeat takes no room, and is known to be one only when the writer has looked its id up. So where there may
        be no room, nothing is refused and nothing dropped before it is known of those that take it, and of the draft
        itself: it waits, and what comes for the same client waits behind it."""
        self._parked.setdefault(item.draft.client_id, []).append(item)
        if not item.certain:
            self._next.parked.append(item)
        self._kick()

    def _unpark(self, looked_up: Sequence[Append], known: dict[tuple[str, str], Known]) -> None:
        """A turn has ended: place, in their order, those whose time has come. (Who has a refusal was told the error of
        that turn.)"""
        for item in looked_up:
            item.certain = True
        parked, self._parked = self._parked, {}
        for client_id, items in parked.items():
            for at, item in enumerate(items):
                if item.refusal is not None or item.key in known:
                    continue
                refusal = self._place(item, item.accepted_ms * 1000) if item.certain else UNDECIDED
                if refusal is UNDECIDED:
                    self._parked[client_id] = items[at:]
                    break
                item.refusal = refusal
                self._next.appends.append(item)

    def _withdraw(self, item: Append, batch: Batch) -> None:
        """Undo `_place`: this draft, of `batch`, was not stored."""
        if not item.seq:
            return
        client_id = item.draft.client_id
        box = self._box(client_id)
        if box.asked == item.seq:
            box.asked = box.before(item.seq)
        taken = box.take([item.seq])
        if not taken:
            self._hand_down(item, batch)
        for ending in (item.collapsed, item.dropped):
            if ending is not None:
                self._restore(ending)
        if item.overcount:
            self._lose(client_id, "overflow", -item.overcount)
        self._pending -= len(taken)
        self._tidy(client_id, box)

    def _hand_down(self, item: Append, batch: Batch) -> None:
        """Something that waits for the next commit has displaced it, or has found it expired; or that was so while it
        waited for its own."""
        if any(later.inherit(item) for later in self._next.appends):
            return
        for ending in (*batch.endings, *self._next.endings):
            if item.seq in ending.seqs:
                ending.replace(item.seq, [])
                self._lose(ending.client_id, LOSSES[ending.reason], -1)
                if ending.losses is not None:
                    ending.losses.totals[LOSSES[ending.reason]] -= 1

    def _restore(self, ending: Ending) -> None:
        """The commit that was to end them has failed."""
        box, now_ms = self._box(ending.client_id), self._clock.now_ms()
        box.restore(ending.cells)
        self._pending += len(ending.cells)
        if ending.cells:  # whoever found them expired does not look again
            soonest = min(cell[1] for cell in ending.cells)
            self._expiries.add(ending.client_id, box, max(soonest, now_ms), now_ms)
        if ending.reason in LOSSES:
            self._lose(ending.client_id, LOSSES[ending.reason], -len(ending.cells))

    def _tell_losses(self, client_id: str, told: dict[LossReason, int]) -> None:
        losses = self._losses.get(client_id)
        if losses is None:
            return
        for reason, total in told.items():
            if reason in losses.totals:
                losses.told[reason] = max(losses.told.get(reason, 0), min(total, losses.totals[reason]))
                self._note_loss(client_id, losses, reason)
        if not losses.untold():
            self._highest_total = max(self._highest_total, *losses.totals.values())
            del self._losses[client_id]

    def _lose(self, client_id: str, reason: LossReason, count: int) -> Losses:
        """Count what is lost; it becomes durable in the commit that loses it."""
        losses = self._losses.setdefault(client_id, Losses({}, {}))
        if reason not in losses.totals:
            # A total starts above every earlier one of this client: a session may still hold that.
            losses.totals[reason] = losses.told[reason] = max(self._last_seq, self._highest_total)
        losses.totals[reason] += count
        if count < 0:  # told though it was not durable, it may be lost once more
            losses.told[reason] = min(losses.told[reason], losses.totals[reason])
        self._note_loss(client_id, losses, reason)
        return Losses(dict(losses.totals), dict(losses.told))

    def _note_loss(self, client_id: str, losses: Losses, reason: LossReason) -> None:
        total, told = losses.totals[reason], losses.told[reason]
        if total > told:
            self._next.steps.append((queries.LOSS, (client_id, reason, total, told, self._clock.now_ms())))
        else:
            self._next.steps.append((queries.FORGET_LOSS, (client_id, reason)))

    def _expire(self, client_id: str, box: Mailbox, now_ms: int | None = None) -> None:
        """Take out what is past its time. Told when a commit has made it final; nobody waits for that."""
        seqs = box.expired(self._clock.now_ms() if now_ms is None else now_ms)
        if seqs:
            self._end(client_id, box, "expired", seqs, None)

    def _look(self, client_id: str, box: Mailbox, now_ms: int) -> None:
        """Its bucket was due at `now_ms`."""
        self._expire(client_id, box, now_ms)
        if box.due <= now_ms:  # else it was given another bucket meanwhile
            box.due = 0
            if box:  # what is being settled stays past its time
                self._expiries.add(client_id, box, max(box.soonest(), now_ms), now_ms)

    def _end(
        self,
        client_id: str,
        box: Mailbox,
        reason: EndReason,
        seqs: Sequence[int],
        done: Callable[[NotifierError | None], None] | None,
    ) -> list[int]:
        ending = self._ending(client_id, box, reason, seqs)
        ending.done = done
        self._next.endings.append(ending)
        self._kick()
        return ending.seqs

    def _ending(self, client_id: str, box: Mailbox, reason: EndReason, seqs: Sequence[int]) -> Ending:
        cells = box.take(seqs)
        self._pending -= len(cells)
        if reason != "expired":  # which ends all the same
            self._displace(client_id, cells)
        losses = self._lose(client_id, LOSSES[reason], len(cells)) if reason in LOSSES and cells else None
        return Ending(client_id, reason, cells, losses)

    def _displace(self, client_id: str, cells: Sequence[Cell]) -> None:
        displaced = self._next.displaced.setdefault(client_id, Displaced())
        displaced.seqs.update(cell[0] for cell in cells)
        displaced.size += sum(map(size_of, cells))

    def _displaced(self, client_id: str) -> set[int]:
        """What has been put out of the index for a commit that will end it: it is pending until then."""
        if not self._next.displaced and not self._leaving:
            return _NONE
        found = [d.seqs for d in (self._next.displaced.get(client_id), self._leaving.get(client_id)) if d is not None]
        return _NONE.union(*found)

    def _tidy(self, client_id: str, box: Mailbox) -> None:
        """An empty mailbox is forgotten, but not at once: the next notification mostly comes soon."""
        if not box:
            self._emptied.add(client_id)

    def _forget_empty(self) -> None:
        emptied, self._emptied = self._emptied, set()
        for client_id in emptied:
            if (box := self._boxes.get(client_id)) is not None and not len(box):
                self._expiries.forget(client_id, box)
                del self._boxes[client_id]

    def _box(self, client_id: str) -> Mailbox:
        box = self._boxes.get(client_id)
        if box is None:
            box = self._boxes[client_id] = Mailbox()
        return box
