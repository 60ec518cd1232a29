"""Reads what `strace -f -y -o FILE` wrote, as calls with a place in time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LINE = re.compile(r"^(\d+)\s+(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)$", re.DOTALL)
_RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$", re.DOTALL)
_RESULT = re.compile(r"\)\s+= (-?\d+)")


class Call(NamedTuple):
    """A system call. `began` and `ended` are line numbers of the trace: its order is the order of the events."""

    name: str
    arguments: str
    result: int
    began: int
    ended: int


def read(path: Path) -> Iterator[Call]:
    """The finished calls, in the order in which they ended."""
    open_calls: dict[str, tuple[str, str, int]] = {}
    with path.open(errors="replace") as lines:
        for number, line in enumerate(lines):
            if (parts := _LINE.match(line.rstrip("\n"))) is None:
                continue
            thread, text = parts.groups()
            if resumed := _RESUMED.match(text):
                name, arguments, began = open_calls.pop(thread)
                arguments += resumed[2]
            elif call := _CALL.match(text):
                name, arguments, began = call[1], call[2], number
                if arguments.endswith("<unfinished ...>"):
                    open_calls[thread] = (name, arguments, began)
                    continue
            else:
                continue  # signals, exits
            results = _RESULT.findall(arguments)
            if results:
                yield Call(name, arguments, int(results[-1]), began, number)
