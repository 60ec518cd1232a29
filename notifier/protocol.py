"""The frames of a conversation and the close codes, as values. No I/O. The public page is docs/protocol.md.

The types below are what decodes and encodes; the AsyncAPI document is generated from them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from notifier import strictjson
from notifier.engine.base import LossReason, Notification
from notifier.errors import BadJson

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

_decoder = msgspec.json.Decoder(ClientFrame)
encode: Callable[[ServerFrame], bytes] = msgspec.json.Encoder().encode
_text: Callable[[Any], bytes] = msgspec.json.Encoder().encode
_KNOWN = frozenset(("ack", "auth", "ping"))
_QUOTES = {Ack: 6, Auth: 8, Ping: 4}
"""How many quotation marks the names and texts of a frame have, if it holds nothing else."""


def decode(payload: bytes) -> ClientFrame | None:
    """The frame that a client sent, or None if its `type` is not known (to be ignored).

    Raises: BadJson, if it is not a JSON object, or a known type with wrong fields.
    """
    try:
        frame: ClientFrame = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _decode_odd(payload)
        return None
    quotes = _QUOTES[type(frame)] + (2 if type(frame) is Ack and b'"confirm"' in payload else 0)
    if payload.count(b'"') != quotes or b"\\" in payload or (type(frame) is Ack and frame.seq >> 64):
        strictjson.parse(payload)  # it holds more than the names that we know, each once: by the door's rules, then
    return frame


def _decode_odd(payload: bytes) -> None:
    """What is not one of our frames: unknown types pass, all else raises with the reason."""
    value = strictjson.parse(payload)
    if type(value) is not dict:
        raise BadJson('A frame is one JSON object, like {"type":"ack","seq":1}.')
    kind = value.get("type")
    if type(kind) is str and kind in _KNOWN:
        try:
            _decoder.decode(payload)
        except msgspec.ValidationError as error:
            seq = value.get("seq")
            if kind == "ack" and isinstance(seq, float) and seq >= 2**63:
                return  # beyond what a seq can be, so above any that was written: ignored like those
            raise BadJson(f"A frame of type {kind!r} is wrong: {error}.") from None


@lru_cache(maxsize=256)
def _second(s: int) -> str:
    return datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=4096)  # the answer and the frame tell the same two times, and so do their neighbours
def rfc3339(ms: int) -> str:
    """Unix milliseconds as RFC 3339 UTC with milliseconds."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


def notification_frame(n: Notification) -> bytes:
    """The frame of `n`, made once. `data` is spliced in as it came."""
    if not n.frame:
        n.frame = _splice(n.id, n.seq, n.event, n.collapse_key, n.data, n.accepted_ms, n.expires_ms)
    return n.frame


class _Named(Struct):
    event: str | None = None


_named = msgspec.json.Decoder(_Named)


def event_of(frame: bytes) -> str | None:
    """The event that a notification frame names."""
    return _named.decode(frame).event


def transient_frame(id: str, event: str | None, data: bytes, accepted_ms: int) -> bytes:
    """The frame of a `ttl: 0` notification: no place in the order, no end."""
    return _splice(id, 0, event, None, data, accepted_ms, 0)


def _splice(
    id: str, seq: int, event: str | None, collapse_key: str | None, data: bytes, accepted_ms: int, expires_ms: int
) -> bytes:
    head = '{"type":"notification","id":' + _text(id).decode()
    if seq:
        head += f',"seq":{seq}'
    if event is not None:
        head += f',"event":"{event}"'
    if collapse_key is not None:
        head += ',"collapse_key":' + _text(collapse_key).decode()
    tail = f',"accepted_at":"{rfc3339(accepted_ms)}"'
    if expires_ms:
        tail += f',"expires_at":"{rfc3339(expires_ms)}"'
    return b'%b,"data":%b%b}' % (head.encode(), data, tail.encode())
