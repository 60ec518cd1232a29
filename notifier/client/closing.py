"""What a client does when a connection ends: the table of docs/protocol.md as code."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Action(Enum):
    """The three answers to a connection that ended."""

    RECONNECT = "reconnect with back-off"
    RENEW = "fetch a new token and reconnect once"
    STOP = "stop"


class Verdict(NamedTuple):
    """What to do, and why, in words for a person."""

    action: Action
    advice: str


_A_BUG = "this client broke the protocol; update it or report a bug"

_STOPS = {
    1002: _A_BUG,
    1003: _A_BUG,
    1007: _A_BUG,
    1009: _A_BUG,
    4400: _A_BUG,
    4403: "this client may not connect",
    4409: "too many connections of this client_id; the newest stays (NOTIFIER_MAX_CONNECTIONS_PER_CLIENT)",
}

_WHY_4403 = {
    "forbidden_origin": "list this page's origin in NOTIFIER_ALLOWED_ORIGINS",
    "client_id_mismatch": "the token is for another client_id",
    "revoked": "the tokens of this client_id were revoked; only a token issued later is accepted",
    "banned": "an operator has disconnected this client_id for good",
}

# A handshake answered by HTTP means the same as its close code. What else a 4xx says, a retry would not change.
_HTTP = {401: 4401, 403: 4403, 409: 4409, 429: 4429}
_HTTP_STOPS = frozenset({400, 404, 405, 410, 414, 426, 431})


def after_close(code: int, reason: str) -> Verdict:
    """What to do after a close with this code."""
    if code == 4401:
        return Verdict(Action.RENEW, "the token was not accepted; fetch a new one")
    if code in _STOPS:
        return Verdict(Action.STOP, _WHY_4403.get(reason, _STOPS[code]))
    return Verdict(Action.RECONNECT, "")


def after_refusal(status: int, reason: str) -> tuple[int, Verdict]:
    """What to do after a handshake that HTTP refused, and the code to tell it by."""
    if status in _HTTP:
        code = _HTTP[status]
        return code, after_close(code, reason)
    if status in _HTTP_STOPS:
        return status, Verdict(Action.STOP, "check the URL: it is the server's base URL, or that of its /ws")
    return status, Verdict(Action.RECONNECT, "")
