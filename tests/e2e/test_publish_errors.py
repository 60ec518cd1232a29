"""What is wrong with a publish, in the order in which it is told (docs/protocol.md, Errors)."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from tests.e2e.publishing import LIMIT, MAX_BODY, METRICS_KEY, Publisher, door, name, problem
from tests.harness import request

__all__ = ["door"]

Sent = dict[str, Any]


def uri_too_long(sent: Sent) -> None:
    sent["path"] += ("&" if "?" in sent["path"] else "?") + "x" * 17_000


def not_found(sent: Sent) -> None:
    sent["path"] = "/nothing" + sent["path"]


def method_not_allowed(sent: Sent) -> None:
    sent["method"] = "PUT"


def unauthorized(sent: Sent) -> None:
    sent["key"] = "wrong-secret-0123456789abcdef"


def forbidden(sent: Sent) -> None:
    sent["key"] = METRICS_KEY


def too_large(sent: Sent) -> None:
    sent["body"] = sent["body"] + b" " * MAX_BODY


def encoded(sent: Sent) -> None:
    sent["headers"]["Content-Encoding"] = "gzip"


def bad_json(sent: Sent) -> None:
    sent["body"] = b"{" + sent["body"]


def invalid(sent: Sent) -> None:
    sent["path"] += ("&" if "?" in sent["path"] else "?") + "unknown=1"


def conflict(sent: Sent) -> None:
    sent["headers"]["Idempotency-Key"] = "taken"


def mailbox_full(sent: Sent) -> None:
    sent["body"] = sent["body"].replace(b"@", sent["full"].encode())


ORDER = [
    (uri_too_long, 414, "too_large"), (not_found, 404, "not_found"), (method_not_allowed, 405, "method_not_allowed"),
    (unauthorized, 401, "unauthorized"), (forbidden, 403, "forbidden"), (too_large, 413, "too_large"),
    (encoded, 415, "unsupported_encoding"), (bad_json, 400, "bad_json"), (invalid, 422, "invalid"),
    (conflict, 409, "id_conflict"), (mailbox_full, 429, "mailbox_full"),
]  # fmt: skip


@pytest.fixture(scope="module")
def full(door: Publisher) -> str:
    """A mailbox that is full, and whose id `taken` is taken."""
    alice = name("full")
    door.notify(alice, id="taken")
    for _ in range(LIMIT - 1):
        door.notify(alice)
    return alice


@pytest.mark.parametrize(
    ("first", "second"),
    [(a, b) for a, b in combinations(ORDER, 2) if (a[0], b[0]) != (unauthorized, forbidden)],
    ids=lambda error: str(error[2]),
)
def test_errors_in_their_order(door: Publisher, full: str, first: Any, second: Any) -> None:
    sent: Sent = {
        "method": "POST", "path": "/notify", "key": "", "headers": {}, "body": b'{"client_id":"@","data":2}',
        "full": full,
    }  # fmt: skip
    for spoil, _, _ in (second, first):
        spoil(sent)
    sent["body"] = sent["body"].replace(b"@", full.encode())
    answer = request(door.server, sent["method"], sent["path"], sent["body"], headers=sent["headers"], key=sent["key"])
    problem(answer, first[1], first[2])
    if first[1] == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
    if first[1] == 405:
        assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-API-Key": "KEY"}, 202),
        ({"Authorization": "Bearer KEY"}, 202),
        ({"Authorization": "bearer KEY"}, 202),
        ({"X-API-Key": "KEY", "Authorization": "Bearer KEY"}, 202),
        ({}, 401),
        ({"X-API-Key": "KEY", "Authorization": f"Bearer {METRICS_KEY}"}, 401),
        ({"X-API-Key": "KEYx"}, 401),
        ({"Authorization": "Basic KEY"}, 401),
        ({"Authorization": "KEY"}, 401),
        ({"X-API-Key": METRICS_KEY}, 403),
    ],
)
def test_keys(door: Publisher, headers: dict[str, str], status: int) -> None:
    sent = {header: value.replace("KEY", door.server.key) for header, value in headers.items()}
    answer = door.post("/notify", {"client_id": name(), "data": 1}, headers=sent, key=None)
    assert answer.status == status


def test_bodies_up_to_their_limit(door: Publisher) -> None:
    alice = name()
    empty = len(f'{{"client_id":"{alice}","data":""}}')
    for extra, status in ((0, 202), (1, 413)):
        body = f'{{"client_id":"{alice}","data":"{"x" * (MAX_BODY - empty + extra)}"}}'
        assert door.post("/notify", body).status == status


@pytest.mark.parametrize(
    "path", ["/notify/", "/batch/", "/broadcast/", "/notify/alice/", "/metrics/", "/livez/", "//notify"]
)
def test_a_trailing_slash_is_nothing_of_ours(door: Publisher, path: str) -> None:
    for method in ("GET", "POST"):
        answer = request(door.server, method, path, {"data": 1} if method == "POST" else None)
        problem(answer, 404, "not_found")
        assert "location" not in answer.headers


def test_head_works_wherever_get_does(door: Publisher) -> None:
    door.notify(name(), id="head", receipt=True)
    for path in ("/livez", "/readyz", "/healthz", "/metrics", "/openapi.json", "/asyncapi.json", "/notifications/head"):
        got, head = door.get(path), request(door.server, "HEAD", path)
        assert (head.status, head.body) == (got.status, "")
        assert head.headers["content-type"] == got.headers["content-type"]
        if path != "/metrics":
            assert head.headers["content-length"] == got.headers["content-length"]
    problem_of_post = request(door.server, "HEAD", "/notify")
    assert (problem_of_post.status, problem_of_post.headers["allow"]) == (405, "POST")


def test_unknown_parameters_are_named(door: Publisher) -> None:
    body = {"client_id": name(), "data": 1}
    for query, fields in (("x=1", ["x"]), ("wait=0", ["wait"]), ("wait=31", ["wait"]), ("wait=1.5", ["wait"]),
                          ("wait=", ["wait"]), ("wait=1&wait=2", ["wait"]), ("x&y=", ["x", "y"]),
                          ("wait=abc&z=1", ["wait", "z"])):  # fmt: skip
        answer = door.post(f"/notify?{query}", body)
        assert problem(answer, 422, "invalid") == fields


def test_a_broadcast_takes_no_parameters(door: Publisher) -> None:
    assert problem(door.post("/broadcast?event=x&foo=1", {"data": 1}), 422, "invalid") == ["event", "foo"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/notify?wait=x", b"{"),
        ("/notify?%FF=1", b"{"),
        ("/batch?wait=1", b"[{]"),
        ("/broadcast?x=1", b"{"),
        ("/notify/alice?ttl=x", b"{"),
        ("/notify/alice?%FF=1", b"{"),
    ],
)
def test_a_body_that_does_not_parse_comes_before_a_wrong_query(door: Publisher, path: str, body: bytes) -> None:
    problem(door.post(path, body), 400, "bad_json")


def test_a_wrong_field_is_named(door: Publisher) -> None:
    """Unknown fields are 422, naming the field. (Every rule: tests/web/test_publication.py.)"""
    answer = door.post("/notify", {"client_id": name(), "data": 1, "colour": "red", "event": "open"})
    assert problem(answer, 422, "invalid") == ["colour"]
    answer = door.post("/notify", {"client_id": " ", "data": 1, "ttl": 0, "receipt": True})
    assert problem(answer, 422, "invalid") == ["client_id", "receipt"]
