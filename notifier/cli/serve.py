"""`notifier serve`."""

from __future__ import annotations

import typer

from .output import report_problems


def serve() -> None:
    """Run the server; it is configured by NOTIFIER_ variables.

    'notifier config show' lists every setting with its value, 'notifier config check' says what is missing. At least
    NOTIFIER_API_KEYS and one of NOTIFIER_JWT_SECRET, NOTIFIER_JWT_PUBLIC_KEY, NOTIFIER_JWT_JWKS_URL must be set; any of
    them may be read from a file instead (NOTIFIER_JWT_SECRET_FILE). Without configuration, to try it: 'notifier dev'.
    """
    from notifier.errors import ConfigurationError
    from notifier.settings import load_settings

    try:
        settings = load_settings()
    except ConfigurationError as error:
        raise typer.Exit(report_problems(error)) from error
    from notifier.server import serve as serve_until_stopped

    raise typer.Exit(serve_until_stopped(settings))
