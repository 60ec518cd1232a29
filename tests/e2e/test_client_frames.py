"""Each row of the table client → server of docs/protocol.md §4, and the two ways to acknowledge."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.e2e.frames import kinds, operator, outcome, send
from tests.e2e.oracle.wire import PING, PONG, TEXT, ConnectionLost, WebSocket
from tests.harness import Client, Closed, Server, apublish, publish


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("frames")
    with Server(directory, jwt_leeway_seconds=1) as running:
        yield running


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One notification in flight."""
    with Server(tmp_path_factory.mktemp("narrow"), max_inflight=1) as running:
        yield running


@pytest.fixture
def client_id(request: pytest.FixtureRequest) -> str:
    """A mailbox of one's own."""
    return f"alice {abs(hash(request.node.name))}"


# -- client → server ------------------------------------------------------------------------------------------------


async def test_ack_is_cumulative(server: Server, client_id: str) -> None:
    answers = await send(server, client_id, 5)
    async with Client(server, client_id, ack="client") as alice:
        await alice.notifications(5)
        await alice.ack(answers[3]["seq"], confirm=True)
        await alice.next("settled")
    async with Client(server, client_id, ack="client") as alice:
        assert (await alice.welcome)["pending"] == 1
        assert (await alice.next("notification"))["seq"] == answers[4]["seq"]


async def test_ack_above_the_highest_seq_written_is_ignored_and_counted(server: Server, client_id: str) -> None:
    (answer,) = await send(server, client_id)
    before = server.metrics()["notifier_acks_ignored_total"]
    async with Client(server, client_id, ack="client") as alice:
        await alice.next("notification")
        await alice.ack(answer["seq"] + 1)
        await alice.ack(2**53)
        await alice.send('{"type":"ack","seq":99999999999999999999999999}')
        await alice.ping()
    async with Client(server, client_id, ack="client") as alice:
        assert (await alice.welcome)["pending"] == 1
    assert server.metrics()["notifier_acks_ignored_total"] - before >= 2


async def test_ack_of_mail_that_is_sent_again_counts_on_the_new_connection(server: Server, client_id: str) -> None:
    answers = await send(server, client_id, 2)
    async with Client(server, client_id, ack="client") as alice:
        await alice.notifications(2)
        await alice.abort()
    async with Client(server, client_id, ack="client") as alice:
        assert [frame["seq"] for frame in await alice.notifications(2)] == [answer["seq"] for answer in answers]
        await alice.ack(answers[1]["seq"], confirm=True)
        await alice.next("settled")


@pytest.mark.parametrize("ack", ["auto", "client"])
async def test_ack_is_obeyed_in_both_modes_and_committed_within_a_second(
    server: Server, client_id: str, ack: str
) -> None:
    (answer,) = await send(server, client_id)
    async with bare(server, client_id, ack) as alice:
        while not any(b'"notification"' in payload for _, payload in await alice.read()):
            pass
        alice.send(TEXT, json.dumps({"type": "ack", "seq": answer["seq"]}).encode())
        settled = await apublish(server, client_id=client_id, id=answer["id"], data={"n": 0}, wait=1)
    assert settled.status == 200
    assert (settled.body["status"], settled.body["acked_by"]) == ("delivered", "client")


async def test_an_ack_that_repeats_or_goes_back_changes_nothing(server: Server, client_id: str) -> None:
    answers = await send(server, client_id, 3)
    async with Client(server, client_id, ack="client") as alice:
        await alice.notifications(3)
        for seq in (answers[1]["seq"], answers[1]["seq"], answers[0]["seq"], 0):
            await alice.ack(seq)
        await alice.ack(answers[1]["seq"], confirm=True)
        assert (await alice.next("settled"))["seq"] == answers[1]["seq"]
    async with Client(server, client_id, ack="client") as alice:
        assert (await alice.welcome)["pending"] == 1


async def test_auth_replaces_the_groups(server: Server, client_id: str) -> None:
    old, new = f"{client_id} old", f"{client_id} new"
    async with Client(server, client_id, groups=(old, "both")) as alice:
        await alice.welcome
        await alice.send({"type": "auth", "token": server.token(client_id, groups=(new, "both"))})
        await alice.next("authenticated")
        assert (await apublish(server, group=old, data="left")).body["status"] == "dropped"
        assert (await apublish(server, group=new, data="joined")).body["status"] == "sent"
        assert (await alice.next("notification"))["data"] == "joined"


@pytest.mark.parametrize("what", ["garbage", "expired", "of another key"])
async def test_auth_with_an_invalid_token_leaves_the_session_as_it_is(
    server: Server, client_id: str, what: str, tmp_path: Any
) -> None:
    stranger = Server(tmp_path)
    token = {
        "garbage": "x.y.z",
        "expired": server.token(client_id, ttl=-60),
        "of another key": stranger.token(client_id),
    }[what]
    async with Client(server, client_id) as alice:
        await alice.welcome
        await alice.send({"type": "auth", "token": token})
        assert (await alice.next("error"))["code"] == "token_invalid"
        await send(server, client_id)
        await alice.next("notification")


async def test_auth_for_another_client_id_closes_with_4403(server: Server, client_id: str) -> None:
    async with Client(server, client_id) as alice:
        await alice.welcome
        await alice.send({"type": "auth", "token": server.token("somebody else")})
        assert await alice.closed() == (4403, "client_id_mismatch")


async def test_auth_with_a_revoked_token_closes_with_4403(server: Server, client_id: str) -> None:
    old = server.token(client_id)
    await operator(server, "POST", client_id, "revoke")
    new = server.token(client_id, iat=int(time.time()) + 1)
    async with Client(server, client_id, token=new) as alice:
        await alice.welcome
        await alice.send({"type": "auth", "token": old})
        assert await alice.closed() == (4403, "revoked")


@pytest.mark.parametrize("frame", [{"type": "hello"}, {"type": None}, {}, {"type": "ACK", "seq": 1}], ids=json.dumps)
async def test_an_unknown_type_is_ignored(server: Server, client_id: str, frame: dict[str, Any]) -> None:
    async with Client(server, client_id) as alice:
        await alice.welcome
        await alice.send(frame)
        await alice.ping()
        assert kinds(alice) == ["welcome", "pong"]


# -- ?ack= ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def bare(server: Server, client_id: str, ack: str = "auto") -> AsyncIterator[WebSocket]:
    """A socket whose pongs are the test's own."""
    socket = await WebSocket.open(server.port, f"/ws?ack={ack}", server.token(client_id))
    try:
        yield socket
    finally:
        socket.abort()
        with suppress(*ConnectionLost):
            while await socket.read():
                pass


async def mail_and_pings(socket: WebSocket, mail: int) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Read until so much mail has come and a ping after it."""
    frames: list[dict[str, Any]] = []
    pings: list[bytes] = []
    since = 0  # pings after the last mail
    async with asyncio.timeout(10):
        while len(frames) < mail or not since:
            for opcode, payload in await socket.read():
                if opcode == PING:
                    pings.append(payload)
                    since += 1
                elif json.loads(payload)["type"] == "notification":
                    frames.append(json.loads(payload))
                    since = 0
    return frames, pings


async def test_auto_only_the_pong_of_our_ping_settles_cumulatively(server: Server, client_id: str) -> None:
    async with bare(server, client_id) as alice:
        answers = []
        pings: list[bytes] = []
        for _ in range(3):
            answers += await send(server, client_id)
            pings += (await mail_and_pings(alice, 1))[1]
        for forged in (b"", b"\0" * 8, b"\xff" * 8, (answers[0]["seq"] + 1).to_bytes(8), pings[0] + b"x"):
            alice.send(PONG, forged)
        early = await apublish(server, client_id=client_id, id=answers[0]["id"], data={"n": 0}, wait=1)
        assert (early.status, early.body["status"]) == (202, "sent")
        alice.send(PONG, pings[-1])
        for answer in answers:
            assert (await outcome(server, client_id, answer))["acked_by"] == "transport"


async def test_auto_a_bare_websocket_settles_without_any_ack_code(server: Server, client_id: str) -> None:
    answers = await send(server, client_id, 3)
    async with Client(server, client_id) as alice:
        await alice.notifications(3)
        for n, answer in enumerate(answers):
            assert (await outcome(server, client_id, answer, n=n))["acked_by"] == "transport"


async def test_client_only_ack_frames_settle(server: Server, client_id: str) -> None:
    await send(server, client_id)
    async with Client(server, client_id, ack="client") as alice:
        await alice.next("notification")
        pong = await alice.socket.ping()
        await pong
    async with Client(server, client_id, ack="client") as alice:
        assert (await alice.welcome)["pending"] == 1


async def test_a_window_of_max_inflight_and_not_one_more(narrow: Server, client_id: str) -> None:
    answers = await send(narrow, client_id, 3)
    async with Client(narrow, client_id, ack="client") as alice:
        for answer in answers:
            assert (await alice.next("notification"))["seq"] == answer["seq"]
            await alice.ping()
            with pytest.raises(TimeoutError):
                await alice.next("notification", timeout=0)
            await alice.ack(answer["seq"])


async def test_two_modes_side_by_side(server: Server, client_id: str) -> None:
    async with Client(server, client_id, ack="client") as careful, Client(server, client_id) as bare:
        await careful.welcome
        await bare.welcome
        (answer,) = await send(server, client_id)
        await bare.next("notification")
        assert (await careful.next("settled"))["seq"] == answer["seq"]


async def test_nothing_comes_after_the_close(server: Server, client_id: str) -> None:
    async with Client(server, client_id, ack="client") as alice:
        await alice.welcome
        await alice.send("no object")
        assert await alice.closed() == (4400, "bad_frame")
        assert publish(server, client_id=client_id, data=1).status == 202
        with pytest.raises(Closed):
            await alice.next("notification")
