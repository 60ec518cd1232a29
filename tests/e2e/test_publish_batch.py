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


BROKEN = {
    "not UTF-8": b'"\xe9"',
    "depth": b"[" * 64 + b"]" * 64,
    "not finite": b"1e999",
    "400 digits": b"9" * 400,
    "surrogate": b'"\\ud800"',
}


@pytest.mark.parametrize("field", [b"data", b"unknown", b"ttl"])
@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
def test_an_array_with_an_item_that_breaks_the_rules_of_json(door: Publisher, value: bytes, field: bytes) -> None:
    """An array that does not parse is 400, whatever it is that does not. In NDJSON it is that line's error."""
    alice = name()
    good = json.dumps({"client_id": alice, "data": 1}).encode()
    bad = b'{"client_id":"x","data":1,"%b":%b}' % (field, value)
    if field == b"data":
        bad = b'{"client_id":"x","data":%b}' % value
    answer = door.post("/batch", b"[%b, {}, %b]" % (good, bad))
    problem(answer, 400, "bad_json")
    assert answer.body["detail"].startswith("Item 2: ")
    assert door.get(f"/clients/{alice}").body["pending"] == 0
    found = lines(door.post("/batch", ndjson(good, bad)))
    assert [item.get("error", {}).get("code") for item in found] == [None, "bad_json"]


def test_a_key_twice_is_an_item_error(door: Publisher) -> None:
    """The array does parse."""
    answer = door.post(
        "/batch", b'[{"client_id":"x","data":1,"data":2}, {"client_id":"%b","data":1}]' % name().encode()
    )
    assert [item.get("error", {}).get("code") for item in answer.body] == ["bad_json", None]


def test_a_repeat_tells_what_the_batch_has_made_of_the_first(door: Publisher) -> None:
    item = {"client_id": name(), "data": 1, "collapse_key": "k"}
    answer = door.post("/batch", [item | {"id": "k1"}, item | {"id": "k2"}, item | {"id": "k1"}])
    assert [found["status"] for found in answer.body] == ["queued", "queued", "collapsed"]


def test_each_item_that_is_refused_is_counted_once(door: Publisher) -> None:
    before = door.server.metrics()
    door.post("/batch", [{}, 1, {"client_id": "a", "data": 1, "ttl": -1}, {"client_id": "a", "data": 1, "ttl": 0}])
    door.post("/batch", b"nonsense\n{}\n")
    door.post("/batch", b"[{},")
    after = door.server.metrics()
    counted = {
        outcome: after.get(key, 0) - before.get(key, 0)
        for outcome in ("invalid", "bad_json", "dropped")
        for key in (f'notifier_publishes_total{{outcome="{outcome}"}}',)
    }
    assert counted == {"invalid": 4, "bad_json": 2, "dropped": 1}


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


def test_client_ids_of_items_that_are_wrong_count_too(door: Publisher) -> None:
    """Too large comes first, then what does not parse, then what is wrong with the request."""
    tenth = {"client_ids": [f"c{n}" for n in range(100)], "data": 1, "ttl": 0}
    for wrong in ({"unknown": 1}, {"event": "open"}, {"client_ids": list(range(100))}):
        assert door.post("/batch", [tenth] * 9 + [tenth | wrong]).status == 200
        items = [tenth | wrong, *[tenth] * 9, {"client_ids": ["one"]}]
        for body in (json.dumps(items).encode(), ndjson(*items)):
            answer = door.post("/batch?x=1", body)
            problem(answer, 413, "too_large")
            assert "1001" in answer.body["detail"]
    body = json.dumps([*[tenth] * 10, {"client_ids": ["one"], "data": "?"}]).encode()
    problem(door.post("/batch?x=1", body.replace(b'"?"', b"1e999")), 413, "too_large")
    problem(door.post("/batch?x=1", b'[{"client_id":"x","data":1e999}]'), 400, "bad_json")


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
    assert problem(door.post("/batch?%FF&x=1", []), 422, "invalid")[1] == "x"


def test_a_refused_batch_stores_nothing(door: Publisher) -> None:
    alice = name()
    door.post("/batch", [{"client_id": alice, "data": 1}, {"client_id": alice, "data": "x" * MAX_BODY}])
    assert door.get(f"/clients/{alice}").body["pending"] == 0
