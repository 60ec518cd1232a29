"""Errors as HTTP tells them: problem documents (RFC 9457)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from notifier.errors import NotifierError
from notifier.logs import defect

if TYPE_CHECKING:
    from notifier.transport.request import Request

_log = structlog.get_logger("notifier.http")
_encode = msgspec.json.Encoder().encode


class BadRequest(NotifierError):
    """Not HTTP/1.1 as RFC 9112 has it."""

    status = 400
    code = "bad_request"
    title = "Malformed request"
    mend = "Use an HTTP library; look at what stands between it and this server."
    close_code = 1002
    reason = "bad_request"


def document(error: NotifierError) -> dict[str, Any]:
    """The problem document of an error."""
    body: dict[str, Any] = {
        "type": f"/docs/errors#{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    if error.errors:
        body["errors"] = [{"field": field, "message": message} for field, message in error.errors]
    if error.id is not None:
        body["id"] = error.id
    return body


def problem(error: NotifierError) -> tuple[int, bytes, bytes]:
    """Status, body and header lines of the answer that tells an error."""
    return error.status, _encode(document(error)), problem_headers(error)


def problem_headers(error: NotifierError, kind: str = "application/problem+json") -> bytes:
    """The header lines of the answer that tells an error. `kind`: the media type of its body."""
    headers = f"content-type: {kind}\r\ncache-control: no-store\r\n"
    return (
        headers + "".join(f"{name.lower()}: {value}\r\n" for name, value in error.headers + error.more_headers)
    ).encode()


def tell_defect(request: Request, error: Exception) -> None:
    """A defect of ours costs this request, and no other."""
    defect(_log, "defect", error)
    request.fail(NotifierError("Something went wrong on our side. It has been logged."))
