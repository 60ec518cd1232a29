"""API keys in front of FastAPI routes."""

from __future__ import annotations

from fastapi import Request

from notifier.auth.apikeys import ApiKey, ApiKeys
from notifier.errors import NotifierError


def require(keys: ApiKeys, request: Request, scope: str) -> ApiKey:
    """The key of the request, if it has the scope. Raises: Unauthorized, Forbidden; then what else is wrong with the
    request (its body is too large), so that nothing is done of it."""
    key = keys.check(header(request, "x-api-key"), header(request, "authorization"), scope)
    refusal: NotifierError | None = request.scope.get("state", {}).get("refusal")
    if refusal is not None:
        raise refusal
    return key


def header(request: Request, name: str) -> bytes | None:
    """The raw bytes of a header, as they are compared; several of one name are joined (RFC 9110 §5.3)."""
    values = request.headers.getlist(name)
    return ", ".join(values).encode("latin-1") if values else None
