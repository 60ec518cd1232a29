"""`notifier version`."""

from __future__ import annotations

from typing import Annotated

import typer

from .installed import installed_version
from .output import as_json, say


def version(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version."""
    import platform

    if json:
        say(as_json({"version": installed_version(), "python": platform.python_version()}))
    else:
        say(f"notifier {installed_version()}")
