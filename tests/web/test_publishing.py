"""Who is told what, and who waits for an end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from notifier.app import Parts
from notifier.errors import Busy, EngineUnavailable
from notifier.settings import load_settings
from notifier.transport.dispatch import dispatch
from notifier.transport.http import HttpProtocol
from notifier.transport.request import Head, Request
from notifier.web.publication import TtlLimits, decode_notify
from notifier.web.publishing import Reply, ReplyTo


class Publisher(ReplyTo):
    def __init__(self) -> None:
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.has_left = False

    def take(self, reply: Reply, at: int) -> None:
        self.reply.set_result(reply)

    def left(self) -> bool:
        return self.has_left


class Connection:
    """What a request is answered through."""

    gone = ended = False

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, Any, dict[str, str]]] = asyncio.get_running_loop().create_future()

    def respond(self, request: Request, status: int, body: bytes, headers: bytes) -> None:
        lines = [line.split(": ") for line in headers.decode().splitlines()]
        self.answer.set_result((status, json.loads(body), dict(lines)))


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    parts = Parts(load_settings({
        "NOTIFIER_JWT_SECRET": "drain" * 8, "NOTIFIER_API_KEYS": "shop:a-key-of-24-characters-00:notify",
        "NOTIFIER_ENGINE": f"sqlite:///{tmp_path}/notifier.db", "NOTIFIER_MIN_FREE_DISK_BYTES": "0",
    }))  # fmt: skip
    await parts.node.start()
    yield parts
    parts.door.wheel.stop()
    await parts.node.stop()


def publish(parts: Parts, wait_s: int, **fields: Any) -> Publisher:
    publisher = Publisher()
    body = json.dumps({"client_id": "alice", "data": 1} | fields).encode()
    publication = decode_notify(body, TtlLimits(60, 60), None, wait=bool(wait_s))
    parts.publishing.run(publication, parts.publishing.arrived(0.0), wait_s, publisher)
    return publisher


async def post(parts: Parts, path: str, body: object) -> tuple[int, Any, dict[str, str]]:
    connection, head = Connection(), Head()
    head.method, head.path, head.route = "POST", path.encode(), parts.door.find_route(path.encode())
    request = Request(cast(HttpProtocol, connection), 0.0, head)
    request.body = json.dumps(body).encode()
    dispatch(parts.door, None, request)
    async with asyncio.timeout(10):
        return await connection.answer


async def test_who_is_on_the_way_to_the_disk_when_the_node_drains_does_not_wait(parts: Parts) -> None:
    """Nobody would tell him any more: his connection would end without an answer."""
    publisher = publish(parts, 30)
    assert not publisher.reply.done(), "it is not stored yet"
    parts.publishing.answer_waiting()
    async with asyncio.timeout(10):
        reply = await publisher.reply
    assert (reply.status, reply.body.status) == (202, "queued")


async def test_a_repeat_that_is_one_too_many_to_wait(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """202, as the first publish would be."""
    monkeypatch.setattr("notifier.node.MAX_WAITING", 0)
    for duplicate in (False, True):
        reply = await publish(parts, 30, id="a").reply
        assert (reply.status, reply.body.duplicate, reply.body.waited) == (202, duplicate, False)


async def test_who_has_left_makes_room_for_who_comes(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notifier.node.MAX_WAITING", 2)
    staying, leaving = publish(parts, 30), publish(parts, 30)
    await publish(parts, 0).reply
    assert parts.node.waiting == 2
    assert (await publish(parts, 30).reply).body.waited is False, "nobody has left"
    leaving.has_left = True
    assert not leaving.reply.done(), "as long as there is room, he may still want his answer"
    coming = publish(parts, 30)
    async with asyncio.timeout(10):
        reply = await leaving.reply
    assert (reply.status, reply.body.status, reply.body.waited) == (202, "queued", False)
    assert parts.node.waiting == 2
    parts.publishing.answer_waiting()
    for publisher in (staying, coming):
        assert (await publisher.reply).body.waited is True


async def test_many_of_whom_none_was_accepted_are_told_as_one_would_be(parts: Parts) -> None:
    """The HTTP status of the first error, and its headers."""
    parts.node.engine._error = EngineUnavailable("The disk is slow.")  # type: ignore[attr-defined]
    alone = await post(parts, "/notify", {"client_id": "alice", "data": 1})
    many = await post(parts, "/notify", {"client_ids": ["alice", "bob"], "data": 1})
    parts.node.engine._error = None  # type: ignore[attr-defined]
    assert (many[0], many[1]["rejected"]) == (503, 2)
    assert many[2] == alone[2] | {"content-type": "application/json"}
    assert many[2]["retry-after"] == "1"
    assert (await post(parts, "/notify", {"client_ids": ["alice"], "data": 1}))[2] == {
        "content-type": "application/json"
    }


async def test_a_broadcast_that_is_refused_is_counted_once(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise Busy("Too many.")

    monkeypatch.setattr(parts.node, "send_transient", refuse)
    assert (await post(parts, "/broadcast", {"data": 1}))[0] == 503
    assert parts.node.metrics.publishes == {"busy": 1}
