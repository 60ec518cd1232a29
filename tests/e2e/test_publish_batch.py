"""`POST /batch`: an array or NDJSON, answered in the same form and order, stored in one commit."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.e2e.publishing import LIMIT, MAX_BODY, Publisher, door, name, problem, publisher
from tests.harness import Client, Response

__all__ = ["door", "publisher"]


def ndjson(*items: object) -> bytes:
    return b"".join((item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in items)


def lines(answer: Response) -> list[Any]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.body.splitlines()]


def announced(door: Publisher, size: int) -> bytes:
    """The answer to a batch that says it will be so long."""
    head = f"POST /batch HTTP/1.1\r\nHost: x\r\nX-API-Key: {door.server.key}\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", door.server.port), timeout=10) as connection:
        connection.sendall(head.encode() + b" " * 10_000)
        return connection.recv(65536)


@pytest.mark.parametrize("form", ["array", "ndjson"])
async def test_the_answers_stand_in_the_order_of_the_items(publisher: Publisher, form: str) -> None:
    alice, full = name(), name("full")
    for _ in range(LIMIT):
        publisher.notify(full)
    items = [
        {"client_id": alice, "data": 1, "id": "a"},
        {"client_id": full, "data": 1},
        {"client_id": alice, "data": 1, "id": "a"},
        {"client_id": alice, "data": 2, "id": "a"},
        {"client_id": alice, "data": 1, "ttl": 0},
        {"client_id": alice, "data": 1, "unknown": 1},
        {"client_ids": [alice, full], "data": 3},
        {"client_id": alice, "data": 4, "event": "e"},
    ]
    answer = publisher.post("/batch", items if form == "array" else ndjson(*items))
    assert answer.status == 200
    found = answer.body if form == "array" else lines(answer)
    assert [item.get("status") or item.get("error", {}).get("code") or "many" for item in found] == [
        "queued", "mailbox_full", "queued", "id_conflict", "dropped", "invalid", "many", "queued",
    ]  # fmt: skip
    assert found[2]["duplicate"] is True
    assert found[5]["error"]["errors"][0]["field"] == "unknown"
    assert (found[6]["accepted"], found[6]["rejected"]) == (1, 1)
    assert answer.headers["notifier-rejected"] == "4"
    async with Client(publisher.server, alice) as client:
        assert [frame["data"] for frame in await client.notifications(3)] == [1, 3, 4]


def test_a_batch_is_one_commit(door: Publisher) -> None:
    before = door.server.metrics()
    clients = [name() for _ in range(50)]
    answer = door.post("/batch", [{"client_id": client, "data": 1} for client in clients])
    assert len(answer.body) == 50
    seqs = [item["seq"] for item in answer.body]
    assert seqs == sorted(seqs)
    after = door.server.metrics()
    assert after["notifier_engine_batch_size_count"] - before["notifier_engine_batch_size_count"] == 1
    assert after["notifier_engine_batch_size_sum"] - before["notifier_engine_batch_size_sum"] == 50


def test_a_large_batch_of_all_kinds_is_one_commit(door: Publisher) -> None:
    """Also where its first items alone have enough for one."""
    before = door.server.metrics()
    items = [{"client_ids": [name() for _ in range(100)], "data": 1} for _ in range(6)]
    items += [{"client_id": name(), "data": 1} for _ in range(994)]
    answer = door.post("/batch", items)
    assert answer.status == 200, answer.body
    assert answer.headers["notifier-rejected"] == "0"
    after = door.server.metrics()
    assert after["notifier_engine_batch_size_count"] - before["notifier_engine_batch_size_count"] == 1
    assert after["notifier_engine_batch_size_sum"] - before["notifier_engine_batch_size_sum"] == 1_594


@pytest.mark.parametrize(("body", "said"), [(b"[]", []), (b" [ ] ", []), (b"", ""), (b"\n \r\n", "")])
def test_nothing_at_all(door: Publisher, body: bytes, said: object) -> None:
    answer = door.post("/batch", body)
    assert (answer.status, answer.body, answer.headers["notifier-rejected"]) == (200, said, "0")


def test_lines_that_do_not_parse_are_their_own_errors(door: Publisher) -> None:
    alice = name()
    good = {"client_id": alice, "data": 1}
    body = ndjson(good, b"{", b"", b"  ", b"nonsense", b'{"client_id":"x","data":1,"data":2}', good)
    found = lines(door.post("/batch", body.replace(b"\n", b"\r\n")))
    assert [item.get("error", {}).get("code") for item in found] == [None, "bad_json", "bad_json", "bad_json", None]


def test_an_object_alone_is_a_line(door: Publisher) -> None:
    (found,) = lines(door.post("/batch", {"client_id": name(), "data": 1}))
    assert found["status"] == "queued"


@pytest.mark.parametrize("body", [b"[", b"[1", b"[{}", b"[}]", b'[{"client_id":"a","data":1}] x', b"[1,]"])
def test_an_array_that_does_not_parse(door: Publisher, body: bytes) -> None:
    problem(door.post("/batch", body), 400, "bad_json")


def test_items_that_are_no_publish(door: Publisher) -> None:
    answer = door.post("/batch", [1, None, [], {}, {"data": 1}, {"client_id": name(), "data": 1}])
    assert [item.get("error", {}).get("code") for item in answer.body] == ["invalid"] * 5 + [None]


def test_a_thousand_items_and_no_more(door: Publisher) -> None:
    item = {"client_id": "nobody", "data": 1, "ttl": 0}
    for body in ([item] * 1000, ndjson(*[item] * 1000)):
        assert door.post("/batch", body).status == 200
    for body in ([item] * 1001, ndjson(*[item] * 1001)):
        problem(door.post("/batch", body), 413, "too_large")


def test_client_ids_of_all_items_together(door: Publisher) -> None:
    tenth = {"client_ids": [f"c{n}" for n in range(100)], "data": 1, "ttl": 0}
    assert door.post("/batch", [tenth] * 10).status == 200
    problem(door.post("/batch", [*[tenth] * 10, tenth | {"client_ids": ["one"]}]), 413, "too_large")


def test_the_bytes_of_an_item_and_of_all(door: Publisher) -> None:
    long = {"client_id": name(), "data": "x" * MAX_BODY}
    problem(door.post("/batch", [long]), 413, "too_large")
    problem(door.post("/batch", ndjson(long)), 413, "too_large")
    padded = json.dumps({"client_id": "nobody", "data": 1, "ttl": 0}).encode()
    allowed = padded + b"\n" * (4 * 1024 * 1024 - len(padded))
    assert door.post("/batch", allowed).status == 200
    assert announced(door, 4 * 1024 * 1024 + 1).startswith(b"HTTP/1.1 413 ")


def test_wait_is_not_for_batches(door: Publisher) -> None:
    assert problem(door.post("/batch?wait=5", [{"client_id": name(), "data": 1}]), 422, "invalid") == ["wait"]


def test_a_refused_batch_stores_nothing(door: Publisher) -> None:
    alice = name()
    door.post("/batch", [{"client_id": alice, "data": 1}, {"client_id": alice, "data": "x" * MAX_BODY}])
    assert door.get(f"/clients/{alice}").body["pending"] == 0
