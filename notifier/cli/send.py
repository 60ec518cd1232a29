"""`notifier send`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import answers, durations, ndjson
from .output import CommandError, Exit, as_json, say
from .target import ApiKeyOption, JsonOption, UrlOption, api_key, server_url


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
    for text in (client_id, data, id, event, collapse_key):
        _check_text(text)
    base = server_url(url)
    from notifier.client.errors import Refused, Unreachable
    from notifier.client.publisher import Publisher

    try:
        publisher = Publisher(base, api_key(key, base))
    except ValueError as error:
        raise CommandError(str(error), Exit.USAGE) from error
    try:
        with publisher:
            if data == "-":
                raise typer.Exit(ndjson.send_lines(publisher, client_id, options, json))
            answers.show(publisher.notify(client_id, _data(data), wait=wait, **options), json)
    except Refused as refusal:
        if json and refusal.problem:
            say(as_json(refusal.problem))
        raise CommandError(answers.explained(refusal)) from refusal
    except Unreachable as failure:
        raise CommandError(f"{failure}; is the server running there?", Exit.UNREACHABLE) from failure


def _check_text(text: str | None) -> None:
    """Bytes of the command line that are no UTF-8 stand in Python's strings as surrogates, and could not be sent."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise CommandError(f"{text!a} is not UTF-8 text", Exit.USAGE) from error


def _data(text: str) -> Any:
    """The rule of POST /notify/{client_id}: JSON if it looks like JSON, and then it must be; else a string."""
    if text.lstrip()[:1] not in {"{", "[", '"'}:
        return text
    try:
        return ndjson.raw_json(text.encode())
    except ValueError as error:
        raise CommandError(f"not JSON: {error}. To send it as text, write it as a JSON string", Exit.USAGE) from error
