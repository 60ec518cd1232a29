"""What goes out as bytes, and what is accepted of a client."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier import codec, protocol
from notifier.codec import decode, notification_frame, plain_ack, rfc3339, transient_frame
from notifier.engine.base import Notification
from notifier.errors import BadJson
from notifier.protocol import Ack, Auth, Ping


def notification(**fields: object) -> Notification:
    values = {"client_id": "alice", "seq": 5, "id": "a", "data": b"1", "accepted_ms": 0, "expires_ms": 86_400_123}
    return Notification(**(values | fields))  # type: ignore[arg-type]


# -- what goes out ----------------------------------------------------------------------------------------------------


def test_a_notification() -> None:
    frame = notification_frame(notification(event="a.b", collapse_key='k"\\é', data=b'{"x": [1.50]}'))
    assert json.loads(frame) == {
        "type": "notification",
        "id": "a",
        "seq": 5,
        "event": "a.b",
        "collapse_key": 'k"\\é',
        "data": {"x": [1.5]},
        "accepted_at": "1970-01-01T00:00:00.000Z",
        "expires_at": "1970-01-02T00:00:00.123Z",
    }
    assert b'"data":{"x": [1.50]}' in frame, "spliced, not encoded anew"


def test_what_was_not_given_is_left_out() -> None:
    assert set(json.loads(notification_frame(notification()))) == {
        "type", "id", "seq", "data", "accepted_at", "expires_at"
    }  # fmt: skip


def test_a_transient_has_neither_seq_nor_end() -> None:
    frame = json.loads(transient_frame("a", "e", b"null", 1))
    assert frame == {
        "type": "notification", "id": "a", "event": "e", "data": None, "accepted_at": "1970-01-01T00:00:00.001Z"
    }  # fmt: skip


def test_a_frame_is_made_once() -> None:
    value = notification()
    assert notification_frame(value) is notification_frame(value)


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text(st.characters(min_codepoint=33, max_codepoint=126)))
def test_no_text_breaks_out_of_its_place(key: str, id: str) -> None:
    frame = json.loads(notification_frame(notification(id=id, collapse_key=key, data=json.dumps(key).encode())))
    assert (frame["id"], frame["collapse_key"], frame["data"]) == (id, key, key)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (protocol.Settled(7), {"type": "settled", "seq": 7}),
        (protocol.Gap("overflow", 3), {"type": "gap", "reason": "overflow", "dropped": 3}),
        (protocol.TokenExpiring(30), {"type": "token_expiring", "in_s": 30}),
        (protocol.Authenticated("t"), {"type": "authenticated", "token_expires_at": "t"}),
        (protocol.Reconnect(500), {"type": "reconnect", "after_ms": 500}),
        (protocol.Pong(), {"type": "pong"}),
        (protocol.ErrorFrame("bad_frame", "why"), {"type": "error", "code": "bad_frame", "message": "why"}),
    ],
)
def test_control_frames(frame: protocol.ServerFrame, said: object) -> None:
    encoded = codec.encode(frame)
    assert json.loads(encoded) == said
    assert encoded.startswith(b'{"type":')


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_800_000_000_007, "2027-01-15T08:00:00.007Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_rfc_3339_with_milliseconds(ms: int, text: str) -> None:
    assert rfc3339(ms) == text


# -- what comes in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "frame"),
    [
        (b'{"type":"ack","seq":0}', Ack(0)),
        (b' { "seq" : 9007199254740991 , "type" : "ack" } ', Ack(2**53 - 1)),
        (b'{"type":"ack","seq":1,"confirm":true}', Ack(1, True)),
        (b'{"type":"ack","seq":1,"confirm":false}', Ack(1, False)),
        (b'{"type":"ack","seq":1,"future":{"a":[1,"x"]}}', Ack(1)),
        (b'{"t\\u0079pe":"ping"}', Ping()),
        (b'{"type":"ping"}', Ping()),
        (b'{"type":"auth","token":"a.b.c"}', Auth("a.b.c")),
        (b'{"type":"auth","token":"a\\"b"}', Auth('a"b')),
    ],
)
def test_known_frames(payload: bytes, frame: object) -> None:
    assert decode(payload) == frame


PLAIN = b'{"type":"ack","seq":%b}'


@given(st.integers(1, 2**53 - 1))
def test_a_plain_acknowledgement_is_read_at_a_glance(seq: int) -> None:
    payload = json.dumps({"type": "ack", "seq": seq}, separators=(",", ":")).encode()
    assert plain_ack(payload) == seq
    assert decode(payload) == Ack(seq)


@pytest.mark.parametrize(
    "payload",
    [PLAIN % seq for seq in (b"", b"0", b"01", b"-1", b"1.0", b"1e3", b" 1", b'"1"', b"true", b"9" * 17, b"\xb2")]
    + [PLAIN % b'1,"confirm":true', PLAIN % b'1,"seq":2', PLAIN % b"1" + b" ", PLAIN[:-4], b" " + PLAIN % b"1", b""],
)
def test_whatever_else_it_may_be_is_left_to_the_reader(payload: bytes) -> None:
    assert plain_ack(payload) == 0


@pytest.mark.parametrize(
    "payload", [b"{}", b'{"type":"later"}', b'{"type":null}', b'{"type":{}}', b'{"a":1}', b'{"type":"Ack","seq":1}']
)
def test_unknown_types_are_ignored(payload: bytes) -> None:
    assert decode(payload) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"", b" ", b"nonsense", b"[1]", b"1", b'"x"', b"true", b"null", b"[]", b'[{"type":"ping"}]', b'{"type":"ack"',
        b'{"type":"ack"}', b'{"type":"ack","seq":true}', b'{"type":"ack","seq":"1"}', b'{"type":"ack","seq":-1}',
        b'{"type":"ack","seq":1.5}', b'{"type":"ack","seq":1,"confirm":"yes"}', b'{"type":"auth","token":null}',
        b'{"type":"ack","seq":1,"seq":2}', b'{"type":"ack","type":"ping","seq":1}',
        b'{"type":"ping","a":1,"a":2}', b'{"type":"later","a":1,"a":2}', b'{"type":"ack","s\\u0065q":1,"seq":2}',
        b'{"type":"ping","x":NaN}', b'{"type":"ping","x":1e999}', b'{"type":"ping","x":"\\ud800"}',
        b'{"type":"ping","x":"\xff"}', b'\xef\xbb\xbf{"type":"ping"}', b'{"type":"ping"} {}',
        b'{"type":"ping","x":' + b"[" * 100 + b"]" * 100 + b"}", b'{"type":"ping","x":' + b"9" * 500 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_frame_is_refused_with_a_reason(payload: bytes) -> None:
    with pytest.raises(BadJson) as refusal:
        decode(payload)
    assert len(refusal.value.detail) > 10


@pytest.mark.parametrize("seq", [str(2**63), str(2**64), "1e300", "9" * 300])
def test_an_ack_beyond_what_a_seq_can_be_is_ignored_like_any_above(seq: str) -> None:
    frame = decode(b'{"type":"ack","seq":%b}' % seq.encode())
    assert frame is None or (isinstance(frame, Ack) and frame.seq >= 2**63)


@given(st.binary(max_size=60))
def test_nothing_else_comes_out_of_any_bytes(payload: bytes) -> None:
    try:
        frame = decode(payload)
    except BadJson:
        return
    assert frame is None or isinstance(frame, (Ack, Auth, Ping))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda v: st.lists(v, max_size=3)))
def test_any_value_of_any_field_is_accepted_refused_or_ignored(value: object) -> None:
    for frame in ({"type": "ack", "seq": value}, {"type": value}, {"type": "auth", "token": value}):
        try:
            decode(json.dumps(frame).encode())
        except BadJson:
            assert frame["type"] in ("ack", "auth", "ping")
