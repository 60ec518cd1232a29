"""`notifier backup`."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from . import devfiles
from .output import CommandError, Exit, as_json, say
from .target import JsonOption

_BUSY_MS = 10_000


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy to write; it must not exist.")],
    json: JsonOption = False,
) -> None:
    """Copy the database to FILE, as it is at one moment, while the server runs.

    The database is the one that NOTIFIER_ENGINE names, else that of 'notifier dev' in this directory or one above, else
    ./notifier.db. To restore, start the server with the copy: put it where NOTIFIER_ENGINE points, or point it there.
    """
    source = _source()
    if os.path.lexists(file):
        raise CommandError(f"{file} exists and is left as it is; name a new file")
    copied = _copy(source, file)
    result = {"from": str(source), "to": str(file.absolute())} | copied
    pending = f"{copied['pending']} pending notification{'s' if copied['pending'] != 1 else ''}"
    say(as_json(result) if json else f"{source} copied to {file}: {copied['bytes']} bytes, {pending}")


def _source() -> Path:
    """The database that the server here uses."""
    engine = os.environ.get("NOTIFIER_ENGINE", "").strip()
    if engine:
        from notifier.settings_checks import UnusableError, parse_engine

        try:
            return Path(parse_engine(engine).removeprefix("sqlite:///")).absolute()
        except UnusableError as error:
            raise CommandError(f"NOTIFIER_ENGINE {error}", Exit.CONFIGURATION) from error
    directory = devfiles.find(Path.cwd())
    found = [path for path in (directory and directory / "notifier.db", Path("notifier.db").absolute()) if path]
    found = [path for path in found if path.exists()]
    if not found:
        raise CommandError("no database here: set NOTIFIER_ENGINE as the server has it", Exit.UNREACHABLE)
    if len(found) > 1:
        raise CommandError(
            f"both {found[0]} and {found[1]} are here; say which: NOTIFIER_ENGINE=sqlite:///{found[1]}", Exit.USAGE
        )
    return found[0]


def _copy(source: Path, file: Path) -> dict[str, int]:
    """To a scratch file first: what stands under the name that was asked for is whole."""
    import apsw

    scratch = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        _check(source)
        # Mailboxes are nobody else's business, whatever the umask.
        os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        copied = _copy_pages(apsw, source, scratch)
        _give_name(scratch, file)
    except apsw.BusyError as error:
        raise CommandError(f"{source} is locked by another program; close that and try again") from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise CommandError(f"{source} is damaged ({error}); nothing was copied", Exit.CONFIGURATION) from error
    except apsw.FullError as error:
        raise CommandError(f"no room for {file}; nothing is left of it") from error
    except FileExistsError as error:
        raise CommandError(f"{file} exists and is left as it is; name a new file") from error
    except (OSError, apsw.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandError(f"cannot copy {source} to {file}: {reason}") from error
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            scratch.with_name(scratch.name + suffix).unlink(missing_ok=True)
    return copied


def _check(source: Path) -> None:
    """Look before SQLite touches it, as the server does at its start."""
    from notifier.engine import database
    from notifier.errors import ConfigurationError

    try:
        missing = database.inspect(str(source))
    except ConfigurationError as error:
        raise CommandError(str(error.detail), Exit.CONFIGURATION) from error
    if missing:
        raise CommandError(
            f"there is no database at {source}; set NOTIFIER_ENGINE as the server has it", Exit.UNREACHABLE
        )


def _copy_pages(apsw: Any, source: Path, scratch: Path) -> dict[str, int]:
    from notifier.engine import queries

    # Read-only: what is not ours to change stays as it is, also when no server runs and we are the last to close.
    origin = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)
    target = apsw.Connection(str(scratch))
    try:
        origin.set_busy_timeout(_BUSY_MS)
        with target.backup("main", origin, "main") as pages:
            # In one step: it reads one snapshot, and the server goes on writing beside it. In several steps every
            # commit in between would make it begin anew, and it would never end beside a busy server.
            pages.step(-1)
        ((verdict,), *_) = target.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise apsw.CorruptError(verdict)
        ((pending,),) = target.execute("SELECT count(*) FROM mail").fetchall()
        target.execute(queries.USE, (0,))  # it needs no log
    finally:
        target.close()
        origin.close()
    return {"bytes": scratch.stat().st_size, "pending": pending}


def _give_name(scratch: Path, file: Path) -> None:
    """On the disk first, then under its name, and never over another file. Raises: FileExistsError."""
    _sync(scratch)
    try:
        os.link(scratch, file)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
            raise
        # A file system without hard links.
        if file.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        scratch.rename(file)
    with contextlib.suppress(OSError):  # some file systems cannot sync a directory
        _sync(file.absolute().parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
