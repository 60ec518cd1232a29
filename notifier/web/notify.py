"""`POST /notify`, `/notify/{client_id}`, `/batch` and `/broadcast`: the routes that are answered without ASGI, because
they are what this service is asked all day.
"""

from __future__ import annotations

from functools import partial
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from msgspec import Raw

from notifier import strictjson
from notifier.auth.apikeys import ApiKeys
from notifier.codec import transient_frame
from notifier.engine.base import Draft, Target
from notifier.errors import (
    BadJson,
    FieldError,
    Invalid,
    MethodNotAllowed,
    NotifierError,
    TooLarge,
    UnsupportedEncoding,
)  # fmt: skip
from notifier.fields import check_id
from notifier.node import Node
from notifier.transport.problems import problem_headers
from notifier.transport.request import Head, Request
from notifier.web.bodies import NotifyBody
from notifier.web.publication import (
    MAX_RECIPIENTS,
    Publication,
    TtlLimits,
    check,
    count_recipients,
    decode_broadcast,
    decode_notify,
    decode_plain,
    new_id,
)
from notifier.web.publishing import Gathering, Publishing, Reply, ReplyTo, encode, encode_lines

MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
MAX_BATCH_ITEMS: Final = 1_000
MAX_DATA_BYTES: Final = 700 * 1024
"""What a connection with 256 KiB unsent can still take, before 1 MiB unsent ends it."""
_OPTIONS: Final = ("id", "event", "ttl", "collapse_key", "receipt")


class PublishRoute:
    """What the publish routes have in common: POST only, a key with scope `notify`, no Content-Encoding."""

    name = ""
    repeats = True

    def __init__(self, publishing: Publishing, keys: ApiKeys, ttl: TtlLimits, max_body: int) -> None:
        self._publishing = publishing
        self._keys = keys
        self._ttl = ttl
        self._max_body = max_body

    def admit(self, head: Head) -> int:
        """See Route. The order of the checks is that of docs/protocol.md, Errors."""
        if head.method != "POST":
            raise PostOnly("Use POST.")
        head.key = self._keys.check(head.header(b"x-api-key"), head.header(b"authorization"), "notify")
        return self._max_body

    def handle(self, request: Request) -> None:
        """See Route."""
        if not request.head.known and request.header(b"content-encoding") is not None:
            raise UnsupportedEncoding("Send the body as it is, without Content-Encoding.")
        self._publish(request)

    def _publish(self, request: Request) -> None:
        raise NotImplementedError


class PostOnly(MethodNotAllowed):
    """A publish with another method."""

    headers = (("Allow", "POST"),)


class _Requester(ReplyTo):
    """Whoever sent one publish by itself."""

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request = request

    def take(self, reply: Reply, at: int) -> None:
        """See ReplyTo."""
        headers = reply.headers if reply.error is None else problem_headers(reply.error)
        self._request.respond(reply.status, encode(reply.body), headers)

    def left(self) -> bool:
        """See ReplyTo."""
        protocol = self._request.protocol
        return protocol.gone or protocol.ended


class Notify(PublishRoute):
    """`POST /notify`."""

    name = "notify"

    def _publish(self, request: Request) -> None:
        try:
            wait_s = _only_wait(request) if request.query else 0
            idempotency_key = _idempotency_key(request)
        except Invalid:
            strictjson.parse(request.body)  # a body that does not parse is told first
            raise
        publication = decode_notify(request.body, self._ttl, idempotency_key, bool(wait_s))
        self._publishing.run(publication, self._publishing.arrived(request.started), wait_s, _Requester(request))
        if publication.many:
            self._publishing.begin()


class NotifyClient(PublishRoute):
    """`POST /notify/{client_id}`: the body is the data."""

    name = "notify_client"

    def _publish(self, request: Request) -> None:
        errors: list[FieldError] = []
        options, wait_s = _options(request, errors)
        try:
            client_id = unquote_to_bytes(request.path.removeprefix(b"/notify/")).decode()
        except UnicodeDecodeError:
            client_id = ""
            errors.append(FieldError("client_id", "The path is not UTF-8."))
        data = _data(request)
        body = NotifyBody(data=Raw(data), client_id=client_id, **options)  # type: ignore[arg-type]
        if errors:
            raise Invalid("The request is not valid; errors names each field.", errors=errors)
        publication = check(body, data, self._ttl, _idempotency_key(request), bool(wait_s))
        self._publishing.run(publication, self._publishing.arrived(request.started), wait_s, _Requester(request))


class Batch(PublishRoute):
    """`POST /batch`: `/notify` bodies as a JSON array or as NDJSON, stored in order in one commit."""

    name = "batch"

    def admit(self, head: Head) -> int:
        """See Route."""
        super().admit(head)
        return MAX_BATCH_BYTES

    def _publish(self, request: Request) -> None:
        body = request.body.lstrip(b" \t\r\n")
        array = body.startswith(b"[")
        if array and not request.query and len(body) <= self._max_body:
            plain = decode_plain(body, self._ttl)
            if plain and len(plain) <= MAX_BATCH_ITEMS:
                return self._store(request, plain)
        items = strictjson.items(body) if array else [line for line in body.split(b"\n") if line.strip()]
        if len(items) > MAX_BATCH_ITEMS:
            raise TooLarge(f"A batch may have {MAX_BATCH_ITEMS} items, this one has {len(items)}.")
        publications: list[Publication | NotifierError] = []
        recipients = 0
        broken = ""
        for at, item in enumerate(items):
            if len(item) > self._max_body:
                raise TooLarge(f"Item {at} has {len(item)} bytes, {self._max_body} are allowed.")
            try:
                publication = decode_notify(item, self._ttl, None, wait=False)
            except NotifierError as error:
                recipients += count_recipients(item)
                publications.append(error)
                if array and not broken and type(error) is BadJson:
                    broken = _broken(at, item)
            else:
                recipients += len(publication.client_ids) if publication.many else 0
                publications.append(publication)
        if recipients > MAX_RECIPIENTS:
            raise TooLarge(f"The client_ids of all items together may be {MAX_RECIPIENTS}, these are {recipients}.")
        if broken:
            raise BadJson(broken)
        _no_query(request, "/batch")
        return self._run(request, publications, array)

    def _store(self, request: Request, drafts: list[Draft]) -> None:
        came = self._publishing.arrived(request.started)
        gathering = Gathering(len(drafts), partial(self._tell, request, True))
        for at, draft in enumerate(drafts):
            self._publishing.store(draft, came, 0, gathering, at)
        self._publishing.begin()

    def _run(self, request: Request, publications: list[Publication | NotifierError], array: bool) -> None:
        if not publications:
            return self._tell(request, array, [])
        came = self._publishing.arrived(request.started)
        gathering = Gathering(len(publications), partial(self._tell, request, array))
        for at, publication in enumerate(publications):
            if isinstance(publication, NotifierError):
                self._publishing.refuse(publication, gathering, at)
            else:
                self._publishing.run(publication, came, 0, gathering, at)
        return self._publishing.begin()

    @staticmethod
    def _tell(request: Request, array: bool, replies: list[Reply]) -> None:
        rejected = sum([reply.rejected for reply in replies])
        bodies = [reply.body if reply.error is None else {"error": reply.body} for reply in replies]
        kind = b"application/json" if array else b"application/x-ndjson"
        answer = encode(bodies) if array else encode_lines(bodies)
        request.respond(200, answer, b"content-type: %b\r\nnotifier-rejected: %d\r\n" % (kind, rejected))


class Broadcast(PublishRoute):
    """`POST /broadcast`: to every connection, nothing is stored."""

    name = "broadcast"

    def __init__(self, publishing: Publishing, keys: ApiKeys, ttl: TtlLimits, max_body: int, node: Node) -> None:
        super().__init__(publishing, keys, ttl, max_body)
        self._node = node

    def _publish(self, request: Request) -> None:
        data, event = decode_broadcast(request.body)
        _no_query(request, "/broadcast")
        now_ms = self._node.clock.now_ms()
        handed = self._node.send_transient(Target(), transient_frame(new_id(now_ms), event, data, now_ms))
        self._node.metrics.published("sent" if handed.taken else "dropped")
        request.respond(202, encode({"connections": handed.connections}))


def _idempotency_key(request: Request) -> str | None:
    """draft-ietf-httpapi-idempotency-key-header §2.1: a quoted string; the bare text is taken as well."""
    if request.head.known:
        return None
    value = request.header(b"idempotency-key")
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if wrong := check_id(text):
        raise Invalid("The Idempotency-Key is not valid.", errors=[FieldError("Idempotency-Key", wrong)])
    return text


def _query(request: Request, errors: list[FieldError]) -> list[tuple[str, str]]:
    try:
        return parse_qsl(request.query.decode("latin-1"), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        errors.append(FieldError("", "The query is not UTF-8. Percent-encode UTF-8."))
        return []


def _no_query(request: Request, path: str) -> None:
    if request.query:
        pairs = parse_qsl(request.query.decode("latin-1"), keep_blank_values=True) or [("", "")]
        errors = [FieldError(name, f"Not with {path}.") for name, _ in pairs]
        raise Invalid(f"{path} takes no query.", errors=errors)


def _only_wait(request: Request) -> int:
    errors: list[FieldError] = []
    wait_s = 0
    for name, value in _query(request, errors):
        if name == "wait" and wait_s:
            errors.append(FieldError(name, "Given twice."))
        elif name == "wait":
            wait_s = _wait(value, errors)
        else:
            errors.append(FieldError(name, "There is no such parameter. There is: wait."))
    if errors:
        raise Invalid("The request is not valid; errors names each field.", errors=errors)
    return wait_s


def _wait(value: str, errors: list[FieldError]) -> int:
    if value.isascii() and value.isdigit() and len(value) <= 3 and 1 <= int(value) <= 30:
        return int(value)
    errors.append(FieldError("wait", "From 1 to 30 whole seconds."))
    return 0


def _options(request: Request, errors: list[FieldError]) -> tuple[dict[str, object], int]:
    options: dict[str, object] = {}
    wait_s = 0
    for name, value in _query(request, errors):
        if name in options or (name == "wait" and wait_s):
            errors.append(FieldError(name, "Given twice."))
        elif name == "wait":
            wait_s = _wait(value, errors)
        elif name not in _OPTIONS:
            errors.append(FieldError(name, f"There is no such parameter. There are: {', '.join(_OPTIONS)}, wait."))
        elif name == "ttl":
            if value.isascii() and value.isdigit() and len(value) <= 15:
                options[name] = int(value)
            else:
                errors.append(FieldError(name, "Must be a whole number of seconds, 0 or more."))
        elif name == "receipt":
            if value in ("true", "false"):
                options[name] = value == "true"
            else:
                errors.append(FieldError(name, "Must be true or false."))
        else:
            options[name] = value
    return options, wait_s


def _data(request: Request) -> bytes:
    """The body as JSON text: parsed, or made a string (docs/protocol.md, `POST /notify/{client_id}`)."""
    body = request.body
    kind = (request.header(b"content-type") or b"").split(b";")[0].strip().lower()
    start = body.lstrip(b" \t\r\n")[:1]
    if not (body if kind == b"text/plain" else start):
        raise Invalid("The body is empty.", errors=[FieldError("data", "Send the data as the body.")])
    if kind == b"application/json" or (kind != b"text/plain" and start in (b"{", b"[", b'"')):
        strictjson.parse(body)
        return body.strip(b" \t\r\n")
    try:
        data = msgspec.json.encode(body.decode())
    except UnicodeDecodeError:
        raise BadJson("The text is not UTF-8.") from None
    if len(data) > MAX_DATA_BYTES:
        raise TooLarge(
            f"As JSON this text has {len(data)} bytes, {MAX_DATA_BYTES} are allowed; control characters grow."
        )
    return data


def _broken(at: int, item: bytes) -> str:
    """Why the array that it is an item of does not parse; empty if that does, and only a key stands twice."""
    try:
        strictjson.check(item)
    except BadJson as error:
        return f"Item {at}: {error.detail}"
    return ""
