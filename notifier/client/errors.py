"""What can go wrong for a client.

ClientError
├── Unreachable     nobody answered; the outcome of a publish is then not known
├── Refused         the server answered with a problem document (RFC 9457)
└── Ended           a subscription is over for good; reconnecting would not help
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast


class ClientError(Exception):
    """The root of this tree."""


class Unreachable(ClientError):
    """No server answered. Publish again with the same id: an id is stored once."""


class Refused(ClientError):
    """The server said no. `code` is the problem code (`unauthorized`, `mailbox_full`, …), `detail` how to mend it."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code") or f"http_{status}")
        self.detail = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
        super().__init__(f"{self.detail} ({self.code}, HTTP {status})")

    @classmethod
    def from_body(cls, status: int, body: bytes) -> Refused:
        """Read a problem document; a proxy's HTML page becomes a problem with nothing but the status."""
        return cls(status, decoded_object(body) or {})

    @property
    def fields(self) -> dict[str, str]:
        """The fields that are wrong, each with what is wrong with it."""
        listed = self.problem.get("errors")
        if not isinstance(listed, list):
            return {}
        return {str(item.get("field")): str(item.get("message")) for item in listed if isinstance(item, dict)}


class Ended(ClientError):
    """The server closed the subscription for good: `code` and `reason` of the close, and what to do about it."""

    def __init__(self, code: int, reason: str, advice: str) -> None:
        self.code = code
        self.reason = reason
        self.advice = advice
        super().__init__(f"closed with {code} {reason or '(no reason)'}: {advice}")


def decoded_object(text: bytes | bytearray | str) -> dict[str, Any] | None:
    """The JSON object in `text`, or None for everything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
