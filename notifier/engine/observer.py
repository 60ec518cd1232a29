"""What an engine reports of itself, and how it calls back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import structlog

from notifier.logs import defect

_log = structlog.get_logger("notifier.engine")


class Observer(Protocol):
    """The metrics of an engine (notifier.metrics implements it)."""

    def engine_batch(self, size: int) -> None:
        """A commit with `size` notifications goes to the disk."""

    def engine_operation(self, operation: str, seconds: float) -> None:
        """An operation has taken this long."""

    def engine_error(self, operation: str) -> None:
        """An operation has failed."""


def tell(done: Callable[[Any], None] | None, result: Any) -> None:
    """Call back. A defect in one caller's callback must not keep the others of the same commit from their answer."""
    if done is None:
        return
    try:
        done(result)
    except Exception as error:
        defect(_log, "callback_failed", error)


def listener_failed(error: Exception) -> None:
    """In an `except` around a call of a listener: a defect in one client's session must not keep the others of the same
    commit from their answer. What is stored does not hang on it."""
    defect(_log, "listener_failed", error)
