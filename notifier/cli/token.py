"""`notifier token`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from . import durations
from .output import as_json, say
from .target import JsonOption, check_id


def token(
    client_id: Annotated[str, typer.Argument(metavar="CLIENT_ID", help="Who the token is for.")],
    ttl: Annotated[str, typer.Option(help="How long it is valid: 90s, 15m, 1h, 7d.")] = "1h",
    group: Annotated[list[str] | None, typer.Option(help="A group it names; may be repeated.")] = None,
    json: JsonOption = False,
) -> None:
    """Print a token for a client, signed with the secret of 'notifier dev' or NOTIFIER_JWT_SECRET.

    In production your application makes these tokens; this is for trying, testing and repairing.
    """
    from notifier.fields import check_group

    check_id(client_id)
    for name in group or ():
        if (problem := check_group(name)) is not None:
            raise typer.BadParameter(f"--group {problem}")
    lifetime = durations.seconds(ttl)
    if lifetime <= 0:
        raise typer.BadParameter("the ttl must be more than 0")
    from notifier.auth.tokens import END_OF_TIME

    from .minting import for_this_directory

    issued = int(time.time())
    if issued + lifetime >= END_OF_TIME:
        raise typer.BadParameter("the ttl must end before the year 10000; no server takes a token that does not")
    signed = for_this_directory()(client_id, lifetime, tuple(group or ()))
    if json:
        say(as_json({"token": signed, "client_id": client_id, "expires_at": _rfc3339(issued + lifetime)}))
    else:
        say(signed)


def _rfc3339(unix: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(unix))
