"""What commands print, and how they end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notifier.errors import ConfigurationError


class Exit(IntEnum):
    """The exit codes; 69 and 78 are EX_UNAVAILABLE and EX_CONFIG of sysexits.h."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 69
    CONFIGURATION = 78


class CommandError(Exception):
    """Ends the command with one clear line that says what to do."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


# JSON escapes C0 only. DEL and C1 (0x9b starts a terminal's escape sequence) would act on the terminal of whoever
# reads, and who published them may be a stranger.
_CONTROLS = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def as_json(value: Any) -> str:
    """One line of JSON that is safe to show in a terminal."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str).translate(_CONTROLS)


def as_text(value: object) -> str:
    """A string from elsewhere, with its control characters made visible."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(value))


def say(text: str = "") -> None:
    """A result, on standard output at once (a pipe may be waiting for it). Raises: CommandError, BrokenPipeError."""
    if sys.stdout is None:  # `>&-`
        raise CommandError("standard output is closed")
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_output()
        raise CommandError(f"standard output cannot be written: {error.strerror}") from error


def give_up_output() -> None:
    """Nothing more can be printed; without this Python would fail again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str) -> None:
    """What is for the person and not for the pipe."""
    if sys.stderr is None:  # `2>&-`
        return
    with suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def report_problems(error: ConfigurationError, *, json_form: bool = False) -> Exit:
    """Every problem of a configuration with its mend."""
    if json_form:
        say(as_json({"valid": False, "problems": [problem._asdict() for problem in error.problems], "warnings": []}))
        return Exit.CONFIGURATION
    count = len(error.problems)
    note(f"notifier: the configuration has {count} problem{'s' if count != 1 else ''}:")
    for problem in error.problems:
        note(f"  {problem.name} {problem.problem}")
        note(f"      {problem.mend}")
    return Exit.CONFIGURATION


def columns(rows: Mapping[str, str]) -> str:
    """Two columns, aligned, for people."""
    width = max((len(name) for name in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
