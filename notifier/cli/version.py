"""`notifier version`."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import as_json, say


def installed_version() -> str:
    from importlib.metadata import version as of

    return of("notifierd")


def version(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version."""
    import platform

    if json:
        say(as_json({"version": installed_version(), "python": platform.python_version()}))
    else:
        say(f"notifier {installed_version()}")
