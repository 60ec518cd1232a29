"""What `notifier dev` keeps in `./.notifier/`, and how the other commands find it.

.notifier/          0700
  secrets.json      0600   made once: the JWT secret and the API key
  notifier.db       0600   the mailboxes
  run.json          0600   while dev runs: its URL and process id
  .gitignore               so that none of it is ever committed
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from .output import CommandError, Exit

DIRECTORY = ".notifier"


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a development server signs and publishes with."""

    jwt_secret: str
    api_key: str


@dataclass(frozen=True, slots=True)
class Running:
    """A development server that runs."""

    url: str
    pid: int


def load_or_create(directory: Path) -> Secrets:
    """The secrets in `directory`; made, with the directory, when they are not there."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        # It may have been made by hand or unpacked; the mode of mkdir is for new ones only.
        directory.chmod(0o700)
        ignore = directory / ".gitignore"
        if not ignore.exists():
            _write(ignore, "*\n")
        present = load(directory)
        if present is None:
            present = Secrets(jwt_secret=secrets.token_hex(32), api_key=f"dev_{secrets.token_urlsafe(24)}")
            _write(directory / "secrets.json", json.dumps(asdict(present)) + "\n")
    except OSError as error:
        raise CommandError(
            f"cannot keep secrets in {directory} ({error.strerror}); run dev in a directory that you may write to",
            Exit.CONFIGURATION,
        ) from error
    return present


def load(directory: Path) -> Secrets | None:
    """The secrets in `directory`, or None where there are none."""
    path = directory / "secrets.json"
    try:
        kept = json.loads(path.read_text("utf-8"))
        return Secrets(jwt_secret=str(kept["jwt_secret"]), api_key=str(kept["api_key"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{path} is damaged; delete it, and dev makes new secrets", Exit.CONFIGURATION) from error


def find(start: Path) -> Path | None:
    """The nearest `.notifier` in `start` or above, as git finds its directory.

    Only one that belongs to this user: else whoever may write to a directory above could choose where this user's
    notifications go.
    """
    for parent in (start, *start.parents):
        candidate = parent / DIRECTORY
        try:
            if candidate.is_dir() and candidate.stat().st_uid == os.getuid():
                return candidate
        except OSError:
            continue
    return None


def running(directory: Path) -> Running | None:
    """The server that runs on these files; None where none does, also when it died without cleaning up.

    Whether it lives is told by its lock on the file, which goes with the process. A process id would not do: after a
    power cut it may be another's.
    """
    try:
        with (directory / "run.json").open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                kept = json.load(file)
                return Running(url=str(kept["url"]), pid=int(kept["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def announce(directory: Path, url: str) -> TextIO:
    """Tell the other commands where the server is, for as long as the file that is returned stays open."""
    file = _write(
        directory / "run.json", json.dumps(asdict(Running(url=url, pid=os.getpid()))) + "\n", keep_locked=True
    )
    assert file is not None
    return file


def withdraw(directory: Path, announcement: TextIO) -> None:
    """The server has ended."""
    (directory / "run.json").unlink(missing_ok=True)
    announcement.close()


def _write(path: Path, text: str, *, keep_locked: bool = False) -> TextIO | None:
    """Replace the file as a whole, so that nobody reads half of it, and never readable for others."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    file = open(descriptor, "w", encoding="utf-8")  # noqa: SIM115 - an announcement stays open
    file.write(text)
    file.flush()
    if keep_locked:
        fcntl.flock(file, fcntl.LOCK_EX)
    else:
        file.close()
    scratch.replace(path)
    return file if keep_locked else None
