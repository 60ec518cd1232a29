"""What a publisher may say: every field, every rule, and every fault told at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.engine.base import Draft
from notifier.errors import BadJson, Invalid
from notifier.web.publication import (
    Publication,
    TtlLimits,
    count_recipients,
    decode_broadcast,
    decode_notify,
    decode_plain,
    new_id,
)

TTL = TtlLimits(604_800, 2_592_000)


def decode(body: object, key: str | None = None, wait: bool = False) -> Publication:
    return decode_notify(body if isinstance(body, bytes) else json.dumps(body).encode(), TTL, key, wait)


def wrong(body: object, key: str | None = None, wait: bool = False) -> list[str]:
    """The fields that are wrong."""
    with pytest.raises(Invalid) as refusal:
        decode(body, key, wait)
    assert all(error.message for error in refusal.value.errors)
    return [error.field for error in refusal.value.errors]


def test_the_least() -> None:
    found = decode({"client_id": "alice", "data": None})
    assert (found.client_ids, found.group, found.data, found.ttl) == (("alice",), None, b"null", 604_800)
    assert (found.id, found.event, found.collapse_key, found.receipt, found.many) == (None, None, None, False, False)


def test_everything() -> None:
    body = {
        "client_id": "alice", "data": {"a": [1]}, "id": "inv-17", "event": "invoice.paid", "ttl": 86400,
        "collapse_key": "inv", "receipt": True,
    }  # fmt: skip
    found = decode(body)
    assert found.client_ids == ("alice",)
    assert (found.id, found.event, found.ttl, found.collapse_key, found.receipt, found.many) == (
        "inv-17", "invoice.paid", 86400, "inv", True, False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "data", [b"1", b" 1.50 ", b'"x"', b"null", b'{"b":1, "a" : 2}', b"[1 ,2]", b'"\\u00e9\\/"', '"é"'.encode(), b"-0e1"]
)
def test_the_same_text_of_data_goes_out(data: bytes) -> None:
    for body in (b'{"client_id":"a","data":%b}', b'{"data":%b,"client_id":"a","receipt":false}'):
        assert decode(body % data).data == data.strip()


def test_client_ids() -> None:
    found = decode({"client_ids": ["a", "b"], "data": 1})
    assert (found.client_ids, found.many) == (("a", "b"), True)
    assert decode({"client_ids": ["a"], "data": 1}).many
    assert len(decode({"client_ids": [f"c{n}" for n in range(1000)], "data": 1}).client_ids) == 1000


def test_a_group_implies_ttl_0() -> None:
    for body in ({"group": "g", "data": 1}, {"group": "g", "data": 1, "ttl": 0}):
        found = decode(body)
        assert (found.client_ids, found.group, found.ttl) == ((), "g", 0)


def test_the_idempotency_key_is_the_id() -> None:
    assert decode({"client_id": "a", "data": 1}, key="k").id == "k"
    assert decode({"client_id": "a", "data": 1, "id": "k"}, key="k").id == "k"
    assert wrong({"client_id": "a", "data": 1, "id": "other"}, key="k") == ["id"]


FAULTS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["client_id"]),
    ({"client_id": "a", "group": "g"}, ["group"]),
    ({"client_id": "a", "client_ids": ["b"]}, ["client_ids"]),
    ({"client_id": ""}, ["client_id"]),
    ({"client_id": " a"}, ["client_id"]),
    ({"client_id": "a\u2003"}, ["client_id"]),
    ({"client_id": "a\nb"}, ["client_id"]),
    ({"client_id": "é" * 101}, ["client_id"]),
    ({"client_id": 1}, ["client_id"]),
    ({"client_id": None}, ["client_id"]),
    ({"client_id": ["a"]}, ["client_id"]),
    ({"client_ids": []}, ["client_ids"]),
    ({"client_ids": ["a", "a"]}, ["client_ids"]),
    ({"client_ids": [f"c{n}" for n in range(1001)]}, ["client_ids"]),
    ({"client_ids": ["a", ""]}, ["client_ids[1]"]),
    ({"client_ids": ["a", 1]}, ["client_ids"]),
    ({"client_ids": "a"}, ["client_ids"]),
    ({"group": ""}, ["group"]),
    ({"group": "g", "ttl": 1}, ["ttl"]),
    ({"group": "g", "receipt": True}, ["receipt"]),
    ({"client_id": "a", "id": ""}, ["id"]),
    ({"client_id": "a", "id": "a b"}, ["id"]),
    ({"client_id": "a", "id": "é"}, ["id"]),
    ({"client_id": "a", "id": "x" * 129}, ["id"]),
    ({"client_id": "a", "id": 7}, ["id"]),
    ({"client_id": "a", "event": ""}, ["event"]),
    ({"client_id": "a", "event": "a b"}, ["event"]),
    ({"client_id": "a", "event": "x" * 65}, ["event"]),
    ({"client_id": "a", "event": None}, ["event"]),
    *(({"client_id": "a", "event": name}, ["event"]) for name in ("open", "error", "message", "notifier")),
    ({"client_id": "a", "collapse_key": ""}, ["collapse_key"]),
    ({"client_id": "a", "collapse_key": "é" * 33}, ["collapse_key"]),
    ({"client_id": "a", "collapse_key": "a\x00"}, ["collapse_key"]),
    ({"client_id": "a", "receipt": 1}, ["receipt"]),
    ({"client_id": "a", "receipt": "true"}, ["receipt"]),
    ({"client_id": "a", "receipt": None}, ["receipt"]),
    ({"client_id": "a", "ttl": -1}, ["ttl"]),
    ({"client_id": "a", "ttl": 1.5}, ["ttl"]),
    ({"client_id": "a", "ttl": "60"}, ["ttl"]),
    ({"client_id": "a", "ttl": True}, ["ttl"]),
    ({"client_id": "a", "ttl": None}, ["ttl"]),
    ({"client_id": "a", "ttl": 2_592_001}, ["ttl"]),
    ({"client_id": "a", "ttl": 10**30}, ["ttl"]),
    ({"client_id": "a", "ttl": 0, "collapse_key": "k"}, ["collapse_key"]),
    ({"client_id": "a", "ttl": 0, "receipt": True}, ["receipt"]),
    ({"client_id": "a", "priority": 1}, ["priority"]),
    ({"client_id": "a", "ID": "x"}, ["ID"]),
    ({"client_id": "a", "": 1}, [""]),
    ({"client_id": "", "event": "open", "ttl": 10**9, "id": " "}, ["client_id", "ttl", "id", "event"]),
    ({"client_id": 1, "ttl": "x", "a": 1, "b": 2}, ["a", "b", "client_id", "ttl"]),
]


@pytest.mark.parametrize(("fields", "named"), FAULTS, ids=lambda value: str(value)[:50])
def test_every_fault_is_named(fields: dict[str, Any], named: list[str]) -> None:
    assert wrong({"data": 1} | fields) == named


def test_limits_are_inside() -> None:
    decode({"client_id": "é" * 100, "data": 1, "id": "x" * 128, "event": "x" * 64, "collapse_key": "é" * 32,
            "ttl": 2_592_000})  # fmt: skip
    assert decode({"client_id": "a", "data": 1, "ttl": 1}).ttl == 1


def test_data_is_required_and_may_be_anything() -> None:
    assert wrong({"client_id": "a"}) == ["data"]
    for data in (None, False, 0, "", [], {}):
        assert json.loads(decode({"client_id": "a", "data": data}).data) == data


def test_wait_is_for_one_client_and_for_what_is_stored() -> None:
    assert decode({"client_id": "a", "data": 1}, wait=True).ttl == 604_800
    assert wrong({"client_ids": ["a"], "data": 1}, wait=True) == ["wait"]
    assert wrong({"client_id": "a", "data": 1, "ttl": 0}, wait=True) == ["wait"]
    assert "wait" in wrong({"group": "g", "data": 1}, wait=True)


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"true"])
def test_what_is_no_object(body: bytes) -> None:
    assert wrong(body) == [""]


BAD_JSON = [
    b"", b" ", b"{", b'{"client_id":"a","data":}', b'{"client_id":"a","data":NaN}',
    b'{"client_id":"a","data":1e400}',
    b'{"client_id":"a","data":"\xff"}', b'{"client_id":"a","data":"\\ud800"}', b'{"client_id":"\xff","data":1}',
    b'\xef\xbb\xbf{"client_id":"a","data":1}', b'{"client_id":"a","data":1,"data":2}',
    b'{"client_id":"a","client_id":"b","data":1}', b'{"client_id":"a","client_id":"b","data":"\\""}',
    b'{"client_id":"a","data":1,"d\\u0061ta":2}', b'{"data":1,"data":2,"client_id":"a"}',
    b'{"client_id":"a","data":1,"ttl":1,"ttl":2}', b'{"client_id":"a","data":1,"x":1,"x":2}',
    b'{"client_id":"a","data":' + b"[" * 64 + b"]" * 64 + b"}", b'{"client_id":"a","data":' + b"9" * 400 + b"}",
    b'{"client_id":"a","data":1}}', b'{"client_id":"a","data":1} x',
]  # fmt: skip


@pytest.mark.parametrize("body", BAD_JSON)
def test_what_is_no_json_that_all_read_alike(body: bytes) -> None:
    with pytest.raises(BadJson):
        decode(body)


def test_names_within_the_data_are_no_names_of_ours() -> None:
    data = '{"client_id":"x","data":{"client_id":"y"},"id":"\\"data\\""}'
    assert decode(f'{{"client_id":"a","data":{data}}}'.encode()).data == data.encode()


PLAIN = [
    b'{"client_id":"a","data":1}',
    b' { "data" : {"x":["y"]} , "client_id" : "b" }',
    b'{"client_id":"c","data":""}',
]
OTHER = [
    b'{"client_id":"a","data":1,"ttl":5}', b'{"client_ids":["a"],"data":1}', b'{"group":"g","data":1}', b"1", b"[]",
    b'{"client_id":" a","data":1}', b'{"client_id":"\\"","data":1}', b'{"client_id":"a","data":"\\""}',
    b'{"client_id":"a","receipt":false,"data":1}', b'{"client_id":"a"}', b'{"data":1}',
    b'{"client_id":"a","data":' + b"[" * 63 + b"]" * 63 + b"}",
    b'{"client_id":"a","data":[' + b"[]," * 70 + b"1]}",
]  # fmt: skip


def fields(publication: Publication) -> list[object]:
    return [getattr(publication, name) for name in Publication.__slots__]


def asked_for(draft: Draft) -> list[object]:
    """The fields of the publication that says the same."""
    assert draft.fresh_id
    return fields(Publication(
        (draft.client_id,), None, draft.data, draft.ttl, draft.id or None, draft.event, draft.collapse_key,
        draft.receipt,
    ))  # fmt: skip


@pytest.mark.parametrize("item", [*PLAIN, *OTHER, *filter(bytes.strip, BAD_JSON)])
def test_an_item_that_says_more_or_is_wrong_is_looked_at_by_itself(item: bytes) -> None:
    found = decode_plain(b"[%b,%b]" % (PLAIN[0], item), TTL)
    if found is not None:
        assert asked_for(found[1]) == fields(decode(item))
    assert found is not None or item not in PLAIN


@given(st.lists(st.sampled_from([*PLAIN * 9, *OTHER, *filter(bytes.strip, BAD_JSON)]), max_size=4))
def test_what_is_decoded_at_once_is_what_is_decoded_one_by_one(items: list[bytes]) -> None:
    """If one is wrong, or says more, none is decoded at once."""
    found = decode_plain(b"[%b]" % b",".join(items), TTL)
    if all(item in PLAIN for item in items):
        assert found is not None
    if found is not None:
        assert [asked_for(draft) for draft in found] == [fields(decode(item)) for item in items]


def test_where_nothing_is_kept_by_default_each_is_looked_at() -> None:
    assert decode_plain(b"[%b]" % PLAIN[0], TtlLimits(0, 60)) is None


@given(st.binary(max_size=80))
def test_any_other_bytes_are_refused(body: bytes) -> None:
    with pytest.raises((BadJson, Invalid)):
        decode_notify(body, TTL, None, False)


@given(
    st.dictionaries(
        st.sampled_from(["client_id", "client_ids", "group", "data", "id", "event", "ttl", "collapse_key", "receipt"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.text(max_size=2), max_size=3),
    )
)
def test_any_object_is_refused_or_understood(body: dict[str, object]) -> None:
    try:
        found = decode(body)
    except Invalid:
        return
    assert json.loads(found.data) == body["data"]
    assert (found.group is None) == bool(found.client_ids)


def test_a_broadcast() -> None:
    assert decode_broadcast(b'{"data": [1] ,"event":"a"}') == (b"[1]", "a")
    assert decode_broadcast(b'{"data":1}') == (b"1", None)
    for body in (b"{}", b'{"data":1,"event":"open"}', b'{"data":1,"ttl":0}', b'{"data":1,"client_id":"a"}', b"[]"):
        with pytest.raises(Invalid):
            decode_broadcast(body)
    for body in (b'{"data":1,"data":2}', b'{"data":1,"event":"a","event":"b"}', b"x"):
        with pytest.raises(BadJson):
            decode_broadcast(body)


def test_a_number_that_is_no_json_for_most_is_told_before_what_is_wrong() -> None:
    with pytest.raises(BadJson):
        decode({"client_id": "a", "data": 1, "ttl": int("9" * 400)})
    with pytest.raises(Invalid):
        decode({"client_id": "a", "data": 1, "ttl": int("9" * 300)})


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b'{"client_ids":["a","a",1],"unknown":[]}', 3),
        (b'{"client_ids":{"a":1}}', 0),
        (b'{"client_id":"a"}', 0),
        (b"[]", 0),
        (b"{", 0),
        (b"[" * 100_000, 0),
        (b'{"client_ids":["\xff"]}', 0),
    ],
)
def test_recipients_of_what_is_refused_are_counted(body: bytes, count: int) -> None:
    assert count_recipients(body) == count


def test_ids_made_here_are_uuids_that_grow_with_time() -> None:
    ids = [new_id(1_800_000_000_000 + n) for n in range(2_000)]
    assert ids == sorted(set(ids))
    assert all(id[14] == "7" and id[19] in "89ab" and len(id) == 36 for id in ids)
    assert ids[0].startswith("01a3185c-5000-7")
    assert len({new_id(0) for _ in range(2_000)}) == 2_000
