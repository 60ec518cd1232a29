"""What a publisher sends, and when it tries again."""

from __future__ import annotations

import json
import socket
from typing import Any

import msgspec
import pytest

from notifier.client.errors import Refused, Unreachable
from notifier.client.publisher import AsyncPublisher, Publisher
from tests.client.scripted import http_server

ACCEPTED = (202, {"id": "x", "status": "queued"}, {})
NOT_NOW = (503, {"code": "engine_unavailable", "detail": "Retry."}, {"Retry-After": "0"})


def test_a_publish_carries_key_data_and_options_and_an_id_of_its_own() -> None:
    with http_server(ACCEPTED) as server, Publisher(server.url, "secret") as publisher:
        answer = publisher.notify("alice", {"text": "é"}, event="e", ttl=5, collapse_key=None)
    (sent,) = server.requests
    assert answer == ACCEPTED[1]
    assert (sent.method, sent.path, sent.headers["X-API-Key"]) == ("POST", "/notify", "secret")
    assert sent.json.pop("id")
    assert sent.json | {"id": ""} == {"client_id": "alice", "data": {"text": "é"}, "event": "e", "ttl": 5, "id": ""}


def test_null_is_data_and_raw_json_goes_out_as_it_was_written() -> None:
    with http_server(ACCEPTED, ACCEPTED) as server, Publisher(server.url, "secret") as publisher:
        publisher.notify("alice", None)
        publisher.notify("alice", msgspec.Raw(b'{"n": 1.10, "n2": 1e2}'))
    assert server.requests[0].json["data"] is None
    assert b'"data":{"n": 1.10, "n2": 1e2}' in server.requests[1].body


@pytest.mark.parametrize("first", [NOT_NOW, (502, b"<html>", {}), None])
def test_an_unknown_outcome_is_retried_with_the_same_bytes(first: Any) -> None:
    with http_server(first, ACCEPTED) as server, Publisher(server.url, "secret") as publisher:
        assert publisher.notify("alice", 1)["status"] == "queued"
    assert len(server.requests) == 2
    assert server.requests[0].body == server.requests[1].body
    assert json.loads(server.requests[0].body)["id"]


def test_what_is_not_stored_is_not_repeated_after_an_unknown_outcome() -> None:
    with http_server(None, NOT_NOW, None) as server, Publisher(server.url, "secret") as publisher:
        with pytest.raises(Unreachable):
            publisher.notify("alice", 1, ttl=0)
        with pytest.raises(Refused, match="engine_unavailable"):
            publisher.notify_group("staff", 1)
        with pytest.raises(Unreachable):
            publisher.broadcast(1)
    assert len(server.requests) == 3
    assert all("id" not in request.json for request in server.requests)


def test_it_gives_up_after_the_configured_attempts() -> None:
    with (
        http_server(NOT_NOW, NOT_NOW) as server,
        Publisher(server.url, "secret", attempts=2) as publisher,
        pytest.raises(Refused) as caught,
    ):
        publisher.notify("alice", 1)
    assert (caught.value.status, caught.value.code) == (503, "engine_unavailable")
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 409, 413, 422, 429, 507])
def test_what_a_retry_would_not_change_is_not_retried(status: int) -> None:
    problem = {"code": "some_code", "detail": "Mend it so."}
    with (
        http_server((status, problem, {})) as server,
        Publisher(server.url, "secret") as publisher,
        pytest.raises(Refused, match="Mend it so"),
    ):
        publisher.notify("alice", 1)
    assert len(server.requests) == 1


def test_a_batch_is_ndjson_with_an_id_for_each_that_is_stored() -> None:
    answered = (200, b'{"status":"queued"}\n{"error":{"code":"x"}}\n', {"Content-Type": "application/x-ndjson"})
    with http_server(answered) as server, Publisher(server.url, "secret") as publisher:
        answers = publisher.batch([{"client_id": "a", "data": 1}, {"client_id": "b", "data": 2, "ttl": 0}])
    (sent,) = server.requests
    first, second = (json.loads(line) for line in sent.body.splitlines())
    assert sent.path == "/batch"
    assert "id" in first
    assert "id" not in second
    assert answers[1]["error"]["code"] == "x"


def test_wait_and_receipts_are_asked_for_in_the_url() -> None:
    with http_server(ACCEPTED, (200, {"state": "pending"}, {})) as server, Publisher(server.url, "k") as publisher:
        publisher.notify("alice", 1, wait=3)
        assert publisher.receipt("a/b ?", "ali ce") == {"state": "pending"}
    first, second = (request.path for request in server.requests)
    assert first == "/notify?wait=3"
    assert second.replace("+", "%20") == "/notifications/a%2Fb%20%3F?client_id=ali%20ce"


def test_nobody_there_is_unreachable_and_says_where() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Publisher(url, "k", attempts=1) as publisher, pytest.raises(Unreachable, match=url):
            publisher.notify("alice", 1)


def test_an_answer_that_is_not_json_is_named() -> None:
    with (
        http_server((200, b"<html>", {})) as server,
        Publisher(server.url, "k") as publisher,
        pytest.raises(Refused, match="check the URL"),
    ):
        publisher.notify("alice", 1)


async def test_the_asynchronous_publisher_does_the_same() -> None:
    with http_server(NOT_NOW, ACCEPTED, (200, b"", {}), ACCEPTED, ACCEPTED, ACCEPTED, (200, {}, {})) as server:
        async with AsyncPublisher(server.url, "k") as publisher:
            assert (await publisher.notify("alice", 1))["status"] == "queued"
            assert await publisher.batch([]) == []
            await publisher.notify_many(["a", "b"], 1)
            await publisher.notify_group("g", 1)
            await publisher.broadcast(1, event="e")
            assert await publisher.receipt("x") == {}
    bodies = [request.json for request in server.requests[3:6]]
    assert bodies[0]["client_ids"] == ["a", "b"]
    assert bodies[1] == {"group": "g", "data": 1}
    assert bodies[2] == {"data": 1, "event": "e"}
