"""The embedded engine: SQLite in one file, for one process.

This file is its life, its upkeep and what operators ask; mail.py is what every notification passes, writer.py the
thread that owns the connection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, Final

import msgspec
import structlog

from notifier.clock import Clock
from notifier.engine import database, queries
from notifier.engine.base import EngineOptions, Handed, Listener, Losses, LossReason, Overview, Receipt, Stats, Target
from notifier.engine.mail import MailboxEngine
from notifier.engine.observer import Observer, tell
from notifier.engine.writer import SWEEP_START, DiskFailedError, FatalEngineError, Place, Writer
from notifier.errors import ConfigurationError, EngineUnavailable, NotifierError, StorageFull

_log = structlog.get_logger("notifier.engine")

LOSS_KEPT_MS: Final = 30 * 86_400_000
"""A client that does not come back for this long is not told any more what it lost."""
TICK_S: Final = 1.0
SLICE: Final = 500
"""Mailboxes, or rows of SQLite, that upkeep looks at before it lets others go on."""
CURSORS: Final = 64
"""Rows of cursors that one commit takes along."""
PAUSE_S: Final = 0.002
"""Between two slices of upkeep, so that notifications come between."""


class SQLiteEngine(MailboxEngine):
    """Implements `engine.base.Engine`."""

    def __init__(self, path: str, clock: Clock, observer: Observer, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        super().__init__(path, clock, observer, options)
        self._path = path
        self._memory = path == ":memory:"
        self._min_free = options.min_free_bytes
        self._lock = database.Lock(path)
        self._sweep_from: Place = SWEEP_START
        self._sweep_pause = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """See Engine.start. Another holder of the file is waited for, 10 s at the most."""
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(self._loop)
        try:
            await self._on_thread(self._open)
        except NotifierError as error:
            await self._on_thread(lambda: self._store.close(checkpoint=False))  # whatever it is, it stays as it is
            self._writer.stop()
            self._lock.release()
            raise self._cannot_start(error) from error
        self._error = None
        if self._store.log_missing:
            _log.critical(
                "log_missing",
                detail=f"{self._path}-wal is gone, or {self._path} is a copy of a file that was in use. What was "
                "accepted last may be missing. If the log is somewhere else: stop, put it beside the file, start.",
            )
        self._tasks = [self._loop.create_task(self._tick()), self._loop.create_task(self._tidy_up())]

    def _cannot_start(self, error: NotifierError) -> NotifierError:
        """In the words of a start: what it can be mended by. (The second sentence is for publishers.)"""
        what = str(error.detail).partition(". ")[0]
        match error:
            case StorageFull():
                return EngineUnavailable(f"The disk of {self._path} is full. Free some space, then start again.")
            case DiskFailedError():
                return EngineUnavailable(
                    f"{self._path} cannot be read or written. {what}. "
                    "Look at the disk and the file's permissions, then start again."
                )
            case FatalEngineError():
                return ConfigurationError(
                    f"{self._path} cannot be used: {what}. Nothing was changed. Restore it from a backup."
                )
        return error

    def _open(self) -> None:
        fresh = True
        if not self._memory:
            fresh = database.inspect(self._path)
            self._lock.take()
            fresh = database.inspect(self._path)  # the last holder may have made it meanwhile
        self._store.connect(fresh, database.APPLICATION_ID, database.VERSION)
        mail, self._last_seq, losses, revoked = self._store.load()
        self._committed = self._last_seq
        now_ms = self._clock.now_ms()
        for seq, client_id, expires_ms, size, flags, key in mail:
            box = self._box(client_id)
            box.put(seq, expires_ms, size, flags, key)
            self._expiries.add(client_id, box, expires_ms, now_ms)
            self._pending += 1
        self._store.claim()  # only now that all of it could be read
        self._store.clear_log()
        self._revoked = dict(revoked)
        for client_id, reason, total, told in losses:
            entry = self._losses.setdefault(client_id, Losses({}, {}))
            entry.totals[reason], entry.told[reason] = total, told
        self._look_at_disk()

    async def stop(self) -> None:
        """See Engine.stop."""
        for task in self._tasks:
            task.cancel()
        self._note_cursors(list(self._cursors))
        left = True
        while left and self._error is None:
            left = bool(self._parked)  # goes with the next turn
            await self._flushed()
        failed = isinstance(self._error, FatalEngineError)
        self._error = EngineUnavailable("The engine has stopped.")
        await self._on_thread(lambda: self._store.close(checkpoint=not failed))
        self._writer.stop()
        self._lock.release()

    async def _flushed(self) -> None:
        """One more turn: what was queued before it has been committed with it."""
        flushed = self._loop.create_future()
        self._next.dones.append(lambda _: None if flushed.done() else flushed.set_result(None))
        self._kick()
        await flushed

    async def _on_thread(self, job: Callable[[], Any]) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._writer.submit(job, lambda result: None if future.done() else future.set_result(result))
        result = await future
        if isinstance(result, NotifierError):
            raise result
        return result

    def attach(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def detach(self, listener: Listener) -> None:
        self._listeners.remove(listener)

    # -- upkeep -------------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while self._error is None:
            await asyncio.sleep(TICK_S)
            now_ms = self._clock.now_ms()
            for at, client_id in enumerate(self._expiries.due(now_ms)):
                box = self._boxes.get(client_id)
                if box is not None:
                    self._look(client_id, box, now_ms)
                if at % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
            self._forget_empty()
            try:
                await self._on_thread(self._look_at_disk)
            except NotifierError:
                self._observer.engine_error("disk")

    async def _tidy_up(self) -> None:
        """What may take its time, in slices: notifications wait for the same thread."""
        while self._error is None:
            await asyncio.sleep(TICK_S)
            # Clients that stand together stand in the same pages, hence sorted.
            for _ in range(0, len(self._cursors), SLICE):
                client_ids = sorted(islice(self._cursors, SLICE))
                for at in range(0, len(client_ids), CURSORS):
                    self._note_cursors(client_ids[at : at + CURSORS])
                    await asyncio.sleep(PAUSE_S)
            await self._sweep()

    def _note_cursors(self, client_ids: list[str]) -> None:
        """Write cursors down, at most once a second per client: mail tells what is pending, they only inform."""
        pairs = [(client_id, self._cursors.pop(client_id)) for client_id in client_ids if client_id in self._cursors]
        if pairs:
            text = msgspec.json.encode(pairs).decode()
            self._next.steps.append((queries.CURSORS, (text, self._clock.now_ms())))
            self._kick()

    def _look_at_disk(self) -> None:
        if self._memory:
            self._low_disk = False
            return
        disk = os.statvfs(os.path.dirname(os.path.abspath(self._path)))
        self._low_disk = disk.f_bavail * disk.f_frsize < max(self._min_free, 1)

    async def _sweep(self) -> None:
        """Forget ids and receipts whose window has passed, some thousand a second, round and round."""
        if self._sweep_pause:
            self._sweep_pause -= 1
            return
        now_ms = self._clock.now_ms()
        for _ in range(0, 2_000 + 4 * self._swept_appends(), SLICE):
            if self._error is not None:
                return
            try:
                self._sweep_from = await self._on_thread(partial(self._store.sweep, self._sweep_from, SLICE, now_ms))
                if self._sweep_from == SWEEP_START:
                    job = partial(self._store.sweep_losses, now_ms - LOSS_KEPT_MS)
                    self._forget_losses(await self._on_thread(job))
            except NotifierError:
                self._observer.engine_error("sweep")
                return
            if self._sweep_from == SWEEP_START:
                self._sweep_pause = 10
                return
            await asyncio.sleep(PAUSE_S)

    def _forget_losses(self, rows: list[tuple[str, LossReason, int]]) -> None:
        for client_id, reason, total in rows:
            losses = self._losses.get(client_id)
            if losses is not None and losses.totals.get(reason) == total:  # else there are new ones, on their way
                self._tell_losses(client_id, {reason: total})

    def _swept_appends(self) -> int:
        count, self._appends_since_sweep = self._appends_since_sweep, 0
        return count

    # -- what operators ask -------------------------------------------------------------------------------------------

    def transient(self, target: Target, frame: bytes) -> Handed:
        """See Engine.transient."""
        handed = [listener.transient(target, frame) for listener in self._listeners]
        return Handed(sum(h.connections for h in handed), sum(h.taken for h in handed))

    def command(self, client_id: str, action: str) -> int:
        """See Engine.command."""
        return sum(listener.command(client_id, action) for listener in self._listeners)

    def stats(self) -> Stats:
        """See Engine.stats. The oldest is found by looking at every mailbox's first entry."""
        first = min((box.first for box in self._boxes.values() if len(box)), default=0)
        return Stats(self._pending, first // 1000 if first else None, self._error is None)

    def receipts(self, id: str, client_id: str | None, done: Callable[[list[Receipt] | NotifierError], None]) -> None:
        """See Engine.receipts."""
        self._ask_receipts(id, client_id, done, False)

    def _ask_receipts(
        self, id: str, client_id: str | None, done: Callable[[list[Receipt] | NotifierError], None], again: bool
    ) -> None:
        if self._error is not None:
            return done(self._error)
        job = partial(self._store.receipts, id, client_id, self._clock.now_ms())
        self._writer.submit(job, partial(self._tell_receipts, id, client_id, done, again))
        return None

    def _tell_receipts(
        self, id: str, client_id: str | None, done: Callable[[list[Receipt] | NotifierError], None], again: bool,
        rows: Any,
    ) -> None:  # fmt: skip
        if isinstance(rows, NotifierError):
            return tell(done, rows)
        receipts = [self._with_sent(Receipt(*row)) for row in rows]
        if again or not [receipt for receipt in receipts if self._is_ending(receipt)]:
            return tell(done, receipts)
        self._next.dones.append(lambda _: self._ask_receipts(id, client_id, done, True))
        return self._kick()

    def _is_ending(self, receipt: Receipt) -> bool:
        """Whether it is pending no longer than until the next commit. What is past its time ends now: told as expired
        without that, it could still be acknowledged."""
        if receipt.state != "pending":
            return False
        box = self._boxes.get(receipt.client_id)
        if box is not None:
            self._expire(receipt.client_id, box)
        return box is None or receipt.seq not in box

    def _with_sent(self, receipt: Receipt) -> Receipt:
        """Add what was written since the last commit."""
        if (sent := self._sent.get(receipt.seq)) is not None:
            receipt.sent_ms = receipt.sent_ms or sent[0]
            receipt.attempts += sent[1]
        return receipt

    def overview(self, client_id: str, done: Callable[[Overview | NotifierError], None]) -> None:
        """See Engine.overview."""
        if self._error is not None:
            return done(self._error)
        self._writer.submit(partial(self._store.cursor, client_id), partial(self._tell_overview, client_id, done))
        return None

    def _tell_overview(self, client_id: str, done: Callable[[Overview | NotifierError], None], cursor: Any) -> None:
        if isinstance(cursor, NotifierError):
            return tell(done, cursor)
        box = self._boxes.get(client_id)
        losses = self._losses.get(client_id)
        oldest = box.first // 1000 if box is not None and len(box) else None
        return tell(done, Overview(
            len(box) if box else 0, box.size if box else 0, oldest,
            max(cursor, self._cursors.get(client_id, 0)),
            losses.untold() if losses else {}, self._revoked.get(client_id),
        ))  # fmt: skip

    def purge(self, client_id: str, seq: int | None, done: Callable[[int | NotifierError], None]) -> None:
        """See Engine.purge."""
        if self._error is not None:
            return done(self._error)
        if self._displaced(client_id):
            # What was put out of the index may come back with the next commit.
            self._next.dones.append(lambda error: tell(done, error) if error else self._purge(client_id, seq, done))
            return self._kick()
        return self._purge(client_id, seq, done)

    def _purge(self, client_id: str, seq: int | None, done: Callable[[int | NotifierError], None]) -> None:
        if self._error is not None:
            return done(self._error)
        box = self._boxes.get(client_id)
        seqs = [s for s in box.upto(self._committed) if s > box.acking and seq in (None, s)] if box else []
        if box is not None and not seqs and 0 < box.first <= box.acking:
            self._next.dones.append(lambda error: tell(done, error or 0))  # what is being settled leaves with a commit
            return self._kick()
        if box is None or not seqs:
            return done(0)
        self._end(client_id, box, "purged", seqs, lambda error: tell(done, error or len(seqs)))
        return None

    def erase(self, client_id: str, done: Callable[[NotifierError | None], None]) -> None:
        """See Engine.erase."""
        self.purge(client_id, None, partial(self._erase, client_id, done))

    def _erase(self, client_id: str, done: Callable[[NotifierError | None], None], purged: int | NotifierError) -> None:
        if isinstance(purged, NotifierError):
            return tell(done, purged)
        losses = self._losses.pop(client_id, None)
        self._cursors.pop(client_id, None)
        self._next.steps += [(sql, (client_id,)) for sql in queries.ERASE]
        self._next.dones.append(partial(self._tell_erased, client_id, losses, done))
        return self._kick()

    def _tell_erased(
        self,
        client_id: str,
        losses: Losses | None,
        done: Callable[[NotifierError | None], None],
        error: NotifierError | None,
    ) -> None:
        if error is not None and losses is not None:
            self._losses.setdefault(client_id, losses)  # they are still to be told
        tell(done, error)

    def revoke(self, client_id: str, at_s: float | None, done: Callable[[NotifierError | None], None]) -> None:
        """See Engine.revoke."""
        if self._error is not None:
            return done(self._error)
        step = (queries.LIFT, (client_id,)) if at_s is None else (queries.REVOKE, (client_id, at_s))
        self._next.steps.append(step)
        self._next.dones.append(partial(self._tell_revoked, client_id, at_s, done))
        self._kick()
        return None

    def _tell_revoked(
        self,
        client_id: str,
        at_s: float | None,
        done: Callable[[NotifierError | None], None],
        error: NotifierError | None,
    ) -> None:
        if error is None and at_s is None:
            self._revoked.pop(client_id, None)
        elif error is None and at_s is not None:
            self._revoked[client_id] = at_s
        tell(done, error)

    def backup(self, path: str, done: Callable[[Any], None]) -> None:
        """See Engine.backup."""
        self._writer.submit(lambda: self._store.backup(path), done)
