"""What administrators ask of a client and do to it; scope `admin`. Each call leaves one audit line, never a payload."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from msgspec import Raw

from notifier import logs
from notifier.auth.apikeys import ApiKeys
from notifier.codec import rfc3339
from notifier.diagnosis import Facts, Reader, causes
from notifier.engine.base import Overview, Page
from notifier.errors import FieldError, Invalid, NotifierError
from notifier.fields import check_client_id
from notifier.hub import Carrier
from notifier.node import Node
from notifier.web.receipts import decoded
from notifier.web.security import require
from notifier.web.views import (
    CauseView,
    ClientPage,
    ClientView,
    Closed,
    Connections,
    ConnectionView,
    DroppedView,
    EndingView,
    Erased,
    NotificationPage,
    NotificationView,
    Purged,
    RefusalView,
    Revocation,
    answer,
)

T = TypeVar("T")
Done = Callable[[T | NotifierError], None]

PAGE_BYTES = 1024 * 1024
"""About how much mail a page holds, whatever its limit."""

MAX_SEQ = 2**53 - 1

_audit = logs.audit()


class Administration:
    """What the routes do, on one node."""

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._name = name
        """Of this node, for those who run several."""

    def connected(self, limit: int, after: str) -> ClientPage:
        """Clients with a connection here, in the order of their client_ids."""
        hub = self._node.hub
        found = hub.page(after, limit + 1)
        page = found[:limit]
        return ClientPage(
            [Connections(client_id, len(hub.of(client_id))) for client_id in page],
            page[-1] if len(found) > limit else None,
        )

    async def show(self, client_id: str) -> ClientView:
        """One client, and why its mail has not been delivered."""
        overview: Overview = await answered(lambda done: self._node.engine.overview(client_id, done))
        memory = self._node.diagnosis.recall(client_id)
        carriers = self._node.hub.of(client_id)
        readers = [Reader(c.session.inflight, c.session.window_full, c.session.paused) for c in carriers]
        now_ms = self._node.clock.now_ms()
        found = causes(
            Facts(memory, readers, overview.pending, overview.cursor, overview.losses, overview.revoked_s is not None)
        )
        ending, refusal, oldest_ms, revoked_s = memory.ending, memory.refusal, overview.oldest_ms, overview.revoked_s
        return ClientView(
            client_id=client_id,
            connected=bool(carriers),
            connections=[self._connection(carrier) for carrier in carriers],
            disconnected_at=rfc3339(ending.at_ms) if ending is not None and not carriers else None,
            pending=overview.pending,
            pending_bytes=overview.pending_bytes,
            oldest_pending_at=None if oldest_ms is None else rfc3339(oldest_ms),
            oldest_pending_s=None if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000,
            cursor=overview.cursor,
            window_full=any(reader.window_full for reader in readers),
            last_close=None if ending is None else EndingView(rfc3339(ending.at_ms), *ending[1:]),
            last_refusal=None if refusal is None else RefusalView(rfc3339(refusal.at_ms), *refusal[1:]),
            dropped=[DroppedView(r, d.number, rfc3339(d.at_ms)) for r, d in memory.dropped.items()],
            untold=dict(overview.losses),
            revoked_at=None if revoked_s is None else rfc3339(int(revoked_s * 1000)),
            known_since=rfc3339(memory.since_ms),
            why=[CauseView(cause, text) for cause, text in found],
        )

    def _connection(self, carrier: Carrier) -> ConnectionView:
        session, node = carrier.session, self._node
        age_ms = (asyncio.get_running_loop().time() - carrier.opened_at) * 1000
        return ConnectionView(
            id=session.connection_id,
            node=self._name,
            transport=carrier.kind,
            since=rfc3339(int(node.clock.now_ms() - age_ms)),
            inflight=session.inflight,
            window_full=session.window_full,
            address=carrier.address,
            ack=session.ack_mode,
            unsent_bytes=carrier.unsent,
            token_expires_at=rfc3339(int(session.identity.expires_at * 1000)),
        )

    async def pending(self, client_id: str, limit: int, after: int) -> NotificationPage:
        """Its unacknowledged notifications, oldest first."""
        page: Page = await answered(lambda done: self._node.engine.read(client_id, after, limit, PAGE_BYTES, done))
        found = [
            NotificationView(
                seq=n.seq,
                id=n.id,
                event=n.event,
                collapse_key=n.collapse_key,
                receipt=n.receipt,
                accepted_at=rfc3339(n.accepted_ms),
                expires_at=rfc3339(n.expires_ms),
                data=Raw(n.data),
            )
            for n in page.notifications
        ]
        return NotificationPage(found, page.through if page.more else None)

    async def purge(self, client_id: str, seq: int | None) -> Purged:
        """Take its mail away, or one poisonous notification. The client is told by `gap`."""
        purged: int = await answered(lambda done: self._node.engine.purge(client_id, seq, done))
        return Purged(purged)

    async def erase(self, client_id: str) -> Erased:
        """Forget all that is kept of it except a revocation."""

        def erase(done: Done[bool]) -> None:
            self._node.engine.erase(client_id, lambda error: done(error or True))

        erased: bool = await answered(erase)
        self._node.diagnosis.forget(client_id)
        return Erased(erased)

    def disconnect(self, client_id: str, reconnect: bool) -> Closed:
        """Close its connections on every node."""
        return Closed(self._node.engine.command(client_id, "reconnect" if reconnect else "ban"))

    async def revoke(self, client_id: str) -> Revocation:
        """Refuse its tokens that were issued until now, then close what they have opened."""
        now_ms = self._node.clock.now_ms()
        closed = 0

        def revoke(done: Done[bool]) -> None:
            def durable(error: NotifierError | None) -> None:
                nonlocal closed
                if error is None:
                    closed = self._node.engine.command(client_id, "revoke")
                done(error or True)

            self._node.engine.revoke(client_id, now_ms / 1000, durable)

        await answered(revoke)
        return Revocation(client_id, rfc3339(now_ms), closed)

    async def lift(self, client_id: str) -> Revocation:
        """Take a revocation back."""

        def lift(done: Done[bool]) -> None:
            self._node.engine.revoke(client_id, None, lambda error: done(error or True))

        await answered(lift)
        return Revocation(client_id, None, 0)


async def answered(ask: Callable[[Done[T]], None]) -> T:
    """What an engine answers by callback. Raises the NotifierError that it answers with."""
    future: asyncio.Future[T | NotifierError] = asyncio.get_running_loop().create_future()
    ask(lambda result: None if future.done() else future.set_result(result))
    result = await future
    if isinstance(result, NotifierError):
        raise result
    return result


class Call:
    """One call of an administrator: who, on which client, and with which parameters."""

    def __init__(self, request: Request, client_id: str) -> None:
        self.client_id = client_id
        self._given = dict(request.query_params)

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number of the query."""
        text = self._given.pop(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
            wrong = f"From {least} to {most}."
            raise Invalid("The query is not valid.", errors=[FieldError(name, wrong)])
        return int(text)

    def text(self, name: str) -> str:
        """A text of the query, empty where it is not given."""
        return self._given.pop(name, "")

    def flag(self, name: str, default: bool) -> bool:
        """`true` or `false` of the query."""
        text = self._given.pop(name, str(default).lower())
        if text not in ("true", "false"):
            raise Invalid("The query is not valid.", errors=[FieldError(name, "Must be true or false.")])
        return text == "true"

    def done(self) -> None:
        """All has been asked for: what is left is a mistake, which must not pass for the default."""
        if self._given:
            errors = [FieldError(name, "There is no such parameter here.") for name in self._given]
            raise Invalid("The query is not valid.", errors=errors)


def router(node: Node, keys: ApiKeys, name: str) -> APIRouter:
    """The routes; `name` is this node's."""
    routes = APIRouter(tags=["administer"])
    act = Administration(node, name)

    @contextmanager
    def audited(request: Request) -> Iterator[Call]:
        """Let administrators in, and nobody else. One line tells what they did and how it went."""
        key = require(keys, request, "admin")
        client_id = outcome = ""
        try:
            if (segment := request.path_params.get("client_id")) is not None:
                client_id = decoded(segment)
                if wrong := check_client_id(client_id):
                    raise Invalid(f"The client_id {wrong}.", errors=[FieldError("client_id", wrong)])
            yield Call(request, client_id)
            outcome = "done"
        except NotifierError as error:
            outcome = error.code
            raise
        finally:
            call = f"{request.method} {request.scope['route'].path}"
            _audit.info("admin", key=key.name, call=call, client_id=client_id, outcome=outcome or "internal")

    @routes.get("/clients")
    async def clients(request: Request) -> Response:
        with audited(request) as call:
            limit, after = call.number("limit", 100, 1, 1000), call.text("after")
            call.done()
            return answer(act.connected(limit, after))

    @routes.get("/clients/{client_id}")
    async def client(request: Request) -> Response:
        with audited(request) as call:
            call.done()
            return answer(await act.show(call.client_id))

    @routes.delete("/clients/{client_id}")
    async def erase(request: Request) -> Response:
        with audited(request) as call:
            call.done()
            return answer(await act.erase(call.client_id))

    @routes.get("/clients/{client_id}/notifications")
    async def pending(request: Request) -> Response:
        with audited(request) as call:
            limit, after = call.number("limit", 100, 1, 1000), call.number("after", 0, 0, MAX_SEQ)
            call.done()
            return answer(await act.pending(call.client_id, limit, after))

    @routes.delete("/clients/{client_id}/notifications")
    async def purge(request: Request) -> Response:
        with audited(request) as call:
            call.done()
            return answer(await act.purge(call.client_id, None))

    @routes.delete("/clients/{client_id}/notifications/{seq}")
    async def purge_one(request: Request) -> Response:
        with audited(request) as call:
            call.done()
            seq = decoded(request.path_params["seq"])
            if not (seq.isascii() and seq.isdigit() and len(seq) <= 16 and 0 < int(seq) <= MAX_SEQ):
                raise Invalid("The seq is not valid.", errors=[FieldError("seq", f"From 1 to {MAX_SEQ}.")])
            return answer(await act.purge(call.client_id, int(seq)))

    @routes.delete("/clients/{client_id}/connections")
    async def disconnect(request: Request) -> Response:
        with audited(request) as call:
            reconnect = call.flag("reconnect", True)
            call.done()
            return answer(act.disconnect(call.client_id, reconnect))

    @routes.post("/clients/{client_id}/revoke")
    async def revoke(request: Request) -> Response:
        with audited(request) as call:
            call.done()
            return answer(await act.revoke(call.client_id))

    @routes.delete("/clients/{client_id}/revoke")
    async def lift(request: Request) -> Response:
        with audited(request) as call:
            call.done()
            return answer(await act.lift(call.client_id))

    return routes
