"""`GET /events` and `POST /events/ack` over real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from asyncio import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Client, Response, Server, apublish, arequest, need, publish, request
from tests.transport.eventstream import EventStream

MakeServer = Callable[..., Server]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A small window, quick heartbeats, tokens in queries."""
    with Server(
        tmp_path_factory.mktemp("sse"),
        max_inflight=4,
        heartbeat_seconds=0.5,
        heartbeat_timeout_seconds=1,
        query_token=True,
        jwt_leeway_seconds=0,
        allowed_origins="https://app.example,https://*.apps.example",
        max_body_bytes=400_000,
        mailbox_bytes=64 * 1024 * 1024,
    ) as running:
        yield running


def send(server: Server, client_id: str, count: int = 1, **fields: Any) -> list[int]:
    answers = [publish(server, client_id=client_id, data={"n": n}, **fields) for n in range(count)]
    assert all(answer.status == 202 for answer in answers), answers
    return [answer.body["seq"] for answer in answers]


def acknowledge(server: Server, client_id: str, body: object, **options: Any) -> Response:
    headers = {"Authorization": f"Bearer {options.pop('token', None) or server.token(client_id)}"}
    return request(server, "POST", "/events/ack", body, key=None, headers=headers | options.pop("headers", {}))


def shown(server: Server, client_id: str) -> dict[str, Any]:
    return dict(request(server, "GET", f"/clients/{client_id}").body)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if await asyncio.to_thread(condition):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


# -- delivery ----------------------------------------------------------------------------------------------------------


async def test_backlog_then_live_like_a_socket(server: Server) -> None:
    me = "sse-order"
    seqs = send(server, me, 2)
    async with EventStream(server, me) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        welcome = await stream.next()
        assert welcome.type == "notifier"
        assert (welcome.frame["type"], welcome.frame["ack"], welcome.frame["pending"]) == ("welcome", "client", 2)
        assert stream.retry is not None
        assert 2000 <= stream.retry < 4000
        backlog = await stream.notifications(2)
        seqs += send(server, me, 1, event="invoice.paid", collapse_key="k")
        live = await stream.next()
        assert [event.id for event in [*backlog, live]] == [str(seq) for seq in seqs]
        assert [event.type for event in [*backlog, live]] == ["message", "message", "invoice.paid"]
        assert live.frame["seq"] == seqs[2]
        assert live.frame["data"] == {"n": 0}
        assert live.frame["collapse_key"] == "k"
    async with Client(server, me, ack="client") as client:
        assert [await client.next("notification") for _ in range(3)] == [e.frame for e in [*backlog, live]]


async def test_ttl_0_has_its_event_and_no_id(server: Server) -> None:
    me = "sse-transient"
    async with EventStream(server, me) as stream:
        await stream.next("welcome")
        (seq,) = send(server, me)
        assert (await stream.next()).id == str(seq)
        publish(server, client_id=me, data="now", ttl=0, event="price")
        publish(server, client_id=me, data="now", ttl=0)
        first, second = await stream.next(), await stream.next()
        assert (first.type, second.type) == ("price", "message")
        assert b"".join(stream.text.split(b"\n\n")[-3:-1]).count(b"id:") == 0
        assert "seq" not in first.frame
        assert first.id == str(seq), "the last id stays what it was"
        assert request(server, "POST", "/broadcast", {"data": 1, "event": "all"}).status == 202
        assert (await stream.next()).type == "all"


@pytest.mark.parametrize("space", ["\n", "\r", "\r\n", "\n\n", "\r\r"])
async def test_line_breaks_in_data_break_no_line(server: Server, space: str) -> None:
    me = f"sse-lines-{space.encode().hex()}"
    data = f'{{"a":{space}"b",{space}"event: x":{space}["\\n",{space}"\\r\\n",{space}"id: 1"]}}'
    assert request(server, "POST", f"/notify/{me}", data.encode()).status == 202
    assert request(server, "POST", f"/notify/{me}?ttl=0", data.encode()).status == 202
    async with EventStream(server, me) as stream:
        await stream.next("welcome")
        event = await stream.next()
        assert event.frame["data"] == json.loads(data)
        assert request(server, "POST", f"/notify/{me}?ttl=0", data.encode()).status == 202
        live = await stream.next()
        assert live.frame["data"] == json.loads(data)
        assert {entry.type for entry in stream.events} == {"notifier", "message"}
        assert b"\r" not in stream.text


@pytest.mark.parametrize("event", ["a\nid: 7", "a\rb", "a b", "", "notifier", "message", "open", "error", "é", "a:\n"])
async def test_event_names_that_could_break_a_line_never_come_in(server: Server, event: str) -> None:
    assert publish(server, client_id="sse-names", data=1, event=event).status == 422


async def test_everything_else_in_a_frame_is_escaped(server: Server) -> None:
    me = "sse-escape"
    publish(server, client_id=me, data="\u2028\u2029\x85\n\r\0", collapse_key="k\u2028", id="i:d")
    async with EventStream(server, me) as stream:
        event = await stream.next("notification")
        assert event.frame["data"] == "\u2028\u2029\x85\n\r\0"
        assert event.frame["collapse_key"] == "k\u2028"


async def test_heartbeats_keep_it_open(server: Server) -> None:
    async with EventStream(server, "sse-heart") as stream:
        await stream.next("welcome")
        await until(lambda: stream.comments >= 3)  # longer than the time-out of a socket that does not answer
        assert not stream.ended
        send(server, "sse-heart")
        await stream.next("notification")


# -- acknowledging -----------------------------------------------------------------------------------------------------


async def test_last_event_id_acknowledges_up_to_it(server: Server) -> None:
    me = "sse-last"
    seqs = send(server, me, 3, receipt=True)
    async with EventStream(server, me) as stream:
        await stream.notifications(3)
    async with EventStream(server, me, last_event_id=seqs[1]) as stream:
        assert (await stream.next("welcome")).frame["pending"] == 1
        assert (await stream.next()).id == str(seqs[2])
        body = shown(server, me)
        assert (body["pending"], body["cursor"]) == (1, seqs[1])
    server.restart()
    assert shown(server, me)["pending"] == 1, "told by a welcome, so durable"


async def test_last_event_id_is_the_transports_word(server: Server) -> None:
    me = "sse-word"
    sent = publish(server, client_id=me, data=1, receipt=True, id="word").body
    async with EventStream(server, me, last_event_id=sent["seq"]) as stream:
        await stream.next("welcome")
    receipt = request(server, "GET", f"/notifications/word?client_id={me}").body
    assert (receipt["state"], receipt["acked_by"]) == ("delivered", "transport")


@pytest.mark.parametrize("junk", ["", "x", "-1", "1e3", "0x10", " 12 34 ", "12.5", "9" * 40, "٣", "1_0"])
async def test_a_last_event_id_that_is_no_number_is_ignored(server: Server, junk: str) -> None:
    me = f"sse-junk-{junk.encode().hex()}"[:100]
    (seq,) = send(server, me)
    async with EventStream(server, me, last_event_id=junk) as stream:
        assert stream.status == 200
        assert (await stream.next("notification")).id == str(seq)


async def test_a_last_event_id_of_the_future_settles_nothing_of_the_future(server: Server) -> None:
    me = "sse-future"
    send(server, me, 2)
    async with Client(server, me, ack="client") as client:
        seqs = [frame["seq"] for frame in await client.notifications(2)]
        async with EventStream(server, me, last_event_id=2**53 - 1) as stream:
            await stream.next("welcome")
            assert (await client.next("settled"))["seq"] == seqs[1], "not beyond what exists"
            (seq,) = send(server, me)
            assert (await stream.next("notification")).id == str(seq)
            assert (await client.next("notification"))["seq"] == seq
            assert shown(server, me)["pending"] == 1


async def test_an_ack_request_settles_and_the_publisher_is_told(server: Server) -> None:
    me = "sse-ack"
    async with EventStream(server, me) as stream:
        await stream.next("welcome")
        waiting = asyncio.create_task(apublish(server, client_id=me, data=1, wait=10))
        seq = int((await stream.next("notification")).id)
        answer = await asyncio.to_thread(acknowledge, server, me, {"seq": seq})
        assert (answer.status, answer.body) == (200, {"seq": seq, "settled": True})
        told = await waiting
        assert (told.status, told.body["status"], told.body["acked_by"]) == (200, "delivered", "client")
        assert shown(server, me)["pending"] == 0


async def test_an_ack_of_what_was_never_sent_is_ignored_and_counted(server: Server) -> None:
    me = "sse-never"
    async with EventStream(server, me) as stream:
        await stream.next("welcome")
        (seq,) = send(server, me)
        await stream.next("notification")
        before = server.metrics()["notifier_acks_ignored_total"]
        assert acknowledge(server, me, {"seq": seq + 1}).body == {"seq": seq + 1, "settled": False}
        assert server.metrics()["notifier_acks_ignored_total"] == before + 1
        assert shown(server, me)["pending"] == 1


async def test_an_ack_between_two_streams_counts(server: Server) -> None:
    me = "sse-between"
    first, second = send(server, me, 2)
    async with EventStream(server, me) as stream:
        await stream.notifications(2)
    await until(lambda: not shown(server, me)["connected"])
    assert acknowledge(server, me, {"seq": first}).body == {"seq": first, "settled": True}
    assert shown(server, me)["pending"] == 1
    assert acknowledge(server, me, {"seq": 2**53 - 1}).body == {"seq": second, "settled": True}
    (seq,) = send(server, me)
    assert shown(server, me)["pending"] == 1, "no ack holds for mail that came later"
    async with EventStream(server, me) as stream:
        assert (await stream.next("notification")).id == str(seq)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[1]", 422),
        (b"{}", 422),
        (b'{"seq":"1"}', 422),
        (b'{"seq":-1}', 422),
        (b'{"seq":1.5}', 422),
        (b'{"seq":9007199254740992}', 422),
        (b'{"seq":1,"more":2}', 422),
        (b'{"seq":1,"seq":2}', 400),
        (b'{"seq":1' + b" " * 2000 + b"}", 413),
    ],
)
async def test_acks_that_are_none(server: Server, body: bytes, status: int) -> None:
    assert acknowledge(server, "sse-bad-ack", body).status == status


async def test_acks_need_a_token(server: Server) -> None:
    me = "sse-token"
    assert request(server, "POST", "/events/ack", {"seq": 1}, key=None).body["code"] == "token_missing"
    assert acknowledge(server, me, {"seq": 1}, token="x.y.z").body["code"] == "token_invalid"
    assert acknowledge(server, me, {"seq": 1}, token=server.token(me, ttl=-5)).body["code"] == "token_expired"
    old = server.token(me, iat=1_700_000_000)
    request(server, "POST", f"/clients/{me}/revoke")
    refused = acknowledge(server, me, {"seq": 1}, token=old)
    assert (refused.status, refused.body["code"]) == (403, "revoked")


# -- the window --------------------------------------------------------------------------------------------------------


async def test_a_bare_client_gets_everything_though_it_never_acknowledges(server: Server) -> None:
    """What an EventSource does: come back with the last id, after `retry` milliseconds."""
    me = "sse-bare"
    seqs = send(server, me, 11)
    got: list[int] = []
    last: int | None = None
    while len(got) < 11:
        async with EventStream(server, me, last_event_id=last) as stream:
            await stream.next("welcome")
            got += [int(event.id) for event in await stream.notifications(min(4, 11 - len(got)))]
            if len(got) < 11:
                await stream.end()
                assert stream.retry == 0
                assert stream.events[-1].id == str(got[-1])
            last = got[-1]
    assert got == seqs
    assert server.metrics()['notifier_connections_closed_total{code="1000",transport="sse"}'] >= 2


async def test_acks_keep_the_window_open(server: Server) -> None:
    me = "sse-open"
    async with EventStream(server, me) as stream:
        await stream.next("welcome")
        for _ in range(3):
            seqs = send(server, me, 4)
            await stream.notifications(4)
            assert (await asyncio.to_thread(acknowledge, server, me, {"seq": seqs[-1]})).body["settled"]
        await until(lambda: stream.comments >= 2)
        assert not stream.ended
        assert not shown(server, me)["window_full"]


async def test_a_window_that_was_full_for_less_than_a_second_ends_nothing(server: Server) -> None:
    me = "sse-brief"
    async with EventStream(server, me) as stream:
        seqs = send(server, me, 6)
        await stream.notifications(4)
        await asyncio.to_thread(acknowledge, server, me, {"seq": seqs[0]})
        assert [int(event.id) for event in await stream.notifications(1)] == [seqs[4]]
        await asyncio.to_thread(acknowledge, server, me, {"seq": seqs[4]})
        await stream.notifications(1)
        await until(lambda: stream.comments >= 2)
        assert not stream.ended


# -- gaps --------------------------------------------------------------------------------------------------------------


async def test_a_gap_is_told_before_the_backlog_until_a_later_id_is_shown(server: Server) -> None:
    me = "sse-gap"
    send(server, me, 2)
    request(server, "DELETE", f"/clients/{me}/notifications")
    async with EventStream(server, me) as stream:
        assert (await stream.next("gap")).frame == {"type": "gap", "reason": "purged", "dropped": 2}
    (seq,) = send(server, me)
    for _ in range(2):  # nothing of a later id was shown, so it is told again
        async with EventStream(server, me) as stream:
            kinds = [(await stream.next()).frame["type"] for _ in range(3)]
            assert kinds == ["welcome", "gap", "notification"]
    await until(lambda: not shown(server, me)["connected"])
    async with EventStream(server, me, last_event_id=seq) as stream:
        await stream.next("welcome")
        send(server, me)
        assert (await stream.next()).frame["type"] == "notification"
    assert shown(server, me)["untold"] == {}


async def test_a_gap_while_connected_is_acknowledged_by_a_request(server: Server) -> None:
    me = "sse-gap-live"
    async with EventStream(server, me) as stream:
        seqs = send(server, me, 5)
        await stream.notifications(4)
        assert request(server, "DELETE", f"/clients/{me}/notifications/{seqs[4]}").body == {"purged": 1}
        assert (await stream.next("gap")).frame["dropped"] == 1
        await asyncio.to_thread(acknowledge, server, me, {"seq": seqs[0]})
        assert shown(server, me)["untold"] == {"purged": 1}, "that mail came before the gap"
        (seq,) = send(server, me)
        await stream.next("notification")
        await asyncio.to_thread(acknowledge, server, me, {"seq": seq})
        assert shown(server, me)["untold"] == {}


# -- several carriers --------------------------------------------------------------------------------------------------


async def test_socket_and_stream_are_one_reader(server: Server) -> None:
    me = "sse-both"
    async with Client(server, me, ack="client") as client, EventStream(server, me) as stream:
        await client.welcome
        await stream.next("welcome")
        first, second = send(server, me, 2)
        assert [frame["seq"] for frame in await client.notifications(2)] == [first, second]
        assert [int(event.id) for event in await stream.notifications(2)] == [first, second]
        await client.ack(first)
        assert (await stream.next("settled")).frame["seq"] == first
        assert (await asyncio.to_thread(acknowledge, server, me, {"seq": second})).body["settled"]
        assert (await client.next("settled"))["seq"] == second
        kinds = {connection["transport"] for connection in shown(server, me)["connections"]}
        assert kinds == {"websocket", "sse"}
        metrics = server.metrics()
        assert metrics['notifier_connections{transport="sse"}'] == 1
        assert metrics['notifier_connections{transport="websocket"}'] == 1


async def test_the_oldest_goes_and_is_told_to_stay_away(make_server: MakeServer) -> None:
    server = make_server(max_connections_per_client=1)
    async with EventStream(server, "a") as first:
        await first.next("welcome")
        async with EventStream(server, "a") as second:
            await second.next("welcome")
            assert (await first.next("error")).frame["code"] == "replaced"
            await first.end()
            assert first.retry == 3_600_000, "an EventSource that came back at once would replace the other in turn"
            assert not second.ended


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_a_token_that_ends(server: Server) -> None:
    me = "sse-expiry"
    token = server.token(me, ttl=2)
    async with EventStream(server, me, token=token) as stream:
        assert (await stream.next("token_expiring")).frame["in_s"] <= 2
        assert (await stream.next("error")).frame["code"] == "token_expired"
        await stream.end()
    async with EventStream(server, me, token=token) as stream:
        assert (stream.status, stream.problem["code"]) == (401, "token_expired")


@pytest.mark.parametrize(("query", "code"), [("?reconnect=false", "banned"), ("", "disconnected")])
async def test_an_operator_ends_it(server: Server, query: str, code: str) -> None:
    me = f"sse-{code}"
    async with EventStream(server, me) as stream:
        await stream.next("welcome")
        assert request(server, "DELETE", f"/clients/{me}/connections{query}").body == {"closed": 1}
        assert (await stream.next("error")).frame["code"] == code
        await stream.end()
        assert (stream.retry == 3_600_000) == (code == "banned")
    assert shown(server, me)["last_close"]["reason"] == code


async def test_a_revocation_ends_it_and_keeps_it_out(server: Server) -> None:
    me = "sse-revoked"
    token = server.token(me)
    async with EventStream(server, me, token=token) as stream:
        await stream.next("welcome")
        request(server, "POST", f"/clients/{me}/revoke")
        assert (await stream.next("error")).frame["code"] == "revoked"
        await stream.end()
    async with EventStream(server, me, token=token) as stream:
        assert (stream.status, stream.problem["code"]) == (403, "revoked")
    told = shown(server, me)
    assert (told["last_refusal"]["transport"], told["last_refusal"]["proven"]) == ("sse", True)


async def test_a_drain_sends_it_elsewhere(tmp_path: Path) -> None:
    with Server(tmp_path, drain_seconds=1) as server:
        async with EventStream(server, "a") as one, EventStream(server, "b") as two:
            await one.next("welcome")
            await two.next("welcome")
            (seq,) = send(server, "a")
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            for stream in (one, two):
                frame = (await stream.next("reconnect")).frame
                await stream.end()
                assert stream.retry == frame["after_ms"]
            assert await asyncio.to_thread(server.wait) == 0
        server.start()
        async with EventStream(server, "a", last_event_id=0) as stream:
            assert (await stream.next("notification")).id == str(seq)


async def test_who_comes_while_it_drains_is_sent_elsewhere_within_a_200(tmp_path: Path) -> None:
    with Server(tmp_path, drain_seconds=3) as server:
        streams = [EventStream(server, name) for name in "abc"]
        for stream in streams:
            await stream.__aenter__()
            await stream.next("welcome")
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: any(stream.ended for stream in streams))
        async with EventStream(server, "late") as late:
            assert late.status == 200
            event = await late.next()
            assert (event.type, event.frame["type"]) == ("notifier", "reconnect")
            assert late.retry == event.frame["after_ms"]
            await late.end()
        assert await asyncio.to_thread(server.wait) == 0
        for stream in streams:
            await stream.__aexit__()


async def test_what_a_retry_may_mend_is_told_within_a_200(tmp_path: Path) -> None:
    with Server(tmp_path, max_connections=1) as server:
        async with EventStream(server, "a") as stream:
            await stream.next("welcome")
            async with EventStream(server, "b") as refused:
                assert refused.status == 200
                assert (await refused.next()).frame["code"] == "overloaded"
                assert refused.retry is not None
                assert refused.retry >= 2000
                await refused.end()
            assert acknowledge(server, "a", {"seq": 0}).status == 200, "who is connected may go on talking"
        assert server.metrics()['notifier_handshakes_refused_total{reason="overloaded"}'] == 1


async def test_a_client_that_goes_is_forgotten(server: Server) -> None:
    me = "sse-goes"
    async with EventStream(server, me) as stream:
        await stream.next("welcome")
        stream.writer.write_eof()
        await stream.end()
    await until(lambda: not shown(server, me)["connected"])
    assert shown(server, me)["last_close"]["code"] == 1001
    async with EventStream(server, me) as stream:
        await stream.next("welcome")
        stream.writer.transport.abort()
    await until(lambda: not shown(server, me)["connected"])


# -- hostile and slow --------------------------------------------------------------------------------------------------


async def test_a_slow_reader_is_bounded_and_loses_nothing(server: Server) -> None:
    me, other = "sse-slow", "sse-quick"
    async with EventStream(server, me, reads=False) as slow, EventStream(server, other) as quick:
        await quick.next("welcome")
        seqs = [publish(server, client_id=me, data="x" * 390_000).body["seq"] for _ in range(8)]
        for _ in range(20):
            publish(server, client_id=me, data="y" * 390_000, ttl=0)
        send(server, other)
        await quick.next("notification")
        (connection,) = shown(server, me)["connections"]
        assert 0 < connection["unsent_bytes"] < 1024 * 1024
        assert shown(server, me)["why"][0]["cause"] in ("not_reading", "window_full")
        slow.read()
        got = [int((await slow.next("notification")).id)]
    last = got[-1]
    while len(got) < 8:
        async with EventStream(server, me, last_event_id=last) as stream:
            async for seq in _ids(stream):
                got.append(seq)
                if len(got) == 8:
                    break
            last = got[-1]
    assert got == seqs


async def _ids(stream: EventStream) -> AsyncIterator[int]:
    """The ids of its notifications, until the server ends it."""
    with contextlib.suppress(AssertionError):
        while True:
            yield int((await stream.next("notification")).id)


async def test_requests_behind_it_are_not_answered_into_it(server: Server) -> None:
    behind = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 3
    async with EventStream(server, "sse-behind", behind=behind) as stream:
        await stream.next("welcome")
        stream.writer.write(behind)
        send(server, "sse-behind")
        await stream.next("notification")
        await until(lambda: stream.comments >= 2)
        assert b"HTTP/1.1" not in stream.text
        assert not stream.ended


async def test_who_talks_into_it_is_cut_off(server: Server) -> None:
    async with EventStream(server, "sse-talks") as stream:
        await stream.next("welcome")
        stream.writer.write(b"x" * 200_000)
        await stream.end()
    assert server.running


async def test_a_body_is_refused(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.token('sse-body')}"}
    assert request(server, "GET", "/events", b"x", key=None, headers=headers).status == 413


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_other_methods(server: Server, method: str) -> None:
    answer = request(server, method, "/events", key=None)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    answer = request(server, method.replace("POST", "GET"), "/events/ack", key=None)
    assert (answer.status, answer.headers["allow"]) == (405, "POST, OPTIONS")


async def test_head_begins_no_session(server: Server) -> None:
    me = "sse-head"
    answer = request(server, "HEAD", "/events", key=None, headers={"Authorization": f"Bearer {server.token(me)}"})
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "text/event-stream", "")
    assert not shown(server, me)["connected"]
    assert request(server, "HEAD", "/events", key=None).status == 401


# -- who may come in ---------------------------------------------------------------------------------------------------


async def test_tokens_and_where_they_come_from(server: Server, make_server: MakeServer) -> None:
    me = "sse-query"
    async with EventStream(server, me, token="", path=f"/events?access_token={server.token(me)}") as stream:
        assert stream.status == 200
        await stream.next("welcome")
    answer = request(server, "POST", f"/events/ack?access_token={server.token(me)}", {"seq": 0}, key=None)
    assert answer.status == 200
    async with EventStream(server, me, path=f"/events?access_token={server.token(me, ttl=7)}") as stream:
        assert stream.status == 400
    closed = make_server()
    async with EventStream(closed, me, token="", path=f"/events?access_token={closed.token(me)}") as stream:
        assert (stream.status, stream.problem["code"]) == (401, "token_missing")


async def test_a_token_in_a_query_is_in_no_log(tmp_path: Path) -> None:
    with Server(tmp_path, query_token=True, log_level="debug") as server:
        good, bad = server.token("a"), server.token("a", ttl=-60)
        for token in (good, bad):
            async with EventStream(server, "a", token="", path=f"/events?access_token={token}") as stream:
                assert stream.status in (200, 401)
            request(server, "POST", f"/events/ack?access_token={token}", {"seq": 0}, key=None)
        server.terminate()
        for token in (good, bad):
            assert token not in server.log
            assert token.split(".")[2] not in server.log


LISTED = ["https://app.example", "https://one.apps.example", "HTTPS://APP.EXAMPLE:443"]
FOREIGN = ["https://app.example.evil", "https://apps.example", "http://app.example", "https://a.b.apps.example", "null"]


@pytest.mark.parametrize("origin", LISTED)
async def test_cors_for_listed_origins(server: Server, origin: str) -> None:
    me, asks = "sse-cors", {"Origin": origin}
    async with EventStream(server, me, headers=asks) as stream:
        assert stream.headers["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in stream.headers
    async with EventStream(server, me, token="x", headers=asks) as stream:
        assert (stream.status, stream.headers["access-control-allow-origin"]) == (401, origin)
    assert acknowledge(server, me, {"seq": 0}, headers=asks).headers["access-control-allow-origin"] == origin
    for path, method in (("/events", "GET"), ("/events/ack", "POST"), ("/sdk/any.js", "GET")):
        asked = asks | {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization"}
        answer = request(server, "OPTIONS", path, key=None, headers=asked)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert method in answer.headers["access-control-allow-methods"]
        assert "authorization" in answer.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["vary"] == "origin"


@pytest.mark.parametrize("origin", FOREIGN)
async def test_no_cors_for_others(server: Server, origin: str) -> None:
    me, asks = "sse-foreign", {"Origin": origin}
    async with EventStream(server, me, headers=asks) as stream:
        assert (stream.status, stream.problem["code"]) == (403, "forbidden_origin")
        assert "access-control-allow-origin" not in stream.headers
    assert acknowledge(server, me, {"seq": 0}, headers=asks).status == 403
    for path in ("/events", "/events/ack", "/sdk/any.js"):
        asked = asks | {"Access-Control-Request-Method": "GET"}
        answer = request(server, "OPTIONS", path, key=None, headers=asked)
        assert not {name for name in answer.headers if name.startswith("access-control")}


@pytest.mark.parametrize("path", ["/notify", "/notify/a", "/batch", "/broadcast", "/clients", "/clients/a", "/metrics"])
async def test_no_cors_elsewhere(server: Server, path: str) -> None:
    for method in ("OPTIONS", "POST", "GET"):
        answer = request(server, method, path, b"", headers={"Origin": "https://app.example"})
        assert not {name for name in answer.headers if name.startswith("access-control")}


# -- other people's clients --------------------------------------------------------------------------------------------


async def test_curl(server: Server) -> None:
    me = "sse-curl"
    curl = need("curl")
    seqs = send(server, me)
    running = await asyncio.create_subprocess_exec(
        curl, "-sN", "-H", f"Authorization: Bearer {server.token(me)}", f"{server.url}/events", stdout=subprocess.PIPE
    )
    assert running.stdout is not None
    got: list[int] = []
    while len(got) < 13:  # more than three windows, kept open by acknowledging
        line = await asyncio.wait_for(running.stdout.readline(), 10)
        if line.startswith(b"id: "):
            got.append(int(line[4:]))
            assert (await asyncio.to_thread(acknowledge, server, me, {"seq": got[-1]})).body["settled"]
            seqs += await asyncio.to_thread(send, server, me)
    running.terminate()
    await running.wait()
    assert got == seqs[:13]


async def test_many_streams_and_every_one_gets_its_own(server: Server) -> None:
    names = [f"sse-many-{n}" for n in range(50)]
    streams = [EventStream(server, name) for name in names]
    await asyncio.gather(*(stream.__aenter__() for stream in streams))
    items = [{"client_id": name, "data": name} for name in names]
    assert (await arequest(server, "POST", "/batch", items)).status == 200
    for name, stream in zip(names, streams, strict=True):
        assert (await stream.next("notification")).frame["data"] == name
    for stream in streams:
        await stream.__aexit__()
