"""Which pages of other origins may read our answers (Fetch §3.2): those that the operator has listed, on the paths that
clients use. Never with credentials: a token is shown, not sent along by the browser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from notifier.errors import NotifierError
    from notifier.transport.origins import Origins
    from notifier.transport.request import Head, Request

PREFLIGHT_S = 7200
"""How long a browser may remember a preflight; Chromium's own limit."""


def is_shared(path: bytes) -> bool:
    """Whether pages of other origins may use this path at all."""
    return path in (b"/events", b"/events/ack") or path.startswith(b"/sdk/")


def headers(origins: Origins, request: Request) -> bytes:
    """Header lines for the answer to `request`, which is to a shared path."""
    return "".join(f"{name}: {value}\r\n" for name, value in _pairs(origins, request.head)).encode("latin-1")


def shared(origins: Origins, head: Head, error: NotifierError) -> NotifierError:
    """`error`, which refuses a request to a shared path by its head alone: told so that the page may read it."""
    error.more_headers = _pairs(origins, head)
    return error


def _pairs(origins: Origins, head: Head) -> tuple[tuple[str, str], ...]:
    origin = (head.header(b"origin") or b"").decode("latin-1")
    if not origin or not origins.listed(origin):
        return (("vary", "origin"),)
    return (("vary", "origin"), ("access-control-allow-origin", origin))


def preflight(origins: Origins, request: Request, methods: bytes) -> bytes:
    """Header lines for the answer to a preflight of a shared path."""
    lines = headers(origins, request)
    if b"allow-origin" in lines:
        lines += (
            b"access-control-allow-methods: %b\r\n"
            b"access-control-allow-headers: authorization, content-type, last-event-id\r\n"
            b"access-control-max-age: %d\r\n" % (methods, PREFLIGHT_S)
        )
    return lines
