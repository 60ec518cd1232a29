"""One group commit: what waits for it, and the rows that it becomes. Made on the loop, run on the writer's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from notifier.engine import queries
from notifier.engine.base import AckedBy, Draft, Duplicate, EndReason, Losses, Notification, Outcome, State
from notifier.engine.checksums import checksum, digest
from notifier.engine.mailboxes import RECEIPT, Cell
from notifier.engine.writer import Known, Row, Store
from notifier.errors import IdConflict, NotifierError

Step = tuple[str, Row]
End: TypeAlias = tuple[State, AckedBy | None]
_PENDING: Final[End] = ("pending", None)
RECEIPT_KEPT_MS: Final = 7 * 86_400_000
_SEQ: Final = 1
_DATA: Final = 10
"""Where these stand in a row of queries.TURN."""
_NO_SEQS: Final[list[int]] = []


def conflict() -> IdConflict:
    """The answer to a repeat of an id with other content."""
    return IdConflict(
        "This id was accepted before for this client_id with other content. Use a new id for new content."
    )


class Append:
    """A draft on its way: `seq` is 0 where it was refused already, and only its id has to be looked up."""

    __slots__ = (
        "accepted_ms", "certain", "collapsed", "done", "draft", "dropped", "expires_ms", "followers", "overcount",
        "refusal", "seq",
    )  # fmt: skip

    def __init__(self, draft: Draft, done: Callable[[Outcome], None], accepted_ms: int) -> None:
        self.draft = draft
        self.done = done
        self.accepted_ms = accepted_ms
        self.expires_ms = accepted_ms + draft.ttl * 1000
        self.seq = 0
        self.certain = draft.fresh_id
        """It cannot be a repeat: this server made its id, or the id was looked up."""
        self.refusal: NotifierError | None = None
        self.followers: list[Append] | None = None
        """Repeats of its id that came while it was on its way."""
        self.collapsed: Ending | None = None
        self.dropped: Ending | None = None
        self.overcount = 0
        """How many it was counted to have dropped that stay after all, because it is not stored itself."""

    @property
    def key(self) -> tuple[str, str]:
        return self.draft.client_id, self.draft.id

    def digest(self) -> int:
        """See checksums."""
        draft = self.draft
        return digest(draft.data, self.expires_ms - self.accepted_ms, draft.event, draft.collapse_key)

    def notification(self) -> Notification:
        """As it is, now that it is stored."""
        d = self.draft
        return Notification(
            d.client_id, self.seq, d.id, d.data, self.accepted_ms, self.expires_ms, d.event, d.collapse_key, d.receipt
        )

    def inherit(self, other: Append) -> bool:
        """`other` is not stored after all. If this one has displaced it, it displaces what `other` had displaced."""
        ending = next((e for e in (self.collapsed, self.dropped) if e is not None and other.seq in e.seqs), None)
        if ending is None:
            return False
        if ending is self.collapsed and other.dropped is not None:
            if self.dropped is None:
                self.dropped = Ending(other.draft.client_id, "dropped", [], other.dropped.losses)
            self.dropped.replace(other.seq, other.dropped.cells)
            other.dropped = None
        before = len(ending.cells) + (len(other.dropped.cells) if other.dropped is not None else 0)
        ending.replace(other.seq, [c for e in (other.collapsed, other.dropped) if e is not None for c in e.cells])
        if ending is self.dropped:
            other.overcount = before - len(ending.cells)
        other.collapsed = other.dropped = None
        return True


class Ending:
    """Entries that leave a mailbox unacknowledged. They have left the index; `cells` restores them on failure."""

    __slots__ = ("cells", "client_id", "done", "first", "losses", "reason", "seqs")

    def __init__(
        self,
        client_id: str,
        reason: EndReason,
        cells: list[Cell],
        losses: Losses | None,
        done: Callable[[NotifierError | None], None] | None = None,
    ) -> None:
        self.client_id = client_id
        self.reason: EndReason = reason
        self.cells = cells
        self.seqs = [cell[0] for cell in cells]
        self.losses = losses
        self.done = done
        self.first: list[Step] = []
        """What has to be done with these records while they are there."""

    def replace(self, seq: int, cells: list[Cell]) -> None:
        """The entry `seq` was never stored; these end in its place."""
        self.cells = sorted([cell for cell in self.cells if cell[0] != seq] + cells)
        self.seqs = [cell[0] for cell in self.cells]


class Settling:
    """Acknowledgements of one client that this commit makes final. `seqs` are filled in when the batch is closed."""

    __slots__ = ("acked_by", "client_id", "dones", "receipts", "seq", "seqs")

    def __init__(self, client_id: str, seq: int, acked_by: AckedBy) -> None:
        self.client_id = client_id
        self.seq = seq
        self.acked_by: AckedBy = acked_by
        self.dones: list[Callable[[NotifierError | None], None]] | None = None
        self.seqs = _NO_SEQS
        self.receipts = False
        """Some of them have one."""


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


class Displaced:
    """What was put out of the index of one mailbox: seqs, and bytes altogether."""

    __slots__ = ("seqs", "size")

    def __init__(self) -> None:
        self.seqs: set[int] = set()
        self.size = 0


class Batch:
    """What one turn of the writer does: look ids up, commit, read."""

    def __init__(self) -> None:
        self.appends: list[Append] = []
        self.parked: list[Append] = []
        """Whose ids are looked up before anything is done with them; see Ledger._park."""
        self.settlings: dict[str, Settling] = {}
        self.endings: list[Ending] = []
        self.steps: list[Step] = []
        """What else goes into the transaction, in order."""
        self.dones: list[Callable[[NotifierError | None], None]] = []
        self.displaced: dict[str, Displaced] = {}
        """client_id → what an append or a purge has put out of the index. It is pending until this commit, and stays so
        if that fails, or if the append turns out to be a repeat."""
        self.reads: list[Wanted] = []
        self.asked: list[tuple[str, str]] = []
        """Ids that the publisher chose: they may have been accepted before."""
        self.rows: list[Any] = []
        """The values of queries.TURN, row after row."""
        self._special: list[Append] = []
        """Those with more to do than their row says."""
        self._noted: list[Settling] = []
        """Those that may have a receipt."""
        self.last = 0
        """The highest seq in `rows`."""
        self._ends: dict[int, End] | None = None
        # Filled in by `run`:
        self.known: dict[tuple[str, str], Known] = {}
        self.error: NotifierError | None = None
        self.read_error: NotifierError | None = None
        self.found: dict[int, Notification] = {}
        self.damaged: list[int] = []

    @property
    def urgent(self) -> bool:
        """Whether anybody waits for it; acknowledgements that nobody asked to have confirmed can wait themselves."""
        return bool(
            self.appends
            or self.parked
            or self.endings
            or self.dones
            or any(settling.dones for settling in self.settlings.values())
        )

    def close(self) -> None:
        """Nothing comes in any more. Whatever can be made ready on the loop is, so that the writer's thread does not
        have to wait for Python's lock in the middle of its work."""
        self.asked = [item.key for item in self.appends if not item.certain]
        if self.parked:
            self.asked += [item.key for item in self.parked]
        if not self.asked:
            self.rows = self._rows()

    def run(self, store: Store, now_ms: int, translate: Callable[[Exception], NotifierError]) -> Batch:
        """On the writer's thread. What fails is kept, not raised: reads and commits fail apart."""
        try:
            if self.asked:
                self._drop_left(store.known(self.asked), now_ms)
                if self.known:
                    self._pass_over_repeats()
                self.rows = self._rows()
            steps = list(self._steps(now_ms))
            if self.rows or steps:
                store.commit(self.rows, steps)
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

    def _pass_over_repeats(self) -> None:
        """A repeat changes nothing, though it was placed in the mailbox until it was looked up."""
        repeats: list[Append] = []
        for item in self.appends:
            if item.seq:
                for repeat in repeats:
                    item.inherit(repeat)
                if item.key in self.known:
                    repeats.append(item)

    def repeat(self, known: Known, content: int, now_ms: int) -> Outcome:
        """It has run: the answer to an id that was accepted before. `content`: the digest of what came now."""
        if known.digest != content:
            return conflict()
        state: State = "delivered"
        acked_by: AckedBy | None = None
        if known.pending:  # when this batch began
            state, acked_by = self._ended().get(known.seq, _PENDING)
            if state == "pending" and known.expires_ms <= now_ms:
                state = "expired"
        elif known.state in (None, "transport"):
            acked_by = "transport" if known.state else "client"
        else:
            state = known.state  # type: ignore[assignment]  # the column holds only our own words
        return Duplicate(known.seq, known.expires_ms, state, acked_by)

    def _ended(self) -> dict[int, End]:
        """How what this very commit has ended did so. Made when the first asks: repeats are rare."""
        if self._ends is None:
            endings = [e for item in self._special for e in (item.collapsed, item.dropped) if e is not None]
            self._ends = {seq: (e.reason, None) for e in endings + self.endings for seq in e.seqs}
            for settling in self.settlings.values():
                self._ends.update(dict.fromkeys(settling.seqs, ("delivered", settling.acked_by)))
        return self._ends

    def left_in_place(self) -> set[str]:
        """It has run: whose mail was to end with it, and may not have. Pages that were read in it have passed over
        that mail, and must be read again. (What has expired will end all the same.)"""
        if self.error is not None:
            return set(self.displaced)
        return {client_id for client_id, _ in self.known if client_id in self.displaced} if self.displaced else set()

    def _rows(self) -> list[Any]:
        """What nearly every batch holds, for queries.TURN: new mail, and what was acknowledged. Made at full length,
        because a list that grows is copied, and so is one that the writer would have to fill up."""
        proven: list[int] = []
        settled: list[int] = []
        for settling in self.settlings.values():
            settled.extend(settling.seqs)
            if settling.acked_by == "transport":
                proven.extend(settling.seqs)
            if settling.receipts and settling.seqs:
                self._noted.append(settling)
        items = [item for item in self.appends if item.seq and not (self.known and item.key in self.known)]
        count = len(items) + bool(items) + bool(proven) + bool(settled)
        rows: list[Any] = [None] * (queries.turn_rows(count) * queries.TURN_WIDTH)
        at = 0
        for item in items:
            self._put(rows, at, item)
            at += queries.TURN_WIDTH
        if items:
            self.last = items[-1].seq
            rows[at], rows[at + _SEQ] = queries.LAST, self.last
            at += queries.TURN_WIDTH
        if proven:
            rows[at], rows[at + _DATA] = queries.PROVEN, _json(proven)
            at += queries.TURN_WIDTH
        if settled:
            rows[at], rows[at + _DATA] = queries.SETTLED, _json(settled)
        return rows

    def _put(self, rows: list[Any], at: int, item: Append) -> None:
        """New mail as a row: the columns of queries.TURN, in their order."""
        draft = item.draft
        seq, client_id, id = item.seq, draft.client_id, draft.id
        if draft.receipt or item.collapsed is not None or item.dropped is not None:
            self._special.append(item)
        content = item.digest()
        rows[at] = queries.PUT
        rows[at + _SEQ] = seq
        rows[at + 2] = client_id
        rows[at + 3] = item.expires_ms
        rows[at + 4] = RECEIPT if draft.receipt else 0
        rows[at + 5] = draft.collapse_key
        rows[at + 6] = id
        rows[at + 7] = draft.event
        rows[at + 8] = item.accepted_ms
        rows[at + 9] = checksum(content, seq, client_id, id, item.accepted_ms)
        rows[at + _DATA] = draft.data.decode()
        rows[at + 11] = content

    def _steps(self, now_ms: int) -> Iterator[Step]:
        """What is rarer, as statements of its own."""
        for item in self._special:
            draft = item.draft
            if draft.receipt:
                until = item.expires_ms + RECEIPT_KEPT_MS
                yield queries.RECEIPT, (draft.id, draft.client_id, item.seq, item.accepted_ms, until)
            for ending in (item.collapsed, item.dropped):
                if ending is not None:
                    yield from _ending(ending, now_ms)
        for settling in self._noted:
            yield queries.CLOSE, (_json(settling.seqs), "delivered", now_ms, settling.acked_by)
        for ending in self.endings:
            yield from _ending(ending, now_ms)
        yield from self.steps


def _ending(ending: Ending, now_ms: int) -> Iterator[Step]:
    """These end unacknowledged: remembered for repeats and receipts, then out of the mailbox."""
    if ending.seqs:
        seqs = _json(ending.seqs)
        yield from ending.first
        yield queries.MARK, (seqs, ending.reason)
        yield queries.CLOSE, (seqs, ending.reason, now_ms, None)
        yield queries.DELETE, (seqs,)


def _json(seqs: Sequence[int]) -> str:
    return msgspec.json.encode(seqs).decode()
