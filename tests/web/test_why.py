"""`GET /clients/{client_id}` says why mail was not delivered: every cause is brought about for real, then asked for."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from tests.harness import Client, Closed, Refused, Server, publish, request


def why(server: Server, client_id: str) -> dict[str, Any]:
    """What an administrator is told."""
    answer = request(server, "GET", f"/clients/{quote(client_id, safe='')}")
    assert answer.status == 200, answer
    return dict(answer.body)


async def until(server: Server, client_id: str, cause: str) -> dict[str, Any]:
    """Ask until the cause is told: what brings it about may take the server a moment."""
    for _ in range(400):
        told = await asyncio.to_thread(why, server, client_id)
        if cause in [entry["cause"] for entry in told["why"]]:
            return told
        await asyncio.sleep(0.02)
    raise AssertionError(f"{cause} was never told: {told}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with limits that are soon reached."""
    with Server(
        tmp_path_factory.mktemp("why"),
        max_inflight=3,
        max_connections_per_client=1,
        mailbox_limit=6,
        mailbox_bytes=64 * 1024 * 1024,
        max_body_bytes=500_000,
        jwt_leeway_seconds=0,
        heartbeat_seconds=0.5,
        heartbeat_timeout_seconds=1,
    ) as running:
        yield running


def send(server: Server, client_id: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
    answers = [publish(server, client_id=client_id, data={"n": n}, **fields) for n in range(count)]
    assert all(answer.status == 202 for answer in answers), answers
    return [answer.body for answer in answers]


async def refused(server: Server, client_id: str, **options: Any) -> None:
    with pytest.raises(Refused):
        async with Client(server, client_id, **options):
            pass


@contextlib.asynccontextmanager
async def deaf(server: Server, client_id: str) -> AsyncIterator[socket.socket]:
    """A client that shakes hands and then never reads, nor answers a ping."""
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(5)
        await asyncio.to_thread(raw.connect, ("127.0.0.1", server.port))
        key = base64.b64encode(os.urandom(16)).decode()
        raw.sendall(
            f"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nAuthorization: Bearer {server.token(client_id)}\r\n\r\n".encode()
        )
        assert (await asyncio.to_thread(raw.recv, 12)) == b"HTTP/1.1 101"
        yield raw


# -- what brings each cause about ----------------------------------------------------------------------------------

Scene = Callable[[Server, str], contextlib.AbstractAsyncContextManager[None]]
SCENES: dict[str, Scene] = {}


def scene(cause: str) -> Callable[[Callable[[Server, str], AsyncIterator[None]]], None]:
    def enter(play: Callable[[Server, str], AsyncIterator[None]]) -> None:
        SCENES[cause] = contextlib.asynccontextmanager(play)

    return enter


@scene("nothing_sent")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    yield


@scene("delivered")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    async with Client(server, me, ack="client") as client:
        (sent,) = send(server, me)
        await client.next("notification")
        await client.ack(sent["seq"], confirm=True)
        await client.next("settled")
        yield


@scene("unacknowledged")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    async with Client(server, me, ack="client") as client:
        send(server, me)
        await client.next("notification")
        yield


@scene("window_full")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    async with Client(server, me, ack="client") as client:
        send(server, me, 5)
        await client.notifications(3)
        yield


@scene("not_reading")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    async with deaf(server, me):
        for _ in range(2):
            publish(server, client_id=me, data="x" * 480_000)
        yield


@scene("no_answer")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    async with deaf(server, me):
        send(server, me)
        yield


@scene("left")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    async with Client(server, me) as client:
        await client.welcome
    send(server, me)
    yield


@scene("lost")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    async with Client(server, me) as client:
        await client.welcome
        await client.abort()
    send(server, me)
    yield


@scene("replaced")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    """The newer one goes first, so that the replaced one is the last to end."""
    async with Client(server, me) as older:
        await older.welcome
        older.socket.transport.pause_reading()  # so it does not see that it is closed, and stays for a second
        async with Client(server, me) as newer:
            await newer.welcome
            await newer.abort()
        older.socket.transport.resume_reading()
        assert await older.closed() == (4409, "replaced")
    send(server, me)
    yield


@scene("token_expired")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    send(server, me)
    await refused(server, me, token=server.token(me, ttl=-30))
    yield


@scene("token_invalid")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    send(server, me)
    forged = jwt.encode({"sub": me, "exp": int(time.time()) + 60}, "x" * 32, algorithm="HS256")
    await refused(server, me, token=forged)
    yield


@scene("forbidden_origin")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    send(server, me)
    async with Client(server, me, origin="https://elsewhere.example", browser=True) as client:
        with pytest.raises(Closed):
            await client.welcome
    yield


@scene("client_id_mismatch")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    send(server, me)
    await refused(server, me, url=f"{server.ws_url}/notifications/somebody-else")
    yield


@scene("revoked")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    send(server, me)
    assert request(server, "POST", f"/clients/{me}/revoke").status == 200
    await refused(server, me)
    yield


@scene("banned")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    async with Client(server, me) as client:
        await client.welcome
        assert request(server, "DELETE", f"/clients/{me}/connections?reconnect=false").body == {"closed": 1}
        assert await client.closed() == (4403, "banned")
    send(server, me)
    yield


@scene("disconnected")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    async with Client(server, me) as client:
        await client.welcome
        assert request(server, "DELETE", f"/clients/{me}/connections").body == {"closed": 1}
        assert await client.closed() == (1012, "disconnected")
    send(server, me)
    yield


@scene("bad_frame")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    async with Client(server, me) as client:
        await client.send("nonsense")
        await client.closed()
    send(server, me)
    yield


@scene("expired")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    send(server, me, ttl=1)
    yield


@scene("collapsed")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    send(server, me, 2, collapse_key="progress")
    yield


@scene("purged")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    send(server, me, 2)
    assert request(server, "DELETE", f"/clients/{me}/notifications").body == {"purged": 2}
    yield


@scene("mailbox_full")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    send(server, me, 6)
    assert publish(server, client_id=me, data=7).status == 429
    yield


@scene("nobody_connected")
async def _(server: Server, me: str) -> AsyncIterator[None]:
    assert publish(server, client_id=me, data=1, ttl=0).body["status"] == "dropped"
    yield


@pytest.mark.parametrize("cause", SCENES)
async def test_every_cause_is_told(server: Server, cause: str) -> None:
    me = f"why-{cause}"
    async with SCENES[cause](server, me):
        told = await until(server, me, cause)
        assert told["why"][0]["cause"] in (cause, "unknown_since_restart"), "the likeliest comes first"
        assert told["why"][0]["text"]
        assert told["connected"] == bool(told["connections"])


async def test_what_was_dropped_and_why_is_counted(server: Server) -> None:
    me = "why-dropped"
    send(server, me, 2, collapse_key="progress")
    send(server, me, 2)
    assert request(server, "DELETE", f"/clients/{me}/notifications").body == {"purged": 3}
    publish(server, client_id=me, data=1, ttl=0)
    send(server, me, ttl=1)
    assert why(server, me)["oldest_pending_s"] >= 0
    await until(server, me, "expired")
    send(server, me, 6)
    assert [publish(server, client_id=me, data=1).status for _ in range(2)] == [429, 429]
    told = why(server, me)
    dropped = {entry["reason"]: entry["number"] for entry in told["dropped"]}
    assert dropped == {"collapsed": 1, "purged": 3, "nobody_connected": 1, "expired": 1, "mailbox_full": 2}
    assert all(told["known_since"] <= entry["last_at"] for entry in told["dropped"])
    assert (told["pending"], told["untold"]) == (6, {"purged": 3, "expired": 1})
    assert told["oldest_pending_at"] is not None


async def test_what_a_restart_forgets_is_not_guessed(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        async with Client(server, "alice") as client:
            await client.welcome
        send(server, "alice")
        await until(server, "alice", "left")
        server.restart()
        told = why(server, "alice")
        assert [entry["cause"] for entry in told["why"]] == ["unknown_since_restart"]
        assert told["last_close"] is None
        assert told["disconnected_at"] is None
        assert told["known_since"] > told["oldest_pending_at"]


async def test_the_last_close_and_the_last_refusal(server: Server) -> None:
    me = "why-last"
    async with Client(server, me) as client:
        await client.welcome
        assert request(server, "DELETE", f"/clients/{me}/connections?reconnect=false").status == 200
        await client.closed()
    told = await until(server, me, "nothing_sent")
    close = told["last_close"]
    assert (close["code"], close["reason"], close["transport"]) == (4403, "banned", "websocket")
    assert close["address"] == "127.0.0.1"
    assert close["lasted_s"] > 0
    assert told["disconnected_at"] == close["at"]
    await refused(server, me, token=server.token(me, ttl=-30))
    told = why(server, me)
    assert told["last_refusal"]["reason"] == "token_expired"
    assert told["last_refusal"]["proven"] is True


async def test_a_claim_without_a_signature_is_called_that(server: Server) -> None:
    me = "why-claimed"
    forged = jwt.encode({"sub": me, "exp": int(time.time()) + 60}, "x" * 32, algorithm="HS256")
    await refused(server, me, token=forged)
    told = why(server, me)
    assert told["last_refusal"]["proven"] is False
    assert "Nothing proves" in told["why"][0]["text"]


async def test_forged_tokens_push_no_memory_out(server: Server) -> None:
    me = "why-remembered"
    send(server, me)
    await refused(server, me, token=server.token(me, ttl=-30))
    before = why(server, me)["last_refusal"]
    forged = jwt.encode({"sub": "x" * 150, "exp": int(time.time()) + 60}, "x" * 32, algorithm="HS256")
    await asyncio.gather(*(refused(server, me, token=forged) for _ in range(50)))
    assert why(server, me)["last_refusal"] == before
