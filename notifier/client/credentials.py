"""What may stand in a header as a key or a token."""

from __future__ import annotations

import re

_SENDABLE = re.compile(r"[!-~]+(?: +[!-~]+)*")


def checked(secret: str, what: str) -> str:
    """`secret` as it is.

    Raises: ValueError, which names `what` and shows nothing of the secret, where no header can carry it
    (RFC 9110 §5.5): a line end was pasted with it, for example.
    """
    if _SENDABLE.fullmatch(secret) is None:
        raise ValueError(f"{what} is empty, or has what no header can carry: a line end, a space at its end, an accent")
    return secret
