"""What publishers say and what they are told, as types: those that decode and encode, and that the OpenAPI document is
generated from.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from notifier.engine.base import AckedBy

Status = Literal["sent", "queued", "dropped", "delivered", "expired", "collapsed", "purged"]


class NotifyBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The body of `POST /notify`. Exactly one of `client_id`, `client_ids`, `group`; `data` is any JSON."""

    data: Raw
    client_id: str | UnsetType = UNSET
    client_ids: list[str] | UnsetType = UNSET
    group: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    event: str | UnsetType = UNSET
    ttl: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    collapse_key: str | UnsetType = UNSET
    receipt: bool | UnsetType = UNSET


class PlainBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A `NotifyBody` that says only who and what: decoded faster, as there are fewer fields to look for."""

    client_id: str
    data: Raw


class RecipientsBody(msgspec.Struct, gc=False):
    """What of a `NotifyBody` counts even if it is wrong."""

    client_ids: Any = None


class BroadcastBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The body of `POST /broadcast`."""

    data: Raw
    event: str | UnsetType = UNSET


class Answer(msgspec.Struct, omit_defaults=True, gc=False):
    """What a publisher is told of one notification for one client. Times are RFC 3339."""

    id: str
    status: Status
    client_id: str | None = None
    seq: int | None = None
    connections: int | None = None
    accepted_at: str | None = None
    expires_at: str | None = None
    acked_by: AckedBy | None = None
    duplicate: bool = False
    waited: bool = True
    group: str | None = None


class Answers(msgspec.Struct):
    """What a publisher is told of `client_ids`."""

    accepted: int
    rejected: int
    results: list[Any]
