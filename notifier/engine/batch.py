"""One group commit: what waits for it, and the rows that it becomes. Made on the loop, run on the writer's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from notifier.engine.base import AckedBy, Draft, EndReason, Notification, Outcome
from notifier.engine.mailboxes import RECEIPT, Cell
from notifier.engine.writer import Known, Store, checksum
from notifier.errors import NotifierError

RECEIPT_KEPT_MS = 7 * 86_400_000


def digest(draft: Draft) -> int:
    """Fingerprint of the content that makes a repeat the same: data, event, collapse_key, ttl."""
    text = b"%b\0%b\0%d\0%b" % (
        (draft.event or "").encode(),
        (draft.collapse_key or "").encode(),
        draft.ttl,
        draft.data,
    )
    return int.from_bytes(blake2b(text, digest_size=8).digest()) >> 1  # SQLite's integers are signed


class Append:
    """A draft on its way: `seq` is 0 where it was refused already, and only its id has to be looked up."""

    __slots__ = (
        "accepted_ms", "after", "collapsed", "digest", "done", "draft", "dropped", "expires_ms", "followers", "refusal",
        "seq",
    )  # fmt: skip

    def __init__(self, draft: Draft, done: Callable[[Outcome], None], accepted_ms: int) -> None:
        self.draft = draft
        self.done = done
        self.accepted_ms = accepted_ms
        self.expires_ms = accepted_ms + draft.ttl * 1000
        self.digest = digest(draft)
        self.seq = 0
        self.after = 0
        self.refusal: NotifierError | None = None
        self.followers: list[Append] | None = None
        self.collapsed: list[Cell] | None = None
        self.dropped: list[Cell] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.draft.client_id, self.draft.id

    def notification(self) -> Notification:
        d = self.draft
        return Notification(
            d.client_id, self.seq, d.id, d.data, self.accepted_ms, self.expires_ms, d.event, d.collapse_key, d.receipt
        )


class Ending:
    """Entries that leave a mailbox unacknowledged. They have left the index; `cells` restores them on failure."""

    __slots__ = ("cells", "client_id", "done", "reason", "seqs")

    def __init__(
        self, client_id: str, reason: EndReason, cells: list[Cell], done: Callable[[NotifierError | None], None] | None
    ) -> None:
        self.client_id = client_id
        self.reason: EndReason = reason
        self.cells = cells
        self.seqs = [cell[0] for cell in cells]
        self.done = done


class Settling:
    """Acknowledgements of one client that this commit makes final. `seqs` are filled in when the batch is closed."""

    __slots__ = ("acked_by", "client_id", "dones", "receipts", "seq", "seqs")

    def __init__(self, client_id: str, seq: int, acked_by: AckedBy) -> None:
        self.client_id = client_id
        self.seq = seq
        self.acked_by: AckedBy = acked_by
        self.dones: list[Callable[[NotifierError | None], None]] | None = None
        self.seqs: Sequence[int] = ()
        self.receipts: Sequence[int] = ()


class Wanted:
    """A read: the seqs that were pending when the batch was closed."""

    __slots__ = ("after", "client_id", "count", "done", "seqs", "size")

    def __init__(self, client_id: str, after: int, count: int, size: int, done: Callable[[Any], None]) -> None:
        self.client_id = client_id
        self.after = after
        self.count = count
        self.size = size
        self.done = done
        self.seqs: list[int] = []


class Batch:
    """What one turn of the writer does: look ids up, commit, read."""

    def __init__(self) -> None:
        self.appends: list[Append] = []
        self.settlings: dict[str, Settling] = {}
        self.endings: list[Ending] = []
        self.rows: list[tuple[Any, ...]] = []
        self.dones: list[Callable[[NotifierError | None], None]] = []
        self.reads: list[Wanted] = []
        # Filled in by `run`:
        self.known: dict[tuple[str, str], Known] = {}
        self.error: NotifierError | None = None
        self.read_error: NotifierError | None = None
        self.found: dict[int, Notification] = {}
        self.damaged: list[int] = []

    def run(self, store: Store, now_ms: int, dedup_ms: int, translate: Callable[[Exception], NotifierError]) -> Batch:
        """On the writer's thread. What fails is kept, not raised: reads and commits fail apart."""
        try:
            asked = [item.key for item in self.appends if not item.draft.fresh_id]
            if asked:
                self._drop_left(store.known(asked), now_ms)
            rows = self._rows(now_ms, dedup_ms)
            if rows:
                store.commit(rows)
        except Exception as error:
            self.error = translate(error)
        try:
            if self.reads:
                self.found, self.damaged = store.read([seq for wanted in self.reads for seq in wanted.seqs])
        except Exception as error:
            self.read_error = translate(error)
        return self

    def _drop_left(self, known: dict[tuple[str, str], Known], now_ms: int) -> None:
        """Keep only the ids that still count: within their window, or pending."""
        self.known = {key: k for key, k in known.items() if k.pending or k.until_ms > now_ms}

    def _rows(self, now_ms: int, dedup_ms: int) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        last = 0
        for item in self.appends:
            draft = item.draft
            if not item.seq or (self.known and item.key in self.known):
                continue
            if item.collapsed:
                rows += ending_rows("collapsed", [cell[0] for cell in item.collapsed], now_ms)
            if item.dropped:
                rows += ending_rows("dropped", [cell[0] for cell in item.dropped], now_ms)
            last = item.seq
            crc = checksum(
                item.seq, draft.client_id, draft.id, draft.event, draft.collapse_key, item.accepted_ms, item.expires_ms,
                draft.data,
            )  # fmt: skip
            rows.append((
                "put", item.seq, draft.client_id, item.expires_ms, RECEIPT if draft.receipt else 0, len(draft.data),
                draft.collapse_key, draft.id, draft.event, item.accepted_ms, crc, draft.data.decode(), item.digest,
                item.accepted_ms + dedup_ms,
            ))  # fmt: skip
            if draft.receipt:
                until = item.expires_ms + RECEIPT_KEPT_MS
                rows.append(("receipt", draft.id, draft.client_id, item.seq, item.accepted_ms, until))
        if last:
            rows.append(("last_seq", last))
        settled: list[int] = []
        for settling in self.settlings.values():
            if settling.seqs:
                if settling.acked_by == "transport":
                    rows.append(("mark", settling.seqs, "transport"))
                if settling.receipts:
                    rows.append(("close", settling.receipts, "delivered", now_ms, settling.acked_by))
                settled += settling.seqs
        if settled:
            rows.append(("settle", settled))
        for ending in self.endings:
            rows += ending_rows(ending.reason, ending.seqs, now_ms)
        return rows + self.rows


def ending_rows(reason: EndReason, seqs: Sequence[int], now_ms: int) -> list[tuple[Any, ...]]:
    """Rows that end these unacknowledged: remembered for repeats and receipts, then out of the mailbox."""
    return [("mark", seqs, reason), ("close", seqs, reason, now_ms, None), ("settle", seqs)] if seqs else []
