"""/openapi.json (OpenAPI 3.1): every route of this server, whoever answers it. A test compares this table with the
routes that there are, and its examples with the types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from notifier import errors as e
from notifier.engine.base import AckedBy, State
from notifier.errors import NotifierError
from notifier.transport.events import Acknowledged, AckRequest
from notifier.web import views
from notifier.web.bodies import Answer, Answers, BroadcastBody, NotifyBody
from notifier.web.schemas import RULES, components


class ProblemField(msgspec.Struct):
    """One field that is wrong."""

    field: str
    message: str


class Problem(msgspec.Struct, omit_defaults=True):
    """RFC 9457. `code` is for programs, `detail` says how to mend it; `id` is what to retry with."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[ProblemField] = []
    id: str | None = None


class Refusal(msgspec.Struct):
    """An item of a batch that was refused."""

    error: Problem


class RecipientRefusal(msgspec.Struct):
    """One of `client_ids` that was refused."""

    client_id: str
    error: Problem


class ReceiptView(msgspec.Struct):
    """What became of a notification that was sent with `receipt: true`."""

    id: str
    state: State
    client_id: str
    seq: int
    accepted_at: str
    sent_at: str | None
    settled_at: str | None
    acked_by: AckedBy | None
    attempts: int


class BroadcastAnswer(msgspec.Struct):
    """To how many connections it went."""

    connections: int


class Health(msgspec.Struct, omit_defaults=True):
    """`reasons` only where something is wrong."""

    status: str
    reasons: list[str] = []


_AT, _END, _SEQ = "2026-11-22T12:00:00.000Z", "2026-11-29T12:00:00.000Z", 1795348737856709
EXAMPLES: dict[type, Any] = {
    NotifyBody: {
        "client_id": "alice",
        "data": {"text": "Invoice paid"},
        "id": "inv-17",
        "event": "invoice.paid",
        "ttl": 86400,
        "collapse_key": "inv",
        "receipt": True,
    },
    BroadcastBody: {"data": {"price": 17}, "event": "price"},
    Answer: {
        "id": "inv-17",
        "client_id": "alice",
        "seq": _SEQ,
        "status": "sent",
        "connections": 1,
        "accepted_at": _AT,
        "expires_at": _END,
    },
    BroadcastAnswer: {"connections": 2},
    AckRequest: {"seq": _SEQ},
    Acknowledged: {"seq": _SEQ, "settled": True},
    ReceiptView: {
        "id": "inv-17",
        "state": "delivered",
        "client_id": "alice",
        "seq": _SEQ,
        "accepted_at": _AT,
        "sent_at": _AT,
        "settled_at": _AT,
        "acked_by": "client",
        "attempts": 1,
    },
    Health: {"status": "ready"},
    Problem: {
        "type": "/docs/errors#invalid",
        "title": "Invalid request",
        "status": 422,
        "detail": "The request is not valid; errors names each field.",
        "code": "invalid",
        "errors": [{"field": "ttl", "message": "At most 2592000 seconds (TTL_MAX_SECONDS)."}],
    },
}
PUBLISH = (e.Unauthorized, e.Forbidden, e.TooLarge, e.UnsupportedEncoding, e.BadJson, e.Invalid, e.Busy, e.Draining)
STORE = (*PUBLISH, e.IdConflict, e.MailboxFull, e.StorageFull, e.EngineUnavailable)
EACH = (e.IdConflict, e.MailboxFull, e.StorageFull, e.Busy, e.EngineUnavailable)
"""What each of `client_ids` may be refused with. Where all of them are, it is the first one's status."""
ADMIN = (e.Unauthorized, e.Forbidden, e.TooLarge, e.Invalid, e.EngineUnavailable)
CLIENT = (e.BadHandshake, e.TokenMissing, e.TokenInvalid, e.TokenExpired, e.ForbiddenOrigin, e.Revoked)
TEXT = "text/plain"


class Operation(NamedTuple):
    """One method on one path. `answers`: status → (type or media type, words); `each`: see EACH."""

    method: str
    path: str
    tag: str
    summary: str
    answers: Mapping[int, tuple[type | str | None, str]]
    errors: tuple[type[NotifierError], ...] = ()
    body: type | str | None = None
    query: tuple[str, ...] = ()
    secured: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    each: tuple[type[NotifierError], ...] = ()


_KEY = ("apiKey", "apiKeyBearer")
_TOKEN = ("token", "tokenQuery")
_STORED = {202: (Answer, "Stored, and on disk."), 200: (Answer, "Settled within `wait`, or the repeat of an id.")}
_OPTIONS = ("wait", "id", "event", "ttl", "collapse_key", "receipt")


def _admin(method: str, path: str, summary: str, answer: type, *query: str) -> Operation:
    answers: dict[int, tuple[type | str | None, str]] = {200: (answer, "Done.")}
    return Operation(method, path, "administer", summary, answers, ADMIN, None, query, _KEY)


OPERATIONS = (
    Operation("post", "/notify", "publish", "Send a notification", _STORED, STORE, NotifyBody, ("wait",), _KEY,
              ("Idempotency-Key",), EACH),
    Operation(
        "post", "/notify/{client_id}", "publish", "Send a notification; the body is its data",
        _STORED, STORE, "any", _OPTIONS, _KEY, ("Idempotency-Key",),
    ),
    Operation(
        "post", "/batch", "publish", "Send many in one commit: a JSON array, or NDJSON",
        {200: ("answers", "One answer or error per item, in the same form and order.")}, PUBLISH, "batch", (), _KEY,
    ),
    Operation(
        "post", "/broadcast", "publish", "To every connection there is; nothing is stored",
        {202: (BroadcastAnswer, "Handed out.")}, PUBLISH, BroadcastBody, (), _KEY,
    ),
    Operation(
        "get", "/notifications/{id}", "publish", "What became of a notification sent with receipt",
        {200: (ReceiptView, "Its receipt, kept for 7 days.")},
        (e.Unauthorized, e.Forbidden, e.NotFound, e.IdConflict, e.TooLarge, e.Invalid, e.EngineUnavailable),
        None, ("client_id",), _KEY,
    ),
    Operation(
        "get", "/ws", "connect", "A WebSocket; its frames are in /asyncapi.json",
        {101: (None, "Switching protocols.")}, (*CLIENT, e.UpgradeRequired, e.Overloaded, e.NoKeys, e.Draining),
        None, ("ack",), _TOKEN,
    ),
    Operation(
        "get", "/ws/notifications/{client_id}", "connect", "The same; refused where the token is another client's",
        {101: (None, "Switching protocols.")},
        (*CLIENT, e.UpgradeRequired, e.ClientIdMismatch, e.Overloaded, e.NoKeys, e.Draining), None, ("ack",), _TOKEN,
    ),
    Operation(
        "get", "/events", "connect", "The same session as server-sent events",
        {200: ("text/event-stream", "Events; and what a retry may mend.")}, CLIENT, None, (), _TOKEN,
        ("Last-Event-ID",),
    ),
    Operation(
        "post", "/events/ack", "connect", "Acknowledge what came as events",
        {200: (Acknowledged, "Settled, durably; or ignored.")},
        (*CLIENT, e.TooLarge, e.UnsupportedEncoding, e.BadJson, e.Invalid, e.EngineUnavailable), AckRequest, (), _TOKEN,
    ),
    Operation(
        "get", "/metrics", "operate", "Prometheus text",
        {200: (TEXT, "Metrics.")}, (e.Unauthorized, e.Forbidden), None, (), ("", *_KEY),
    ),
    Operation("get", "/livez", "operate", "Is the event loop alive?", {200: (Health, "It is.")}),
    Operation("get", "/healthz", "operate", "The same as /livez", {200: (Health, "It is.")}),
    Operation(
        "get", "/readyz", "operate", "Should this node get traffic?",
        {200: (Health, "It should."), 503: (Health, "It should not; `reasons` says why.")},
    ),
    Operation("get", "/docs", "operate", "This, for people", {200: ("text/html", "A page without scripts.")}),
    Operation("get", "/docs/errors", "operate", "Every problem code, with its mend", {200: ("text/html", "A page.")}),
    Operation("get", "/openapi.json", "operate", "This document", {200: ("application/json", "OpenAPI 3.1.")}),
    Operation("get", "/asyncapi.json", "operate", "The frames", {200: ("application/json", "AsyncAPI 3.")}),
    _admin("get", "/clients", "Clients that are connected", views.ClientPage, "limit", "after"),
    _admin("get", "/clients/{client_id}", "One client, and why its mail was not delivered", views.ClientView),
    _admin("delete", "/clients/{client_id}", "Erase all that is kept of it, except a revocation", views.Erased),
    _admin(
        "get", "/clients/{client_id}/notifications", "Its unacknowledged notifications", views.NotificationPage,
        "limit", "after_seq",
    ),
    _admin("delete", "/clients/{client_id}/notifications", "Purge them", views.Purged),
    _admin("delete", "/clients/{client_id}/notifications/{seq}", "Purge one of them", views.Purged),
    _admin("delete", "/clients/{client_id}/connections", "Close its connections", views.Closed, "reconnect"),
    _admin("post", "/clients/{client_id}/revoke", "Refuse the tokens issued to it until now", views.Revocation),
    _admin("delete", "/clients/{client_id}/revoke", "Lift the revocation", views.Revocation),
)  # fmt: skip

PARAMETERS: dict[str, dict[str, Any]] = {
    "wait": {"type": "integer", "minimum": 1, "maximum": 30, "description": "Seconds to wait until it is settled."},
    "ttl": {"type": "integer", "minimum": 0, "description": "Seconds; 0: only to who is connected now."},
    "receipt": {"type": "boolean"},
    "ack": {"enum": ["auto", "client"], "default": "auto"},
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "after": {"type": "string", "description": "`next` of the page before."},
    "after_seq": {"type": "integer", "minimum": 0, "maximum": 2**53 - 1, "default": 0},
    "reconnect": {"type": "boolean", "default": True, "description": "false: closed for good (4403)."},
    "seq": {"type": "integer", "minimum": 1, "maximum": 2**53 - 1},
    **{name: {"type": "string", **rule} for name, rule in RULES.items()},
    "Idempotency-Key": {**RULES["id"], "type": "string", "description": "The `id`, bare or as a quoted string."},
    "Last-Event-ID": {"type": "string", "pattern": "^[0-9]+$", "description": "The seq that was processed last."},
}
SECURITY: dict[str, dict[str, Any]] = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The key of a service."},
    "apiKeyBearer": {"type": "http", "scheme": "bearer", "description": "The same key."},
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The token of a client."},
    "tokenQuery": {
        "type": "apiKey", "in": "query", "name": "access_token", "description": "The same, where QUERY_TOKEN is on.",
    },
}  # fmt: skip


def document(version: str) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    types: list[Any] = [Problem, Refusal, RecipientRefusal, Answers]
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
        types += [kind for kind in (operation.body, *(a for a, _ in operation.answers.values())) if _is_type(kind)]
    schemas = components(list(dict.fromkeys(types)))
    for kind, example in EXAMPLES.items():
        schemas[kind.__name__]["examples"] = [example]
    results = [{"$ref": f"#/components/schemas/{name}"} for name in ("Answer", "RecipientRefusal")]
    schemas["Answers"]["properties"]["results"]["items"] = {"anyOf": results}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Notifier",
            "version": version,
            "description": "Notifications, stored until they are acknowledged. The rules are in docs/protocol.md.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in ("publish", "connect", "operate", "administer")],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": SECURITY},
    }


def _operation(operation: Operation) -> dict[str, Any]:
    words = operation.path.replace("{", "").replace("}", "").replace(".", "/").split("/")
    told: dict[str, Any] = {
        "operationId": "_".join([operation.method, *filter(None, words)]),
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": _responses(operation),
        "security": [{scheme: []} if scheme else {} for scheme in operation.secured],
    }
    in_path = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = (
        [_parameter(name, "path") for name in in_path]
        + [_parameter(name, "query") for name in operation.query]
        + [_parameter(name, "header") for name in operation.headers]
    )
    if parameters:
        told["parameters"] = parameters
    if operation.body is not None:
        told["requestBody"] = {"required": True, "content": _content(operation.body)}
    return told


def _responses(operation: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for status, (kind, words) in operation.answers.items():
        told[str(status)] = {"description": words} | ({"content": _content(kind)} if kind is not None else {})
    for status in sorted({error.status for error in operation.errors}):
        codes = dict.fromkeys(error.code for error in operation.errors if error.status == status)
        content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        if any(error.status == status for error in operation.each):
            content |= _content(Answers)
        told[str(status)] = {"description": "; ".join(f"`{code}`" for code in codes), "content": content}
    return told


def _parameter(name: str, where: str) -> dict[str, Any]:
    schema = {key: value for key, value in PARAMETERS[name].items() if key != "description"}
    told = {"name": name.removesuffix("_seq"), "in": where, "required": where == "path", "schema": schema}
    words = PARAMETERS[name].get("description")
    return told | ({"description": words} if words else {})


def _content(kind: type | str | None) -> dict[str, Any]:
    if kind == "any":
        return {"application/json": {"schema": {}}, TEXT: {"schema": {"type": "string"}, "example": "Backup done"}}
    if kind == "batch":
        array = {"type": "array", "maxItems": 1000, "items": {"$ref": "#/components/schemas/NotifyBody"}}
        return {"application/json": {"schema": array}, "application/x-ndjson": {"schema": {"type": "string"}}}
    if kind == "answers":
        refs = [{"$ref": f"#/components/schemas/{name}"} for name in ("Answer", "Answers", "Refusal")]
        array = {"type": "array", "items": {"anyOf": refs}}
        return {"application/json": {"schema": array}, "application/x-ndjson": {"schema": {"type": "string"}}}
    if isinstance(kind, str):
        return {kind: {"schema": {"type": "object"} if kind == "application/json" else {"type": "string"}}}
    assert kind is not None
    ref = {"$ref": f"#/components/schemas/{kind.__name__}"}
    schema = {"anyOf": [ref, {"$ref": "#/components/schemas/Answers"}]} if kind is Answer else ref
    return {"application/json": {"schema": schema}}


def allowed(path: str) -> str:
    """The methods of a path, as an Allow header lists them; empty where there is no such path."""
    methods: set[str] = set()
    for operation in OPERATIONS:
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(operation.path)), path):
            methods.add(operation.method.upper())
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _is_type(kind: Any) -> bool:
    return isinstance(kind, type)
