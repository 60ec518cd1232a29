"""How this command was started, in words that can be pasted into another terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def command() -> str:
    """`notifier` if any shell would find this very program by that name, else a path to it.

    In an activated virtual environment it is a path: the other terminal has probably not activated it.
    """
    started = Path(sys.argv[0])
    if started.suffix == ".py":
        return f"{shlex.quote(sys.executable)} -m notifier.cli"
    found = shutil.which(started.name)
    activated = os.environ.get("VIRTUAL_ENV")
    if found is not None and _same_file(found, started) and not (activated and found.startswith(activated)):
        return shlex.quote(started.name)
    full = Path(os.path.abspath(started))
    try:
        relative = full.relative_to(Path.cwd())
    except ValueError:
        return shlex.quote(str(full))
    return shlex.quote(str(relative) if len(relative.parts) > 1 else f"./{relative}")


def command_from_anywhere() -> str:
    """The command as it works in a terminal that has just been opened: dev's files are found by the directory."""
    return f"cd {shlex.quote(str(Path.cwd()))} && {command()}"


def _same_file(one: str, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
