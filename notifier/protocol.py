"""The frames of a conversation and the close codes, as values. No I/O. The public page is docs/protocol.md.

The types below are what codec.py decodes and encodes by; the AsyncAPI document is generated from them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from notifier.engine.base import LossReason

SUBPROTOCOL = "notifier.v1"
MAX_CLIENT_FRAME = 32 * 1024
"""Bytes of one message from a client."""

AckMode = Literal["auto", "client"]


class Close(IntEnum):
    """Close codes that we send: RFC 6455 §7.4.1, and 44xx of the private range (§7.4.2)."""

    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    NOT_UTF8 = 1007
    TOO_LARGE = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_LATER = 1013
    BAD_FRAME = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    REPLACED = 4409
    RATE_LIMITED = 4429


class ServerFrame(Struct, tag_field="type", frozen=True):
    """Root of what the server says."""


class Welcome(ServerFrame, tag="welcome", frozen=True):
    """The first frame. `pending` is a hint; `token_expires_at` RFC 3339."""

    client_id: str
    connection_id: str
    pending: int
    ack: AckMode
    max_inflight: int
    heartbeat_s: float
    token_expires_at: str


class NotificationFrame(ServerFrame, tag="notification", frozen=True):
    """The mail itself. `seq` and `expires_at` are absent when `ttl` was 0."""

    id: str
    data: Any
    accepted_at: str
    seq: int | UnsetType = UNSET
    event: str | UnsetType = UNSET
    collapse_key: str | UnsetType = UNSET
    expires_at: str | UnsetType = UNSET


class Settled(ServerFrame, tag="settled", frozen=True):
    """Everything up to `seq` is settled and durable."""

    seq: int


class Gap(ServerFrame, tag="gap", frozen=True):
    """`dropped` notifications left the mailbox unacknowledged since this was last told."""

    reason: LossReason
    dropped: int


class TokenExpiring(ServerFrame, tag="token_expiring", frozen=True):
    """Send `auth` with a new token within `in_s` seconds."""

    in_s: int


class Authenticated(ServerFrame, tag="authenticated", frozen=True):
    """Answer to a good `auth`."""

    token_expires_at: str


class Reconnect(ServerFrame, tag="reconnect", frozen=True):
    """This node drains; a close 1012 follows. Reconnect no earlier than `after_ms` after it."""

    after_ms: int


class Pong(ServerFrame, tag="pong", frozen=True):
    """Answer to `ping`: the socket lives, nothing more."""


class ErrorFrame(ServerFrame, tag="error", frozen=True):
    """Something the client did is wrong; `message` says how to mend it."""

    code: str
    message: str


class Ack(Struct, tag="ack", tag_field="type", gc=False):
    """Everything up to `seq` that was written on this connection, or earlier, is processed."""

    seq: Annotated[int, Meta(ge=0)]
    confirm: bool = False


class Auth(Struct, tag="auth", tag_field="type", gc=False):
    """A new token for this session."""

    token: str


class Ping(Struct, tag="ping", tag_field="type", gc=False):
    """Are you there?"""


ClientFrame = Ack | Auth | Ping


class Named(Struct):
    """What an event stream has to know of a frame."""

    event: str | None = None
