"""Durations as people write them."""

from __future__ import annotations

import re

import typer

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(text: str) -> int:
    """`90`, `90s`, `15m`, `1h`, `7d`, `2w` as seconds. The usage error says which forms there are."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a duration; write seconds or for example 90s, 15m, 1h, 7d")
    return int(match[1]) * _UNITS[match[2]]
