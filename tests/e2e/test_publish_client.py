"""`POST /notify/{client_id}`: the body is the data; and receipts."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e.publishing import METRICS_KEY, Publisher, door, name, problem, publisher
from tests.harness import Client, request

__all__ = ["door", "publisher"]

JSON = "application/json"
TEXT = "text/plain"
FORM = "application/x-www-form-urlencoded"


async def received(publisher: Publisher, client_id: str) -> dict[str, Any]:
    async with Client(publisher.server, client_id) as client:
        return await client.next("notification")


@pytest.mark.parametrize(
    ("kind", "body", "data"),
    [
        (None, "Backup done", "Backup done"),
        (FORM, "Backup done", "Backup done"),
        (FORM, '{"a": 1}', {"a": 1}),
        (FORM, "  [1]", [1]),
        (FORM, '"quoted"', "quoted"),
        (FORM, "123", "123"),
        (FORM, "true", "true"),
        (FORM, "a=b&c=d", "a=b&c=d"),
        (FORM, " spaced ", " spaced "),
        (FORM, 'line\nbreak "x" \\ é', 'line\nbreak "x" \\ é'),
        (JSON, "123", 123),
        (JSON, " null ", None),
        ("Application/JSON; charset=utf-8", "[1]", [1]),
        (TEXT, "[1]", "[1]"),
        ("text/plain; charset=utf-8", '{"a": 1}', '{"a": 1}'),
        (TEXT, "null", "null"),
        (TEXT, " \r\n", " \r\n"),
    ],
)
async def test_how_a_body_becomes_data(door: Publisher, kind: str | None, body: str, data: object) -> None:
    alice = name()
    answer = door.post(f"/notify/{alice}", body.encode(), headers={"Content-Type": kind} if kind else {})
    assert (answer.status, answer.body["client_id"]) == (202, alice)
    assert (await received(door, alice))["data"] == data


@pytest.mark.parametrize(
    ("kind", "body", "status", "code"),
    [
        (JSON, b"Backup done", 400, "bad_json"),
        (JSON, b"{", 400, "bad_json"),
        (FORM, b"{", 400, "bad_json"),
        (FORM, b"  [1,]", 400, "bad_json"),
        (FORM, b'"x', 400, "bad_json"),
        (FORM, b'{"a":1,"a":2}', 400, "bad_json"),
        (TEXT, b"\xff", 400, "bad_json"),
        (FORM, b"\xff\xfe", 400, "bad_json"),
        (FORM, b"", 422, "invalid"),
        (TEXT, b"", 422, "invalid"),
        (JSON, b" ", 422, "invalid"),
        (FORM, b" \r\n", 422, "invalid"),
        (JSON, b"", 422, "invalid"),
    ],
)
def test_what_is_no_data(door: Publisher, kind: str, body: bytes, status: int, code: str) -> None:
    problem(door.post(f"/notify/{name()}", body, headers={"Content-Type": kind}), status, code)


async def test_the_options_are_query_parameters(publisher: Publisher) -> None:
    alice = name()
    query = "id=a%2Fb&event=news&ttl=60&collapse_key=k%20%C3%A9&receipt=true"
    answer = publisher.post(f"/notify/{alice}?{query}", b"x")
    assert (answer.status, answer.body["id"]) == (202, "a/b")
    frame = await received(publisher, alice)
    assert (frame["id"], frame["event"], frame["collapse_key"]) == ("a/b", "news", "k é")
    assert publisher.get("/notifications/a%2Fb").body["state"] in ("pending", "delivered")
    assert publisher.post(f"/notify/{alice}?{query}", b"x").body["duplicate"] is True


async def test_wait_and_the_idempotency_key_too(publisher: Publisher) -> None:
    alice = name()
    answer = publisher.post(f"/notify/{alice}?wait=1", b"x", headers={"Idempotency-Key": '"k"'})
    assert (answer.status, answer.body["id"], answer.body["status"]) == (202, "k", "queued")


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("client_id=bob", ["client_id"]),
        ("data=1", ["data"]),
        ("TTL=5", ["TTL"]),
        ("ttl=x", ["ttl"]),
        ("ttl=-1", ["ttl"]),
        ("ttl=1.5", ["ttl"]),
        ("ttl=", ["ttl"]),
        ("ttl=5&ttl=6", ["ttl"]),
        ("ttl=99999999", ["ttl"]),
        ("receipt=1", ["receipt"]),
        ("receipt", ["receipt"]),
        ("event=open", ["event"]),
        ("id=a%20b", ["id"]),
        ("collapse_key=", ["collapse_key"]),
        ("ttl=0&collapse_key=k&receipt=true", ["collapse_key", "receipt"]),
        ("ttl=0&wait=5", ["wait"]),
        ("id=%FF", [""]),
        ("a=1&b=2", ["a", "b"]),
    ],
)
def test_options_that_are_wrong(door: Publisher, query: str, fields: list[str]) -> None:
    assert problem(door.post(f"/notify/{name()}?{query}", b"x"), 422, "invalid") == fields


@pytest.mark.parametrize("client_id", ["a/b", "a b", "a%2Fb", "ä?#&+", "日本", "..", "a;b"])
async def test_the_path_is_decoded_once(door: Publisher, client_id: str) -> None:
    answer = door.post(f"/notify/{quote(client_id, safe='')}", b"x")
    assert (answer.status, answer.body["client_id"]) == (202, client_id)
    assert (await received(door, client_id))["data"] == "x"


@pytest.mark.parametrize("segment", ["%FF", "%20a", "a%00", "x" * 201, "%C2%A0a"])
def test_a_path_that_names_no_client(door: Publisher, segment: str) -> None:
    assert problem(door.post(f"/notify/{segment}", b"x"), 422, "invalid")[0] == "client_id"


@pytest.mark.parametrize("path", ["/notify/a/b", "/notify//a", "/notify//"])
def test_a_path_of_more_than_a_client(door: Publisher, path: str) -> None:
    problem(door.post(path, b"x"), 404, "not_found")


# -- receipts ---------------------------------------------------------------------------------------------------------


async def test_a_receipt_from_pending_to_delivered(publisher: Publisher) -> None:
    alice = name()
    sent = publisher.notify(alice, id=f"{alice}/1", receipt=True).body
    path = f"/notifications/{alice}%2F1"
    found = publisher.get(path)
    assert (found.status, found.body) == (200, {
        "id": f"{alice}/1", "state": "pending", "client_id": alice, "seq": sent["seq"],
        "accepted_at": sent["accepted_at"], "sent_at": None, "settled_at": None, "acked_by": None, "attempts": 0,
    })  # fmt: skip
    async with Client(publisher.server, alice, ack="client") as client:
        frame = await client.next("notification")
        found = publisher.get(path)
        assert (found.body["state"], found.body["attempts"]) == ("pending", 1)
        assert found.body["sent_at"] >= sent["accepted_at"]
        await client.ack(frame["seq"], confirm=True)
        await client.next("settled")
    found = publisher.get(path)
    assert (found.body["state"], found.body["acked_by"]) == ("delivered", "client")
    assert found.body["settled_at"] >= found.body["sent_at"]
    publisher.server.restart()
    assert publisher.get(path).body["state"] == "delivered", "a receipt that was told is final"


def test_receipts_of_other_ends(door: Publisher) -> None:
    alice = name()
    door.notify(alice, id="collapsed", collapse_key="k", receipt=True)
    door.notify(alice, id="purged", collapse_key="k", receipt=True)
    door.purge(alice)
    for id in ("collapsed", "purged"):
        found = door.get(f"/notifications/{id}?client_id={alice}").body
        assert (found["state"], found["acked_by"]) == (id, None)
        assert found["settled_at"]


def test_receipts_that_are_not_there_or_not_one(door: Publisher) -> None:
    alice, bob = name(), name()
    door.notify(alice, id="without")
    problem(door.get("/notifications/without"), 404, "not_found")
    door.post("/notify", {"client_ids": [alice, bob], "data": 1, "id": "both", "receipt": True})
    problem(door.get("/notifications/both"), 409, "id_conflict")
    assert door.get(f"/notifications/both?client_id={bob}").body["client_id"] == bob
    problem(door.get(f"/notifications/both?client_id={name()}"), 404, "not_found")
    problem(request(door.server, "GET", "/notifications/both", key=None), 401, "unauthorized")
    problem(request(door.server, "GET", "/notifications/both", key=METRICS_KEY), 403, "forbidden")


def test_data_may_be_anything_that_json_has(door: Publisher) -> None:
    alice = name()
    for data in (None, False, 0, -1.5e300, "", [], {}, [[]] * 3, {"": {"": None}}, "\u2028\x7f\U0001f600"):
        assert door.post(f"/notify/{alice}", json.dumps(data).encode(), headers={"Content-Type": JSON}).status == 202
