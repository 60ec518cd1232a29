"""`?wait`: every way in which it ends (docs/protocol.md), also with wakes that go wrong."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.publishing import Publisher, name, publisher
from tests.harness import Client, Response, Server, apublish, arequest

__all__ = ["publisher"]

Waiting = asyncio.Task[Response]


def waiting(server: Server, client_id: str, seconds: int = 30, **fields: Any) -> Waiting:
    return asyncio.create_task(apublish(server, wait=seconds, client_id=client_id, data=1, **fields))


async def arrived(publisher: Publisher, client_id: str, count: int = 1) -> None:
    """The mail of those who wait is in the mailbox."""
    async with asyncio.timeout(10):
        while True:
            found = await arequest(publisher.server, "GET", f"/clients/{client_id}")
            if found.body["pending"] >= count:
                return


@pytest.mark.parametrize("ack", ["client", "auto"])
async def test_settled(publisher: Publisher, ack: str) -> None:
    """Answers 200 as soon as it is settled by any connection."""
    alice = name()
    async with Client(publisher.server, alice, ack=ack) as client:
        await client.welcome
        answer = waiting(publisher.server, alice, id="a")
        frame = await client.next("notification")
        if ack == "client":
            await client.ack(frame["seq"])
        found = await answer
    assert found.status == 200
    assert (found.body["status"], found.body["acked_by"]) == (
        "delivered", "client" if ack == "client" else "transport"
    )  # fmt: skip
    assert (found.body["id"], found.body["client_id"], found.body["seq"]) == ("a", alice, frame["seq"])


async def test_settled_by_a_connection_that_came_later(publisher: Publisher) -> None:
    alice = name()
    answer = waiting(publisher.server, alice)
    await arrived(publisher, alice)
    async with Client(publisher.server, alice) as client:
        await client.next("notification")
        assert (await answer).body["status"] == "delivered"


async def test_a_delivery_told_is_final(publisher: Publisher) -> None:
    alice = name()
    async with Client(publisher.server, alice) as client:
        await client.welcome
        assert (await waiting(publisher.server, alice)).status == 200
    publisher.server.restart()
    async with Client(publisher.server, alice) as client:
        assert (await client.welcome)["pending"] == 0


@pytest.mark.parametrize("end", ["collapsed", "purged", "expired"])
async def test_ended_otherwise(publisher: Publisher, end: str) -> None:
    alice = name()
    answer = waiting(publisher.server, alice, collapse_key="k", ttl=1 if end == "expired" else 60)
    await arrived(publisher, alice)
    if end == "collapsed":
        publisher.notify(alice, collapse_key="k")
    elif end == "purged":
        publisher.purge(alice)
    found = await answer
    assert (found.status, found.body["status"]) == (200, end)
    assert "acked_by" not in found.body


async def test_dropped(make_server: Callable[..., Server]) -> None:
    server = make_server(mailbox_limit=2, mailbox_overflow="drop_oldest")
    publisher, alice = Publisher(server, True), name()
    answer = waiting(server, alice)
    await arrived(publisher, alice)
    publisher.notify(alice)
    publisher.notify(alice)
    found = await answer
    assert (found.status, found.body["status"]) == (200, "dropped")


@pytest.mark.parametrize("connected", [True, False])
async def test_the_time_is_over(publisher: Publisher, connected: bool) -> None:
    """At the time-out … 202 with the present status."""
    alice = name()
    if connected:
        async with Client(publisher.server, alice, ack="client") as client:
            await client.welcome
            found = await waiting(publisher.server, alice, seconds=1)
            await client.next("notification")
    else:
        found = await waiting(publisher.server, alice, seconds=1)
    assert (found.status, found.body["status"]) == (202, "sent" if connected else "queued")
    assert found.body["connections"] == int(connected) or not publisher.calm


async def test_a_repeat_waits_like_the_first(publisher: Publisher) -> None:
    """With `wait` it waits like the first."""
    alice = name()
    answers = [waiting(publisher.server, alice, id="a") for _ in range(3)]
    await arrived(publisher, alice)
    async with Client(publisher.server, alice) as client:
        await client.next("notification")
        found = await asyncio.gather(*answers)
    assert [answer.status for answer in found] == [200, 200, 200]
    assert {answer.body["status"] for answer in found} == {"delivered"}
    assert sorted(answer.body.get("duplicate", False) for answer in found) == [False, True, True]
    assert all("idempotent-replayed" in answer.headers for answer in found if answer.body.get("duplicate"))
    again = await waiting(publisher.server, alice, id="a")
    assert (again.status, again.body["status"], again.body["duplicate"]) == (200, "delivered", True)


async def test_a_publisher_that_hangs_up_changes_nothing(publisher: Publisher) -> None:
    alice = name()
    reader, writer = await asyncio.open_connection("127.0.0.1", publisher.server.port)
    body = f'{{"client_id":"{alice}","data":1}}'
    writer.write(
        f"POST /notify?wait=30 HTTP/1.1\r\nHost: x\r\nX-API-Key: {publisher.server.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    await arrived(publisher, alice)
    writer.transport.abort()
    async with Client(publisher.server, alice, ack="client") as client:
        frame = await client.next("notification")
        await client.ack(frame["seq"], confirm=True)
        await client.next("settled")
    assert publisher.get("/readyz").status == 200
    assert not await reader.read()


async def test_more_than_a_thousand(publisher: Publisher) -> None:
    """More than 1,000 waiting on a node: 202 at once with `"waited": false`. Who hangs up makes room."""
    alice, port = name(), publisher.server.port
    body = f'{{"client_id":"{alice}","data":1,"id":"a"}}'
    text = (
        f"POST /notify?wait=30 HTTP/1.1\r\nHost: x\r\nX-API-Key: {publisher.server.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    sockets = [await asyncio.open_connection("127.0.0.1", port) for _ in range(1000)]
    for _, writer in sockets:
        writer.write(text)
    async with asyncio.timeout(20):
        while (found := await apublish(publisher.server, wait=1, client_id=alice, data=1, id="a")).body.get(
            "waited", True
        ):
            pass
    assert (found.status, found.body["duplicate"], found.body["waited"]) == (202, True, False)
    left = []
    for leave in (asyncio.StreamWriter.close, lambda writer: writer.transport.abort()):
        left.append(sockets.pop()[1])
        leave(left[-1])
        async with asyncio.timeout(20):
            while not (found := await apublish(publisher.server, wait=1, client_id=alice, data=1, id="a")).body.get(
                "waited", True
            ):
                pass
        assert found.status == 202
        sockets.append(await asyncio.open_connection("127.0.0.1", port))
        sockets[-1][1].write(text)
    async with Client(publisher.server, alice) as client:
        await client.next("notification")
        answers = await asyncio.gather(*(reader.readuntil(b"}") for reader, _ in sockets))
    assert all(b"200 OK" in answer and b'"delivered"' in answer for answer in answers)
    for _, writer in sockets:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in [*left, *(writer for _, writer in sockets)]))


async def test_a_drain_answers_those_who_wait(make_server: Callable[..., Server]) -> None:
    """… or at drain 202 with the present status."""
    server = make_server(drain_seconds=0)
    publisher, alice = Publisher(server, True), name()
    answer = waiting(server, alice)
    await arrived(publisher, alice)
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    found = await answer
    assert (found.status, found.body["status"]) == (202, "queued")
    assert server.wait() == 0
