"""What every connection of this process shares: the node behind it, who may come in, and the limits."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from notifier.auth.tokens import Identity, TokenVerifier
from notifier.clock import Clock
from notifier.conversation import Limits
from notifier.errors import NotifierError, TokenExpired
from notifier.hub import Carrier
from notifier.node import Node
from notifier.transport.origins import Origins
from notifier.transport.request import KnownHeads
from notifier.transport.wheel import Wheel

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from notifier.transport.request import Head, Request

_log = structlog.get_logger("notifier.door")

CLAIMS_PER_S = 20
"""Refused tokens that are looked into for the client_id they claim: enough for a diagnosis, too few to cost much."""


class Route(Protocol):
    """A request that is answered without ASGI."""

    name: str

    repeats: bool
    """Requests with the same head may be handled without asking `admit` again."""

    def admit(self, head: Head) -> int:
        """The head has come: the most bytes that the body may have. Raises a NotifierError to refuse."""

    def handle(self, request: Request) -> None:
        """The body has come. Answers by `request.respond`, now or later."""


class Door:
    """One per process, made by the composition root (app.py)."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        node: Node,
        clock: Clock,
        verifier: TokenVerifier,
        limits: Limits,
        origins: Origins,
        query_token: bool,
        max_connections: int,
        trusted_proxies: tuple[IPv4Network | IPv6Network, ...],
        find_route: Callable[[bytes], Route | None],
        max_body: int,
    ) -> None:
        self.loop = loop
        self.time: Callable[[], float] = loop.time
        self.node = node
        self.clock = clock
        self.verifier = verifier
        self.limits = limits
        self.origins = origins
        self.query_token = query_token
        self.max_connections = max_connections
        self.find_route = find_route
        self.max_body = max_body
        self.wheel = Wheel(loop)
        self.known_heads = KnownHeads()
        self.application: Any = None
        self.leaving = False
        """A signal has come: /readyz says so."""
        self.closing = False
        """The listener is closed: no new socket is served, requests under way end."""
        self._trusted = trusted_proxies
        self._noted: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._date = b""
        self._date_ends = 0.0
        self._claims = (0, 0)
        """The second, and how many refused tokens were looked into during it."""

    def verify(self, token: str, done: Callable[[Identity | NotifierError], None]) -> None:
        """Check a token of a session that is under way; a revocation counts there as well."""
        self.verifier.verify(token, partial(self._checked, done))

    def _checked(self, done: Callable[[Identity | NotifierError], None], result: Identity | NotifierError) -> None:
        if isinstance(result, NotifierError):
            done(result)
        else:
            self.node.admit(result, lambda state: done(state if isinstance(state, NotifierError) else result))

    def closed(self, carrier: Carrier, code: int, seconds: float) -> None:
        """A connection is gone."""
        self.node.unregister(carrier, code, seconds)

    def refused(
        self, error: NotifierError, transport: str, address: str, client_id: str | None, token: str | None
    ) -> None:
        """Count a refused handshake, remember it for a diagnosis, and log it: one line per address, reason and minute,
        so that nobody floods the log. `client_id`: of a token that was verified."""
        self.node.metrics.handshake_refused(error.reason)
        proven = client_id is not None or isinstance(error, TokenExpired)
        if client_id is None and token is not None and self._may_look():
            client_id = self.verifier.claimed_client_id(token)
        if client_id is not None:
            self.node.diagnosis.refused(client_id, error.reason, transport, address, proven)
        self._note(transport, error.reason, address)

    def turned_away(self, error: NotifierError, request: Request) -> None:
        """Count and log a request that came without a valid key, or without the scope it needs."""
        self.node.metrics.request_refused(error.reason)
        forwarded = (request.header(b"x-forwarded-for") or b"").decode("latin-1")
        self._note("http", error.reason, self.address(request.protocol.peer, forwarded))

    def _note(self, transport: str, reason: str, address: str) -> None:
        now = self.time()
        key = (address, reason)
        if now - self._noted.get(key, -60.0) >= 60:
            self._noted[key] = now
            self._noted.move_to_end(key)
            if len(self._noted) > 10_000:
                self._noted.popitem(last=False)
            _log.warning("refused", transport=transport, reason=reason, address=address)

    def _may_look(self) -> bool:
        second, count = self._claims
        now = int(self.time())
        self._claims = (now, count + 1 if now == second else 1)
        return now != second or count < CLAIMS_PER_S

    def connection_id(self) -> str:
        """An id that nobody can guess."""
        return secrets.token_urlsafe(12)

    def date(self) -> bytes:
        """The Date header's line, made once a second (RFC 9110 §6.6.1)."""
        now = self.time()
        if now >= self._date_ends:
            self._date_ends = now + 1.0 - self.clock.now() % 1
            self._date = b"date: %b\r\n" % formatdate(self.clock.now(), usegmt=True).encode()
        return self._date

    def address(self, peer: str, forwarded: str) -> str:
        """Whose request it is: where the peer is a trusted proxy, the last address it forwards that is none."""
        peer = _plain(peer)
        if not self._trusted or not self._is_trusted(peer):
            return peer
        for hop in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
            try:
                ip_address(hop)
            except ValueError:
                return peer
            hop = _plain(hop)
            if not self._is_trusted(hop):
                return hop
            peer = hop
        return peer

    def _is_trusted(self, address: str) -> bool:
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._trusted)


def _plain(address: str) -> str:
    """A listener for both families sees IPv4 peers as ::ffff:192.0.2.1 (RFC 4291 §2.5.5.2): the same machine."""
    if ":" not in address:
        return address
    try:
        mapped = getattr(ip_address(address), "ipv4_mapped", None)
    except ValueError:
        return address
    return address if mapped is None else str(mapped)
