"""Every metric of docs/protocol.md §5: each step of a history moves exactly those that it names, and no other."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.harness import Client, Refused, Server, apublish, arequest
from tests.transport.eventstream import EventStream

# How long things took is not the history's; how often something was measured is. Upkeep commits when it likes.
UNCOUNTED = re.compile(r"_bucket|_sum|_created|event_loop_lag|oldest_pending|engine_operation")
PRIVATE = re.compile("alice|bob|carol|dave|erin|secret-id")

CALM = [str(Path(sys.executable).with_name("notifier"))]
"""What was sent is counted as such only where wakes go right."""

Moves = dict[str, float]


def counted(server: Server) -> Moves:
    return {
        sample.removeprefix("notifier_"): value
        for sample, value in server.metrics().items()
        if sample.startswith("notifier_") and not UNCOUNTED.search(sample)
    }


@asynccontextmanager
async def moves(server: Server, *parts: Moves) -> AsyncIterator[None]:
    """What happens within moves these metrics by so much, taken together, and no other."""
    named: Moves = {}
    for part in parts:
        for name, value in part.items():
            named[name] = named.get(name, 0) + value
    named = {name: value for name, value in named.items() if value}
    before = counted(server)
    yield
    try:
        async with asyncio.timeout(5):
            while (moved := await difference(server, before)) != named:
                pass  # the end of a connection is counted after the client has seen it
    except TimeoutError:
        assert await difference(server, before) == named
    assert moved == named


async def difference(server: Server, before: Moves) -> Moves:
    after = await asyncio.to_thread(counted, server)
    assert not before.keys() - after.keys(), "a sample that was there stays"
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


def opened(transport: str = "websocket", client: int = 1) -> Moves:
    labels = f'{{transport="{transport}"}}'
    return {f"connections{labels}": 1, f"connections_opened_total{labels}": 1, "clients": client}


def closed(code: int, transport: str = "websocket", client: int = 1) -> Moves:
    return {
        f'connections{{transport="{transport}"}}': -1,
        f'connections_closed_total{{code="{code}",transport="{transport}"}}': 1,
        "connection_duration_seconds_count": 1,
        "clients": -client,
    }


def published(outcome: str) -> Moves:
    return {f'publishes_total{{outcome="{outcome}"}}': 1}


def settled(acked_by: str, count: int = 1, live: int = 0) -> Moves:
    """`live`: how many of them were sent when they were accepted."""
    return {
        f'notifications_settled_total{{acked_by="{acked_by}"}}': count,
        "pending_notifications": -count,
        "delivery_duration_seconds_count": live,
    }


def lost(reason: str, count: int = 1) -> Moves:
    return {f'notifications_lost_total{{reason="{reason}"}}': count, "pending_notifications": -count}


LOOKED_UP: Moves = {"engine_batch_size_count": 1}
STORED = LOOKED_UP | {"publish_duration_seconds_count": 1, "pending_notifications": 1}
QUEUED = published("queued") | STORED
SENT = published("sent") | STORED
WAITED: Moves = {"queue_wait_seconds_count": 1}


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server(command=CALM, mailbox_limit=3, mailbox_overflow="drop_oldest", max_inflight=2)


async def test_one_history(server: Server) -> None:
    await connections(server)
    await deliveries(server)
    await windows(server)
    await endings(server)
    await refusals(server)
    await streams(server)
    samples = server.metrics()
    assert samples["notifier_engine_up"] == 1
    assert samples["notifier_event_loop_lag_seconds"] >= 0
    assert samples["notifier_oldest_pending_seconds"] >= 0
    assert samples['notifier_engine_operation_duration_seconds_count{operation="commit"}'] > 10
    assert not [name for name, value in samples.items() if "engine_errors" in name and value]
    assert next(name for name in samples if name.startswith("notifier_build_info")).count("=") == 2
    assert not [name for name in samples if PRIVATE.search(name)], "never a client_id, id or token in a label"


async def connections(server: Server) -> None:
    async with moves(server, opened()):
        first = await Client(server, "alice", ack="client").__aenter__()
        await first.welcome
    async with moves(server, opened(client=0)):
        second = await Client(server, "alice", ack="client").__aenter__()
        await second.welcome
    async with moves(server, closed(1000, client=0)):
        await second.close()
    async with moves(server, closed(1006)):
        await first.abort()
    async with moves(server, opened(), closed(4400)), Client(server, "alice") as client:
        await client.send("[]")
        await client.closed()
    async with moves(server, opened(), closed(1000), {"acks_ignored_total": 2}), Client(server, "alice") as client:
        await client.ack(10**15)
        await client.ack(10**15)
        await client.ping()
        assert server.metrics()["notifier_acks_ignored_total"] == 2  # at once, not when the connection ends


async def deliveries(server: Server) -> None:
    async with Client(server, "alice", ack="client") as alice:
        await alice.welcome
        async with moves(server, SENT):
            await apublish(server, client_id="alice", data=1, id="secret-id")
            frame = await alice.next("notification")
        async with moves(server, published("duplicate"), LOOKED_UP):
            await apublish(server, client_id="alice", data=1, id="secret-id")
        async with moves(server, settled("client", live=1)):
            await alice.ack(frame["seq"], confirm=True)
            await alice.next("settled")
        async with moves(server):  # once per settlement
            await alice.ack(frame["seq"], confirm=True)
            await alice.next("settled")
        async with moves(server, published("sent")):
            await apublish(server, client_id="alice", data=1, ttl=0)
            await alice.next("notification")
        async with moves(server, SENT):
            await apublish(server, client_id="alice", data=1)
            await alice.next("notification")
        async with moves(server, closed(1000)):
            await alice.close()
    async with moves(server, published("dropped")):
        await apublish(server, client_id="alice", data=1, ttl=0)
    again: Moves = {"notifications_resent_total": 1}
    async with moves(server, opened(), again, settled("transport", live=1), closed(1000)):
        await receive_one(server, "alice")
    async with moves(server, QUEUED):
        await apublish(server, client_id="alice", data=1)
    async with moves(server, opened(), WAITED, settled("transport"), closed(1000)):
        await receive_one(server, "alice")


async def receive_one(server: Server, client_id: str) -> None:
    async with Client(server, client_id, ack="auto") as client:
        await client.next("notification")
        await client.ping()


async def windows(server: Server) -> None:
    async with Client(server, "bob", ack="client") as bob:
        await bob.welcome
        async with moves(server, SENT):
            await apublish(server, client_id="bob", data=1)
        async with moves(server, SENT, {"connections_window_full": 1}):
            await apublish(server, client_id="bob", data=2)
        async with moves(server, QUEUED):
            await apublish(server, client_id="bob", data=3)
        first, _ = await bob.notifications(2)
        async with moves(server, settled("client", live=1), WAITED):  # the third takes its place in the window
            await bob.ack(first["seq"], confirm=True)
            third = await bob.next("notification")
        async with moves(server, settled("client", count=2, live=1), {"connections_window_full": -1}):
            await bob.ack(third["seq"], confirm=True)
            while (await bob.next("settled"))["seq"] != third["seq"]:
                pass
        async with moves(server, closed(1000)):
            await bob.close()


async def endings(server: Server) -> None:
    for n in range(3):
        async with moves(server, QUEUED):
            await apublish(server, client_id="carol", data=n)
    async with moves(server, QUEUED, lost("overflow")):
        await apublish(server, client_id="carol", data=4)
    async with moves(server, lost("purged", 3)):
        await arequest(server, "DELETE", "/clients/carol/notifications")
    async with moves(server, QUEUED):
        await apublish(server, client_id="carol", data=1, collapse_key="k")
    async with moves(server, QUEUED, {"notifications_collapsed_total": 1, "pending_notifications": -1}):
        await apublish(server, client_id="carol", data=2, collapse_key="k")
    async with moves(server, lost("purged")):
        await arequest(server, "DELETE", "/clients/carol")
    async with moves(server, QUEUED, lost("expired")):
        assert (await apublish(server, client_id="carol", data=1, ttl=1, wait=30)).body["status"] == "expired"


async def refusals(server: Server) -> None:
    async with moves(server, QUEUED):
        await apublish(server, client_id="dave", data=1, id="a")
    async with moves(server, published("id_conflict"), LOOKED_UP):
        await apublish(server, client_id="dave", data=2, id="a")
    async with moves(server, published("invalid")):
        await apublish(server, client_id="dave", data=2, ttl=-1)
    async with moves(server, published("bad_json")):
        await arequest(server, "POST", "/notify", b"{")
    refused: Moves = {'requests_refused_total{reason="unauthorized"}': 1}  # of every route
    async with moves(server, published("unauthorized"), refused):
        await apublish(server, client_id="dave", data=2, key="wrong")
    async with moves(server, refused):
        await arequest(server, "GET", "/clients", key="wrong")
    async with moves(server):
        await arequest(server, "GET", "/nothing")
        await arequest(server, "GET", "/livez")
    expired = server.token("dave", ttl=-60)
    for reason, token in (("token_missing", ""), ("token_invalid", "x"), ("token_expired", expired)):
        async with moves(server, {f'handshakes_refused_total{{reason="{reason}"}}': 1}):
            with pytest.raises(Refused):
                await Client(server, "dave", token=token).__aenter__()
    evil = Client(server, "dave", origin="https://evil.example")
    async with moves(server, {'handshakes_refused_total{reason="forbidden_origin"}': 1}), evil as client:
        assert await client.closed() == (4403, "forbidden_origin")


async def streams(server: Server) -> None:
    async with moves(server, opened("sse")):
        stream = await EventStream(server, "erin").__aenter__()
        await stream.next()
    async with moves(server, SENT):
        await apublish(server, client_id="erin", data=1)
        event = await stream.next("notification")
    async with moves(server, settled("client", live=1)):
        bearer = {"Authorization": f"Bearer {server.token('erin')}"}
        await arequest(server, "POST", "/events/ack", {"seq": event.frame["seq"]}, headers=bearer, key=None)
    async with moves(server, closed(1001, "sse")):
        await stream.__aexit__()


async def test_a_full_mailbox(make_server: Callable[..., Server]) -> None:
    server = make_server(command=CALM, mailbox_limit=1)
    async with moves(server, QUEUED):
        await apublish(server, client_id="alice", data=1)
    async with moves(server, published("mailbox_full")):
        await apublish(server, client_id="alice", data=2)


async def test_a_client_that_does_not_read(make_server: Callable[..., Server]) -> None:
    """`slow_consumer`: what nobody could take; and a connection that was cut off for it."""
    server = make_server(command=CALM)
    stalled = EventStream(server, "alice", reads=False)
    async with moves(server, opened("sse")):
        await stalled.__aenter__()
    before = counted(server)
    frame = {"client_id": "alice", "data": "x" * 60_000, "ttl": 0}
    lost_frames = 'notifications_lost_total{reason="slow_consumer"}'
    async with asyncio.timeout(20):
        while (moved := await difference(server, before)).get(lost_frames, 0) < 3:
            await apublish(server, **frame)
    sent = moved.pop('publishes_total{outcome="sent"}')
    assert sent * 60_000 < 4_000_000
    assert moved == {lost_frames: 3, 'publishes_total{outcome="dropped"}': 3}
    await stalled.__aexit__()
