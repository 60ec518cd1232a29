"""What a subscription tells, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Connected:
    """The server said `welcome`: the subscription is live. `pending` is a hint."""

    client_id: str
    connection_id: str
    pending: int


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification. `seq` and `expires_at` are None for those that were not stored (`ttl` 0)."""

    id: str
    data: Any
    seq: int | None
    event: str | None
    collapse_key: str | None
    accepted_at: str | None
    expires_at: str | None
    frame: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_frame(cls, frame: Mapping[str, Any]) -> Notification:
        return cls(
            id=str(frame.get("id")),
            data=frame.get("data"),
            seq=frame.get("seq"),
            event=frame.get("event"),
            collapse_key=frame.get("collapse_key"),
            accepted_at=frame.get("accepted_at"),
            expires_at=frame.get("expires_at"),
            frame=frame,
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """Everything up to `seq` is settled, by this connection or by another of the same client."""

    seq: int


@dataclass(frozen=True, slots=True)
class Gap:
    """`dropped` notifications left the mailbox unacknowledged (`expired`, `overflow`, `purged`)."""

    reason: str
    dropped: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone, and the next try comes in `retry_in` seconds. Code 0: it was never open."""

    code: int
    reason: str
    retry_in: float


Event = Connected | Notification | Settled | Gap | Disconnected
