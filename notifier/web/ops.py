"""`/metrics` and the probes."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from notifier.auth.apikeys import ApiKeys
from notifier.node import Node
from notifier.web.security import require
from notifier.web.views import answer

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def router(node: Node, keys: ApiKeys, metrics_auth: bool, not_ready: Callable[[], list[str]]) -> APIRouter:
    """`not_ready` tells why this process should get no traffic; empty when it should."""
    routes = APIRouter(tags=["operate"])

    @routes.get("/metrics", summary="Prometheus text")
    async def metrics(request: Request) -> Response:
        if metrics_auth:
            require(keys, request, "metrics")
        return Response(node.metrics.text(), media_type=METRICS_TYPE)

    @routes.get("/livez", summary="Is the event loop alive?")
    @routes.get("/healthz", summary="The same as /livez", operation_id="healthz")
    async def livez() -> Response:
        return answer({"status": "ok"})

    @routes.get("/readyz", summary="Should this node get traffic?")
    async def readyz() -> Response:
        if reasons := not_ready():
            return answer({"status": "not ready", "reasons": reasons}, 503)
        return answer({"status": "ready"})

    return routes
