"""`GET /events` and `POST /events/ack` over real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from tests.harness import Client, Server, apublish, publish, request
from tests.transport.eventstream import EventStream, acknowledge, send, shown, until

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


async def test_an_ack_without_a_connection_settles_nothing_that_is_not_settled(server: Server) -> None:
    """Nobody knows what was written. What was comes again, and is acknowledged then."""
    me = "sse-between"
    first, second = send(server, me, 2)
    assert acknowledge(server, me, {"seq": 2**53 - 1}).body == {"seq": 2**53 - 1, "settled": False}
    assert shown(server, me)["pending"] == 2, "what nobody has seen"
    async with EventStream(server, me) as stream:
        await stream.notifications(2)
        assert (await asyncio.to_thread(acknowledge, server, me, {"seq": first})).body["settled"]
    await until(lambda: not shown(server, me)["connected"])
    before = server.metrics()["notifier_acks_ignored_total"]
    assert acknowledge(server, me, {"seq": first}).body == {"seq": first, "settled": True}
    assert acknowledge(server, me, {"seq": second}).body == {"seq": second, "settled": False}
    assert server.metrics()["notifier_acks_ignored_total"] == before + 1
    assert shown(server, me)["pending"] == 1
    async with EventStream(server, me, last_event_id=second) as stream:
        await stream.next("welcome")
        assert shown(server, me)["pending"] == 0


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


async def test_an_encoded_ack_is_refused(server: Server) -> None:
    answer = acknowledge(server, "sse-bad-ack", {"seq": 1}, headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.body["code"]) == (415, "unsupported_encoding")


async def test_acks_need_a_token(server: Server) -> None:
    large = b'{"seq":1' + b" " * 2000 + b"}"
    assert request(server, "POST", "/events/ack", large, key=None).status == 401, "before anything about the body"
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


async def test_the_oldest_goes_and_is_told_to_stay_away(make_server: Callable[..., Server]) -> None:
    server = make_server(max_connections_per_client=1)
    async with EventStream(server, "a") as first:
        await first.next("welcome")
        async with EventStream(server, "a") as second:
            await second.next("welcome")
            assert (await first.next("error")).frame["code"] == "replaced"
            await first.end()
            assert first.retry == 3_600_000, "an EventSource that came back at once would replace the other in turn"
            assert not second.ended
