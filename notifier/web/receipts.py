"""`GET /notifications/{id}`: what became of a notification that was sent with `receipt: true`."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Request, Response

from notifier.auth.apikeys import ApiKeys
from notifier.codec import rfc3339
from notifier.engine.base import Receipt
from notifier.errors import FieldError, IdConflict, Invalid, NotFound, NotifierError
from notifier.node import Node
from notifier.web.security import require
from notifier.web.views import answer


def decoded(segment: str) -> str:
    """A path parameter, percent-decoded once. Raises: Invalid, if it is not UTF-8."""
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise Invalid("The path is not UTF-8.", errors=[FieldError("path", "Percent-encode UTF-8.")]) from None


def router(node: Node, keys: ApiKeys) -> APIRouter:
    """The receipt route; scope `notify`."""
    routes = APIRouter(tags=["publish"])

    @routes.get("/notifications/{id}", summary="What became of a notification sent with receipt")
    async def receipt(request: Request) -> Response:
        require(keys, request, "notify")
        found: asyncio.Future[list[Receipt] | NotifierError] = asyncio.get_running_loop().create_future()
        id, client_id = decoded(request.path_params["id"]), request.query_params.get("client_id")
        node.engine.receipts(id, client_id, lambda r: None if found.done() else found.set_result(r))
        receipts = await found
        if isinstance(receipts, NotifierError):
            raise receipts
        if not receipts:
            raise NotFound("No receipt is kept of this id. Send with receipt: true; receipts are kept for 7 days.")
        if len(receipts) > 1:
            raise IdConflict("Several clients have a notification with this id. Add ?client_id=.")
        return answer(told(receipts[0]))

    return routes


def told(receipt: Receipt) -> dict[str, Any]:
    """A receipt as the outside sees it."""
    return {
        "id": receipt.id,
        "state": receipt.state,
        "client_id": receipt.client_id,
        "seq": receipt.seq,
        "accepted_at": rfc3339(receipt.accepted_ms),
        "sent_at": None if receipt.sent_ms is None else rfc3339(receipt.sent_ms),
        "settled_at": None if receipt.settled_ms is None else rfc3339(receipt.settled_ms),
        "acked_by": receipt.acked_by,
        "attempts": receipt.attempts,
    }
