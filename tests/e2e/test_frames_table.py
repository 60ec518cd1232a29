"""Each row of the table server → client of docs/protocol.md §4: by a real server, seen by a real client."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.e2e.frames import kinds, operator, outcome, send
from tests.harness import Client, Server, apublish, arequest

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("frames")
    with Server(directory, jwt_leeway_seconds=1) as running:
        yield running


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One notification in flight, three in a mailbox, of which the oldest gives way."""
    settings: dict[str, Any] = {"max_inflight": 1, "mailbox_limit": 3, "mailbox_overflow": "drop_oldest"}
    directory = tmp_path_factory.mktemp("narrow")
    with Server(directory, **settings) as running:
        yield running


@pytest.fixture
def client_id(request: pytest.FixtureRequest) -> str:
    """A mailbox of one's own."""
    return f"alice {abs(hash(request.node.name))}"


async def test_welcome_is_the_first_frame_and_says_what_holds(server: Server, client_id: str) -> None:
    await send(server, client_id, 3)
    exp = int(time.time()) + 3600
    async with Client(server, client_id, ack="client", token=server.token(client_id, exp=exp)) as alice:
        await alice.notifications(3)
        welcome = alice.frames[0]
        assert welcome == await alice.welcome
        assert welcome == {
            "type": "welcome",
            "client_id": client_id,
            "connection_id": welcome["connection_id"],
            "pending": 3,
            "ack": "client",
            "max_inflight": 256,
            "heartbeat_s": 25,
            "token_expires_at": datetime.fromtimestamp(exp, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        }
        async with Client(server, client_id) as tab:
            other = await tab.welcome
            assert other["ack"] == "auto"
            assert other["pending"] == 3, "what another connection has in flight counts"
            assert other["connection_id"] != welcome["connection_id"]


@pytest.mark.parametrize("when", ["live", "queued"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"event": "invoice.paid"}, {"collapse_key": "inv-17 \u2713"}, {"event": "a", "collapse_key": "b", "id": "n"}],
    ids=["bare", "event", "collapse_key", "all"],
)
async def test_notification_has_event_and_collapse_key_only_if_given(
    server: Server, client_id: str, fields: dict[str, str], when: str
) -> None:
    data = {"text": "Invoice paid \u2713", "nested": [1, 2.5, None, True], "": ""}
    if when == "queued":
        (answer,) = await send(server, client_id, data=data, **fields)
    async with Client(server, client_id) as alice:
        await alice.welcome
        if when == "live":
            (answer,) = await send(server, client_id, data=data, **fields)
        frame = await alice.next("notification")
    told = {name: answer[name] for name in ("id", "seq", "accepted_at", "expires_at")}
    assert frame == {"type": "notification", "data": data} | fields | told
    assert TIME.fullmatch(frame["accepted_at"])
    assert TIME.fullmatch(frame["expires_at"])


@pytest.mark.parametrize("form", ["notify", "group", "broadcast"])
async def test_notification_of_ttl_0_has_no_seq_and_no_expiry(server: Server, client_id: str, form: str) -> None:
    async with Client(server, client_id, groups=(client_id,)) as alice:
        await alice.welcome
        match form:
            case "notify":
                answer = await apublish(server, client_id=client_id, data=[1], ttl=0, event="tick")
            case "group":
                answer = await apublish(server, group=client_id, data=[1], event="tick")
            case _:
                answer = await arequest(server, "POST", "/broadcast", {"data": [1], "event": "tick"})
        frame = await alice.next("notification")
        assert answer.status == 202
        assert frame.keys() == {"type", "id", "event", "data", "accepted_at"}
        assert (frame["data"], frame["event"]) == ([1], "tick")
        if form == "broadcast":
            assert answer.body == {"connections": answer.body["connections"]}
            assert TIME.fullmatch(frame["accepted_at"])
        else:
            assert frame["accepted_at"] == answer.body["accepted_at"]


@pytest.mark.parametrize("ack", ["client", "auto"])
async def test_settled_goes_to_all_other_connections(server: Server, client_id: str, ack: str) -> None:
    await send(server, client_id, 3)
    async with Client(server, client_id, ack="client") as tab, Client(server, client_id, ack=ack) as alice:
        last = (await alice.notifications(3))[-1]["seq"]
        await tab.notifications(3)
        if ack == "client":
            await alice.ack(last)
        while (settled := await tab.next("settled"))["seq"] < last:
            pass
        assert settled == {"type": "settled", "seq": last}
        await alice.ping()
        assert "settled" not in kinds(alice), "who acknowledged is not told, unless it asks"


async def test_settled_answers_an_ack_with_confirm(server: Server, client_id: str) -> None:
    (answer,) = await send(server, client_id)
    async with Client(server, client_id, ack="client") as alice:
        await alice.next("notification")
        await alice.ack(answer["seq"], confirm=True)
        assert await alice.next("settled") == {"type": "settled", "seq": answer["seq"]}
        await alice.ack(answer["seq"], confirm=True)
        assert (await alice.next("settled"))["seq"] == answer["seq"], "also when it was settled before"


async def test_settled_tells_the_highest_only(server: Server, client_id: str) -> None:
    await send(server, client_id, 50)
    async with Client(server, client_id, ack="client") as tab, Client(server, client_id, ack="client") as alice:
        seqs = [frame["seq"] for frame in await alice.notifications(50)]
        await tab.notifications(50)
        for seq in seqs:
            await alice.ack(seq)
        told = [await tab.next("settled")]
        while told[-1]["seq"] < seqs[-1]:
            told.append(await tab.next("settled"))
        heard = [frame["seq"] for frame in told]
        assert heard == sorted(set(heard))
        assert len(heard) < 50, "one per tick, not one per acknowledgement"


async def lose(server: Server, client_id: str, reason: str) -> None:
    """Two notifications leave the mailbox; nothing stays in it, or three (overflow)."""
    match reason:
        case "purged":
            await send(server, client_id, 2)
            await operator(server, "DELETE", client_id, "notifications")
        case "overflow":
            await send(server, client_id, 5)
        case _:
            answers = await send(server, client_id, 2, ttl=1)
            assert (await outcome(server, client_id, answers[1], n=1, ttl=1))["status"] == "expired"


@pytest.mark.parametrize("reason", ["expired", "overflow", "purged"])
async def test_gap_comes_after_welcome_and_before_the_backlog(narrow: Server, client_id: str, reason: str) -> None:
    await lose(narrow, client_id, reason)
    if reason != "overflow":
        await send(narrow, client_id)
    async with Client(narrow, client_id, ack="client") as alice:
        await alice.next("notification")
        assert kinds(alice) == ["welcome", "gap", "notification"]
        assert await alice.next("gap") == {"type": "gap", "reason": reason, "dropped": 2}


@pytest.mark.parametrize("reason", ["expired", "purged"])
async def test_gap_comes_at_once_for_mail_not_yet_written(narrow: Server, client_id: str, reason: str) -> None:
    async with Client(narrow, client_id, ack="client") as alice:
        await alice.welcome
        await send(narrow, client_id)
        await alice.next("notification")  # fills the window: what follows is not written
        await lose(narrow, client_id, reason)
        told = 0
        while told < 2:
            gap = await alice.next("gap")
            assert gap["reason"] == reason
            told += gap["dropped"]
        assert told == 2


async def test_gap_of_mail_that_was_written_here_waits_for_the_next_connect(narrow: Server, client_id: str) -> None:
    async with Client(narrow, client_id, ack="client") as alice:
        await alice.welcome
        await send(narrow, client_id)
        await alice.next("notification")
        await operator(narrow, "DELETE", client_id, "notifications")
        await alice.ping()
        assert "gap" not in kinds(alice)
    async with Client(narrow, client_id, ack="client") as alice:
        assert await alice.next("gap") == {"type": "gap", "reason": "purged", "dropped": 1}


@pytest.mark.parametrize("how", ["ack", "pong"])
async def test_gap_is_repeated_until_a_later_acknowledgement(narrow: Server, client_id: str, how: str) -> None:
    await lose(narrow, client_id, "purged")
    gap = {"type": "gap", "reason": "purged", "dropped": 2}
    for _ in range(2):
        async with Client(narrow, client_id, ack="client") as alice:
            assert await alice.next("gap") == gap
    (answer,) = await send(narrow, client_id)
    async with Client(narrow, client_id, ack="client" if how == "ack" else "auto") as alice:
        assert await alice.next("gap") == gap
        await alice.next("notification")
        if how == "ack":
            await alice.ack(answer["seq"], confirm=True)
            await alice.next("settled")
        else:
            assert (await outcome(narrow, client_id, answer))["acked_by"] == "transport"
    async with Client(narrow, client_id) as alice:
        await alice.welcome
        await alice.ping()
        assert "gap" not in kinds(alice)


async def gap_is_acknowledged(server: Server, client_id: str) -> None:
    deadline = time.monotonic() + 10
    while True:  # its commit may take up to a second
        async with Client(server, client_id, ack="client") as client:
            await client.welcome
            await client.ping()
            if "gap" not in kinds(client):
                return
        assert time.monotonic() < deadline


async def test_the_last_ack_said_again_acknowledges_a_gap_that_nothing_came_after(
    narrow: Server, client_id: str
) -> None:
    """As docs/frontend.md tells: on a new connection it is above everything that was written there."""
    await lose(narrow, client_id, "purged")
    (answer,) = await send(narrow, client_id)
    async with Client(narrow, client_id, ack="client") as alice:
        await alice.next("notification")
        await alice.ack(answer["seq"], confirm=True)
        await alice.next("settled")
    await lose(narrow, client_id, "purged")
    async with Client(narrow, client_id, ack="client") as alice:
        await alice.next("gap")
        await alice.ping()  # the server has read our pong, too
        await alice.ack(answer["seq"])
        await alice.ping()
    await gap_is_acknowledged(narrow, client_id)


async def test_a_pong_alone_acknowledges_a_gap(narrow: Server, client_id: str) -> None:
    await lose(narrow, client_id, "purged")
    gap = {"type": "gap", "reason": "purged", "dropped": 2}
    async with Client(narrow, client_id) as alice:
        assert await alice.next("gap") == gap
        await alice.ping()  # the server has read our pong, too
    await gap_is_acknowledged(narrow, client_id)


async def test_collapse_is_no_gap(server: Server, client_id: str) -> None:
    await send(server, client_id, 3, collapse_key="progress")
    async with Client(server, client_id, ack="client") as alice:
        await alice.welcome
        assert (await alice.next("notification"))["data"] == {"n": 2}
        await send(server, client_id, collapse_key="progress")
        await alice.next("notification")
        await alice.ping()
        assert "gap" not in kinds(alice)


@pytest.mark.parametrize(("left", "said"), [(2, {1, 2}), (32, {30})], ids=["at once if less is left", "30 s before"])
async def test_token_expiring_comes_once(server: Server, client_id: str, left: int, said: set[int]) -> None:
    async with Client(server, client_id, token=server.token(client_id, ttl=left)) as alice:
        frame = await alice.next("token_expiring")
        assert frame.keys() == {"type", "in_s"}
        assert frame["in_s"] in said
        if left == 2:
            assert await alice.closed() == (4401, "token_expired")
        assert kinds(alice).count("token_expiring") == 1


async def test_authenticated_answers_auth_and_the_session_outlives_its_first_token(
    server: Server, client_id: str
) -> None:
    token = server.token(client_id, ttl=1)
    async with Client(server, client_id, token=token) as alice, Client(server, client_id, token=token) as tab:
        await alice.next("token_expiring")
        exp = int(time.time()) + 600
        await alice.send({"type": "auth", "token": server.token(client_id, exp=exp)})
        expires_at = datetime.fromtimestamp(exp, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        assert await alice.next("authenticated") == {"type": "authenticated", "token_expires_at": expires_at}
        assert await tab.closed() == (4401, "token_expired")  # the other had the same token
        await alice.ping()
        assert kinds(alice).count("token_expiring") == 1


async def test_reconnect_comes_before_the_close_of_a_drain(tmp_path: Any, client_id: str) -> None:
    with Server(tmp_path, drain_seconds=0.3) as leaving:
        async with Client(leaving, client_id) as alice:
            await alice.welcome
            ended = asyncio.create_task(asyncio.to_thread(leaving.terminate))
            assert await alice.closed() == (1012, "draining")
            assert kinds(alice) == ["welcome", "reconnect"]
            assert alice.frames[1].keys() == {"type", "after_ms"}
            assert alice.frames[1]["after_ms"] >= 0
            assert await ended == 0


async def test_pong_answers_ping(server: Server, client_id: str) -> None:
    async with Client(server, client_id) as alice:
        await alice.welcome
        await alice.send({"type": "ping"})
        assert await alice.next("pong") == {"type": "pong"}


@pytest.mark.parametrize(
    ("said", "code"),
    [({"type": "auth", "token": "not a token"}, "token_invalid"), ({"type": "ack", "seq": "1"}, "bad_frame")],
    ids=["token_invalid", "bad_frame"],
)
async def test_error_has_a_code_and_says_how_to_mend_it(
    server: Server, client_id: str, said: dict[str, Any], code: str
) -> None:
    async with Client(server, client_id) as alice:
        await alice.welcome
        await alice.send(said)
        frame = await alice.next("error")
        assert frame.keys() == {"type", "code", "message"}
        assert frame["code"] == code
        assert frame["message"]
