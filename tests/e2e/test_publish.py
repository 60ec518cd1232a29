"""Each answer that docs/protocol.md §3 promises to a publisher: by a real server, over HTTP."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Client, Response, Server, apublish, arequest, publish, request

BODY = 16384
MAILBOX = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Small bodies, small mailboxes, and a second key that may not publish."""
    server = Server(tmp_path_factory.mktemp("publish"), max_body_bytes=BODY, mailbox_limit=MAILBOX)
    ops = "o" * 43
    server.set(api_keys=f"test:{server.key}:notify+metrics+admin,ops:{ops}:metrics")
    with server:
        yield server


@pytest.fixture
def alice() -> str:
    """A mailbox of one's own."""
    return f"alice-{secrets.token_hex(4)}"


def problem(answer: Response, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    return problem_body(answer.body, status, code, field)


def problem_body(body: dict[str, Any], status: int, code: str, field: str | None = None) -> dict[str, Any]:
    assert (body["status"], body["code"], body["type"]) == (status, code, f"/docs/errors#{code}"), body
    assert body["title"]
    assert body["detail"]
    if field is not None:
        assert field in [error["field"] for error in body["errors"]], body
    return body


# --- the table ------------------------------------------------------------------------------------------------


def test_queued(server: Server, alice: str) -> None:
    answer = publish(server, client_id=alice, data=1)
    body = answer.body
    assert answer.status == 202
    assert "idempotent-replayed" not in answer.headers
    told = {name: body[name] for name in ("id", "accepted_at", "expires_at")}
    assert body == {"client_id": alice, "seq": body["seq"], "status": "queued", "connections": 0} | told


async def test_sent(server: Server, alice: str) -> None:
    async with Client(server, alice, ack="client") as client:
        await client.welcome
        answer = await apublish(server, client_id=alice, data=1, id="a")
        frame = await client.next("notification")
    assert (answer.status, answer.body["status"], answer.body["connections"]) == (202, "sent", 1)
    assert {name: frame[name] for name in ("id", "seq", "accepted_at", "expires_at")} == {
        name: answer.body[name] for name in ("id", "seq", "accepted_at", "expires_at")
    }


async def test_ttl_0_is_sent_or_dropped_and_never_a_duplicate(server: Server, alice: str) -> None:
    async with Client(server, alice, ack="client") as client:
        await client.welcome
        for _ in range(2):
            answer = await apublish(server, client_id=alice, data=1, ttl=0, id="same")
            assert (answer.status, answer.body["status"]) == (202, "sent")
            assert not {"seq", "expires_at"} & answer.body.keys()
            assert (await client.next("notification"))["id"] == "same"
    answer = await apublish(server, client_id=alice + "-absent", data=1, ttl=0)
    assert (answer.status, answer.body["status"]) == (202, "dropped")
    assert not {"seq", "expires_at"} & answer.body.keys()


async def test_wait_answers_200_when_settled(server: Server, alice: str) -> None:
    async with Client(server, alice, ack="client") as client:
        await client.welcome
        waiting = asyncio.create_task(apublish(server, client_id=alice, data=1, wait=30))
        frame = await client.next("notification")
        await client.ack(frame["seq"])
        answer = await waiting
    assert answer.status == 200
    assert (answer.body["status"], answer.body["acked_by"], answer.body["seq"]) == ("delivered", "client", frame["seq"])


def test_wait_answers_200_when_it_has_ended_otherwise(server: Server, alice: str) -> None:
    answer = publish(server, client_id=alice, data=1, ttl=1, wait=30)
    assert (answer.status, answer.body["status"]) == (200, "expired")


def test_wait_answers_202_at_the_timeout(server: Server, alice: str) -> None:
    answer = publish(server, client_id=alice, data=1, wait=1)
    assert (answer.status, answer.body["status"]) == (202, "queued")


async def test_repeat_of_an_id_tells_what_has_become_of_the_first(server: Server, alice: str) -> None:
    fields: dict[str, Any] = {
        "client_id": alice,
        "data": {"n": 1},
        "id": "inv-17",
        "event": "paid",
        "collapse_key": "k",
        "ttl": 60,
    }
    first = (await apublish(server, **fields)).body
    for status in ("queued", "delivered"):
        again = await apublish(server, **fields)
        assert (again.status, again.headers["idempotent-replayed"]) == (200, "true")
        body = again.body
        assert (body["status"], body["duplicate"]) == (status, True)
        assert all(body[name] == first[name] for name in ("id", "client_id", "seq", "expires_at"))
        async with Client(server, alice, ack="client") as client:
            if status == "queued":
                await client.ack((await client.next("notification"))["seq"], confirm=True)
                await client.next("settled")
    for change in ({"data": {"n": 2}}, {"event": "due"}, {"collapse_key": "l"}, {"ttl": 61}):
        problem(await apublish(server, **fields | change), 409, "id_conflict")


@pytest.mark.parametrize("end", ["collapsed", "purged"])
def test_repeat_of_what_ended_otherwise(server: Server, alice: str, end: str) -> None:
    fields: dict[str, Any] = {"client_id": alice, "data": 1, "id": "a", "collapse_key": "k"}
    assert publish(server, **fields).status == 202
    if end == "collapsed":
        assert publish(server, **fields | {"id": "b"}).status == 202
    else:
        assert request(server, "DELETE", f"/clients/{alice}/notifications").body == {"purged": 1}
    answer = publish(server, **fields)
    assert (answer.status, answer.body["status"]) == (200, end)


def test_client_ids_in_the_order_given_with_the_refused_among_them(server: Server, alice: str) -> None:
    for n in range(MAILBOX):
        assert publish(server, client_id=alice, data=n).status == 202
    ids = [f"{alice}-a", alice, f"{alice}-b"]
    answer = publish(server, client_ids=ids, data=1, id="fan")
    assert (answer.status, answer.body["accepted"], answer.body["rejected"]) == (202, 2, 1)
    results = answer.body["results"]
    assert [result["client_id"] for result in results] == ids
    assert [result.get("status") for result in results] == ["queued", None, "queued"]
    assert results[1].keys() == {"client_id", "error"}
    problem_body(results[1]["error"], 429, "mailbox_full")
    again = publish(server, client_ids=ids[:1], data=1, id="fan").body["results"][0]
    assert (again["duplicate"], again["seq"]) == (True, results[0]["seq"]), "the id counts per client"
    refused = publish(server, client_ids=[alice], data=1)
    assert (refused.status, refused.body["accepted"], refused.body["rejected"]) == (429, 0, 1)
    problem_body(refused.body["results"][0]["error"], 429, "mailbox_full")


# --- refusals ---------------------------------------------------------------------------------------------------


def test_errors_are_checked_in_the_promised_order(server: Server, alice: str) -> None:
    """Each request is wrong in everything that is checked later, too."""
    for n in range(MAILBOX):
        assert publish(server, client_id=alice, data=n, id=f"{n}").status == 202
    gzip = {"Content-Encoding": "gzip"}
    big = b"{" * (BODY + 1)
    problem(request(server, "PUT", "/notfy", big, headers=gzip, key="wrong"), 404, "not_found")
    answer = request(server, "PUT", "/notify", big, headers=gzip, key="wrong")
    problem(answer, 405, "method_not_allowed")
    assert "POST" in answer.headers["allow"]
    for key in ("wrong", None):
        answer = request(server, "POST", "/notify", big, headers=gzip, key=key)
        problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"]
    problem(request(server, "POST", "/notify", big, headers=gzip, key="o" * 43), 403, "forbidden")
    problem(request(server, "POST", "/notify", big, headers=gzip), 413, "too_large")
    problem(request(server, "POST", "/notify", b"{", headers=gzip), 415, "unsupported_encoding")
    problem(request(server, "POST", f"/notify/{alice}?ttl=x", b"{"), 400, "bad_json")
    problem(publish(server, client_id=alice, data="other", id="0", ttl=-1), 422, "invalid", "ttl")
    problem(publish(server, client_id=alice, data="other", id="0"), 409, "id_conflict")
    body = problem(publish(server, client_id=alice, data="new"), 429, "mailbox_full")
    assert body["id"], "to retry with"


@pytest.mark.parametrize(("path", "body"), [("/notify?wait=x", b"{"), ("/batch?wait=1", b"[{]")])
def test_a_body_that_does_not_parse_comes_before_a_wrong_query(server: Server, path: str, body: bytes) -> None:
    problem(request(server, "POST", path, body), 400, "bad_json")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"client_id": "a"}, "data"),
        ({"data": 1}, "client_id"),
        ({"data": 1, "client_id": "a", "group": "g"}, "group"),
        ({"data": 1, "client_id": "a", "extra": 1}, "extra"),
        ({"data": 1, "client_ids": []}, "client_ids"),
        ({"data": 1, "client_ids": ["a", "a"]}, "client_ids"),
        ({"data": 1, "client_ids": [str(n) for n in range(1001)]}, "client_ids"),
        ({"data": 1, "client_id": "a", "id": "a b"}, "id"),
        ({"data": 1, "client_id": "a", "id": "x" * 129}, "id"),
        ({"data": 1, "client_id": "a", "event": "open"}, "event"),
        ({"data": 1, "client_id": "a", "event": "a b"}, "event"),
        ({"data": 1, "client_id": "a", "collapse_key": ""}, "collapse_key"),
        ({"data": 1, "client_id": "a", "collapse_key": "é" * 33}, "collapse_key"),
        ({"data": 1, "client_id": "a", "receipt": 1}, "receipt"),
        ({"data": 1, "client_id": "a", "ttl": 1.5}, "ttl"),
        ({"data": 1, "client_id": "a", "ttl": 10**9}, "ttl"),
        ({"data": 1, "client_id": "a", "ttl": 0, "collapse_key": "k"}, "collapse_key"),
        ({"data": 1, "client_id": "a", "ttl": 0, "receipt": True}, "receipt"),
        ({"data": 1, "client_id": "a", "ttl": 0, "wait": 1}, "wait"),
        ({"data": 1, "client_id": "a", "wait": 31}, "wait"),
        ({"data": 1, "client_ids": ["a"], "wait": 1}, "wait"),
        ({"data": 1, "group": "g", "ttl": 1}, "ttl"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_invalid_field_is_named(server: Server, fields: dict[str, Any], field: str) -> None:
    problem(publish(server, **fields), 422, "invalid", field)


def test_two_keys_that_differ_are_none(server: Server, alice: str) -> None:
    body = {"client_id": alice, "data": 1}
    bearer = {"Authorization": f"Bearer {server.key}"}
    assert request(server, "POST", "/notify", body, headers=bearer, key=None).status == 202
    assert request(server, "POST", "/notify", body, headers=bearer).status == 202
    problem(request(server, "POST", "/notify", body, headers={"Authorization": "Bearer no"}), 401, "unauthorized")


@pytest.mark.parametrize("path", ["/notify/", "/batch/", "/broadcast/", "/notify/a/", "/notify/a/b"])
def test_a_trailing_slash_is_404_and_no_redirect(server: Server, path: str) -> None:
    problem(request(server, "POST", path, {"data": 1}), 404, "not_found")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/metrics", "/openapi.json", "/asyncapi.json"])
def test_head_works_wherever_get_does(server: Server, path: str) -> None:
    got, head = request(server, "GET", path), request(server, "HEAD", path)
    assert (head.status, head.body) == (got.status, "") == (200, "")
    assert head.headers["content-type"] == got.headers["content-type"]


# --- the other doors --------------------------------------------------------------------------------------------


async def test_group_and_broadcast_reach_the_connected_only(server: Server, alice: str) -> None:
    group = f"g-{alice}"
    async with Client(server, alice, groups=(group,)) as member, Client(server, f"{alice}-other") as other:
        await member.welcome
        await other.welcome
        answer = await apublish(server, group=group, data="members")
        assert (answer.status, (await member.next("notification"))["data"]) == (202, "members")
        answer = await arequest(server, "POST", "/broadcast", {"data": "all", "event": "news"})
        assert (answer.status, answer.body["connections"]) == (202, 2)
        for client in (member, other):
            frame = await client.next("notification")
            assert (frame["data"], frame["event"]) == ("all", "news")
    problem(await arequest(server, "POST", "/broadcast", {"data": 1, "ttl": 5}), 422, "invalid", "ttl")


def test_broadcast_answers_the_number_of_connections_only(server: Server) -> None:
    assert request(server, "POST", "/broadcast", {"data": 1}).body.keys() == {"connections"}


@pytest.mark.parametrize(
    ("kind", "body", "data"),
    [
        ("application/json", b'{"a":1}', {"a": 1}),
        ("application/json; charset=utf-8", b"7", 7),
        ("text/plain", b'{"a":1}', '{"a":1}'),
        ("application/x-www-form-urlencoded", b"Backup done", "Backup done"),
        ("application/x-www-form-urlencoded", b' ["a"]', ["a"]),
        (None, b'"text"', "text"),
        (None, b"42", "42"),
        ("application/json", b"Backup", 400),
        (None, b"{oops", 400),
        ("text/plain", b"\xff", 400),
        (None, b"", 422),
    ],
)
async def test_post_to_a_client_takes_the_body_as_data(
    server: Server, alice: str, kind: str | None, body: bytes, data: Any
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await arequest(server, "POST", f"/notify/{alice}?event=e&ttl=60&id=x", body, headers=headers)
    if data in (400, 422):
        problem(answer, data, "bad_json" if data == 400 else "invalid")
        return
    assert (answer.status, answer.body["id"]) == (202, "x")
    async with Client(server, alice) as client:
        frame = await client.next("notification")
    assert (frame["data"], frame["event"]) == (data, "e")


def test_post_to_a_client_decodes_once_and_refuses_unknown_options(server: Server, alice: str) -> None:
    assert request(server, "POST", f"/notify/{alice}%2541", b"hi").body["client_id"] == f"{alice}%41"
    problem(request(server, "POST", f"/notify/{alice}?colour=red", b"hi"), 422, "invalid", "colour")


@pytest.mark.parametrize("form", ["array", "ndjson"])
def test_batch_answers_each_item_in_order(server: Server, alice: str, form: str) -> None:
    items: list[Any] = [
        {"client_id": alice, "data": 1, "id": "a"},
        {"client_id": alice, "data": 1, "bad": 1},
        {"client_id": alice, "data": 1, "id": "a"},
        {"client_ids": [f"{alice}-b", f"{alice}-c"], "data": 2},
    ]
    texts = [json.dumps(item) for item in items]
    body = f"[{','.join(texts)}]" if form == "array" else "\n\n".join([*texts, "{oops", ""])
    answer = request(server, "POST", "/batch", body)
    assert answer.status == 200, answer
    lines = answer.body if form == "array" else [json.loads(line) for line in answer.body.splitlines()]
    assert answer.headers["notifier-rejected"] == ("1" if form == "array" else "2")
    assert (lines[0]["status"], lines[2]["duplicate"], lines[3]["accepted"]) == ("queued", True, 2)
    problem_body(lines[1]["error"], 422, "invalid", "bad")
    if form == "ndjson":
        problem_body(lines[4]["error"], 400, "bad_json")


def test_batch_limits(server: Server, alice: str) -> None:
    def batch(items: list[Any]) -> Response:
        return request(server, "POST", "/batch", items)

    nobody = {"client_id": alice, "data": 1, "ttl": 0}
    answer = batch([])
    assert (answer.status, answer.body, answer.headers["notifier-rejected"]) == (200, [], "0")
    assert len(batch([nobody] * 1000).body) == 1000
    problem(batch([nobody] * 1001), 413, "too_large")
    many = [f"{alice}-{n}" for n in range(501)]
    assert batch([{"client_ids": many[:500], "data": 1, "ttl": 0}] * 2).status == 200
    body = problem(batch([{"client_ids": many, "data": 1, "ttl": 0}] * 2), 413, "too_large")
    assert "client_ids" in body["detail"]
    declared = {"Content-Length": str((4 << 20) + 1)}  # is enough: the rest is not waited for
    problem(request(server, "POST", "/batch", headers=declared), 413, "too_large")
    problem(request(server, "POST", "/batch", b"[{]"), 400, "bad_json")
    problem(request(server, "POST", "/batch?wait=1", [nobody]), 422, "invalid", "wait")


def test_an_item_of_a_batch_is_no_larger_than_a_body(server: Server, alice: str) -> None:
    items = [{"client_id": alice, "data": "x" * BODY}, {"client_id": alice, "data": 1}]
    answer = request(server, "POST", "/batch", items)
    problem(answer, 413, "too_large")


# --- ids and receipts -------------------------------------------------------------------------------------------


def test_idempotency_key_is_the_id(server: Server, alice: str) -> None:
    def keyed(key: str, **fields: Any) -> Response:
        return publish(server, client_id=alice, data=1, headers={"Idempotency-Key": key}, **fields)

    assert (keyed("k-1").body["id"], keyed('"k-1"').status, keyed("k-1", id="k-1").status) == ("k-1", 200, 200)
    problem(keyed("k-1", id="k-2"), 422, "invalid")
    assert publish(server, client_id=alice, data=1, id="k-1").headers["idempotent-replayed"] == "true"


def test_a_refused_publish_uses_up_no_id(server: Server, alice: str) -> None:
    for n in range(MAILBOX):
        publish(server, client_id=alice, data=n)
    problem(publish(server, client_id=alice, data=1, id="late"), 429, "mailbox_full")
    assert request(server, "DELETE", f"/clients/{alice}/notifications").body == {"purged": MAILBOX}
    assert publish(server, client_id=alice, data=2, id="late").status == 202


async def test_receipt_from_pending_to_delivered(server: Server, alice: str) -> None:
    path = f"/notifications/{alice}?client_id={alice}"
    first = (await apublish(server, client_id=alice, data=1, id=alice, receipt=True)).body
    pending = (await arequest(server, "GET", path)).body
    assert pending["state"] == "pending"
    assert all(pending[name] == first[name] for name in ("client_id", "seq", "accepted_at"))
    assert (await arequest(server, "HEAD", path)).status == 200
    async with Client(server, alice, ack="client") as client:
        await client.ack((await client.next("notification"))["seq"], confirm=True)
        await client.next("settled")
    receipt = (await arequest(server, "GET", f"/notifications/{alice}")).body
    assert (receipt["state"], receipt["acked_by"]) == ("delivered", "client")
    assert receipt["settled_at"] >= receipt["accepted_at"]


def test_receipt_that_is_ambiguous_or_unknown(server: Server, alice: str) -> None:
    ids = [f"{alice}-a", f"{alice}-b"]
    assert publish(server, client_ids=ids, data=1, id=alice, receipt=True).status == 202
    answer = request(server, "GET", f"/notifications/{alice}")
    assert answer.status == 409, answer
    assert request(server, "GET", f"/notifications/{alice}?client_id={ids[1]}").body["client_id"] == ids[1]
    assert publish(server, client_id=alice, data=1, id=f"{alice}-none").status == 202
    problem(request(server, "GET", f"/notifications/{alice}-none"), 404, "not_found")
    problem(request(server, "GET", f"/notifications/{alice}?client_id=x", key="o" * 43), 403, "forbidden")
