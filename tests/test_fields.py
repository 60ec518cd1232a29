"""The rules for names, at and beyond every bound."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable

import pytest

from notifier.fields import check_client_id, check_collapse_key, check_event, check_group, check_id

CONTROLS = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cc"]


@pytest.mark.parametrize("check", [check_client_id, check_group])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1 to 200 bytes"),
        ("a" * 201, "1 to 200 bytes"),
        ("é" * 101, "1 to 200 bytes"),
        (" alice", "white space"),
        ("alice ", "white space"),
        ("alice\u2003", "white space"),
        ("\u00a0alice", "white space"),
        ("é ", "white space"),
        ("a\ud800", "surrogate"),
        ("a\nb", "control"),
        ("\t", "control"),
    ],
)
def test_a_bad_client_id_or_group(check: Callable[[str], str | None], text: str, problem: str) -> None:
    assert problem in (check(text) or "")


@pytest.mark.parametrize("text", ["a", "alice", "a b", "a" * 200, "é" * 100, "😀", "a\u200bb", "用户-1", "user|1/x?#%"])
def test_a_good_client_id_or_group(text: str) -> None:
    assert check_client_id(text) is None
    assert check_group(text) is None


@pytest.mark.parametrize("pattern", ["{}", "a{}b", "é{}é"])
def test_every_control_character_is_refused(pattern: str) -> None:
    assert len(CONTROLS) == 65
    for control in CONTROLS:
        assert check_client_id(pattern.format(control)) is not None
        assert check_collapse_key(pattern.format(control)) is not None
        assert check_id(pattern.format(control)) is not None
        assert check_event(pattern.format(control)) is not None


@pytest.mark.parametrize("text", ["", "a b", "é", "a\n", "a" * 129, "\x7f"])
def test_a_bad_id(text: str) -> None:
    assert "visible ASCII" in (check_id(text) or "")


@pytest.mark.parametrize("text", ["a", "!", "~", "inv-17", "a" * 128, '"', "<script>"])
def test_a_good_id(text: str) -> None:
    assert check_id(text) is None


@pytest.mark.parametrize("text", ["", "a b", "a\n", "é", "a" * 65, "a,b", "open", "error", "message", "notifier"])
def test_a_bad_event(text: str) -> None:
    assert check_event(text) is not None


@pytest.mark.parametrize("text", ["invoice.paid", "a:b/c-d_e", "a" * 64, "Open", "opened", "0"])
def test_a_good_event(text: str) -> None:
    assert check_event(text) is None


@pytest.mark.parametrize("text", ["", "a" * 65, "é" * 33, "a\x00", "\ud800"])
def test_a_bad_collapse_key(text: str) -> None:
    assert check_collapse_key(text) is not None


@pytest.mark.parametrize("text", ["a", "a" * 64, "é" * 32, " a ", "a b"])
def test_a_good_collapse_key(text: str) -> None:
    assert check_collapse_key(text) is None
