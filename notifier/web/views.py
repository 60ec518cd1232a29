"""What administrators are told, as types: the answers are encoded from them, and so is their schema in /openapi.json.
Times are RFC 3339.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Response
from msgspec import Raw, Struct

from notifier.diagnosis import Drop
from notifier.engine.base import LossReason
from notifier.protocol import AckMode


def answer(view: Any, status: int = 200) -> Response:
    """A view as an answer that nobody keeps. A route that returns what is made here needs no model from FastAPI, which
    would load a second pydantic (pydantic.v1, 30 ms of each start) to look at it."""
    body = msgspec.json.encode(view)
    return Response(body, status, media_type="application/json", headers={"cache-control": "no-store"})


class Connections(Struct, frozen=True):
    """A client and how many connections it has on this node."""

    client_id: str
    connections: int


class ClientPage(Struct, frozen=True):
    """Connected clients in the order of their client_ids. `next` is the `after` of the next page, null on the last."""

    clients: list[Connections]
    next: str | None


class ConnectionView(Struct, frozen=True):
    """An open connection. `inflight`: written on it and not settled."""

    id: str
    node: str
    transport: str
    since: str
    inflight: int
    window_full: bool
    address: str
    ack: AckMode
    unsent_bytes: int
    token_expires_at: str


class EndingView(Struct, frozen=True):
    """How a connection ended; `reason` is empty where the other side, or the network, ended it."""

    at: str
    code: int
    reason: str
    transport: str
    address: str
    lasted_s: float


class RefusalView(Struct, frozen=True):
    """A handshake that got no session. `proven` is false where no signature shows that it was this client."""

    at: str
    reason: str
    transport: str
    address: str
    proven: bool


class DroppedView(Struct, frozen=True):
    """How many of its notifications were not kept, or not taken, for one reason since `known_since`."""

    reason: Drop
    number: int
    last_at: str


class CauseView(Struct, frozen=True):
    """Why mail is, or was, not delivered: `cause` for programs, `text` for people."""

    cause: str
    text: str


class ClientView(Struct, frozen=True):
    """One client, and why its mail was not delivered: `why`, the likeliest first.

    `last_close`, `last_refusal` and `dropped` are this process's memory, which begins at `known_since`; null means that
    nothing is known. `untold` is durable: what left the mailbox unacknowledged and the client has not been told of.
    """

    client_id: str
    connected: bool
    connections: list[ConnectionView]
    disconnected_at: str | None
    pending: int
    pending_bytes: int
    oldest_pending_at: str | None
    oldest_pending_s: float | None
    cursor: int
    window_full: bool
    last_close: EndingView | None
    last_refusal: RefusalView | None
    dropped: list[DroppedView]
    untold: dict[LossReason, int]
    revoked_at: str | None
    known_since: str
    why: list[CauseView]


class NotificationView(Struct, frozen=True):
    """A notification that is stored and not acknowledged."""

    seq: int
    id: str
    event: str | None
    collapse_key: str | None
    receipt: bool
    accepted_at: str
    expires_at: str
    data: Raw


class NotificationPage(Struct, frozen=True):
    """Oldest first. `next` is the `after` of the next page, null on the last."""

    notifications: list[NotificationView]
    next: int | None


class Purged(Struct, frozen=True):
    """How many notifications left the mailbox."""

    purged: int


class Erased(Struct, frozen=True):
    """All that was kept of the client is gone, except a revocation."""

    erased: bool


class Closed(Struct, frozen=True):
    """How many connections were told to close."""

    closed: int


class Revocation(Struct, frozen=True):
    """Tokens issued until `revoked_at` are refused; null: none are. `closed`: connections that were told to close."""

    client_id: str
    revoked_at: str | None
    closed: int
