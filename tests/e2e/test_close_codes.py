"""Each row of the close-code table of docs/protocol.md §4: produced by a real server, seen by a real client."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.closing import CASES, LEAVING, Case, Servers
from tests.harness import Client, Refused, Server

PAGE = "https://app.example.com"
OTHER_PAGE = "https://evil.example.com"
NEVER_FIRST = (1000, 1001)
REFUSALS = [case for case in CASES if case.status and not case.foreign]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("closing"), PAGE, stack)


@pytest.fixture
def client_id(request: pytest.FixtureRequest) -> str:
    return f"alice {abs(hash(request.node.name))}"


async def counted(server: Server, name: str, more_than: float) -> None:
    """Until this counter has gone up: a connection is counted when its last byte is gone."""
    async with asyncio.timeout(10):
        while (await asyncio.to_thread(server.metrics)).get(name, 0.0) <= more_than:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_close(case: Case, servers: Servers, client_id: str) -> None:
    with servers.of(case) as server, ExitStack() as undo:
        if case.before is not None:
            await asyncio.to_thread(case.before, server, client_id, undo)
        if case.status:
            counter = f'notifier_handshakes_refused_total{{reason="{case.reason}"}}'
        else:
            counter = f'notifier_connections_closed_total{{code="{case.code}",transport="websocket"}}'
        before = server.metrics().get(counter, 0.0)
        origin = OTHER_PAGE if case.foreign else PAGE
        url = server.ws_url.removesuffix("/ws") + case.path
        token = case.token(server, client_id)
        async with Client(server, client_id, token=token, browser=True, origin=origin, url=url) as alice:
            assert alice.socket.subprotocol == "notifier.v1"
            if not case.status:
                await alice.welcome
                if case.wire:
                    alice.socket.transport.write(case.wire)
                for frame in case.says(server, client_id):
                    if alice.close_code is None:
                        await alice.send(frame)
                if case.then is not None:
                    await asyncio.to_thread(case.then, server, client_id, undo)
            code, reason = await alice.closed()
            assert code == case.code
            assert code not in NEVER_FIRST
            assert case.reason is None or reason == case.reason
            assert reason
            if case.status:
                assert not alice.frames, "a refusal says nothing but the close"
            if case.reason == "bad_frame" and not case.status:
                assert alice.frames[-1]["type"] == "error"
                assert alice.frames[-1]["code"] == "bad_frame"
        if case.where not in LEAVING:
            await counted(server, counter, before)
        else:
            assert await asyncio.to_thread(server.wait) == 0


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: f"{case.status} {case.sentence}")
async def test_without_an_origin_a_refusal_is_http(case: Case, servers: Servers, client_id: str) -> None:
    with servers.of(case) as server, ExitStack() as undo:
        if case.before is not None:
            await asyncio.to_thread(case.before, server, client_id, undo)
        url = server.ws_url.removesuffix("/ws") + case.path
        with pytest.raises(Refused) as refused:
            async with Client(server, client_id, token=case.token(server, client_id), url=url):
                pass
        answer = refused.value
        assert answer.status == case.status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.body["status"] == case.status
        assert answer.body["code"] == ("bad_handshake" if case.status == 400 else case.reason)
        assert answer.body["detail"]
        assert ("www-authenticate" in answer.headers) == (case.status == 401)


@pytest.mark.parametrize("origin", [None, PAGE])
@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (400, {"Sec-WebSocket-Protocol": "chat"}),
        (400, {"Sec-WebSocket-Key": "short"}),
        (400, {"Authorization": "Bearer a", "Sec-WebSocket-Protocol": "notifier.v1, bearer.b"}),
        (426, {"Sec-WebSocket-Version": "8"}),
        (426, {"Upgrade": "h2c"}),
    ],
    ids=["other subprotocols only", "a key of the wrong size", "two tokens", "version 8", "not to WebSocket"],
)
async def test_a_malformed_handshake_is_always_http(
    servers: Servers, status: int, headers: dict[str, str], origin: str | None
) -> None:
    handshake = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    } | headers
    if origin is not None:
        handshake["Origin"] = origin
    with servers.of(CASES[0]) as server:
        assert await asyncio.to_thread(status_of, server, handshake) == status


def status_of(server: Server, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", "/ws", headers=headers)
        answer = connection.getresponse()
        assert json.loads(answer.read())["status"] == answer.status
        return answer.status
    finally:
        connection.close()


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_the_clients_own_close_is_echoed(servers: Servers, client_id: str, code: int) -> None:
    with servers.of(CASES[0]) as server:
        counter = f'notifier_connections_closed_total{{code="{code}",transport="websocket"}}'
        before = server.metrics().get(counter, 0.0)
        async with Client(server, client_id) as alice:
            await alice.welcome
            await alice.close(code)
            assert alice.close_code == code
        await counted(server, counter, before)


async def test_1006_the_socket_is_cut_when_nothing_answers_the_heartbeat(
    client_id: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("pulse")
    with Server(directory, heartbeat_seconds=0.3, heartbeat_timeout_seconds=0.3) as server:
        async with Client(server, client_id) as alive, Client(server, client_id) as asleep:
            await alive.welcome
            await asleep.welcome
            asleep.socket.transport.pause_reading()
            await counted(server, 'notifier_connections_closed_total{code="1006",transport="websocket"}', 0)
            asleep.socket.transport.resume_reading()
            assert await asleep.closed() == (1006, "")
            await alive.ping()
