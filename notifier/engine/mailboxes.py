"""What an embedded engine keeps in memory of each mailbox that holds mail: 24 bytes per notification.

The bodies stay on disk. With this index the limits are checked, expired mail is found, and a backlog or an
acknowledgement becomes a list of primary keys, so the table needs no second index.

Seqs are unique in the whole engine and commits happen in their order, so `seq <= committed` tells whether an entry is
durable: entries are put in when they are queued and taken out again if their commit fails.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain
from struct import Struct
from typing import Final, TypeAlias

RECEIPT: Final = 1
"""Flag: the publisher asked for a receipt."""
LIVE: Final = 2
"""Flag: a session took it when it was accepted."""
WRITTEN: Final = 4
"""Flag: a carrier has written it at least once."""
_SHIFT: Final = 3
_STRIDE: Final = 3
FEW: Final = 8
"""Entries that are moved one by one, in time that grows with those that stay; more are moved in one go."""
_pack: Final = Struct(f"{_STRIDE}q").pack

Cell: TypeAlias = tuple[int, int, int, str | None]
"""A removed entry: seq, expiry, size and flags, collapse_key."""


def size_of(cell: Cell) -> int:
    """Bytes of a removed entry."""
    return cell[2] >> _SHIFT


class Mailbox:
    """One client's pending mail, oldest first: seq, expiry (unix ms), size (bytes) and flags of each.

    An entry that is alone, as nearly every one of a connected client is, stands in attributes; `_cells` is made for the
    second, and goes with the last.
    """

    __slots__ = ("_cells", "_expires_ms", "_mark", "_seq", "acking", "asked", "due", "keys", "receipts", "size")

    def __init__(self) -> None:
        self._seq = 0
        """Of the entry that is alone, 0 if there is none."""
        self._expires_ms = 0
        self._mark = 0
        self._cells: array[int] | None = None
        self.size = 0
        self.receipts = False
        """Some entry may have asked for a receipt."""
        self.acking = 0
        """Everything up to here is being settled by a commit under way: nothing else may end it."""
        self.asked = 0
        """The highest seq of an entry that may turn out to be a repeat; those that are committed have not."""
        self.due = 0
        """When `Expiries` has it looked at (unix ms), 0 if not at all."""
        self.keys: dict[str, list[int]] | None = None

    def __len__(self) -> int:
        if self._cells is None:
            return 1 if self._seq else 0
        return len(self._cells) // _STRIDE

    @property
    def last(self) -> int:
        """The highest seq, 0 when empty."""
        return self._seq if self._cells is None else self._cells[-_STRIDE]

    @property
    def first(self) -> int:
        """The lowest seq, 0 when empty."""
        return self._seq if self._cells is None else self._cells[0]

    def put(self, seq: int, expires_ms: int, size: int, flags: int, collapse_key: str | None) -> None:
        """Add the newest entry."""
        if self._cells is None and not self._seq:
            self._seq, self._expires_ms, self._mark = seq, expires_ms, size << _SHIFT | flags
        else:
            # Three `append`s would take half as long again.
            self._spread().frombytes(_pack(seq, expires_ms, size << _SHIFT | flags))
        self.size += size
        if flags & RECEIPT:
            self.receipts = True
        if collapse_key is not None:
            if self.keys is None:
                self.keys = {}
            self.keys.setdefault(collapse_key, []).append(seq)

    def _spread(self) -> array[int]:
        """All entries as cells, because there will be more than one."""
        if self._cells is None:
            self._cells = array("q", (self._seq, self._expires_ms, self._mark) if self._seq else ())
            self._seq = 0
        return self._cells

    @staticmethod
    def _find(cells: array[int], seq: int) -> int:
        """Index of the first entry with a seq of at least `seq`."""
        low, high = 0, len(cells) // _STRIDE
        if cells[-_STRIDE] == seq:
            return high - 1  # nearly always the newest is meant
        while low < high:
            middle = (low + high) // 2
            if cells[middle * _STRIDE] < seq:
                low = middle + 1
            else:
                high = middle
        return low

    def _place(self, cells: array[int], seq: int) -> int:
        """Index into the cells of the entry `seq`, -1 if it is not there."""
        at = self._find(cells, seq) * _STRIDE
        return at if at < len(cells) and cells[at] == seq else -1

    def __contains__(self, seq: int) -> bool:
        if self._cells is None:
            return self._seq == seq
        return self._place(self._cells, seq) >= 0

    def before(self, seq: int) -> int:
        """The seq of the entry that precedes `seq`, 0 if there is none."""
        cells = self._cells
        if cells is None:
            return self._seq if self._seq < seq else 0
        at = self._find(cells, seq)
        return cells[(at - 1) * _STRIDE] if at else 0

    def upto(self, seq: int) -> list[int]:
        """All seqs up to `seq`."""
        cells = self._cells
        if cells is None:
            return [self._seq] if 0 < self._seq <= seq else []
        if cells[-_STRIDE] <= seq:
            return cells[::_STRIDE].tolist()
        return cells[: self._find(cells, seq + 1) * _STRIDE : _STRIDE].tolist()

    def after(self, seq: int, through: int, count: int, size: int) -> list[int]:
        """Seqs in (seq, through]: at most `count`, about `size` bytes, at least one if there is any."""
        cells = self._cells
        if cells is None:
            return [self._seq] if seq < self._seq <= through else []
        found: list[int] = []
        at = self._find(cells, seq + 1) * _STRIDE
        while at < len(cells) and cells[at] <= through and len(found) < count and (size > 0 or not found):
            found.append(cells[at])
            size -= cells[at + 2] >> _SHIFT
            at += _STRIDE
        return found

    def mark(self, seq: int, flag: int) -> bool:
        """Set a flag of an entry, if it is still there; whether it was new."""
        cells = self._cells
        if cells is None:
            if self._seq != seq:
                return False
            before = self._mark
            self._mark = before | flag
            return before & flag != flag
        at = self._place(cells, seq)
        if at < 0:
            return False
        before = cells[at + 2]
        cells[at + 2] = before | flag
        return before & flag != flag

    def expired(self, now_ms: int) -> list[int]:
        """Seqs whose time has passed, but not those being settled."""
        cells = self._cells
        if cells is None:
            return [self._seq] if self._seq > self.acking and self._expires_ms <= now_ms else []
        return [
            cells[at] for at in range(0, len(cells), _STRIDE) if cells[at + 1] <= now_ms and cells[at] > self.acking
        ]

    def soonest(self) -> int:
        """When the first of these (one or more) entries expires, unix ms."""
        return self._expires_ms if self._cells is None else min(self._cells[1::_STRIDE])

    def oldest(self, count: int) -> list[int]:
        """The oldest entries that nothing is settling yet: at most `count`, which is 1 or more."""
        cells = self._cells
        if cells is None:
            return [self._seq] if self._seq > self.acking else []
        start = self._find(cells, self.acking + 1)
        return cells[start * _STRIDE : (start + count) * _STRIDE : _STRIDE].tolist()

    def load(self) -> tuple[int, int]:
        """How many entries, and how many bytes, count against the limits: what is being settled does not."""
        cells = self._cells
        if cells is None:
            return (1, self.size) if self._seq > self.acking else (0, 0)
        done = self._find(cells, self.acking + 1) if self.acking else 0
        if not done:
            return len(self), self.size
        return len(self) - done, self.size - sum(m >> _SHIFT for m in cells[2 : done * _STRIDE : _STRIDE])

    def size_of(self, seq: int) -> int:
        """Bytes of this (present) entry."""
        if self._cells is None:
            return self._mark >> _SHIFT
        return self._cells[self._place(self._cells, seq) + 2] >> _SHIFT

    def settle(self, seqs: list[int]) -> tuple[list[int], list[int]]:
        """Remove these entries where present. Returns those, and which of them a session took when it was accepted."""
        if self._cells is None and len(seqs) == 1 and seqs[0] == self._seq and not self.keys:  # nearly always
            self._seq = self.size = 0
            return seqs, seqs if self._mark & LIVE else []
        cells = self.take(seqs)
        return [cell[0] for cell in cells], [cell[0] for cell in cells if cell[2] & LIVE]

    def take(self, seqs: Sequence[int]) -> list[Cell]:
        """Remove these entries where present; returns them for `restore`."""
        cells, count = self._cells, len(seqs)
        if cells is None:
            return self._take_alone(seqs, count)
        if not self.keys and count and cells[: count * _STRIDE : _STRIDE].tolist() == seqs:
            taken = self._take_front(cells, count)  # a cumulative acknowledgement, nearly always
        elif count > FEW:
            taken = self._take_many(cells, sorted(seqs))
        else:
            taken = []
            for seq in seqs:
                at = self._place(cells, seq) if cells else -1
                if at >= 0:
                    taken.append((seq, cells[at + 1], cells[at + 2], self._forget_key(seq)))
                    self.size -= cells[at + 2] >> _SHIFT
                    del cells[at : at + _STRIDE]
        if not self._cells:
            self._cells = None
        return taken

    def _take_alone(self, seqs: Sequence[int], count: int) -> list[Cell]:
        seq = self._seq
        if not seq or not (seqs[0] == seq if count == 1 else seq in seqs):
            return []
        self._seq = self.size = 0
        return [(seq, self._expires_ms, self._mark, self._forget_key(seq))]

    def _take_front(self, cells: array[int], count: int) -> list[Cell]:
        taken: list[Cell] = [(cells[i], cells[i + 1], cells[i + 2], None) for i in range(0, count * _STRIDE, _STRIDE)]
        self.size -= sum(mark >> _SHIFT for _, _, mark, _ in taken)
        del cells[: count * _STRIDE]
        return taken

    def _take_many(self, cells: array[int], seqs: list[int]) -> list[Cell]:
        """`seqs` in increasing order. What stays is copied once."""
        names = self._forget_keys(seqs)
        taken: list[Cell] = []
        kept: array[int] = array("q")
        done = 0
        for seq in seqs:
            at = done if done < len(cells) and cells[done] == seq else self._place(cells, seq)
            if at < done:
                continue
            taken.append((seq, cells[at + 1], cells[at + 2], names.get(seq)))
            self.size -= cells[at + 2] >> _SHIFT
            if at > done:
                kept += cells[done:at]
            done = at + _STRIDE
        self._cells = kept + cells[done:]
        return taken

    def _forget_key(self, seq: int) -> str | None:
        if not self.keys:
            return None
        for key, held in self.keys.items():
            if seq in held:
                held.remove(seq)
                if not held:
                    del self.keys[key]
                return key
        return None

    def _forget_keys(self, seqs: list[int]) -> dict[int, str]:
        """seq → collapse_key, of those that have one."""
        if not self.keys:
            return {}
        gone = set(seqs)
        names: dict[int, str] = {}
        keys: dict[str, list[int]] = {}
        for key, held in self.keys.items():
            left = [seq for seq in held if seq not in gone]
            names.update((seq, key) for seq in held if seq in gone)
            if left:
                keys[key] = left
        self.keys = keys
        return names

    def restore(self, taken: Sequence[Cell]) -> None:
        """Put entries back that a failed commit did not remove after all."""
        if len(taken) > FEW:
            self._put_many(taken)
        else:
            for seq, expires_ms, mark, _ in taken:
                cells = self._spread()
                at = self._find(cells, seq) * _STRIDE if cells else 0
                cells[at:at] = array("q", (seq, expires_ms, mark))
        for seq, _, mark, key in taken:
            self.size += mark >> _SHIFT
            if mark & RECEIPT:
                self.receipts = True
            if key is not None:
                self.keys = self.keys or {}
                held = self.keys.setdefault(key, [])
                held.append(seq)
                held.sort()

    def _put_many(self, taken: Sequence[Cell]) -> None:
        rows = [(seq, expires_ms, mark) for seq, expires_ms, mark, _ in taken]
        if self:
            cells = self._spread()
            rows += zip(cells[::_STRIDE], cells[1::_STRIDE], cells[2::_STRIDE], strict=True)
        self._seq = 0
        self._cells = array("q", chain.from_iterable(sorted(rows)))


class Expiries:
    """Which mailboxes to look at when: coarse buckets, so that a million notifications cost no million timers.

    A mailbox stands in one bucket, `Mailbox.due`, until that is due or the mailbox is forgotten: what this holds is
    bounded by the mailboxes that there are, not by what has passed through them.
    """

    FINE_MS = 1_000
    COARSE_MS = 60_000

    def __init__(self) -> None:
        self._buckets: dict[int, set[str]] = {}
        self._last = 0
        self._last_bucket: set[str] = set()
        """The bucket that was added to last, in which the next will nearly always be, too."""

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, client_id: str, box: Mailbox, expires_ms: int, now_ms: int) -> None:
        """Look at this mailbox soon after `expires_ms`: within a second if that is near, else within a minute. Not if
        it is looked at before that anyway: whoever does it adds it again, for what is left."""
        if 0 < box.due <= expires_ms:
            return
        grain = self.FINE_MS if expires_ms - now_ms <= 120_000 else self.COARSE_MS
        due = (expires_ms // grain + 1) * grain
        if box.due:
            if box.due <= due:
                return
            self.forget(client_id, box)
        if due != self._last:
            self._last, self._last_bucket = due, self._buckets.setdefault(due, set())
        self._last_bucket.add(client_id)
        box.due = due

    def forget(self, client_id: str, box: Mailbox) -> None:
        """There is nothing to look at any more."""
        bucket = self._buckets.get(box.due)
        if bucket is not None:
            bucket.discard(client_id)
            if not bucket and box.due != self._last:
                del self._buckets[box.due]
        box.due = 0

    def due(self, now_ms: int) -> list[str]:
        """The mailboxes whose time has come, each told once."""
        found: set[str] = set()
        for due in [due for due in self._buckets if due <= now_ms]:
            found |= self._buckets.pop(due)
            if due == self._last:
                self._last = 0
        return list(found)
