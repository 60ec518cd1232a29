"""`POST /notify` over real HTTP: each row of the table of answers (docs/protocol.md), also with wakes that go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.e2e.handled_server import HANDLED, a_hand, hand
from tests.e2e.publishing import LIMIT, Publisher, name, problem, publisher, seconds_between
from tests.harness import Client, Server, apublish, request

__all__ = ["publisher"]


# -- 202: sent, queued ------------------------------------------------------------------------------------------------


async def test_sent(publisher: Publisher) -> None:
    alice = name()
    async with Client(publisher.server, alice, ack="client") as tab, Client(publisher.server, alice) as other:
        await asyncio.gather(tab.welcome, other.welcome)
        answer = publisher.notify(alice, {"text": "Invoice paid"}, id=f"{alice}-1", ttl=86_400)
        assert answer.status == 202
        assert publisher.is_live(answer, connections=2)
        assert set(answer.body) == {"id", "client_id", "seq", "status", "connections", "accepted_at", "expires_at"}
        assert (answer.body["id"], answer.body["client_id"]) == (f"{alice}-1", alice)
        assert seconds_between(answer.body["accepted_at"], answer.body["expires_at"]) == 86_400
        for client in (tab, other):
            frame = await client.next("notification")
            assert frame["data"] == {"text": "Invoice paid"}
            assert (frame["seq"], frame["id"]) == (answer.body["seq"], answer.body["id"])
            assert (frame["accepted_at"], frame["expires_at"]) == (
                answer.body["accepted_at"], answer.body["expires_at"]
            )  # fmt: skip


async def test_queued_without_a_connection(publisher: Publisher) -> None:
    alice = name()
    answer = publisher.notify(alice)
    assert (answer.status, answer.body["status"], answer.body["connections"]) == (202, "queued", 0)
    assert len(answer.body["id"]) == 36
    async with Client(publisher.server, alice) as client:
        assert (await client.welcome)["pending"] == 1
        assert (await client.next("notification"))["seq"] == answer.body["seq"]


async def test_queued_because_no_connection_could_take_it(publisher: Publisher) -> None:
    """202 | durable; no connection, or none could take it now."""
    with_window = publisher.server
    alice = name()
    async with Client(with_window, alice, ack="client") as client:
        window = (await client.welcome)["max_inflight"]
        assert window > LIMIT, "the mailbox is full first"
        for _ in range(LIMIT):
            publisher.notify(alice)
        assert problem(publisher.notify(alice), 429, "mailbox_full") == []


async def test_the_same_text_of_data_goes_out(publisher: Publisher) -> None:
    alice = name()
    async with Client(publisher.server, alice) as client:
        await client.welcome
        text = b'{"b": 1.50,"a":[1,  2],"u":"\\u00e9\\/","e":1E5}'
        publisher.post("/notify", b'{"client_id":"%b","data":%b}' % (alice.encode(), text))
        await client.next("notification")
    assert client.frames[-1]["data"] == {"b": 1.5, "a": [1, 2], "u": "é/", "e": 100_000.0}


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain", "image/png"])
def test_the_body_is_json_whatever_the_content_type_says(publisher: Publisher, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = publisher.post("/notify", f'{{"client_id":"{name()}","data":1}}'.encode(), headers=headers)
    assert answer.status == 202


def test_seqs_grow_and_are_near_the_microseconds_of_their_time(publisher: Publisher) -> None:
    alice = name()
    seqs = [publisher.notify(alice).body["seq"] for _ in range(5)]
    assert seqs == sorted(set(seqs))
    assert all(1_700_000_000_000_000 < seq < 2**53 for seq in seqs)


# -- ttl 0 ------------------------------------------------------------------------------------------------------------


async def test_ttl_0(publisher: Publisher) -> None:
    """202 | `ttl: 0` | "sent" or "dropped"; no `seq`, no `expires_at`."""
    alice = name()
    answer = publisher.notify(alice, ttl=0, id="x")
    assert (answer.status, answer.body["status"], answer.body["connections"]) == (202, "dropped", 0)
    async with Client(publisher.server, alice) as client:
        assert (await client.welcome)["pending"] == 0
        for _ in range(2):  # never deduplicated
            answer = publisher.notify(alice, 7, ttl=0, id="x", event="e")
            assert (answer.status, answer.body["status"], answer.body["connections"]) == (202, "sent", 1)
            assert set(answer.body) == {"id", "client_id", "status", "connections", "accepted_at"}
            frame = await client.next("notification")
            assert set(frame) == {"type", "id", "event", "data", "accepted_at"}
            assert (frame["id"], frame["event"], frame["data"]) == ("x", "e", 7)


# -- repeats ----------------------------------------------------------------------------------------------------------


async def test_a_repeat_tells_the_first_and_its_status_now(publisher: Publisher) -> None:
    """200 + `Idempotent-Replayed: true` | repeat of an id."""
    alice = name()
    first = publisher.notify(alice, id="a", ttl=60).body
    again = publisher.notify(alice, id="a", ttl=60)
    assert (again.status, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.body == {
        "id": "a", "client_id": alice, "seq": first["seq"], "expires_at": first["expires_at"], "status": "queued",
        "duplicate": True,
    }  # fmt: skip
    async with Client(publisher.server, alice, ack="client") as client:
        await client.next("notification")
        assert publisher.notify(alice, id="a", ttl=60).body["status"] == "sent"
        await client.ack(first["seq"], confirm=True)
        await client.next("settled")
        assert len([frame for frame in client.frames if frame["type"] == "notification"]) == 1
    found = publisher.notify(alice, id="a", ttl=60).body
    assert (found["status"], found["acked_by"]) == ("delivered", "client")
    assert "idempotent-replayed" not in publisher.notify(alice, id="b").headers


def test_a_repeat_tells_other_ends(publisher: Publisher) -> None:
    alice = name()
    publisher.notify(alice, id="collapsed", collapse_key="k")
    publisher.notify(alice, id="purged", collapse_key="k")
    publisher.purge(alice)
    assert publisher.notify(alice, id="collapsed", collapse_key="k").body["status"] == "collapsed"
    assert publisher.notify(alice, id="purged", collapse_key="k").body["status"] == "purged"


@pytest.mark.parametrize(
    "change", [{"data": 2}, {"event": "e"}, {"ttl": 61}, {"collapse_key": "k"}], ids=lambda change: next(iter(change))
)
def test_other_content_is_a_conflict(publisher: Publisher, change: dict[str, Any]) -> None:
    alice = name()
    body = {"client_id": alice, "data": 1, "id": "a", "ttl": 60}
    first = publisher.post("/notify", body).body
    answer = publisher.post("/notify", body | change)
    assert problem(answer, 409, "id_conflict") == []
    assert answer.body["id"] == "a"
    assert publisher.post("/notify", body).body["seq"] == first["seq"]


def test_data_is_compared_byte_for_byte(publisher: Publisher) -> None:
    alice = name()
    assert publisher.post("/notify", f'{{"client_id":"{alice}","id":"a","data":[1]}}').status == 202
    assert publisher.post("/notify", f'{{"id":"a","client_id":"{alice}", "data": [1]}}').status == 200
    assert publisher.post("/notify", f'{{"client_id":"{alice}","id":"a","data":[ 1]}}').status == 409


async def test_two_at_once_are_one(publisher: Publisher) -> None:
    alice = name()
    answers = await asyncio.gather(*(apublish(publisher.server, client_id=alice, data=1, id="a") for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200] * 7 + [202]
    assert len({answer.body["seq"] for answer in answers}) == 1


def test_the_idempotency_key_is_the_id(publisher: Publisher) -> None:
    alice = name()
    for text in ('"key-1"', "key-1"):
        answer = publisher.post("/notify", {"client_id": alice, "data": 1}, headers={"Idempotency-Key": text})
        assert answer.body["id"] == "key-1"
    assert answer.status == 200
    same = {"client_id": alice, "data": 1, "id": "key-1"}
    assert publisher.post("/notify", same, headers={"Idempotency-Key": "key-1"}).status == 200
    other = publisher.post("/notify", same, headers={"Idempotency-Key": "key-2"})
    assert problem(other, 422, "invalid") == ["id"]
    wrong = publisher.post("/notify", {"client_id": alice, "data": 1}, headers={"Idempotency-Key": "a b"})
    assert problem(wrong, 422, "invalid") == ["Idempotency-Key"]


def test_a_refused_publish_uses_up_no_id(publisher: Publisher) -> None:
    alice = name()
    for _ in range(LIMIT):
        publisher.notify(alice)
    answer = publisher.notify(alice, id="a")
    assert problem(answer, 429, "mailbox_full") == []
    assert "retry-after" not in answer.headers
    assert answer.body["id"] == "a"
    publisher.purge(alice)
    assert publisher.notify(alice, id="a").status == 202


# -- client_ids -------------------------------------------------------------------------------------------------------


async def test_client_ids_answer_in_the_order_given(publisher: Publisher) -> None:
    full, alice, bob = name("full"), name(), name()
    for _ in range(LIMIT):
        publisher.notify(full)
    async with Client(publisher.server, bob) as client:
        await client.welcome
        answer = publisher.post("/notify", {"client_ids": [alice, full, bob], "data": 1, "id": "a"})
        assert answer.status == 202
        assert (answer.body["accepted"], answer.body["rejected"]) == (2, 1)
        first, second, third = answer.body["results"]
        assert (first["client_id"], first["status"], first["id"]) == (alice, "queued", "a")
        assert second["client_id"] == full
        assert (second["error"]["code"], second["error"]["status"]) == ("mailbox_full", 429)
        assert third["client_id"] == bob
        assert (await client.next("notification"))["id"] == "a"
    again = publisher.post("/notify", {"client_ids": [alice, name()], "data": 1, "id": "a"})
    assert [result.get("duplicate", False) for result in again.body["results"]] == [True, False]


def test_client_ids_of_which_none_was_accepted(publisher: Publisher) -> None:
    """If none was accepted, the HTTP status of the first error."""
    full, alice = name("full"), name()
    for _ in range(LIMIT):
        publisher.notify(full)
    publisher.notify(alice, id="a")
    answer = publisher.post("/notify", {"client_ids": [full, alice], "data": 2, "id": "a"})
    assert (answer.status, answer.body["accepted"], answer.body["rejected"]) == (429, 0, 2)
    answer = publisher.post("/notify", {"client_ids": [alice, full], "data": 2, "id": "a"})
    assert answer.status == 409
    assert [result["error"]["code"] for result in answer.body["results"]] == ["id_conflict", "mailbox_full"]


async def test_client_ids_with_ttl_0(publisher: Publisher) -> None:
    alice, bob = name(), name()
    async with Client(publisher.server, alice) as client:
        await client.welcome
        answer = publisher.post("/notify", {"client_ids": [alice, bob], "data": 1, "ttl": 0})
        assert [result["status"] for result in answer.body["results"]] == ["sent", "dropped"]
        await client.next("notification")


# -- group, broadcast -------------------------------------------------------------------------------------------------


async def test_group(publisher: Publisher) -> None:
    group, server = name("group"), publisher.server
    async with (
        Client(server, name(), groups=(group,)) as one,
        Client(server, name(), groups=(group, "other")) as two,
        Client(server, name(), groups=("other",)) as three,
    ):
        await asyncio.gather(one.welcome, two.welcome, three.welcome)
        answer = publisher.post("/notify", {"group": group, "data": "hello"})
        assert (answer.status, answer.body["status"], answer.body["connections"]) == (202, "sent", 2)
        assert answer.body["group"] == group
        for member in (one, two):
            frame = await member.next("notification")
            assert frame["data"] == "hello"
            assert "seq" not in frame
        await three.ping()
        assert not [frame for frame in three.frames if frame["type"] == "notification"]
    assert publisher.post("/notify", {"group": name("nobody"), "data": 1}).body["status"] == "dropped"


async def test_broadcast(publisher: Publisher) -> None:
    async with Client(publisher.server, name()) as one, Client(publisher.server, name()) as two:
        await asyncio.gather(one.welcome, two.welcome)
        answer = publisher.post("/broadcast", {"data": [1], "event": "news"})
        assert (answer.status, answer.body) == (202, {"connections": 2})
        for client in (one, two):
            frame = await client.next("notification")
            assert (frame["data"], frame["event"]) == ([1], "news")
            assert "seq" not in frame
    assert problem(publisher.post("/broadcast", {"data": 1, "ttl": 5}), 422, "invalid") == ["ttl"]
    assert problem(publisher.post("/broadcast", {}), 422, "invalid") == ["data"]


async def test_a_defect_at_one_connection_keeps_a_broadcast_from_no_other(make_server: Callable[..., Server]) -> None:
    server = make_server(command=HANDLED, environ=a_hand())
    async with AsyncExitStack() as stack:
        crowd = [Client(server, f"c{n:03}") for n in range(205)]
        for member in crowd:
            await stack.enter_async_context(member)
            await member.welcome
        for unlucky in (3, 203):  # in the slice that is served at once, and in the one after it
            hand(server, "torn", f"c{unlucky:03}")
        for data in ("first", "second"):
            answer = request(server, "POST", "/broadcast", {"data": data})
            assert answer.status == 202, answer
            for n, member in enumerate(crowd):
                if n not in (3, 203):
                    assert (await member.next("notification"))["data"] == data
        for unlucky in (3, 203):
            assert await crowd[unlucky].closed() == (1011, "internal")


async def test_more_for_many_than_can_be_under_way_is_503_and_not_sent(publisher: Publisher) -> None:
    group = name("crowd")
    async with AsyncExitStack() as stack:
        crowd = [Client(publisher.server, name(), groups=(group,)) for _ in range(201)]
        for member in crowd:
            await stack.enter_async_context(member)
            await member.welcome
        items = [{"group": group, "data": n} for n in range(70)]
        answer = publisher.post("/batch", items)
        assert answer.status == 200, answer.body
        statuses = [item.get("status") or item["error"]["code"] for item in answer.body]
        assert statuses == ["sent"] * 64 + ["busy"] * 6
        refused = [item["error"] for item in answer.body[64:]]
        assert {(error["status"], "id" in error) for error in refused} == {(503, True)}
        assert publisher.server.metrics()['notifier_publishes_total{outcome="busy"}'] >= 6
        for member in crowd:
            assert [(await member.next("notification"))["data"] for _ in range(64)] == [*range(64)]
        assert publisher.post("/notify", {"group": group, "data": "after"}).body["status"] == "sent"
        assert {(await member.next("notification"))["data"] for member in crowd} == {"after"}


# -- collapse ---------------------------------------------------------------------------------------------------------


async def test_collapse(publisher: Publisher) -> None:
    alice = name()
    for n in range(5):
        publisher.notify(alice, n, collapse_key="k")
    publisher.notify(alice, "other", collapse_key="l")
    async with Client(publisher.server, alice) as client:
        assert (await client.welcome)["pending"] == 2
        frames = await client.notifications(2)
        assert [(frame["data"], frame["collapse_key"]) for frame in frames] == [(4, "k"), ("other", "l")]
        assert not [frame for frame in client.frames if frame["type"] == "gap"]
