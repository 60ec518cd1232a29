"""What a server answers to a publish, in words."""

from __future__ import annotations

from typing import Any

from .output import as_json, as_text, say


def explained(refusal: Any) -> str:
    """A problem document as one line."""
    fields = "; ".join(f"{as_text(name)}: {as_text(what)}" for name, what in refusal.fields.items())
    return f"refused ({as_text(refusal.code)}): {as_text(refusal.detail)}{f' [{fields}]' if fields else ''}"


def show(answer: dict[str, Any], json: bool) -> None:
    """The answer on standard output, for people or whole."""
    if json:
        say(as_json(answer))
        return
    words = [str(answer.get("status")), f"id={answer.get('id')}"]
    words += [f"{name}={answer[name]}" for name in ("seq", "connections", "acked_by", "expires_at") if name in answer]
    if answer.get("duplicate"):
        words.append("(already sent before)")
    say(as_text(" ".join(words)))
