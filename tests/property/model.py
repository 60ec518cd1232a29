"""What mailboxes are, in sixty lines: no files, no threads, no wakes, no failures.

Calls change it at once, in their order. `rewind` undoes the latest of them: what a crash may do to those whose success
was not told yet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_NOTHING = object()


class Mail(NamedTuple):
    number: int
    client_id: str
    id: str
    content: tuple[Any, ...]
    key: str | None
    size: int
    expires_ms: int
    until_ms: int
    receipt: bool


class Model:
    def __init__(self, limit: int, limit_bytes: int, drop_oldest: bool, dedup_ms: int) -> None:
        self.limit, self.limit_bytes, self.drop_oldest, self.dedup_ms = limit, limit_bytes, drop_oldest, dedup_ms
        self.pending: dict[str, tuple[Mail, ...]] = {}
        self.known: dict[tuple[str, str], Mail] = {}
        self.state: dict[int, tuple[str, str | None, int]] = {}  # how it ended, by whom, in which operation
        self.lost: dict[tuple[str, str], int] = {}
        self.told: dict[tuple[str, str], int] = {}
        self.seqs: dict[int, int] = {}  # as far as publishers were told
        self.operation = self.sure = self._numbers = 0
        self._log: list[list[tuple[dict[Any, Any], Any, Any]]] = [[]]

    def _set(self, where: dict[Any, Any], key: Any, value: Any) -> None:
        self._log[-1].append((where, key, where.get(key, _NOTHING)))
        where[key] = value

    def begin(self) -> None:
        """A new operation; what it changes can be undone as a whole."""
        self.operation += 1
        self._log.append([])

    def _end(self, mail: tuple[Mail, ...], how: str, by: str | None = None) -> None:
        for one in mail:
            self._set(self.state, one.number, (how, by, self.operation))
            self._set(self.pending, one.client_id, tuple(m for m in self.pending[one.client_id] if m is not one))
            if reason := {"expired": "expired", "purged": "purged", "dropped": "overflow"}.get(how):
                self._set(self.lost, (one.client_id, reason), self.lost.get((one.client_id, reason), 0) + 1)

    def repeat(self, mail: Mail, now_ms: int) -> Any:
        """What is said to a repeat of its id, None if it is new."""
        first = self.known.get((mail.client_id, mail.id))
        if first is None or (first not in self.pending.get(mail.client_id, ()) and first.until_ms <= now_ms):
            return None
        return ("duplicate", first) if first.content == mail.content else ("conflict", first)

    def publish(self, mail: Mail, now_ms: int) -> Any:
        self.begin()
        if (repeat := self.repeat(mail, now_ms)) is not None:
            return repeat
        box = self.pending.get(mail.client_id, ())
        same = tuple(m for m in box if mail.key is not None and m.key == mail.key)
        rest = [m for m in box if m not in same]
        dropped = []
        while len(rest) >= self.limit or sum(m.size for m in rest) + mail.size > self.limit_bytes:
            if not self.drop_oldest:
                return ("full", None)
            dropped.append(rest.pop(0))
        self._set(self.pending, mail.client_id, (*box, mail))
        self._set(self.known, (mail.client_id, mail.id), mail)
        self._end(same, "collapsed")
        self._end(tuple(dropped), "dropped")
        return ("accepted", mail)

    def acknowledge(self, client_id: str, seq: int, by: str) -> None:
        self.begin()
        box = self.pending.get(client_id, ())
        self._end(tuple(m for m in box if self.seqs.get(m.number, 1 << 60) <= seq), "delivered", by)

    def purge(self, client_id: str, seq: int | None) -> int:
        self.begin()
        durable = [m for m in self.pending.get(client_id, ()) if m.number in self.seqs]
        purged = tuple(m for m in durable if seq in (None, self.seqs[m.number]))
        self._end(purged, "purged")
        return len(purged)

    def expire(self, now_ms: int) -> None:
        self.begin()
        for box in list(self.pending.values()):
            self._end(tuple(m for m in box if m.expires_ms <= now_ms), "expired")

    def hear(self, client_id: str, totals: dict[str, int]) -> None:
        """The client was told of its losses up to these totals, and has acknowledged that."""
        for reason, total in totals.items():
            self._set(self.told, (client_id, reason), max(total, self.told.get((client_id, reason), 0)))

    def totals(self, client_id: str) -> dict[str, int]:
        return {reason: n for (c, reason), n in self.lost.items() if c == client_id}

    def untold(self, client_id: str) -> dict[str, int]:
        told = {r: n - self.told.get((client_id, r), 0) for r, n in self.totals(client_id).items()}
        return {r: n for r, n in told.items() if n}

    def settle(self) -> None:
        """All of it is durable."""
        self.sure = self.operation
        self._log = [[]]

    def rewind(self) -> bool:
        """Undo the latest operation, if a crash may do that."""
        if self.operation <= self.sure:
            return False
        for where, key, value in reversed(self._log.pop()):
            if value is _NOTHING:
                del where[key]
            else:
                where[key] = value
        self.operation -= 1
        return True
