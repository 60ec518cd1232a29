"""The thread that owns the SQLite connection. Jobs go in by a queue, results come back to the event loop.

Nothing else touches the connection, so a slow disk delays answers but never the loop.
"""

from __future__ import annotations

import os
import queue
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, Final, NamedTuple, cast

import apsw
import msgspec

from notifier.engine import queries
from notifier.engine.base import Notification
from notifier.engine.checksums import checksum, digest
from notifier.errors import EngineUnavailable, NotifierError, StorageFull

Row = tuple[Any, ...]
Place = tuple[str, str] | int
"""How far a round of the sweep has come: in the ids by (id, client_id), then in the receipts by seq."""
SWEEP_START: Final[Place] = ("", "")
LOG_PAGES: Final = 4_000
"""Pages (16 MB) of log before a checkpoint: fewer cost throughput, none lets the log grow for ever."""
_LONGEST: Final = queries.TURN_WIDTH * queries.TURN_SIZES[-1]
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.decode
_Row = tuple[int, str, str, str | None, str | None, int, int, int, int, str]
_rows: Final = msgspec.json.Decoder(list[_Row])
_Known = tuple[str, str, int, int, int, int, str | None, int]
_known: Final = msgspec.json.Decoder(list[_Known])


class Known(NamedTuple):
    """An id that was accepted before."""

    seq: int
    digest: int
    expires_ms: int
    until_ms: int
    state: str | None
    pending: bool


class Writer:
    """Runs jobs one after another on its own thread, with the connection as their argument."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
        self._worker.start()

    def submit(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run `job` on the thread, then `done(result)` on the loop; an exception of the job is its result."""
        self._jobs.put((job, done))

    def stop(self) -> None:
        """End the thread when all that was submitted has run."""
        self._jobs.put(None)
        self._worker.join()

    def _work(self) -> None:
        while (next_job := self._jobs.get()) is not None:
            job, done = next_job
            try:
                result: Any = job()
            except Exception as error:
                result = translate(error)
            self._loop.call_soon_threadsafe(done, result)
            del next_job, job, done, result  # while it waits it must not keep the last batch alive


class FatalEngineError(EngineUnavailable):
    """The disk failed a write or a sync. What is in the page cache is no longer known to be on it: stop, reopen."""


class DiskFailedError(FatalEngineError):
    """It was the disk, or what the system says of it; the file itself may be sound."""


def translate(error: Exception) -> NotifierError:
    """What an exception of SQLite means for those who wait."""
    match error:
        case NotifierError():
            return error
        case apsw.FullError():
            return StorageFull("The disk is full. Free some space; publishing goes on by itself then.")
        case apsw.BusyError() | apsw.LockedError() | apsw.InterruptError():
            return EngineUnavailable("Another program has locked the database. Close it, then retry with the same id.")
        case apsw.IOError() if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE:
            return StorageFull("The disk is full (no room for the index of the log). Free some space.")
        case apsw.IOError() | apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.NoMemError():
            return DiskFailedError(f"The disk failed ({type(error).__name__}). Retry with the same id.")
        case OSError() | MemoryError():
            return DiskFailedError(f"The disk failed ({type(error).__name__}). Retry with the same id.")
        case apsw.Error():
            return FatalEngineError(f"The database failed ({type(error).__name__}). Retry with the same id.")
        case _:
            return FatalEngineError(f"The engine failed ({type(error).__name__}: {error}). Retry with the same id.")


class Store:
    """The SQL operations, on the writer's thread. `durability`: `fsync` or `page_cache`; `dedup_s`: how many seconds
    an id is remembered."""

    def __init__(self, path: str, durability: str, dedup_s: int) -> None:
        self.path = path
        self._durability = durability
        self._dedup_s = dedup_s
        self._cleared = 0
        """Pages that this connection had written when the log was last cleared."""
        self.log_missing = False
        """The last server ended without an end, and the log that it must have left is not there."""
        self._has_log = False
        """There is a log that must stay when the connection is closed without a checkpoint."""
        self._connection: apsw.Connection = None  # type: ignore[assignment]  # until it is opened

    def open(self, fresh: bool, application_id: int, version: int) -> None:
        """Connect, and claim the file at once. Raises: as `connect` and `claim`."""
        self.connect(fresh, application_id, version)
        self.claim()

    def connect(self, fresh: bool, application_id: int, version: int) -> None:
        """Connect, and create the tables in a fresh file. Any other is not changed yet: it may turn out to be
        damaged, or to have other tables, when it is read. Raises: apsw.Error.
        """
        self._has_log = os.path.exists(self.path + "-wal")
        connection = self._connection = apsw.Connection(self.path)
        connection.set_busy_timeout(5_000)
        # A process that was killed while it made the file leaves pages that SQLite takes back now: none is left.
        if fresh or connection.execute("PRAGMA page_count").fetchall()[0][0] == 0:
            with connection:
                connection.execute(files("notifier.engine").joinpath("schema.sql").read_text())
                connection.execute(f"PRAGMA application_id={application_id}; PRAGMA user_version={version}")

    def claim(self) -> None:
        """Read every promise of durability back from SQLite, and leave the mark of a server that runs.

        Raises: apsw.Error; EngineUnavailable when SQLite does not accept a pragma that durability hangs on.
        """
        connection, log = self._connection, self._has_log
        self._has_log = True
        synchronous = {"fsync": 2, "page_cache": 1}[self._durability]
        # SQLite's own checkpoints keep it to themselves when the disk fails them: they are ours, see `commit`.
        for name, value, expected in (
            ("journal_mode", "wal", {"wal", "memory"}),
            ("synchronous", synchronous, {synchronous}),
            ("wal_autocheckpoint", 0, {0}),
            ("cache_size", -24_576, {-24_576}),
        ):
            got = connection.execute(f"PRAGMA {name}={value}; PRAGMA {name}").fetchall()[-1][0]
            if got not in expected:
                raise EngineUnavailable(f"SQLite answers {name}={got} where {value} was asked for.")
        connection.execute("PRAGMA temp_store=memory; PRAGMA foreign_keys=off")
        connection.execute(queries.TURN.format(dedup_ms=self._dedup_s * 1000))
        if self.path != ":memory:":
            self.log_missing = not log and connection.execute(queries.IN_USE).fetchall() == [(1,)]
            # While a server runs, and after it was killed, there is a log. The mark tells a log that is gone from one
            # that an orderly end has cleared. No more than that, so a full disk or a lock may keep it from being set.
            with suppress(apsw.FullError, apsw.BusyError, apsw.LockedError):
                connection.execute(queries.USE, (1,))

    def clear_log(self) -> None:
        """Bring what the log holds into the database, so that what comes is not written behind it.

        Also at a start: if the last process ended because a sync had failed, the log may be whole in the page cache and
        have a hole on the disk, and a later power cut would take what follows the hole. Copied it is written anew.
        No room in the database is no failure: what the log holds is durable there. Raises: apsw.Error.
        """
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            if not isinstance(translate(error), StorageFull) and not isinstance(error, apsw.BusyError):
                raise

    def close(self, *, checkpoint: bool = True) -> None:
        """Close. `checkpoint`: bring the log into the database; not after the disk has failed."""
        if self._connection is not None:
            if checkpoint:
                with suppress(apsw.Error):
                    self._connection.execute(queries.USE, (0,))
            elif self._has_log:  # else SQLite takes an empty one away again
                self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._connection.close()

    def load(self) -> tuple[Iterator[Any], int, list[Any], list[Any]]:
        """Pending mail for the index (read as it is asked for: there may be millions), the last seq, untold losses,
        revocations."""
        run = self._connection.execute
        last: Any = run(queries.LAST_SEQ).fetchall()[0][0]
        losses, revoked = run(queries.LOSSES).fetchall(), run(queries.REVOCATIONS).fetchall()
        return run(queries.LOAD), last, losses, revoked

    def known(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], Known]:
        """(client_id, id) → what is known of it, for those accepted before."""
        text = self._value(queries.KNOWN, (_encode([(id, c) for c, id in pairs]).decode(),))
        return {
            (client_id, id): Known(seq, digest, expires, until, state, bool(pending))
            for id, client_id, seq, digest, expires, until, state, pending in _known.decode(text)
        }

    def commit(self, rows: list[Any], steps: Sequence[tuple[str, Row]]) -> None:
        """One transaction: `rows`, the values of queries.TURN row after row and as many as queries.turn_rows says, then
        the steps in their order.

        Returns when it is durable. Raises: apsw.Error, and then nothing of it happened; but if the disk has failed the
        checkpoint after it, it may be there at the next start.
        """
        run = self._connection.execute
        if not steps and len(rows) <= _LONGEST:
            self._turn(rows)  # one statement is a transaction
        else:
            run("BEGIN IMMEDIATE")
            try:
                for at in range(0, len(rows), _LONGEST):
                    self._turn(rows[at : at + _LONGEST])
                for sql, bindings in steps:
                    run(sql, bindings)
                run("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    run("ROLLBACK")
                raise
        written: int = self._connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0]
        if written - self._cleared >= LOG_PAGES:
            self.clear_log()
            self._cleared = written

    def _turn(self, rows: list[Any]) -> None:
        self._connection.execute(queries.TURN_ROWS[len(rows) // queries.TURN_WIDTH], rows)

    def read(self, seqs: list[int]) -> tuple[dict[int, Notification], list[int]]:
        """The mail with these seqs, and which of them are damaged."""
        found: dict[int, Notification] = {}
        damaged = []
        try:
            text = self._value(queries.READ, (_encode(seqs).decode(),))
            rows = _rows.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._read_one_by_one(seqs)
        for seq, client_id, id, event, key, accepted_ms, expires_ms, flags, crc, text in rows:
            data = text.encode()
            content = digest(data, expires_ms - accepted_ms, event, key)
            if crc != checksum(content, seq, client_id, id, accepted_ms):
                damaged.append(seq)
                continue
            found[seq] = Notification(
                client_id, seq, id, data, accepted_ms, expires_ms, event, key, receipt=bool(flags & 1)
            )
        return found, damaged

    def _read_one_by_one(self, seqs: list[int]) -> tuple[dict[int, Notification], list[int]]:
        """A damaged record has spoilt the text of the page: find out which, and keep the others."""
        if len(seqs) == 1:
            return {}, seqs
        found: dict[int, Notification] = {}
        damaged: list[int] = []
        for seq in seqs:
            good, bad = self.read([seq])
            found |= good
            damaged += bad
        return found, damaged

    def _value(self, sql: str, bindings: Row) -> str:
        """The one value of a query that has one row of one column."""
        value: Any = self._connection.execute(sql, bindings).fetchall()[0][0]
        return cast(str, value)

    def cursor(self, client_id: str) -> int:
        """The highest acknowledged seq that was written down, 0 if none."""
        row = self._connection.execute(queries.CURSOR, (client_id,)).fetchone()
        return row[0] if row else 0

    def receipts(self, id: str, client_id: str | None, now_ms: int) -> list[Any]:
        """Raw receipt rows."""
        text = self._value(queries.RECEIPTS, (id, client_id, now_ms))
        rows: list[Any] = _decode(text)
        return rows

    def sweep(self, start: Place, count: int, now_ms: int) -> Place:
        """Forget what has left its window, among `count` rows; returns where to go on, SWEEP_START after a round."""
        run = self._connection.execute
        if isinstance(start, tuple):
            end = run(queries.SWEEP_SPAN, (*start, count)).fetchone()
            if end is None:
                return 0
            run(queries.SWEEP, (*start, *end, now_ms))
            return cast(Place, end)
        last: Any = run(queries.SWEEP_RECEIPTS_SPAN, (start, count)).fetchall()[0][0]
        if last is None:
            return SWEEP_START
        run(queries.SWEEP_RECEIPTS, (start, last, now_ms))
        return cast(int, last)

    def sweep_losses(self, until_ms: int) -> list[Any]:
        """Forget losses that were last counted, or told, up to `until_ms`: client_id, reason and total of each."""
        return self._connection.execute(queries.SWEEP_LOSSES, (until_ms,)).fetchall()

    def backup(self, path: str) -> None:
        """Copy the database as of now to `path`, with the writers going on after it."""
        target = apsw.Connection(path)
        try:
            with target.backup("main", self._connection, "main") as copy:
                while not copy.done:
                    copy.step(1_000)
            target.execute(queries.USE, (0,))  # it needs no log
        finally:
            target.close()
