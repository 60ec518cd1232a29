"""How the process logs: structlog, one event a line, JSON where nobody looks at a terminal. Values are escaped, so that
nothing a client sends can begin a line of its own. Never logged: payloads, tokens, keys, query strings.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from traceback import extract_tb
from typing import Any

import structlog


def audit() -> Any:
    """A logger that no LOG_LEVEL silences, for what administrators do."""
    return structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET))


def defect(logger: Any, event: str, error: BaseException) -> None:
    """A defect of ours: what and where, but not the error's text, which may hold what a client sent."""
    places = [f"{frame.filename}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
    logger.error(event, error=type(error).__name__, at=places)


def configure(level: str, format: str) -> None:
    """`level`: debug, info, warning, error; `format`: json, console, or auto (console on a terminal)."""
    console = format == "console" or (format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = structlog.processors.JSONRenderer()
    if console:
        # Its own tracebacks, where rich is installed, show the values of variables: tokens and payloads among them.
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        shared.append(_visible)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer,
        ], foreign_pre_chain=shared)
    )  # fmt: skip
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # What our libraries say below a warning repeats what we say, or holds a URL.
    root.setLevel(max(number, logging.WARNING))


def _visible(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What would drive a terminal, or turn its text around, is shown and not done. JSON escapes it by itself."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in value)
    return event
