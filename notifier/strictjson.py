"""The JSON door: only text that every reader reads alike comes in (RFC 8259 §4, §6, §8.1, §8.2; RFC 7493).

Data is spliced into frames as it came, so what a browser's `JSON.parse` would refuse or read differently
must be refused here: otherwise it would be accepted, stored, and then fail in front of the client for ever.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

import msgspec
from msgspec import Raw

from notifier.errors import BadJson

MAX_DEPTH: Final = 64

_MANY_DIGITS: Final = 309  # the largest double has so many
_DIGITS: Final = re.compile(rb"[0-9]{%d}" % _MANY_DIGITS)
_LONE: Final = re.compile(
    rb"(?:[^\\]++|\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]|u(?![dD][89a-fA-F])|[^u]))*+\\u[dD][89a-fA-F]"
)
"""Everything up to an escaped surrogate that is not the first of a pair."""
_decode: Final = msgspec.json.decode
_raws: Final = msgspec.json.Decoder(list[Raw])
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_scan: Final = json.JSONDecoder().raw_decode

_NAMED: Final = 256 * 1024
"""To find the broken item of a larger array would hold up everybody else."""

# For _depth: a 1 for each bracket that opens, a 0 for each that closes, eight of them in an octet.
_BITS: Final = bytes.maketrans(b"[{]}", b"1100")
_OTHERS: Final = bytes(octet for octet in range(256) if octet not in b'[{]}"')
_RISE: Final = [2 * bin(octet).count("1") - 8 for octet in range(256)]
"""By how much the depth differs behind the eight."""
_PEAK: Final = [max(2 * bin(octet >> n).count("1") - (8 - n) for n in range(8)) for octet in range(256)]
"""The highest that it gets within them."""


def parse(text: bytes) -> Any:
    """The value of `text`, checked by every rule of the door.

    Raises: BadJson, with the rule that was broken.
    """
    value = check(text)
    if type(value) is dict:
        check_keys(text, value)
    return value


def check(text: bytes) -> Any:
    """Like `parse`, but without the rule on duplicate keys: for what is itself a part of an object."""
    try:
        value = _decode(text)
    except msgspec.DecodeError as error:
        raise BadJson(_explain(text, str(error))) from None
    except UnicodeDecodeError:
        raise BadJson("The text is not UTF-8. Send JSON in UTF-8.") from None
    except RecursionError:
        raise BadJson(f"Nested deeper than {MAX_DEPTH} levels.") from None
    if may_be_deep(text) and _depth(text) > MAX_DEPTH:
        raise BadJson(f"Nested deeper than {MAX_DEPTH} levels.")
    if len(text) >= _MANY_DIGITS:
        # A run of so many digits covers one of these places, so that looking at them alone rules it out nearly always.
        sample = text[_MANY_DIGITS - 1 :: _MANY_DIGITS]
        if sample.translate(None, b"0123456789") != sample and _DIGITS.search(text):
            json.loads(text, parse_int=_finite)
    return value


def may_be_deep(text: bytes, above: int = 0) -> bool:
    """Whether JSON that parses can have more than MAX_DEPTH levels, with those `above` it: each takes two bytes, and a
    bracket."""
    limit = MAX_DEPTH - above
    return len(text) > 2 * limit and text.count(b"[") + text.count(b"{") > limit


def _finite(digits: str) -> float:
    """The parser takes any integer, but most readers have doubles, where this one would be infinite."""
    value = float(digits)
    if math.isinf(value):
        raise BadJson(f"A number of {len(digits)} digits is too large for most readers. Send it as a string.")
    return value


def check_keys(text: bytes, keys: Any) -> None:
    """Refuse an object whose top level names a key twice: readers differ on which one counts (RFC 8259 §4).

    `keys` are the distinct keys of the object `text`. The exact answer needs a slow parser; counting each quoted
    name first proves the common case, in which every name stands once and none is hidden behind an escape.
    """
    if b"\\" not in text:
        for key in keys:
            if text.count(b'"%b"' % key.encode()) > 1:
                break
        else:
            return
    top: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list, parse_int=float)
    names = [name for name, _ in top]
    if len(names) != len(set(names)):
        double = next(name for name in names if names.count(name) > 1)
        raise BadJson(f"The key {json.dumps(double[:64])} appears twice. Give each key once.")


def items(text: bytes) -> list[bytes]:
    """The items of the array `text`, each as the text that it is, still to be checked.

    Raises: BadJson, with the first that does not parse.
    """
    try:
        return [bytes(item) for item in _raws.decode(text)]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        named = _broken_item(text) if len(text) <= _NAMED else ""
        raise BadJson(named or _explain(text, str(error))) from None


def _broken_item(text: bytes) -> str:
    """What is wrong with the first item that does not parse, if it is among the first thousand; else empty."""
    characters = text.decode("latin-1")  # one for each byte, and none that means anything to JSON is among the others
    start = 0
    for at in range(1_000):
        try:
            start = _SPACE.match(characters, start + 1).end()  # type: ignore[union-attr]  # it always matches
            end = _scan(characters, start)[1]
            check(text[start:end])
        except BadJson as error:
            return f"Item {at}: {error.detail}"
        except RecursionError:
            return f"Item {at}: Nested deeper than {MAX_DEPTH} levels."
        except json.JSONDecodeError as error:
            return f"Item {at}: Not JSON: {error.msg} (byte {error.pos})."
        except ValueError:
            return f"Item {at}: A number has too many digits for most readers. Send it as a string."
        start = _SPACE.match(characters, end).end()  # type: ignore[union-attr]
        if text[start : start + 1] != b",":
            break
    return ""


def _depth(text: bytes) -> int:
    """How many levels JSON that parses has. Most of it in C: a loop over each byte would hold up everybody else."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Brackets and quotes are left, then no strings without a bracket, then no strings.
    bits = b"".join(text.translate(_BITS, _OTHERS).replace(b'""', b"").split(b'"')[::2])
    bits += b"0" * (-len(bits) % 8)
    deepest = depth = 0
    for octet in int(bits or b"0", 2).to_bytes(len(bits) // 8, "big"):
        if depth + _PEAK[octet] > deepest:
            deepest = depth + _PEAK[octet]
        depth += _RISE[octet]
    return deepest


def _explain(text: bytes, message: str) -> str:
    if not text.strip():
        return "The body is empty. Send JSON."
    if text.startswith(b"\xef\xbb\xbf"):
        return "The text starts with a byte order mark. Send plain UTF-8."
    if text[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in text[:4]:
        return "The text is not UTF-8. Send JSON in UTF-8."
    if _LONE.match(text):
        return (
            "Not JSON: an escaped surrogate without its other half, as \\ud800 alone, is no character. "
            "Escape both halves, as \\ud83d\\ude00, or send the character itself in UTF-8."
        )
    return f"Not JSON: {message}."
