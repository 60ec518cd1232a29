"""`notifier serve`."""

from __future__ import annotations

import gc
import sys

from .output import report_problems


def serve() -> None:
    """Run the server; it is configured by NOTIFIER_ variables.

    'notifier config show' lists every setting with its value, 'notifier config check' says what is missing. At least
    NOTIFIER_API_KEYS and one of NOTIFIER_JWT_SECRET, NOTIFIER_JWT_PUBLIC_KEY, NOTIFIER_JWT_JWKS_URL must be set; any of
    them may be read from a file instead (NOTIFIER_JWT_SECRET_FILE). Without configuration, to try it: 'notifier dev'.
    """
    # Until the server has started (it turns it on), nearly all that is made stays: looking for garbage in it again and
    # again is a tenth of the start.
    gc.disable()
    from notifier.errors import ConfigurationError
    from notifier.settings import load_settings

    try:
        settings = load_settings()
    except ConfigurationError as error:
        sys.exit(report_problems(error))
    from notifier.server import serve as serve_until_stopped

    sys.exit(serve_until_stopped(settings))
