"""What an embedded engine keeps in memory of each mailbox that holds mail: 24 bytes per notification.

The bodies stay on disk. With this index the limits are checked, expired mail is found, and a backlog or an
acknowledgement becomes a list of primary keys, so the table needs no second index.

Seqs are unique in the whole engine and commits happen in their order, so `seq <= committed` tells whether an entry is
durable: entries are put in when they are queued and taken out again if their commit fails.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

RECEIPT: Final = 1
"""Flag: the publisher asked for a receipt."""
LIVE: Final = 2
"""Flag: a session took it when it was accepted."""
WRITTEN: Final = 4
"""Flag: a carrier has written it at least once."""
_SHIFT: Final = 3
_STRIDE: Final = 3

Cell: TypeAlias = tuple[int, int, int, str | None]
"""A removed entry: seq, expiry, size and flags, collapse_key."""


class Mailbox:
    """One client's pending mail, oldest first: seq, expiry (unix ms), size (bytes) and flags of each."""

    __slots__ = ("_cells", "acking", "keys", "receipts", "size")

    def __init__(self) -> None:
        self._cells = array("q")
        self.size = 0
        self.receipts = False
        """Some entry may have asked for a receipt."""
        self.acking = 0
        """Everything up to here is being settled by a commit under way: nothing else may end it."""
        self.keys: dict[str, list[int]] | None = None

    def __len__(self) -> int:
        return len(self._cells) // _STRIDE

    @property
    def last(self) -> int:
        """The highest seq, 0 when empty."""
        return self._cells[-_STRIDE] if self._cells else 0

    @property
    def first(self) -> int:
        """The lowest seq, 0 when empty."""
        return self._cells[0] if self._cells else 0

    def put(self, seq: int, expires_ms: int, size: int, flags: int, collapse_key: str | None) -> None:
        """Add the newest entry."""
        self._cells.extend((seq, expires_ms, size << _SHIFT | flags))
        self.size += size
        if flags & RECEIPT:
            self.receipts = True
        if collapse_key is not None:
            if self.keys is None:
                self.keys = {}
            self.keys.setdefault(collapse_key, []).append(seq)

    def _find(self, seq: int) -> int:
        """Index of the first entry with a seq of at least `seq`."""
        cells = self._cells
        low, high = 0, len(cells) // _STRIDE
        if high and cells[-_STRIDE] == seq:
            return high - 1  # nearly always the newest is meant
        while low < high:
            middle = (low + high) // 2
            if cells[middle * _STRIDE] < seq:
                low = middle + 1
            else:
                high = middle
        return low

    def __contains__(self, seq: int) -> bool:
        at = self._find(seq) * _STRIDE
        return at < len(self._cells) and self._cells[at] == seq

    def before(self, seq: int) -> int:
        """The seq of the entry that precedes `seq`, 0 if there is none."""
        at = self._find(seq)
        return self._cells[(at - 1) * _STRIDE] if at else 0

    def upto(self, seq: int) -> list[int]:
        """All seqs up to `seq`."""
        cells = self._cells
        if cells and cells[-_STRIDE] <= seq:
            return [cells[0]] if len(cells) == _STRIDE else cells[::_STRIDE].tolist()
        return self._cells[: self._find(seq + 1) * _STRIDE : _STRIDE].tolist()

    def after(self, seq: int, through: int, count: int, size: int) -> list[int]:
        """Seqs in (seq, through]: at most `count`, about `size` bytes, at least one if there is any."""
        cells = self._cells
        found: list[int] = []
        at = self._find(seq + 1) * _STRIDE
        while at < len(cells) and cells[at] <= through and len(found) < count and (size > 0 or not found):
            found.append(cells[at])
            size -= cells[at + 2] >> _SHIFT
            at += _STRIDE
        return found

    def flagged(self, seqs: Iterable[int], flag: int) -> list[int]:
        """Those of these (present) entries that have the flag."""
        return [seq for seq in seqs if self._cells[self._find(seq) * _STRIDE + 2] & flag]

    def mark(self, seq: int, flag: int) -> bool:
        """Set a flag of an entry, if it is still there; whether it was new."""
        at = self._find(seq) * _STRIDE
        if at >= len(self._cells) or self._cells[at] != seq:
            return False
        before = self._cells[at + 2]
        self._cells[at + 2] = before | flag
        return before & flag != flag

    def expired(self, now_ms: int) -> list[int]:
        """Seqs whose time has passed, but not those being settled."""
        cells = self._cells
        return [
            cells[at] for at in range(0, len(cells), _STRIDE) if cells[at + 1] <= now_ms and cells[at] > self.acking
        ]

    def oldest(self, count: int) -> list[int]:
        """The oldest entries that nothing is settling yet."""
        start = self._find(self.acking + 1)
        return self._cells[start * _STRIDE : (start + count) * _STRIDE : _STRIDE].tolist()

    def load(self) -> tuple[int, int]:
        """How many entries, and how many bytes, count against the limits: what is being settled does not."""
        done = self._find(self.acking + 1) if self.acking else 0
        if not done:
            return len(self), self.size
        return len(self) - done, self.size - sum(m >> _SHIFT for m in self._cells[2 : done * _STRIDE : _STRIDE])

    def size_of(self, seq: int) -> int:
        """Bytes of this (present) entry."""
        return self._cells[self._find(seq) * _STRIDE + 2] >> _SHIFT

    def take(self, seqs: Sequence[int]) -> list[Cell]:
        """Remove these entries where present; returns them for `restore`."""
        cells, count = self._cells, len(seqs)
        if not self.keys and count and self._starts_with(seqs, count):
            return self._take_front(count)  # a cumulative acknowledgement, nearly always
        taken: list[Cell] = []
        for seq in seqs:
            at = self._find(seq) * _STRIDE
            if at < len(cells) and cells[at] == seq:
                taken.append((seq, cells[at + 1], cells[at + 2], self._forget_key(seq) if self.keys else None))
                self.size -= cells[at + 2] >> _SHIFT
                del cells[at : at + _STRIDE]
        return taken

    def _starts_with(self, seqs: Sequence[int], count: int) -> bool:
        cells = self._cells
        if count == 1:
            return bool(cells) and cells[0] == seqs[0]
        return cells[: count * _STRIDE : _STRIDE].tolist() == seqs

    def _take_front(self, count: int) -> list[Cell]:
        cells = self._cells
        if count == 1:
            taken: list[Cell] = [(cells[0], cells[1], cells[2], None)]
            self.size -= cells[2] >> _SHIFT
        else:
            taken = [(cells[i], cells[i + 1], cells[i + 2], None) for i in range(0, count * _STRIDE, _STRIDE)]
            self.size -= sum(mark >> _SHIFT for _, _, mark, _ in taken)
        del cells[: count * _STRIDE]
        return taken

    def _forget_key(self, seq: int) -> str | None:
        assert self.keys is not None
        for key, held in self.keys.items():
            if seq in held:
                held.remove(seq)
                if not held:
                    del self.keys[key]
                return key
        return None

    def restore(self, taken: Iterable[Cell]) -> None:
        """Put entries back that a failed commit did not remove after all."""
        for seq, expires_ms, mark, key in taken:
            at = self._find(seq) * _STRIDE
            self._cells[at:at] = array("q", (seq, expires_ms, mark))
            self.size += mark >> _SHIFT
            if mark & RECEIPT:
                self.receipts = True
            if key is not None:
                self.keys = self.keys or {}
                self.keys.setdefault(key, []).append(seq)


class Expiries:
    """Which mailboxes to look at when: coarse buckets, so that a million notifications cost no million timers."""

    FINE_MS = 1_000
    COARSE_MS = 60_000

    def __init__(self) -> None:
        self._buckets: dict[int, set[str]] = {}

    def add(self, client_id: str, expires_ms: int, now_ms: int) -> None:
        """Look at this mailbox soon after `expires_ms`: within a second if that is near, else within a minute."""
        grain = self.FINE_MS if expires_ms - now_ms <= 120_000 else self.COARSE_MS
        due = (expires_ms // grain + 1) * grain
        if due in self._buckets:
            self._buckets[due].add(client_id)
        else:
            self._buckets[due] = {client_id}

    def due(self, now_ms: int) -> list[str]:
        """The mailboxes whose time has come, each told once."""
        found: set[str] = set()
        for due in [due for due in self._buckets if due <= now_ms]:
            found |= self._buckets.pop(due)
        return list(found)
