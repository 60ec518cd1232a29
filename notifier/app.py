"""The composition root: the only file that knows every class. It makes the parts, and the FastAPI application whose
lifespan holds them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from notifier.auth.apikeys import ApiKeys
from notifier.auth.tokens import Rules, TokenVerifier, token_verifier
from notifier.clock import Clock, SystemClock, check_plausible
from notifier.conversation import Limits
from notifier.engine import open_engine
from notifier.errors import MethodNotAllowed, NotFound, NotifierError
from notifier.hub import Hub
from notifier.metrics import Metrics
from notifier.node import Node
from notifier.settings import Settings
from notifier.transport import events
from notifier.transport.door import Door, Route
from notifier.transport.handshake import PlainWebSocketRoute, is_websocket_path
from notifier.transport.origins import Origins
from notifier.transport.problems import problem
from notifier.web import clients, docs, openapi, ops, receipts
from notifier.web.notify import Batch, Broadcast, Notify, NotifyClient
from notifier.web.publication import TtlLimits
from notifier.web.publishing import Publishing

VERSION = version("notifierd")


class Parts:
    """What one process is made of."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        check_plausible(self.clock.now())
        loop = asyncio.get_running_loop()
        self.keys = ApiKeys(settings.api_keys)
        self.verifier = _verifier(settings, self.clock)
        self.metrics = Metrics(VERSION, settings.engine.partition(":")[0])
        limits = Limits(
            settings.max_inflight,
            settings.heartbeat_seconds,
            settings.heartbeat_timeout_seconds,
            settings.jwt_leeway_seconds,
        )
        self.engine = open_engine(
            settings.engine,
            self.clock,
            self.metrics,
            durability=settings.durability,
            dedup_s=settings.dedup_seconds,
            mailbox_limit=settings.mailbox_limit,
            mailbox_bytes=settings.mailbox_bytes,
            drop_oldest=settings.mailbox_overflow == "drop_oldest",
            min_free_bytes=settings.min_free_disk_bytes,
        )
        self.node = Node(
            self.engine, Hub(), self.metrics, self.clock, limits, max_per_client=settings.max_connections_per_client
        )
        self.metrics.gauges = self.node.gauges
        self.publishing = Publishing(self.node, self.clock, loop)
        self.door = Door(
            loop=loop,
            node=self.node,
            clock=self.clock,
            verifier=self.verifier,
            limits=limits,
            origins=Origins(settings.allowed_origins, any_loopback=settings.dev),
            query_token=settings.query_token,
            max_connections=settings.max_connections,
            trusted_proxies=settings.trusted_proxies,
            find_route=self._routes(),
            max_body=settings.max_body_bytes,
        )

    def _routes(self) -> Callable[[bytes], Route | None]:
        s = self.settings
        shared = (self.publishing, self.keys, TtlLimits(s.ttl_default_seconds, s.ttl_max_seconds), s.max_body_bytes)
        exact: dict[bytes, Route] = {
            b"/notify": Notify(*shared),
            b"/batch": Batch(*shared),
            b"/broadcast": Broadcast(*shared, self.node),
            **events.routes(lambda: self.door),
        }
        notify_client = NotifyClient(*shared)
        websocket = PlainWebSocketRoute()

        def find(path: bytes) -> Route | None:
            route = exact.get(path)
            if route is not None:
                return route
            if path.startswith(b"/notify/") and len(path) > 8 and b"/" not in path[8:]:
                return notify_client
            return websocket if is_websocket_path(path) else None

        return find

    def not_ready(self) -> list[str]:
        """Why this process should get no traffic."""
        reasons = []
        if self.node.failure is not None or not self.engine.stats().up:
            reasons.append("engine: not available")
        if self.node.draining or self.door.leaving:
            reasons.append("draining")
        if (keys := self.verifier.ready()) is not None:
            reasons.append(keys)
        return reasons


def _verifier(settings: Settings, clock: Clock) -> TokenVerifier:
    secrets = [secret for secret in (settings.jwt_secret, settings.jwt_secret_previous) if secret]
    return token_verifier(
        clock,
        secrets=secrets,
        public_key=settings.jwt_public_key,
        jwks_url=settings.jwt_jwks_url,
        algorithms=settings.jwt_algorithms,
        rules=Rules(
            client_id_claim=settings.jwt_client_id_claim,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            leeway_s=settings.jwt_leeway_seconds,
        ),
    )


def create_app(parts: Parts) -> FastAPI:
    """The application for `transport.http.HttpProtocol`, which finds the Door in its lifespan state. The engine is open
    already, and keys are fetched: why that could not be is told by an exit code, which a lifespan cannot."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        parts.door.application = app
        try:
            yield {"door": parts.door}
        finally:
            parts.door.wheel.stop()
            await parts.verifier.stop()
            await parts.node.stop()

    app = FastAPI(
        title="Notifier",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.include_router(ops.router(parts.node, parts.keys, parts.settings.metrics_auth, parts.not_ready))
    app.include_router(receipts.router(parts.node, parts.keys))
    app.include_router(clients.router(parts.node, parts.keys, f"{socket.gethostname()}:{parts.settings.port}"))
    app.include_router(docs.router(VERSION))
    app.add_exception_handler(NotifierError, _tell_notifier_error)
    app.add_exception_handler(HTTPException, _tell_http_exception)
    return app


def _response(error: NotifierError, extra: dict[str, str] | None = None) -> Response:
    status, body, _ = problem(error)
    headers = dict(error.headers) | (extra or {}) | {"cache-control": "no-store"}
    return Response(body, status, headers, media_type="application/problem+json")


async def _tell_notifier_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotifierError)
    return _response(error)


async def _tell_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = openapi.allowed(request.url.path)  # FastAPI would list those of one of its routes
        return _response(MethodNotAllowed(f"Use {allow}."), {"Allow": allow})
    if error.status_code == 404:
        return _response(NotFound("Nothing is here. The paths are listed in /docs."))
    return _response(NotifierError("Something went wrong on our side."))
