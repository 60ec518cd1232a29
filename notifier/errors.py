"""Every error that the outside can see, as one tree.

    NotifierError
    ├── ConfigurationError          the start stops, exit 78
    ├── BadHandshake ── UpgradeRequired                              (always answered by HTTP)
    ├── Unauthorized
    │   ├── TokenMissing · TokenInvalid · TokenExpired               (close 4401)
    ├── Forbidden                   a scope is missing
    │   ├── ForbiddenOrigin · ClientIdMismatch · Revoked             (close 4403)
    ├── NotFound · MethodNotAllowed · RequestTimeout
    ├── TooLarge ── UriTooLong · HeadersTooLarge
    ├── UnsupportedEncoding · BadJson · Invalid · IdConflict
    ├── MailboxFull · StorageFull
    └── Unavailable
        ├── EngineUnavailable · NoKeys · Overloaded                  (close 1013)
        ├── Busy
        └── Draining                                                 (close 1012)

An error carries its data and knows how each carrier tells it: the HTTP `status` and problem `code`
(RFC 9457), the WebSocket `close_code` (RFC 6455 §7.4.2) with its `reason`, which is also the metrics
label. The `detail` says what is wrong and how to mend it; it never holds a secret, a token or a payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple


class FieldError(NamedTuple):
    """One field of a request that is wrong, and what would be right."""

    field: str
    message: str


class NotifierError(Exception):
    """The root. Raised by itself only for what is a defect of ours (500, close 1011)."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    mend: ClassVar[str] = "A defect of the server: its log says where. Retry with the same id, with back-off."
    """What whoever meets it can do; the class's first sentence is the cause. /docs/errors is made of both."""
    close_code: ClassVar[int] = 1011
    reason: ClassVar[str] = "internal"
    headers: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(self, detail: str = "", *, errors: Sequence[FieldError] = (), id: str | None = None) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = tuple(errors)
        self.id = id
        self.more_headers: tuple[tuple[str, str], ...] = ()
        """Of this one answer, beside those of its class."""


class Problem(NamedTuple):
    """One setting (or file, or clock) that is wrong, and how to mend it."""

    name: str
    problem: str
    mend: str


class ConfigurationError(NotifierError):
    """The configuration is weak or contradicts itself; `problems` lists all that is wrong, each with its mend."""

    code = "configuration"
    title = "The configuration cannot be used"
    mend = "Mend what is listed, and start again."

    def __init__(self, detail: str = "", *, problems: Sequence[Problem] = ()) -> None:
        super().__init__(detail or "; ".join(f"{name} {problem}: {mend}" for name, problem, mend in problems))
        self.problems = tuple(problems)


class BadHandshake(NotifierError):
    """The WebSocket opening handshake is malformed (RFC 6455 §4.2.1)."""

    status = 400
    code = "bad_handshake"
    title = "Malformed WebSocket handshake"
    mend = "Use a WebSocket library; offer the subprotocol notifier.v1 beside bearer.JWT, and bring one token."
    close_code = 1002
    reason = "bad_handshake"


class UpgradeRequired(BadHandshake):
    """Not an upgrade to WebSocket version 13 (RFC 6455 §4.2.2, RFC 9110 §15.5.22)."""

    status = 426
    code = "upgrade_required"
    title = "This path speaks WebSocket only"
    mend = "Connect with a WebSocket client, version 13. Behind a proxy: pass Upgrade and Connection on."
    reason = "upgrade_required"
    headers = (("Upgrade", "websocket"), ("Connection", "Upgrade, close"), ("Sec-WebSocket-Version", "13"))


class Unauthorized(NotifierError):
    """No valid API key or token came with the request (RFC 9110 §15.5.2)."""

    status = 401
    code = "unauthorized"
    title = "Not authenticated"
    mend = "Send the key of your service in X-API-Key, or in Authorization: Bearer; not two that differ."
    close_code = 4401
    reason = "unauthorized"
    headers = (("WWW-Authenticate", "Bearer"),)


class TokenMissing(Unauthorized):
    """The handshake brought no token."""

    code = "token_missing"
    title = "No token"
    mend = "Bring the JWT: Authorization: Bearer, or the subprotocol bearer.JWT in browsers."
    reason = "token_missing"


class TokenInvalid(Unauthorized):
    """The token is not one that we accept (RFC 7519 §7.2, RFC 8725)."""

    code = "token_invalid"
    title = "Invalid token"
    mend = "Sign with the key that is configured here; exp and the client_id claim are required, iss and aud as set."
    reason = "token_invalid"


class TokenExpired(Unauthorized):
    """The token's `exp` has passed (RFC 7519 §4.1.4)."""

    code = "token_expired"
    title = "Expired token"
    mend = "Fetch a new token, and connect again once."
    reason = "token_expired"


class Forbidden(NotifierError):
    """Authenticated, but not allowed: the key lacks the scope."""

    status = 403
    code = "forbidden"
    title = "Not allowed"
    mend = "Use a key with the scope that is named, or add the scope in API_KEYS."
    close_code = 4403
    reason = "forbidden"


class ForbiddenOrigin(Forbidden):
    """The browser's Origin is not allowed (RFC 6455 §10.2)."""

    code = "forbidden_origin"
    title = "Origin not allowed"
    mend = "List the page's origin in ALLOWED_ORIGINS, or have the proxy pass the Host header on as it came."
    reason = "forbidden_origin"


class ClientIdMismatch(Forbidden):
    """The client_id in the path, or of a new token, is not the session's."""

    code = "client_id_mismatch"
    title = "Another client_id"
    mend = "Connect with a token of that client, or leave the client_id out of the path."
    reason = "client_id_mismatch"


class Revoked(Forbidden):
    """An operator has revoked the tokens issued to this client_id until now."""

    code = "revoked"
    title = "Token revoked"
    mend = "Issue a new token, or have an administrator lift the revocation."
    reason = "revoked"


class NotFound(NotifierError):
    """Nothing is at this path."""

    status = 404
    code = "not_found"
    title = "Not found"
    mend = "The paths are listed in /docs. A trailing slash is another path."
    reason = "not_found"


class MethodNotAllowed(NotifierError):
    """The path exists, the method does not (RFC 9110 §15.5.6)."""

    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"
    mend = "Use a method of the Allow header."
    reason = "method_not_allowed"


class RequestTimeout(NotifierError):
    """The request did not arrive whole within the deadline (RFC 9110 §15.5.9)."""

    status = 408
    code = "timeout"
    title = "The request took too long to arrive"
    mend = "Send the whole request within 10 s."
    reason = "timeout"


class TooLarge(NotifierError):
    """A body over its limit (RFC 9110 §15.5.14)."""

    status = 413
    code = "too_large"
    title = "Too large"
    mend = "Send less: a notification says where to look. The limits are settings, and listed in docs/protocol.md."
    close_code = 1009
    reason = "too_large"


class UriTooLong(TooLarge):
    """A request target over 16 KiB (RFC 9110 §15.5.15)."""

    status = 414
    title = "URL too long"
    mend = "Put data into the body."


class HeadersTooLarge(TooLarge):
    """Request line and headers over 64 KiB, or more than 128 headers (RFC 6585 §5)."""

    status = 431
    title = "Headers too large"
    mend = "Send fewer or shorter headers; long tokens have too many groups."


class UnsupportedEncoding(NotifierError):
    """A body with a Content-Encoding (RFC 9110 §15.5.16)."""

    status = 415
    code = "unsupported_encoding"
    title = "Content-Encoding not supported"
    mend = "Send the body as it is, without Content-Encoding."
    reason = "unsupported_encoding"


class BadJson(NotifierError):
    """Not JSON that every reader would read alike (RFC 8259; limits of docs/protocol.md)."""

    status = 400
    code = "bad_json"
    title = "Not acceptable JSON"
    mend = "Send UTF-8 JSON without duplicate keys, NaN, or a depth over 64."
    close_code = 4400
    reason = "bad_frame"


class Invalid(NotifierError):
    """Well-formed, but a field is wrong; `errors` names each."""

    status = 422
    code = "invalid"
    title = "Invalid request"
    mend = "Mend the fields that errors names."
    close_code = 4400
    reason = "bad_frame"


class IdConflict(NotifierError):
    """The id was used before for this client_id with other content."""

    status = 409
    code = "id_conflict"
    title = "The id was used with other content"
    mend = "Use a new id for new content; repeat a publish byte for byte."
    reason = "id_conflict"


class MailboxFull(NotifierError):
    """The mailbox holds MAILBOX_LIMIT notifications or MAILBOX_BYTES. No Retry-After: nobody knows when."""

    status = 429
    code = "mailbox_full"
    title = "Mailbox full"
    mend = "The client is away for long: use another channel, a collapse_key, a shorter ttl, or purge its mail."
    reason = "mailbox_full"


class StorageFull(NotifierError):
    """The disk has less than MIN_FREE_DISK_BYTES (RFC 4918 §11.5)."""

    status = 507
    code = "storage_full"
    title = "Storage full"
    mend = "Free space on the disk. Publishing goes on by itself."
    close_code = 1013
    reason = "storage_full"


class Unavailable(NotifierError):
    """Not now; a retry may succeed (RFC 9110 §15.6.4)."""

    status = 503
    code = "unavailable"
    title = "Not available now"
    mend = "Retry with back-off, and with the same id."
    close_code = 1013
    reason = "unavailable"
    headers = (("Retry-After", "1"),)


class EngineUnavailable(Unavailable):
    """The engine did not commit; whether it is stored is not known. Retry with the same id."""

    code = "engine_unavailable"
    title = "The engine is not available"
    mend = "Retry with the same id, with back-off. It was stored once, or not at all."
    reason = "engine_unavailable"


class NoKeys(Unavailable):
    """The JWKS was never loaded, so no token can be checked."""

    code = "no_keys"
    title = "No keys to check tokens with"
    mend = "Look why the JWKS cannot be fetched: the log says so. It is tried again by itself."
    reason = "no_keys"


class Overloaded(Unavailable):
    """MAX_CONNECTIONS are open."""

    code = "overloaded"
    title = "Too many connections"
    mend = "Retry with back-off. Operators: raise the open-file limit or MAX_CONNECTIONS, or add a node."
    reason = "overloaded"


class Busy(Unavailable):
    """So many `ttl: 0` notifications for many connections are under way that this one was not sent at all."""

    code = "busy"
    title = "Too many broadcasts at once"
    mend = "Retry after Retry-After; put together what goes to everybody many times a second."
    reason = "busy"


class Draining(Unavailable):
    """This node is going away; another takes over."""

    code = "draining"
    title = "This node is draining"
    mend = "Retry: another node takes over, or this one is back in a moment."
    close_code = 1012
    reason = "draining"
