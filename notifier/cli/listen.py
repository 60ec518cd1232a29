"""`notifier listen`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from .output import CommandError, Exit, as_json, as_text, note, say
from .target import JsonOption, TokenOption, UrlOption, check_id, server_url, token_source

if TYPE_CHECKING:
    from notifier.client.events import Notification
    from notifier.client.subscriber import Subscriber

_CONFIRM_SECONDS = 5.0


def listen(
    client_id: Annotated[str, typer.Argument(metavar="CLIENT_ID", help="Whose notifications to print.")],
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after N notifications.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End after one: the same as --count 1.")] = False,
    url: UrlOption = None,
    token: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Print a client's notifications as they come; each is acknowledged when it has been printed.

    Connects again by itself when the server restarts. Ctrl-C ends it.
    """
    if once:
        if count not in (None, 1):
            raise typer.BadParameter("--once and --count say different numbers")
        count = 1
    check_id(client_id)
    base = server_url(url)
    source = token_source(token, base, client_id)
    try:
        code = asyncio.run(_listen(base, source, client_id, count, json))
    except KeyboardInterrupt:
        code = Exit.DONE
    raise typer.Exit(code)


async def _listen(url: str, source: str | Callable[[], str], client_id: str, count: int | None, json: bool) -> Exit:
    from notifier.client.backoff import Backoff
    from notifier.client.errors import Ended
    from notifier.client.subscriber import Subscriber

    try:
        # Somebody sits before it: back soon after a restart. One listener more is no crowd.
        async with Subscriber(url, source, ack="client", backoff=Backoff(cap=5.0)) as subscriber:
            return await _print_events(subscriber, url, client_id, count, json)
    except Ended as end:
        reason = f" {as_text(end.reason)}" if end.reason else ""
        raise CommandError(f"the server ended it ({end.code}{reason}): {end.advice}") from end


async def _print_events(subscriber: Subscriber, url: str, client_id: str, count: int | None, json: bool) -> Exit:
    from notifier.client.events import Connected, Disconnected, Gap, Notification

    was_connected = False
    last_stored: Notification | None = None
    async for event in subscriber.events():
        match event:
            case Notification():
                say(as_json(event.frame) if json else _line(event))
                if event.seq is not None:
                    last_stored = event
                if count is not None:
                    count -= 1
                    if count == 0:
                        break
                await subscriber.acknowledge(event)
            case Connected():
                if event.client_id != client_id:
                    raise CommandError(f"the token is for {as_text(event.client_id)!r}, not for {as_text(client_id)!r}")
                was_connected = True
                note(f"connected as {as_text(client_id)}, {event.pending} waiting")
            case Disconnected():
                why = f"{event.code} {as_text(event.reason)}".strip() if event.code else as_text(event.reason)
                if event.code == 0 and not was_connected:
                    raise CommandError(f"{url} does not answer: {why}", Exit.UNREACHABLE)
                note(f"connection lost ({why}); trying again in {event.retry_in:.1f} s")
            case Gap():
                note(f"{event.dropped} left the mailbox unacknowledged ({as_text(event.reason)})")
    if last_stored is not None:
        await _settle(subscriber, last_stored)
    return Exit.DONE


async def _settle(subscriber: Subscriber, last: Notification) -> None:
    """Leave only when the server has said that it is final, so that the next `listen` does not print it again."""
    try:
        async with asyncio.timeout(_CONFIRM_SECONDS):
            await subscriber.acknowledge(last, confirm=True)
    except TimeoutError:
        raise CommandError("printed, but the server did not confirm the acknowledgement: it will come again") from None


def _line(notification: Notification) -> str:
    accepted = as_text(notification.accepted_at or "")[11:23]
    event = f"{as_text(notification.event)}  " if notification.event else ""
    return f"{accepted}  {event}{as_json(notification.data)}"
