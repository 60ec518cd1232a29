"""The JSON door and what stands behind it: any text. Only BadJson and Invalid come out, and what is let in every reader
reads alike.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier import codec, strictjson
from notifier.errors import BadJson, Invalid
from notifier.protocol import Ack
from notifier.web.publication import TtlLimits, decode_broadcast, decode_notify

pytestmark = pytest.mark.timeout(0)
fuzz = settings.get_profile("fuzz")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PARTS = [
    *"{}[],:1",
    *('"', "\\", '"data"', '"client_id"', '"type"', '"ack"', '"seq"', '"ping"', '"confirm"', '"ttl"', '"id"', '"a"'),
    *("true", "null", "-0", "1e400", "1e-400", "9" * 400, "0.5", "NaN", " ", "\n", "[" * 70, "]" * 70),
    *('"\\ud800"', '"\\u0064ata"', '"\ufeff"'),
]
soups = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)
texts = st.one_of(
    values.map(lambda value: json.dumps(value, ensure_ascii=False)),
    values.map(json.dumps),
    soups,
    soups.map(lambda soup: '{"client_id":"a","data":' + soup + "}"),
    soups.map(lambda soup: '{"type":"ack","seq":1,' + soup + "}"),
).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60)


def oracle(text: bytes) -> Any:
    """The rules of the door, slowly. Raises ValueError."""
    source = text.decode()
    top: list[list[str]] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        top.append([name for name, _ in found])
        return dict(found)

    def number(digits: str) -> float:
        if math.isinf(float(digits)):
            raise ValueError
        return float(digits)

    def constant(name: str) -> None:
        raise ValueError(name)

    value = json.loads(source, object_pairs_hook=pairs, parse_int=number, parse_float=number, parse_constant=constant)
    if source.startswith("\ufeff") or depth(value) > strictjson.MAX_DEPTH:
        raise ValueError
    if type(value) is dict and len(top[-1]) != len(set(top[-1])):
        raise ValueError
    json.dumps(value, ensure_ascii=False).encode()  # no lone surrogate
    return value


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@settings(fuzz)
@given(texts)
def test_the_door_lets_in_what_every_reader_reads_alike_and_nothing_else(text: bytes) -> None:
    try:
        expected = oracle(text)
    except (ValueError, RecursionError):
        with pytest.raises(BadJson):
            strictjson.parse(text)
    else:
        assert floats(strictjson.parse(text)) == floats(expected)


def floats(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {key: floats(item) for key, item in value.items()}
    return [floats(item) for item in value] if isinstance(value, list) else float(value)


@settings(fuzz)
@given(texts)
def test_client_frames(text: bytes) -> None:
    """A frame is taken or ignored only if the door would let it in."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return  # closed with 1007 before
    glance = codec.plain_ack(text)
    try:
        frame = codec.decode(text)
    except BadJson:
        assert not glance
        return
    assert not glance or frame == Ack(glance)
    value = oracle(text)
    assert type(value) is dict
    if frame is not None:
        assert value["type"] == type(frame).__name__.lower()


@settings(fuzz)
@given(texts)
def test_publishes(text: bytes) -> None:
    """What is accepted can be delivered: its data is JSON by itself, and the same as in the body."""
    for decode in (
        lambda: decode_notify(text, TtlLimits(60, 600), None, False).data,
        lambda: decode_broadcast(text)[0],
    ):
        try:
            data = decode()
        except (BadJson, Invalid):
            continue
        assert floats(oracle(data)) == floats(oracle(text)["data"])
