"""Who gets a session: the checks before it, the same for every carrier, the cheap ones first and crypto last."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

from notifier.auth.tokens import MAX_TOKEN_BYTES, Identity
from notifier.engine.base import MailboxState
from notifier.errors import (
    BadHandshake,
    Draining,
    ForbiddenOrigin,
    NotifierError,
    Overloaded,
    TokenInvalid,
    TokenMissing,
)
from notifier.transport.origins import split_host

if TYPE_CHECKING:
    from notifier.transport.door import Door
    from notifier.transport.request import Request


class Caller(NamedTuple):
    """Who asks, as far as the request says."""

    origin: str | None
    host: str
    token: str | None
    address: str


def address_of(door: Door, request: Request) -> str:
    """The client's address, through trusted proxies."""
    return door.address(request.protocol.peer, (request.header(b"x-forwarded-for") or b"").decode("latin-1"))


def host_of(request: Request) -> str:
    """The Host header, empty if there is none. Raises: BadHandshake, if it is malformed."""
    host = (request.header(b"host") or b"").decode("latin-1")
    try:
        split_host(host)
    except ValueError:
        raise BadHandshake("The Host header is not a host and a port.") from None
    return host


def tokens_of(request: Request, query_token: bool) -> set[str]:
    """The different tokens in `Authorization`, which may stand there twice, and where that is allowed in the query."""
    tokens = set()
    for name, header in request.head.headers:
        if name == b"authorization":
            scheme, _, value = header.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer" and value.strip():
                tokens.add(value.strip())
    if query_token:
        query = parse_qsl(request.query.decode("latin-1"), keep_blank_values=True)
        tokens |= {value for name, value in query if name == "access_token" and value}
    return tokens


def no_room(door: Door) -> NotifierError | None:
    """Why no session can begin now, whoever asks for it."""
    if door.node.draining:
        return Draining("This node is going away. Connect again: another takes over.")
    if door.node.hub.connections >= door.max_connections:
        return Overloaded("All connections of this node are taken. Try again later.")
    return None


def examine(
    door: Door,
    caller: Caller,
    accept: Callable[[Identity, MailboxState], None],
    refuse: Callable[[NotifierError, str | None], None],
    check: Callable[[Identity], NotifierError | None] = lambda identity: None,
    connecting: bool = True,
) -> None:
    """Call `accept`, or `refuse` with the error and the client_id where the token proved one; now or later.

    `connecting` is false for who wants no session, only a word with the one it has.
    """
    if connecting and (full := no_room(door)) is not None:
        return refuse(full, None)
    if not door.origins.allows(caller.origin, caller.host):
        return refuse(ForbiddenOrigin("The page's origin is not in ALLOWED_ORIGINS."), None)
    if caller.token is None:
        return refuse(TokenMissing("Bring a JWT, as docs/protocol.md says: Authorization: Bearer JWT."), None)
    if len(caller.token) > MAX_TOKEN_BYTES:
        return refuse(TokenInvalid("The token is over 16 KiB."), None)

    def verified(result: Identity | NotifierError) -> None:
        if isinstance(result, NotifierError):
            return refuse(result, None)
        if (error := check(result)) is not None:
            return refuse(error, result.client_id)
        return door.node.admit(result, lambda state: opened(result, state))

    def opened(identity: Identity, state: MailboxState | NotifierError) -> None:
        if isinstance(state, NotifierError):
            return refuse(state, identity.client_id)
        if connecting and (full := no_room(door)) is not None:  # the token's keys may have had to be fetched meanwhile
            return refuse(full, identity.client_id)
        return accept(identity, state)

    return door.verifier.verify(caller.token, verified)
