"""Errors as HTTP tells them: problem documents (RFC 9457)."""

from __future__ import annotations

from typing import Any

import msgspec

from notifier.errors import NotifierError

_encode = msgspec.json.Encoder().encode


class BadRequest(NotifierError):
    """Not HTTP/1.1 as RFC 9112 has it."""

    status = 400
    code = "bad_request"
    title = "Malformed request"
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
    headers = "content-type: application/problem+json\r\ncache-control: no-store\r\n"
    headers += "".join(f"{name.lower()}: {value}\r\n" for name, value in error.headers)
    return error.status, _encode(document(error)), headers.encode()
