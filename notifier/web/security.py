"""API keys in front of FastAPI routes."""

from __future__ import annotations

from fastapi import Request

from notifier.auth.apikeys import ApiKey, ApiKeys


def require(keys: ApiKeys, request: Request, scope: str) -> ApiKey:
    """The key of the request, if it has the scope. Raises: Unauthorized, Forbidden."""
    return keys.check(header(request, "x-api-key"), header(request, "authorization"), scope)


def header(request: Request, name: str) -> bytes | None:
    """The raw bytes of a header, as they are compared."""
    value = request.headers.get(name)
    return None if value is None else value.encode("latin-1")
