"""The JSON door: what some reader would read otherwise stays outside."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier import strictjson
from notifier.errors import BadJson

JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_whatever_python_writes_comes_in(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value, indent=1)):
        assert json.dumps(strictjson.parse(text.encode("utf-8", "surrogatepass"))) == json.dumps(value)


@given(st.binary(max_size=40))
def test_what_comes_in_is_read_alike_by_another_reader(text: bytes) -> None:
    try:
        value = strictjson.parse(text)
    except BadJson:
        return
    assert json.loads(text.decode()) == value or isinstance(value, float)


REFUSED = {
    "empty": b"",
    "white space": b" \t\r\n",
    "cut off": b'{"a":',
    "two values": b"1 2",
    "trailing comma": b"[1,]",
    "single quotes": b"{'a':1}",
    "no quotes": b"{a:1}",
    "comment": b"/* */ 1",
    "NaN": b"NaN",
    "Infinity": b"[Infinity]",
    "minus Infinity": b"-Infinity",
    "not finite": b"1e400",
    "not finite, deep": b'{"a":[-1e999]}',
    "hex": b"0x10",
    "leading zero": b"01",
    "leading plus": b"+1",
    "BOM": b"\xef\xbb\xbf1",
    "UTF-16 LE": "[1]".encode("utf-16"),
    "UTF-16 without BOM": "[1]".encode("utf-16-be"),
    "UTF-32": "[1]".encode("utf-32"),
    "Latin-1": b'"\xe9"',
    "overlong": b'"\xc0\xaf"',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "lone high surrogate": b'"\\ud800"',
    "lone low surrogate": b'["x\\udc00"]',
    "surrogates the wrong way round": b'"\\udc00\\ud800"',
    "control character in a string": b'"a\nb"',
    "NUL": b'"a\x00"',
    "unknown escape": b'"\\x41"',
    "non-breaking space around": b"\xc2\xa01",
    "65 levels": b"[" * 65 + b"]" * 65,
    "65 levels of objects": b'{"a":' * 65 + b"1" + b"}" * 65,
    "100,000 levels": b"[" * 100_000,
    "400 digits": b"9" * 400,
    "400 digits, deep": b'{"a":[{"b":-' + b"9" * 400 + b"}]}",
    "a key twice": b'{"a":1,"a":2}',
    "a key twice, once escaped": b'{"a":1,"\\u0061":2}',
    "a key twice, far apart": b'{"a":1,"b":{"a":1},"c":[{"a":2}],"a":3}',
    "an empty key twice": b'{"":1,"":2}',
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_refused(text: bytes) -> None:
    with pytest.raises(BadJson) as refusal:
        strictjson.parse(text)
    assert refusal.value.detail
    assert len(refusal.value.detail) < 300, "what came in is not told back"


ACCEPTED = {
    "64 levels": b"[" * 64 + b"]" * 64,
    "brackets in strings": b'"' + b"[{" * 200 + b'"',
    "brackets beside each other": b"[" + b"[]," * 200 + b"[]]",
    "escaped quotes before brackets": b'["\\"' + b"[" * 100 + b'"]',
    "309 digits that are finite": b"1" + b"0" * 308,
    "400 digits in a string": b'"' + b"9" * 400 + b'"',
    "digits behind the point": b"0." + b"1" * 1000,
    "a pair of surrogates": b'"\\ud83d\\ude00"',
    "a key twice below the top": b'{"a":{"b":1,"b":2}}',
    "names that are also values": b'{"a":"a","b":["a","b"],"c":{"a":"c"}}',
    "a name within a text": b'{"a":"\\"a\\""}',
    "white space": b' \t\r\n{ "a" : [ 1 , 2 ] }\n',
    "minus zero": b"-0",
    "U+2028": '"\u2028"'.encode(),
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(text: bytes) -> None:
    strictjson.parse(text)


def depth(value: object) -> int:
    inner = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


PIECES = st.sampled_from(["[", "]", "{", "}", '"', "\\", "\n", "é", "a", ":,"])


@given(
    st.recursive(
        st.lists(PIECES, max_size=6).map("".join),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.lists(PIECES, max_size=4).map("".join), inner, max_size=4)
        ),
        max_leaves=30,
    ),
    st.integers(0, 70),
)
def test_depth_is_counted_past_whatever_strings_hold(value: object, more: int) -> None:
    for _ in range(more):
        value = [value, "["]
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert strictjson._depth(text.encode()) == depth(value)


@pytest.mark.parametrize(
    "text", [r'"\ud800"', r'"\uDFFFx"', r'["\\\\", "\ud83d\u0041"]', r'{"\udbff":1}', r'"\ude00\ud83d"']
)
def test_a_surrogate_without_its_other_half_is_named(text: str) -> None:
    with pytest.raises(BadJson, match=r"surrogate without its other half.*Escape both halves"):
        strictjson.parse(text.encode())


@pytest.mark.parametrize("text", [r'["\\ud800"', r'["\ud83d\ude00"', r'["\ue000\ud7ff"'])
def test_what_is_no_such_surrogate_is_not_called_one(text: str) -> None:
    with pytest.raises(BadJson) as refusal:
        strictjson.parse(text.encode())
    assert "surrogate" not in refusal.value.detail


def test_the_items_of_an_array() -> None:
    assert strictjson.items(b' [1 , {"a": [2]},"]," ] ') == [b"1", b'{"a": [2]}', b'"],"']
    assert strictjson.items(b"[]") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'["\xe9", 1, "\\ud800x"]', "Item 0: The text is not UTF-8"),
        (b'[1, [2, 3], {"a": "\\ud800"}]', "Item 2: Not JSON: an escaped surrogate"),
        (b"[1, 01]", "Not JSON: "),
        (b"[1,]", "Item 1: Not JSON"),
        (b"[1, " + b"[" * 100_000, "Item 1: Nested deeper"),
        (b"[" + b"9" * 5_000 + b",x]", "Item 0: A number"),
        (b"[1, 1e999, NaN]", "Item 1: Not JSON: Number out of range"),
        (b"[1 2]", "Not JSON: "),
        (b"[1] 2", "Not JSON: "),
        (b"[" + b"1," * 1_000 + b"x]", "Not JSON: "),
    ],
)
def test_an_array_that_does_not_parse_names_the_item(text: bytes, said: str) -> None:
    with pytest.raises(BadJson) as refusal:
        strictjson.items(text)
    assert refusal.value.detail.startswith(said)


def test_a_number_is_kept_as_it_is() -> None:
    assert strictjson.parse(b"12345678901234567890123") == 12345678901234567890123
    assert math.isclose(strictjson.parse(b"0.1"), 0.1)


@given(st.lists(st.tuples(st.text(st.sampled_from('ab"\\u0061é'), max_size=3), st.sampled_from(["1", '"a"', "[]"]))))
def test_a_key_twice_is_found_however_it_is_written(pairs: list[tuple[str, str]]) -> None:
    for ascii_only in (True, False):
        names = [json.dumps(name, ensure_ascii=ascii_only) for name, _ in pairs]
        text = "{" + ",".join(f"{name}:{value}" for name, (_, value) in zip(names, pairs, strict=True)) + "}"
        twice = len({name for name, _ in pairs}) < len(pairs)
        try:
            strictjson.parse(text.encode())
        except BadJson:
            assert twice
        else:
            assert not twice
