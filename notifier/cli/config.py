"""`notifier config`."""

from __future__ import annotations

import typer

from .output import as_json, columns, note, report_problems, say
from .target import JsonOption

app = typer.Typer(help="Look at the configuration that the environment gives.", no_args_is_help=True)


@app.command("check")
def check(json: JsonOption = False) -> None:
    """Say whether 'serve' would accept the configuration; list every problem with its mend."""
    from notifier.errors import ConfigurationError
    from notifier.settings import load_settings

    try:
        settings = load_settings()
    except ConfigurationError as error:
        raise typer.Exit(report_problems(error, json_form=json)) from error
    if json:
        say(as_json({"valid": True, "problems": [], "warnings": settings.warnings}))
        return
    for warning in settings.warnings:
        note(f"Warning: {warning}")
    say("The configuration is valid.")


@app.command("show")
def show(json: JsonOption = False) -> None:
    """Print every setting with its value, secrets masked."""
    from notifier.errors import ConfigurationError
    from notifier.settings import load_settings

    try:
        settings = load_settings()
    except ConfigurationError as error:
        raise typer.Exit(report_problems(error, json_form=json)) from error
    shown = settings.masked()
    say(as_json(shown) if json else columns({name: value or "(not set)" for name, value in shown.items()}))
