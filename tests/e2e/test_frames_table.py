"""Each row of the two frame tables of docs/protocol.md §4: produced by a real server, seen by a real client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e.oracle.wire import PING, PONG, TEXT, ConnectionLost, WebSocket
from tests.harness import Client, Closed, Server, apublish, arequest, publish

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


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


async def send(server: Server, client_id: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
    answers = [await apublish(server, client_id=client_id, **({"data": {"n": n}} | fields)) for n in range(count)]
    assert all(answer.status == 202 for answer in answers), answers
    return [answer.body for answer in answers]


async def operator(server: Server, method: str, client_id: str, what: str) -> None:
    answer = await arequest(server, method, f"/clients/{quote(client_id)}/{what}")
    assert answer.status < 300, answer


def kinds(client: Client) -> list[str]:
    return [frame["type"] for frame in client.frames]


# -- server → client ------------------------------------------------------------------------------------------------


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


async def outcome(server: Server, client_id: str, answer: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """What has become of a notification with `"n"`, its number: told when that is final."""
    n = {"n": fields.pop("n", 0)}
    repeat = await apublish(server, client_id=client_id, id=answer["id"], data=n, wait=10, **fields)
    assert repeat.status == 200, repeat
    body: dict[str, Any] = repeat.body
    return body


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


async def test_a_pong_alone_acknowledges_a_gap(narrow: Server, client_id: str) -> None:
    await lose(narrow, client_id, "purged")
    gap = {"type": "gap", "reason": "purged", "dropped": 2}
    async with Client(narrow, client_id) as alice:
        assert await alice.next("gap") == gap
        await alice.ping()  # the server has read our pong, too
    deadline = time.monotonic() + 10
    while True:  # its commit may take up to a second
        async with Client(narrow, client_id, ack="client") as alice:
            await alice.welcome
            await alice.ping()
            if "gap" not in kinds(alice):
                break
        assert time.monotonic() < deadline


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
