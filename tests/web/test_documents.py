"""/openapi.json, /asyncapi.json and the pages: true to the types, to the routes that there are, and to what is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from fastapi.routing import APIRoute

from notifier import codec
from notifier.app import Parts, create_app
from notifier.engine.base import Notification, Receipt
from notifier.errors import FieldError, Invalid, NotifierError
from notifier.protocol import ClientFrame, ServerFrame
from notifier.settings import load_settings
from notifier.transport.problems import document as problem
from notifier.web import asyncapi, openapi
from notifier.web.docs import problems
from notifier.web.notify import PublishRoute
from notifier.web.publication import TtlLimits, decode_broadcast, decode_notify
from notifier.web.receipts import told
from tests.harness import Server, publish, request

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md"])
TTL = TtlLimits(3600, 2_592_000)
OWN_HEADERS = {
    "authorization", "content-encoding", "content-length", "content-type", "expect", "host", "origin",
    "sec-websocket-key", "sec-websocket-protocol", "sec-websocket-version", "transfer-encoding", "upgrade",
    "x-api-key", "x-forwarded-for",
}  # fmt: skip


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return openapi.document("1")


@pytest.fixture(scope="module")
def frames() -> dict[str, Any]:
    return asyncapi.document("1")


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(ref := value.get("$ref"), str):
            yield ref
        for below in value.values():
            yield from references(below)
    elif isinstance(value, list):
        for below in value:
            yield from references(below)


def resolve(document: dict[str, Any], ref: str) -> Any:
    found: Any = document
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    return found


# -- true to the routes ------------------------------------------------------------------------------------------------


def flat(routes: Any) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from flat(route.original_router.routes)
        elif hasattr(route, "routes"):
            yield from flat(route.routes)


async def test_every_route_is_described_and_nothing_else(spec: dict[str, Any], tmp_path: Path) -> None:
    settings = load_settings({
        "NOTIFIER_JWT_SECRET": "0123456789abcdef" * 4,
        "NOTIFIER_API_KEYS": "k:" + "x" * 32,
        "NOTIFIER_ENGINE": f"sqlite:///{tmp_path}/n.db",
    })  # fmt: skip
    parts = Parts(settings)
    try:
        described = {(method, path) for path, methods in spec["paths"].items() for method in methods}
        in_app = {(m.lower(), route.path) for route in flat(create_app(parts).routes) for m in route.methods}
        assert in_app, "FastAPI keeps its routes elsewhere now"
        own = {(m, p) for m, p in described if parts.door.find_route(p.replace("{", "").replace("}", "").encode())}
        assert described == {(m, p) for m, p in in_app if m != "head"} | own
        names = {parts.door.find_route(p.replace("{client_id}", "x").encode()).name for _, p in own}  # type: ignore[union-attr]
        assert {route.name for route in PublishRoute.__subclasses__()} <= names
    finally:
        parts.door.wheel.stop()


def test_references_lead_somewhere(spec: dict[str, Any], frames: dict[str, Any]) -> None:
    for document in (spec, frames):
        refs = set(references(document))
        assert refs
        for ref in refs:
            resolve(document, ref)


def test_operation_ids_are_unique(spec: dict[str, Any]) -> None:
    ids = [operation["operationId"] for methods in spec["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


def test_publishing_needs_a_key_and_connecting_a_token(spec: dict[str, Any]) -> None:
    schemes = spec["components"]["securitySchemes"]
    for methods in spec["paths"].values():
        for operation in methods.values():
            named = [scheme for entry in operation["security"] for scheme in entry]
            assert set(named) <= set(schemes)
            wanted = {"publish": "apiKey", "administer": "apiKey", "connect": "token"}.get(operation["tags"][0])
            assert wanted is None or wanted in named


def test_every_door_says_how_it_refuses(spec: dict[str, Any]) -> None:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    answers_to_many = {"application/json": {"schema": {"$ref": "#/components/schemas/Answers"}}}
    for path, methods in spec["paths"].items():
        for operation in methods.values():
            answers = operation["responses"]
            named = {scheme for entry in operation["security"] for scheme in entry}
            refusals = {"401", "403"} if named else set()
            if path not in ("/events", "/metrics") and named:  # the one says what a retry may mend within its 200
                refusals.add("503")
            if operation["tags"][0] in ("publish", "administer"):
                refusals.add("413")
            assert refusals <= set(answers), path
            for status, answer in answers.items():
                if status >= "400" and path != "/readyz":
                    all_refused = path == "/notify" and status in ("409", "429", "503", "507")  # each of client_ids
                    assert answer["content"] == problem | (answers_to_many if all_refused else {}), (path, status)
                    assert re.fullmatch(r"`\w+`(; `\w+`)*", answer["description"])
    assert spec["components"]["schemas"]["Problem"]["examples"]


def test_every_header_that_is_read_is_described(spec: dict[str, Any]) -> None:
    """But those that belong to HTTP itself, to authentication and to CORS."""
    source = "".join(path.read_text() for path in (ROOT / "notifier").rglob("*.py"))
    read = set(re.findall(r'\.header\(b"([a-z-]+)"\)', source))
    described = {
        parameter["name"].lower()
        for methods in spec["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "header"
    }
    assert described == {"idempotency-key", "last-event-id"}
    assert described <= read
    assert read - described <= OWN_HEADERS


# -- true to the types -------------------------------------------------------------------------------------------------


def all_frames() -> list[type]:
    return [*ServerFrame.__subclasses__(), *get_args(ClientFrame)]


@pytest.mark.parametrize("frame", all_frames(), ids=lambda frame: frame.__name__)
def test_every_frame_and_field_is_described(frame: type, frames: dict[str, Any]) -> None:
    name = frame.__struct_config__.tag  # type: ignore[attr-defined]
    message = frames["components"]["messages"][name]
    schema = resolve(frames, message["payload"]["$ref"])
    fields = set(frame.__struct_fields__)  # type: ignore[attr-defined]
    assert set(schema["properties"]) == fields | {"type"}
    example = message["examples"][0]["payload"]
    assert set(example) == fields | {"type"}, "an example shows every field"
    assert msgspec.to_builtins(msgspec.convert(example, frame)) == example
    flows = frames["operations"]
    said = "say" if frame in get_args(ClientFrame) else "hear"
    assert {"$ref": f"#/channels/ws/messages/{name}"} in flows[said]["messages"]


def test_a_frame_of_a_client_is_what_the_decoder_takes(frames: dict[str, Any]) -> None:
    for frame in get_args(ClientFrame):
        example = frames["components"]["messages"][frame.__struct_config__.tag]["examples"][0]["payload"]
        assert type(codec.decode(json.dumps(example, ensure_ascii=False).encode())) is frame


def test_the_spliced_notification_is_the_described_one(frames: dict[str, Any]) -> None:
    notification = Notification("alice", 7, "id", b'{"a":1}', 1, 2, event="e", collapse_key="k")
    sent = json.loads(codec.notification_frame(notification))
    schema = frames["components"]["schemas"]["NotificationFrame"]
    assert set(sent) == set(schema["properties"])
    transient = json.loads(codec.transient_frame("id", None, b"1", 1))
    assert set(transient) == set(schema["required"])


@pytest.mark.parametrize("kind", openapi.EXAMPLES, ids=lambda kind: kind.__name__)
def test_examples_are_of_their_type(kind: type, spec: dict[str, Any]) -> None:
    (example,) = spec["components"]["schemas"][kind.__name__]["examples"]
    encoded = json.dumps(example).encode()
    decoded = msgspec.json.decode(encoded, type=kind)
    assert json.loads(msgspec.json.encode(decoded)) == example
    if kind is openapi.NotifyBody:
        decode_notify(encoded, TTL, None, wait=False)
    if kind is openapi.BroadcastBody:
        decode_broadcast(encoded)


@pytest.mark.parametrize("kind", [openapi.NotifyBody, openapi.BroadcastBody, openapi.Answer, openapi.Acknowledged])
def test_every_field_of_a_body_is_described(kind: type, spec: dict[str, Any]) -> None:
    described = spec["components"]["schemas"][kind.__name__]["properties"]
    assert set(described) == set(kind.__struct_fields__)  # type: ignore[attr-defined]


def test_problem_and_receipt_are_the_described_ones(spec: dict[str, Any]) -> None:
    schemas = spec["components"]["schemas"]
    assert set(problem(Invalid("x", errors=[FieldError("a", "b")], id="i"))) == set(schemas["Problem"]["properties"])
    receipt = Receipt("i", "c", 1, "pending", 1, None, None, None, 0)
    assert set(told(receipt)) == set(schemas["ReceiptView"]["properties"])
    msgspec.convert(told(receipt), openapi.ReceiptView)


def test_answers_of_a_running_server_are_the_described_ones(shared_server: Server, spec: dict[str, Any]) -> None:
    schemas = spec["components"]["schemas"]
    sent = publish(shared_server, client_id="documented", data=1, id="one", receipt=True).body
    assert set(sent) <= set(schemas["Answer"]["properties"])
    cast = request(shared_server, "POST", "/broadcast", {"data": 1}).body
    assert set(cast) == set(schemas["BroadcastAnswer"]["properties"])
    for path, name in (
        ("/clients", "ClientPage"),
        ("/clients/documented", "ClientView"),
        ("/clients/documented/notifications", "NotificationPage"),
        ("/notifications/one?client_id=documented", "ReceiptView"),
        ("/livez", "Health"),
        ("/readyz", "Health"),
    ):
        body = request(shared_server, "GET", path).body
        assert set(schemas[name]["required"]) <= set(body) <= set(schemas[name]["properties"])


# -- what is served ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json"])
def test_documents_are_served(shared_server: Server, path: str) -> None:
    answer = request(shared_server, "GET", path, key=None)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.body["info"]["version"] not in ("", "1")
    assert request(shared_server, "HEAD", path, key=None).status == 200


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        self.links += [value for name in ("href", "src", "action") if (value := given.get(name))]
        self.ids += [value for name in ("id",) if (value := given.get(name))]


@pytest.mark.parametrize("path", ["/docs", "/docs/errors"])
def test_pages_need_nothing_else(shared_server: Server, path: str) -> None:
    answer = request(shared_server, "GET", path, key=None)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = _Links()
    page.feed(answer.body)
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert "url(" not in answer.body
    assert "@import" not in answer.body
    for link in page.links:
        assert request(shared_server, "GET", link, key=None).status == 200, link
    assert len(page.ids) == len(set(page.ids))


def every_error() -> list[type[NotifierError]]:
    found = [NotifierError]
    for error in found:
        found += error.__subclasses__()
    return found


def test_every_problem_code_has_cause_and_mend(shared_server: Server) -> None:
    page = _Links()
    text = request(shared_server, "GET", "/docs/errors", key=None).body
    page.feed(text)
    for error in problems():
        assert error.code in page.ids
        assert error.__doc__
        own = [c for c in error.__mro__ if "mend" in vars(c)]
        assert own, error
        assert error.mend
    shown = {error.code for error in problems()}
    assert {error.code for error in every_error()} - {"configuration"} <= shown
    answer = request(shared_server, "POST", "/notify", {}, key=None)
    assert answer.body["type"] == f"/docs/errors#{answer.body['code']}"
    assert answer.body["code"] in page.ids


# -- the documentation -------------------------------------------------------------------------------------------------


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        for match in re.finditer(rf"^ *```{language}\n(.*?)^ *```", document.read_text(), re.DOTALL | re.MULTILINE):
            yield f"{document.relative_to(ROOT)}", match[1]


JSON_BLOCKS = list(blocks("json"))


def check_example(value: Any) -> None:
    """What a JSON example is: a publish, an answer, a frame; or at least JSON."""
    encoded = json.dumps(value).encode()
    if not isinstance(value, dict):
        return
    if "type" in value and "status" not in value:
        known = {frame.__struct_config__.tag: frame for frame in all_frames()}  # type: ignore[attr-defined]
        msgspec.convert(value, known[value["type"]])
    elif "data" in value and value.keys() & {"client_id", "client_ids", "group"} and "seq" not in value:
        decode_notify(encoded, TTL, None, wait=False)
    elif "status" in value and "seq" in value:
        assert set(value) <= set(openapi.Answer.__struct_fields__) | {"error"}


@pytest.mark.parametrize(("document", "text"), JSON_BLOCKS)
def test_json_examples_in_the_documentation(document: str, text: str) -> None:
    check_example(json.loads(text))


def test_there_are_json_examples() -> None:
    assert JSON_BLOCKS


def test_what_curl_sends_in_the_documentation() -> None:
    found = 0
    for _, text in [*blocks("sh"), *blocks("console"), *blocks("bash")]:
        for match in re.finditer(r"-d '(\{.*?\})'", text, re.DOTALL):
            check_example(json.loads(match[1]))
            found += 1
    assert found


def names_in(document: dict[str, Any], schema: Any) -> set[str]:
    """The names of all properties, however deep."""
    if isinstance(schema, list):
        return set().union(*(names_in(document, part) for part in schema))
    if not isinstance(schema, dict):
        return set()
    found = set(schema.get("properties", ()))
    if "$ref" in schema:
        found |= names_in(document, resolve(document, schema["$ref"]))
    for key, part in schema.items():
        if key not in ("examples", "$ref"):
            found |= names_in(document, part)
    return found


def test_json_within_a_sentence_names_fields_that_there_are(spec: dict[str, Any], frames: dict[str, Any]) -> None:
    """The pages write `{"state","client_id",…}`: fields of one of the described types."""
    kinds = [
        names_in(document, schema) | {"type"}
        for document in (spec, frames)
        for schema in document["components"]["schemas"].values()
    ]
    found = 0
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for text in re.findall(r"`(\{[^`]*\})`", document.read_text()):
            names = set(re.findall(r'[{,]\s*"([a-z_]+)"', text))
            assert any(names <= kind for kind in kinds), (document.name, text)
            found += bool(names)
    assert found > 20


def test_frames_in_the_protocol_page_have_the_fields_that_they_have() -> None:
    """The page writes `{"type":"gap","reason","dropped":n}`: names without values, which are names of fields."""
    known = {frame.__struct_config__.tag: set(frame.__struct_fields__) for frame in all_frames()}  # type: ignore[attr-defined]
    text = (ROOT / "docs/protocol.md").read_text()
    shown: dict[str, set[str]] = {}
    for kind, rest in re.findall(r'\{"type":"(\w+)"([^{}]*)\}', text):
        names = set(re.findall(r'(?:^|,)"([a-z_]+)"', rest))
        assert names <= known[kind], kind
        shown.setdefault(kind, set()).update(names)
    assert set(shown) == set(known), "every frame is on the page"
    for kind, names in known.items():
        assert shown[kind] == names, kind
