"""The rules for the short texts that name things (docs/protocol.md, Words and Publish).

One place for all doors: the claims of a token, the fields of a publish, path parameters and the command
line. Each check gives None, or the problem as words that fit behind the field's name.
"""

from __future__ import annotations

import re
from typing import Final

RESERVED_EVENTS: Final = frozenset({"open", "error", "message", "notifier"})
"""Names that an EventSource gives a meaning of its own, and the one of our control frames."""

MAX_NAME_BYTES: Final = 200
MAX_ID_CHARACTERS: Final = 128
MAX_COLLAPSE_KEY_BYTES: Final = 64

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # exactly the Unicode category Cc
_ID: Final = re.compile(rf"[!-~]{{1,{MAX_ID_CHARACTERS}}}")
_EVENT: Final = re.compile(r"[A-Za-z0-9._:/-]{1,64}")


def check_client_id(text: str) -> str | None:
    """1–200 bytes, no control characters, no white space at either end. Compared byte for byte, never normalised."""
    if text.isascii() and 0 < len(text) <= MAX_NAME_BYTES and text.isprintable():  # nearly all, without an encoding
        return "must not begin or end with white space" if text[0] == " " or text[-1] == " " else None
    if (problem := _check_bytes(text, MAX_NAME_BYTES)) is not None:
        return problem
    return "must not begin or end with white space" if text != text.strip() else None


check_group = check_client_id


def check_id(text: str) -> str | None:
    """1–128 visible ASCII characters."""
    return None if _ID.fullmatch(text) else f"must be 1 to {MAX_ID_CHARACTERS} visible ASCII characters"


def check_event(text: str) -> str | None:
    """1–64 characters that cannot break a line or a name, none of the reserved names."""
    if not _EVENT.fullmatch(text):
        return "must be 1 to 64 of the characters A-Z a-z 0-9 . _ : / -"
    return f"must not be {text!r}, which is reserved" if text in RESERVED_EVENTS else None


def check_collapse_key(text: str) -> str | None:
    """1–64 bytes, no control characters."""
    return _check_bytes(text, MAX_COLLAPSE_KEY_BYTES)


def _check_bytes(text: str, limit: int) -> str | None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "must not contain a lone surrogate"
    if not 0 < size <= limit:
        return f"must be 1 to {limit} bytes of UTF-8"
    return "must not contain control characters" if _CONTROL.search(text) else None
