"""What stores mailboxes and wakes nodes."""

from __future__ import annotations

from typing import Any

from notifier.clock import Clock
from notifier.engine.base import Engine, EngineOptions
from notifier.engine.observer import Observer
from notifier.engine.sqlite import SQLiteEngine
from notifier.errors import ConfigurationError


def open_engine(url: str, clock: Clock, observer: Observer, **options: Any) -> Engine:
    """The engine that `url` names: `sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite:///:memory:`.

    `options`: see EngineOptions. Raises: ConfigurationError for any other.
    """
    scheme, separator, path = url.partition(":///")
    if scheme != "sqlite" or not separator or not path:
        raise ConfigurationError(f"The engine {url.split('@')[-1]!r} is not known. Use sqlite:///FILE.")
    return SQLiteEngine(path, clock, observer, EngineOptions(**options))
