"""`notifier send`."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import durations
from .output import CommandError, Exit, as_json, as_text, note, say
from .target import ApiKeyOption, JsonOption, UrlOption, api_key, server_url

if TYPE_CHECKING:
    from notifier.client.publisher import Publisher

# Below the server's limits for one batch (1,000 items, 4 MiB), with room for the fields around the data.
_CHUNK_ITEMS = 500
_CHUNK_BYTES = 2 * 1024 * 1024


def send(
    client_id: Annotated[str, typer.Argument(metavar="CLIENT_ID", help="Who it is for.")],
    data: Annotated[
        str,
        typer.Argument(metavar="TEXT|JSON|-", help='What to send. JSON begins with {, [ or "; - reads NDJSON.'),
    ],
    id: Annotated[str | None, typer.Option(help="The same id is stored once, however often it is sent.")] = None,
    event: Annotated[str | None, typer.Option(help="What kind it is, for example invoice.paid.")] = None,
    ttl: Annotated[str | None, typer.Option(help="How long it waits for the client: 0, 90s, 15m, 7d.")] = None,
    collapse_key: Annotated[str | None, typer.Option(help="Replaces what waits with the same key.")] = None,
    receipt: Annotated[bool, typer.Option("--receipt", help="Keep a record of what becomes of it.")] = False,
    wait: Annotated[int | None, typer.Option(min=1, max=30, help="Seconds to wait until it is acknowledged.")] = None,
    url: UrlOption = None,
    key: ApiKeyOption = None,
    json: JsonOption = False,
) -> None:
    """Send a notification to a client, or with - one for each line of JSON on standard input."""
    options: dict[str, Any] = {
        "id": id,
        "event": event,
        "ttl": None if ttl is None else durations.seconds(ttl),
        "collapse_key": collapse_key,
        "receipt": receipt or None,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if data == "-" and (id is not None or wait is not None):
        raise typer.BadParameter("--id and --wait are for a single notification, not for -")
    base = server_url(url)
    from notifier.client.errors import Refused, Unreachable
    from notifier.client.publisher import Publisher

    try:
        with Publisher(base, api_key(key, base)) as publisher:
            if data == "-":
                raise typer.Exit(_send_lines(publisher, client_id, options, json))
            _print_answer(publisher.notify(client_id, _data(data), wait=wait, **options), json)
    except Refused as refusal:
        if json and refusal.problem:
            say(as_json(refusal.problem))
        raise CommandError(explained(refusal)) from refusal
    except Unreachable as failure:
        raise CommandError(f"{failure}; is the server running there?", Exit.UNREACHABLE) from failure


def explained(refusal: Any) -> str:
    """A problem document as one line."""
    fields = "; ".join(f"{as_text(name)}: {as_text(what)}" for name, what in refusal.fields.items())
    return f"refused ({as_text(refusal.code)}): {as_text(refusal.detail)}{f' [{fields}]' if fields else ''}"


def _data(text: str) -> Any:
    """The rule of POST /notify/{client_id}: JSON if it looks like JSON, and then it must be; else a string."""
    if text.lstrip()[:1] not in {"{", "[", '"'}:
        return text
    try:
        return _raw_json(text.encode())
    except ValueError as error:
        raise CommandError(f"not JSON: {error}. To send it as text, write it as a JSON string", Exit.USAGE) from error


def _raw_json(text: bytes) -> Any:
    """Checked, but sent as it was written: numbers keep their digits."""
    import msgspec

    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return msgspec.Raw(text.strip())


def _print_answer(answer: dict[str, Any], json: bool, line: int | None = None) -> None:
    if json:
        say(as_json(answer))
        return
    words = [str(answer.get("status")), f"id={answer.get('id')}"]
    words += [f"{name}={answer[name]}" for name in ("seq", "connections", "acked_by", "expires_at") if name in answer]
    if answer.get("duplicate"):
        words.append("(already sent before)")
    say(as_text(" ".join(words)))


def _send_lines(publisher: Publisher, client_id: str, options: dict[str, Any], json: bool) -> Exit:
    """Send what standard input brings as soon as it comes, many at a time when it comes fast."""
    failed = 0
    for chunk in _chunks(_lines()):
        items, numbers = [], []
        for number, line in chunk:
            try:
                items.append({"client_id": client_id, "data": _raw_json(line), **options})
                numbers.append(number)
            except ValueError as error:
                failed += 1
                note(f"notifier: line {number} is not JSON and was not sent: {error}")
        if not items:
            continue
        for number, answer in zip(numbers, publisher.batch(items), strict=True):
            problem = answer.get("error")
            if problem is None:
                _print_answer(answer, json)
                continue
            failed += 1
            if json:
                say(as_json(answer))
            why = f"({as_text(problem.get('code'))}): {as_text(problem.get('detail'))}"
            note(f"notifier: line {number} was refused {why}")
    return Exit.FAILED if failed else Exit.DONE


def _lines() -> Iterator[tuple[int, bytes] | None]:
    """Numbered lines of standard input; None whenever no more is there at this moment."""
    waiting: queue.Queue[tuple[int, bytes] | None] = queue.Queue(maxsize=2 * _CHUNK_ITEMS)

    def read() -> None:
        # Not through sys.stdin: a thread that still waits in it when the command ends would crash the interpreter.
        rest, number = b"", 0
        try:
            while piece := os.read(sys.stdin.fileno(), 65536):
                *lines, rest = (rest + piece).split(b"\n")
                for number, line in enumerate(lines, start=number + 1):  # noqa: B020 - counts on from the last piece
                    waiting.put((number, line))
            waiting.put((number + 1, rest))
        finally:
            waiting.put(None)

    # A daemon: the command may end (the server refuses) while standard input stays open.
    threading.Thread(target=read, daemon=True).start()
    while (item := waiting.get()) is not None:
        if item[1].strip():
            yield item
        if waiting.empty():
            yield None


def _chunks(lines: Iterator[tuple[int, bytes] | None]) -> Iterator[list[tuple[int, bytes]]]:
    chunk: list[tuple[int, bytes]] = []
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
