"""The file of the embedded engine: whose it is, whether it can be ours, and who holds it.

Everything here looks before SQLite touches the file, so that what is not ours stays as it was.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from typing import IO

from notifier.errors import ConfigurationError, EngineUnavailable

APPLICATION_ID = 0x4E744679  # "NtFy" in the header, so that file(1) and we know it
VERSION = 3
LOCK_PATIENCE_S = 10.0
"""A rolling update starts the next process while the last one still drains."""

_MAGIC = b"SQLite format 3\0"


def inspect(path: str) -> bool:
    """Whether `path` is to be created.

    Raises: ConfigurationError, when it is not a database of ours that this version can read.
    """
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise ConfigurationError(f"The directory of the database, {directory}, does not exist. Create it.")
    if not os.access(directory, os.W_OK):
        raise ConfigurationError(f"The directory of the database, {directory}, is not writable by this user.")
    try:
        with open(path, "rb") as file:
            header = file.read(100)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return True
    except OSError as error:
        raise ConfigurationError(f"The database {path} cannot be read: {error.strerror}.") from None
    if not header:
        return True
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise ConfigurationError(
            f"{path} is not a database. Nothing was changed. Name another file in NOTIFIER_ENGINE."
        )
    (pages,) = struct.unpack_from(">I", header, 28)
    (version,) = struct.unpack_from(">I", header, 60)
    (application,) = struct.unpack_from(">I", header, 68)
    (page_size,) = struct.unpack_from(">H", header, 16)
    if application != APPLICATION_ID:
        raise ConfigurationError(f"{path} is a database of another program. Nothing was changed.")
    if version > VERSION:
        raise ConfigurationError(
            f"{path} has schema version {version}, this program knows {VERSION}. Nothing was changed. "
            "Start the newer version that wrote it."
        )
    if version < VERSION:
        raise ConfigurationError(
            f"{path} has schema version {version}, of before the first release; this program knows {VERSION}. Nothing "
            "was changed. Let the program that wrote it deliver what is pending, then name another file."
        )
    # With a log or a journal beside it, what is missing may be there, or what is there may be taken back.
    unfinished = any(os.path.exists(path + suffix) for suffix in ("-wal", "-journal"))
    if size < pages * (65536 if page_size == 1 else page_size) and not unfinished:
        raise ConfigurationError(f"{path} is truncated. Nothing was changed. Restore it from a backup.")
    return False


class Lock:
    """One process holds the file: an advisory lock beside it, which ends with the process however that ends."""

    def __init__(self, path: str) -> None:
        self._path = path + "-lock"
        self._file: IO[bytes] | None = None

    def take(self, patience_s: float = LOCK_PATIENCE_S) -> None:
        """Wait for the lock, `patience_s` seconds at the most (blocks; call it off the loop).

        Raises: EngineUnavailable, when another process goes on holding it.
        """
        file = open(self._path, "ab")  # noqa: SIM115 - it stays open as long as we hold it
        give_up = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    file.close()
                    raise EngineUnavailable(
                        f"Another process holds {self._path[: -len('-lock')]}. Stop it, or name another file."
                    ) from None
                time.sleep(0.05)
            else:
                self._file = file
                return

    def release(self) -> None:
        """Let the next one in."""
        if self._file is not None:
            self._file.close()
            self._file = None
