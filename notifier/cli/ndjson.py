"""`notifier send CLIENT_ID -`: one notification for each line of standard input."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import answers
from .output import CommandError, Exit, as_json, as_text, note, say

if TYPE_CHECKING:
    from notifier.client.publisher import Publisher

# Below the server's limits for one batch (1,000 items, 4 MiB), with room for the fields around the data.
_CHUNK_ITEMS = 500
_CHUNK_BYTES = 2 * 1024 * 1024
_LINE_BYTES = 1024 * 1024
"""More than MAX_BODY_BYTES can be: no server takes a line over it, so it is neither kept nor sent."""
_OF_A_LINE = frozenset({"too_large", "bad_json", "invalid"})
"""Codes with which a batch is refused as a whole for what stands in one of its lines."""

_Line = tuple[int, bytes]


def raw_json(text: bytes) -> Any:
    """Checked, but sent as it was written: numbers keep their digits. Raises: ValueError."""
    import msgspec

    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return msgspec.Raw(text.strip())


def send_lines(publisher: Publisher, client_id: str, options: dict[str, Any], json: bool) -> Exit:
    """Send what standard input brings as soon as it comes, many at a time when it comes fast.

    A line that cannot be sent is named on standard error, and the others are sent all the same: FAILED at the end.
    Raises: CommandError, when standard input cannot be read; Refused, Unreachable.
    """
    if sys.stdin is None:
        raise CommandError("standard input is closed; - reads NDJSON from it", Exit.USAGE)
    failed = False
    for chunk in _chunks(_lines(sys.stdin.fileno())):
        items = []
        for number, line in chunk:
            if len(line) > _LINE_BYTES:
                failed = True
                note(f"notifier: line {number} has more than {_LINE_BYTES} bytes and was not sent")
                continue
            try:
                items.append((number, {"client_id": client_id, "data": raw_json(line), **options}))
            except ValueError as error:
                failed = True
                note(f"notifier: line {number} is not JSON and was not sent: {error}")
        for number, answer in _sent(publisher, items):
            problem = answer.get("error")
            if problem is None:
                answers.show(answer, json)
                continue
            failed = True
            if json:
                say(as_json(answer))
            why = f"({as_text(problem.get('code'))}): {as_text(problem.get('detail'))}"
            note(f"notifier: line {number} was refused {why}")
    return Exit.FAILED if failed else Exit.DONE


def _sent(publisher: Publisher, items: list[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's answer. A batch that is refused for one line is sent again without it, found by halving."""
    from notifier.client.errors import Refused

    if not items:
        return
    try:
        yield from zip((number for number, _ in items), publisher.batch(item for _, item in items), strict=True)
    except Refused as refusal:
        if refusal.code not in _OF_A_LINE:
            raise
        if len(items) == 1:
            problem = refusal.problem | {"code": refusal.code, "detail": refusal.detail}
            yield items[0][0], {"error": problem}
            return
        half = len(items) // 2
        yield from _sent(publisher, items[:half])
        yield from _sent(publisher, items[half:])


def _lines(descriptor: int) -> Iterator[_Line | None]:
    """Numbered lines of standard input, of overlong ones the beginning; None whenever no more is there for now."""
    waiting: queue.Queue[_Line | OSError | None] = queue.Queue(maxsize=2 * _CHUNK_ITEMS)

    def read() -> None:
        # Not through sys.stdin: a thread that still waits in it when the command ends would crash the interpreter.
        rest, number = b"", 0
        try:
            while piece := os.read(descriptor, 65536):
                *lines, rest = (rest + piece).split(b"\n")
                for number, line in enumerate(lines, start=number + 1):  # noqa: B020 - counts on from the last piece
                    waiting.put((number, line))
                rest = rest[: _LINE_BYTES + 1]
            waiting.put((number + 1, rest))
        except OSError as error:
            waiting.put(error)
        finally:
            waiting.put(None)

    # A daemon: the command may end (the server refuses) while standard input stays open.
    threading.Thread(target=read, daemon=True).start()
    while (item := waiting.get()) is not None:
        if isinstance(item, OSError):
            raise CommandError(f"standard input cannot be read: {item.strerror}") from item
        if item[1].strip():
            yield item
        if waiting.empty():
            yield None


def _chunks(lines: Iterator[_Line | None]) -> Iterator[list[_Line]]:
    chunk: list[_Line] = []
    size = 0
    for item in lines:
        if chunk and (item is None or len(chunk) >= _CHUNK_ITEMS or size + len(item[1]) > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        if item is not None:
            chunk.append(item)
            size += len(item[1])
    if chunk:
        yield chunk
