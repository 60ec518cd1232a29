"""The client and the server together: publish, receive, renew, restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from notifier.client import AsyncPublisher, Connected, Disconnected, Publisher, Refused, Subscriber
from tests.harness import Server


async def test_what_is_published_arrives_in_order_and_once(shared_server: Server) -> None:
    async with AsyncPublisher(shared_server.url, shared_server.key) as publisher:
        await publisher.notify("sdk", {"n": 0})
        async with Subscriber(shared_server.url, shared_server.token("sdk")) as subscriber:
            assert isinstance(await subscriber.next_event(), Connected)
            for n in range(1, 20):
                await publisher.notify("sdk", {"n": n}, event="tick")
            seen = []
            async for notification in subscriber:
                seen.append(notification.data["n"])
                if len(seen) == 20:
                    await subscriber.acknowledge(notification, confirm=True)
                    break
            assert seen == list(range(20))
        async with Subscriber(shared_server.url, shared_server.token("sdk")) as subscriber:
            connected = await subscriber.next_event()
            assert isinstance(connected, Connected)
            assert connected.pending == 0


async def test_a_batch_and_a_repeat(shared_server: Server) -> None:
    async with AsyncPublisher(shared_server.url, shared_server.key) as publisher:
        answers = await publisher.batch([{"client_id": "sdk-b", "data": n, "id": f"b{n}"} for n in range(3)])
        assert [answer["status"] for answer in answers] == ["queued"] * 3
        again = await publisher.notify("sdk-b", 0, id="b0")
        assert (again["duplicate"], again["seq"]) == (True, answers[0]["seq"])
        with pytest.raises(Refused) as caught:
            await publisher.notify("sdk-b", "other", id="b0")
        assert (caught.value.status, caught.value.code) == (409, "id_conflict")
        with pytest.raises(Refused) as caught:
            await publisher.notify("sdk-b", 0, ttl=-1)
        assert "ttl" in caught.value.fields


def test_the_plain_publisher_waits_for_an_acknowledgement_in_vain(shared_server: Server) -> None:
    with Publisher(shared_server.url, shared_server.key) as publisher:
        assert publisher.notify("sdk-w", 1, wait=1)["status"] == "queued"


async def test_the_token_is_renewed_on_the_same_connection(make_server: Callable[..., Server]) -> None:
    server = make_server()
    given = []
    renewed = asyncio.Event()

    def token() -> str:
        given.append(server.token("alice", ttl=20 if not given else 3600))  # under 30 s: renewed at once
        if len(given) == 2:
            renewed.set()
        return given[-1]

    async with Subscriber(server.url, token) as subscriber, AsyncPublisher(server.url, server.key) as publisher:
        assert isinstance(await subscriber.next_event(), Connected)
        async with asyncio.timeout(20):
            await renewed.wait()
        answer = asyncio.create_task(publisher.notify("alice", 1, wait=20))
        await subscriber.acknowledge(await anext(aiter(subscriber)))
        assert (await answer)["acked_by"] == "client"
    assert len(given) == 2
    assert server.metrics()['notifier_connections_opened_total{transport="websocket"}'] == 1


async def test_a_restart_is_survived_and_nothing_is_given_out_twice(make_server: Callable[..., Server]) -> None:
    server = make_server()
    async with (
        AsyncPublisher(server.url, server.key) as publisher,
        Subscriber(server.url, lambda: server.token("alice")) as subscriber,
    ):
        assert isinstance(await subscriber.next_event(), Connected)
        await publisher.notify("alice", 1)
        first = await anext(aiter(subscriber))
        await subscriber.acknowledge(first, confirm=True)
        await publisher.notify("alice", 2)
        await anext(aiter(subscriber))
        await asyncio.to_thread(server.kill)
        lost = await subscriber.next_event()
        assert isinstance(lost, Disconnected)
        assert lost.code == 1006
        await server.astart()
        again = await anext(aiter(subscriber))
        assert again.data == 2
        await subscriber.acknowledge(again, confirm=True)
