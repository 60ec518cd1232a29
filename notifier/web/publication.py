"""What a publisher may say, decoded and checked: from the bytes of a request to a `Publication`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from notifier import strictjson
from notifier.engine.base import Draft
from notifier.errors import BadJson, FieldError, Invalid
from notifier.fields import check_client_id, check_collapse_key, check_event, check_id
from notifier.web.bodies import BroadcastBody, NotifyBody, PlainBody, RecipientsBody

MAX_RECIPIENTS: Final = 1_000


class TtlLimits(NamedTuple):
    """Seconds."""

    default: int
    maximum: int


class Publication:
    """A valid publish. `id` is None where the server is to make one; `ttl` seconds."""

    __slots__ = ("client_ids", "collapse_key", "data", "event", "group", "id", "many", "receipt", "ttl")

    def __init__(
        self, client_ids: tuple[str, ...], group: str | None, data: bytes, ttl: int, id: str | None = None,
        event: str | None = None, collapse_key: str | None = None, receipt: bool = False, many: bool = False,
    ) -> None:  # fmt: skip
        self.client_ids = client_ids
        self.group = group
        self.data = data
        self.ttl = ttl
        self.id = id
        self.event = event
        self.collapse_key = collapse_key
        self.receipt = receipt
        self.many = many
        """The recipients came as `client_ids`, so the answer is a list."""


_notify: Final = msgspec.json.Decoder(NotifyBody)
_plain: Final = msgspec.json.Decoder(list[PlainBody])
_broadcast: Final = msgspec.json.Decoder(BroadcastBody)
_recipients_only: Final = msgspec.json.Decoder(RecipientsBody)
_KINDS: Final[dict[str, tuple[type, str]]] = {
    "client_id": (str, "a string"),
    "client_ids": (list, "a list of strings"),
    "group": (str, "a string"),
    "id": (str, "a string"),
    "event": (str, "a string"),
    "ttl": (int, "a whole number of seconds, 0 or more"),
    "collapse_key": (str, "a string"),
    "receipt": (bool, "true or false"),
}


def decode_notify(body: bytes, ttl: TtlLimits, idempotency_key: str | None, wait: bool) -> Publication:
    """The publication in a `/notify` body. Raises: BadJson, Invalid."""
    parsed: NotifyBody
    parsed, data, plain = _decode(_notify, body, _KINDS)
    if (
        plain
        and parsed.client_id is not UNSET
        and idempotency_key is None
        and check_client_id(parsed.client_id) is None
    ):
        return Publication((parsed.client_id,), None, data, ttl.default)  # nothing else was said
    try:
        return check(parsed, data, ttl, idempotency_key, wait)
    except Invalid:
        strictjson.check(body)  # a ttl of so many digits is no JSON for most, and that is told first
        raise


def count_recipients(body: bytes) -> int:
    """How many `client_ids` a `/notify` body names that is refused for whatever reason."""
    try:
        client_ids = _recipients_only.decode(body).client_ids
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return len(client_ids) if isinstance(client_ids, list) else 0


def decode_plain(body: bytes, ttl: TtlLimits) -> list[Draft] | None:
    """What an array of `/notify` bodies asks for that all say only who and what, as nearly all do: decoded at once.
    None if any says more, or is wrong: then `decode_notify` is to look at each. Ids are still to be made."""
    drafts = []
    seconds = ttl.default
    quotes = body.count(b'"')
    try:
        for parsed in _plain.decode(body):
            data = b"".join((parsed.data,))  # see _decode
            if strictjson.may_be_deep(data, above=1):
                return None
            strictjson.check(data)
            client_id = parsed.client_id
            if check_client_id(client_id) is not None:
                return None
            quotes -= 6 + data.count(b'"')  # see _decode: so many are the fewest, and nothing else has none
            drafts.append(Draft(client_id, "", data, seconds, fresh_id=True))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadJson):
        return None
    return drafts if not quotes and seconds else None


def decode_broadcast(body: bytes) -> tuple[bytes, str | None]:
    """Data and event of a `/broadcast` body. Raises: BadJson, Invalid."""
    parsed: BroadcastBody
    parsed, data, _ = _decode(_broadcast, body, {"event": _KINDS["event"]})
    event = None if parsed.event is UNSET else parsed.event
    if event is not None and (wrong := check_event(event)):
        raise Invalid("The broadcast is not valid.", errors=[FieldError("event", wrong)])
    return data, event


def _decode(
    decoder: msgspec.json.Decoder[Any], body: bytes, kinds: Mapping[str, tuple[type, str]]
) -> tuple[Any, bytes, bool]:
    """The body, its data as JSON text, and whether it says nothing but one recipient and the data."""
    try:
        parsed = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _explain(strictjson.parse(body), kinds) from None
    # A Raw keeps the whole request alive, and its UTF-8 is not checked. `join` copies it quicker than `bytes`.
    data = b"".join((parsed.data,))
    strictjson.check(body if strictjson.may_be_deep(body) else data)
    # Every key and every string has two quotes. Six outside the data: {"client_id":"…","data":…}, each key once.
    plain = body.count(b'"') - data.count(b'"') == 6
    if not plain:
        strictjson.check_keys(body, ["data", *(name for name in kinds if getattr(parsed, name) is not UNSET)])
    return parsed, data, plain


def _explain(value: Any, kinds: Mapping[str, tuple[type, str]]) -> Invalid | BadJson:
    """The body is JSON, but not of the right shape: every field that is wrong, not only the first."""
    if type(value) is not dict:
        return Invalid("The body is not an object.", errors=[FieldError("", "Send one JSON object.")])
    errors = [
        FieldError(name, f"There is no such field. There are: data, {', '.join(kinds)}.")
        for name in value
        if name != "data" and name not in kinds
    ]
    if "data" not in value:
        errors.append(FieldError("data", "Required: any JSON value."))
    for name, (kind, text) in kinds.items():
        if name not in value:
            continue
        given = value[name]
        good = type(given) is kind
        if name == "ttl":
            good = good and given >= 0
        if name == "client_ids":
            good = good and all(type(item) is str for item in given)
        if not good:
            errors.append(FieldError(name, f"Must be {text}."))
    return Invalid("The request is not valid; errors names each field.", errors=errors or [FieldError("", "Invalid.")])


def check(body: NotifyBody, data: bytes, ttl: TtlLimits, idempotency_key: str | None, wait: bool) -> Publication:
    """Every rule that goes beyond types. Raises: Invalid, with all that is wrong."""
    errors: list[FieldError] = []
    recipients, group = _recipients(body, errors)
    seconds = ttl.default if body.ttl is UNSET else body.ttl
    if group is not None:
        if body.ttl is not UNSET and body.ttl != 0:
            errors.append(FieldError("ttl", "A group takes ttl 0 only: nothing is stored for it."))
        seconds = 0
    if seconds > ttl.maximum:
        errors.append(FieldError("ttl", f"At most {ttl.maximum} seconds (TTL_MAX_SECONDS)."))
    id = None if body.id is UNSET else body.id
    if idempotency_key is not None:
        if id is not None and id != idempotency_key:
            errors.append(FieldError("id", "Differs from the Idempotency-Key header. Give one of them."))
        id = idempotency_key
    event = None if body.event is UNSET else body.event
    key = None if body.collapse_key is UNSET else body.collapse_key
    for name, value, rule in (
        ("id", id, check_id),
        ("event", event, check_event),
        ("collapse_key", key, check_collapse_key),
    ):
        if value is not None and (wrong := rule(value)):
            errors.append(FieldError(name, wrong))
    receipt = body.receipt is True
    if seconds == 0:
        for name, given in (("collapse_key", key is not None), ("receipt", receipt), ("wait", wait)):
            if given:
                errors.append(FieldError(name, "Not with ttl 0: such a notification is not stored."))
    if wait and (len(recipients) != 1 or body.client_ids is not UNSET):
        errors.append(FieldError("wait", "Only with one client_id."))
    if errors:
        raise Invalid("The request is not valid; errors names each field.", errors=errors)
    many = body.client_ids is not UNSET
    return Publication(recipients, group, data, seconds, id, event, key, receipt, many)


def _recipients(body: NotifyBody, errors: list[FieldError]) -> tuple[tuple[str, ...], str | None]:
    given = [name for name in ("client_id", "client_ids", "group") if getattr(body, name) is not UNSET]
    if len(given) != 1:
        errors.append(FieldError(given[1] if given else "client_id", "Exactly one of client_id, client_ids, group."))
        return (), None
    if body.client_id is not UNSET:
        if wrong := check_client_id(body.client_id):
            errors.append(FieldError("client_id", wrong))
        return (body.client_id,), None
    if body.group is not UNSET:
        if wrong := check_client_id(body.group):
            errors.append(FieldError("group", wrong))
        return (), body.group
    assert body.client_ids is not UNSET
    if not 1 <= len(body.client_ids) <= MAX_RECIPIENTS:
        errors.append(FieldError("client_ids", f"From 1 to {MAX_RECIPIENTS} client_ids."))
    elif len(set(body.client_ids)) != len(body.client_ids):
        errors.append(FieldError("client_ids", "A client_id appears twice."))
    for at, client_id in enumerate(body.client_ids):
        if wrong := check_client_id(client_id):
            errors.append(FieldError(f"client_ids[{at}]", wrong))
            break
    return tuple(body.client_ids), None


_POOL: Final = 200
_VERSION: Final = bytes(0x70 | octet & 0x0F for octet in range(256))
_VARIANT: Final = bytes(0x80 | octet & 0x3F for octet in range(256))


class _Ids:
    """Makes UUIDv7 (RFC 9562 §5.7): they grow with time, so that they are stored side by side. What is random comes
    from a pool, because a system call per id costs more than all the rest."""

    __slots__ = ("_at", "_head", "_middles", "_ms", "_tails")

    def __init__(self) -> None:
        self._ms = -1
        self._head = ""
        self._middles = ""
        self._tails = ""
        self._at = _POOL

    def make(self, now_ms: int) -> str:
        """See new_id."""
        if now_ms != self._ms:
            time = f"{now_ms:012x}"
            self._ms, self._head = now_ms, f"{time[:8]}-{time[8:]}-"
        if self._at == _POOL:
            self._fill()
        at = self._at
        self._at = at + 1
        return f"{self._head}{self._middles[at * 10 : at * 10 + 10]}{self._tails[at * 12 : at * 12 + 12]}"

    def _fill(self) -> None:
        """The random parts of the next ids: `7xxx-yxxx-`, where y holds the variant, and twelve digits."""
        middles = bytearray(os.urandom(_POOL * 4))
        middles[::4] = middles[::4].translate(_VERSION)
        middles[2::4] = middles[2::4].translate(_VARIANT)
        self._middles = middles.hex("-", 2) + "-"
        self._tails = os.urandom(_POOL * 6).hex()
        self._at = 0


_ids: Final = _Ids()


def new_id(now_ms: int) -> str:
    """An id for a notification that came without one."""
    return _ids.make(now_ms)
