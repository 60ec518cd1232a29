"""A small client: publish from a service, subscribe from anything that speaks Python.

    from notifier.client import Publisher, Subscriber

Nothing of the server is imported. What the names do is said where they are defined; they are loaded when they are
first used, so that a publisher does not pay for the WebSocket library nor a subscriber for the HTTP one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backoff import Backoff
    from .errors import ClientError, Ended, Refused, Unreachable
    from .events import Connected, Disconnected, Event, Gap, Notification, Settled
    from .publisher import AsyncPublisher, Publisher
    from .subscriber import Subscriber

__all__ = [
    "AsyncPublisher",
    "Backoff",
    "ClientError",
    "Connected",
    "Disconnected",
    "Ended",
    "Event",
    "Gap",
    "Notification",
    "Publisher",
    "Refused",
    "Settled",
    "Subscriber",
    "Unreachable",
]

_HOME = {
    "AsyncPublisher": "publisher",
    "Backoff": "backoff",
    "ClientError": "errors",
    "Connected": "events",
    "Disconnected": "events",
    "Ended": "errors",
    "Event": "events",
    "Gap": "events",
    "Notification": "events",
    "Publisher": "publisher",
    "Refused": "errors",
    "Settled": "events",
    "Subscriber": "subscriber",
    "Unreachable": "errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
