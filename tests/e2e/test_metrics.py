"""The counters of docs/protocol.md §5 after a history of which every event is known: these moved, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import Client, Refused, Server, apublish, arequest, publish

REFUSALS: list[tuple[str, int, dict[str, Any]]] = [
    ("invalid", 422, {"client_id": "alice", "data": 1, "ttl": -1}),
    ("id_conflict", 409, {"client_id": "carol", "data": "other", "id": "c"}),
    ("mailbox_full", 429, {"client_id": "full", "data": 3}),
]


async def until(server: Server, sample: str, value: float) -> None:
    """The server counts the end of a connection after the client has seen it."""
    async with asyncio.timeout(10):
        while server.metrics().get(sample, 0.0) != value:  # noqa: ASYNC110 (another process: there is no event)
            await asyncio.sleep(0)


async def test_every_counter_moves_by_what_happened_and_no_other(make_server: Callable[..., Server]) -> None:
    server = make_server(mailbox_limit=2)
    before = server.metrics()

    async def post(status: int, outcome: str | None = None, **fields: Any) -> dict[str, Any]:
        answer = await apublish(server, **fields)
        assert answer.status == status, answer
        assert outcome in (None, answer.body.get("status")), answer
        body: dict[str, Any] = answer.body
        return body

    # Delivered, and one of ttl 0, which is not acknowledged.
    async with Client(server, "alice", ack="client") as alice:
        await alice.welcome
        await post(202, "sent", client_id="alice", data=1, id="a")
        await alice.ack((await alice.next("notification"))["seq"], confirm=True)
        await alice.next("settled")
        await post(202, "sent", client_id="alice", data=1, ttl=0)
        # Written, not acknowledged, and written again on the next connection.
        await post(202, "sent", client_id="alice", data=2)
        await alice.notifications(2)
    await until(server, 'notifier_connections_closed_total{code="1000",transport="websocket"}', 1.0)
    async with Client(server, "alice", ack="client") as alice:
        await alice.ack((await alice.next("notification"))["seq"], confirm=True)
        await alice.next("settled")
    await until(server, 'notifier_connections_closed_total{code="1000",transport="websocket"}', 2.0)

    # Never connected: queued, repeated, collapsed, purged, expired, dropped, refused.
    await post(202, "queued", client_id="carol", data=1, id="b", collapse_key="k")
    await post(202, "queued", client_id="carol", data=1, id="c", collapse_key="k")
    await post(200, "queued", client_id="carol", data=1, id="c", collapse_key="k")
    await post(202, "queued", client_id="full", data=1)
    await post(202, "queued", client_id="full", data=2)
    await post(200, "expired", client_id="dave", data=1, ttl=1, wait=30)
    await post(202, "dropped", client_id="nobody", data=1, ttl=0)
    for code, status, fields in REFUSALS:
        assert (await post(status, **fields))["code"] == code
    assert (await arequest(server, "POST", "/notify", b"{")).body["code"] == "bad_json"
    assert publish(server, client_id="alice", data=1, key="wrong").status == 401
    purged = await arequest(server, "DELETE", "/clients/carol/notifications")
    assert purged.body == {"purged": 1}
    with pytest.raises(Refused, match=r"^401 "):
        await Client(server, "alice", token="").__aenter__()

    after = server.metrics()
    moved = {
        name.removeprefix("notifier_"): value - before.get(name, 0.0)
        for name, value in after.items()
        if name.startswith("notifier_") and "_total" in name and value != before.get(name, 0.0)
    }
    assert moved == {
        'connections_opened_total{transport="websocket"}': 2,
        'connections_closed_total{code="1000",transport="websocket"}': 2,
        'handshakes_refused_total{reason="token_missing"}': 1,
        'publishes_total{outcome="sent"}': 3,
        'publishes_total{outcome="queued"}': 5,
        'publishes_total{outcome="duplicate"}': 1,
        'publishes_total{outcome="dropped"}': 1,
        'publishes_total{outcome="invalid"}': 1,
        'publishes_total{outcome="id_conflict"}': 1,
        'publishes_total{outcome="mailbox_full"}': 1,
        'publishes_total{outcome="bad_json"}': 1,
        'publishes_total{outcome="unauthorized"}': 1,
        'requests_refused_total{reason="unauthorized"}': 1,  # of every route, the publishing ones included
        'notifications_settled_total{acked_by="client"}': 2,
        "notifications_resent_total": 1,
        'notifications_lost_total{reason="expired"}': 1,
        'notifications_lost_total{reason="purged"}': 1,
        "notifications_collapsed_total": 1,
    }
    assert after['notifier_connections{transport="websocket"}'] == 0
    assert (after["notifier_clients"], after["notifier_pending_notifications"]) == (0, 2)
    assert after["notifier_delivery_duration_seconds_count"] == 2, "of mail that was sent when accepted"
    assert after["notifier_connection_duration_seconds_count"] == 2
    assert not [name for name in after if "alice" in name or "carol" in name], "never a client_id in a label"
