"""`notifier keys`."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import CommandError, Exit, as_json, say
from .target import JsonOption

app = typer.Typer(help="Make API keys.", no_args_is_help=True)


@app.callback()
def keys() -> None:
    """Keeps 'new' a subcommand although it is the only one."""


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will hold it, for example billing.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="notify, metrics or admin; may be repeated.", show_default="notify")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make an API key: the secret, shown once, and the line to configure, which holds only its hash."""
    from notifier.auth.apikeys import new_key

    scopes = tuple(dict.fromkeys(scope or ["notify"]))
    try:
        secret, configured = new_key(name, scopes)
    except ValueError as error:
        raise CommandError(str(error), Exit.USAGE) from error
    if json:
        say(as_json({"name": name, "scopes": scopes, "secret": secret, "configured": configured}))
        return
    say(f"The secret, for {name} only; it is not shown again:\n\n    {secret}\n")
    # Quoted, because a shell would take the $ for its own.
    say(f"To configure it (several keys are separated by commas):\n\n    NOTIFIER_API_KEYS='{configured}'")
