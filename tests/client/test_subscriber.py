"""The subscription against servers that misbehave, restart and say no."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Response

from notifier.client import Backoff, Connected, Disconnected, Ended, Gap, Notification, Settled, Subscriber
from tests.client.scripted import Peer, websocket_server


def at_once() -> Backoff:
    return Backoff(base=0.0, cap=0.0)


def subscriber(url: str, token: str | Callable[[], str] = "t", **options: object) -> Subscriber:
    return Subscriber(url, token, backoff=at_once(), **options)  # type: ignore[arg-type]


def refusal(status: int, code: str, **headers: str) -> Response:
    return Response(status, "", Headers(headers), json.dumps({"code": code}).encode())


async def test_it_gives_out_what_comes_and_acknowledges_what_it_is_told_to() -> None:
    async def talk(peer: Peer) -> None:
        assert (peer.token, peer.path) == ("t", "/ws?ack=client")
        await peer.welcome(pending=2)
        await peer.notification(5, event="e", collapse_key="k", accepted_at="a", expires_at="b")
        await peer.say({"type": "gap", "reason": "expired", "dropped": 3})
        await peer.say({"type": "of the future"})
        await peer.notification(None)
        assert await peer.hear() == {"type": "ack", "seq": 5}
        await peer.say({"type": "settled", "seq": 9})
        await peer.until_closed()

    async with websocket_server(talk) as server, subscriber(server.url) as client:
        assert await client.next_event() == Connected("alice", "c1", 2)
        first = await client.next_event()
        assert isinstance(first, Notification)
        assert (first.id, first.data, first.seq, first.event, first.collapse_key) == ("n5", {"n": 5}, 5, "e", "k")
        assert (first.accepted_at, first.expires_at) == ("a", "b")
        assert await client.next_event() == Gap("expired", 3)
        passing = await client.next_event()
        assert isinstance(passing, Notification)
        assert passing.seq is None
        await client.acknowledge(passing)
        await client.acknowledge(first)
        assert await client.next_event() == Settled(9)


async def test_iterating_gives_the_notifications_only() -> None:
    async def talk(peer: Peer) -> None:
        await peer.welcome()
        await peer.say({"type": "gap", "reason": "expired", "dropped": 3})
        await peer.notification(1)
        await peer.until_closed()

    async with websocket_server(talk) as server, subscriber(server.url) as client:
        async for notification in client:
            assert notification.seq == 1
            break


async def test_what_was_not_acknowledged_is_given_out_again_after_a_reconnect() -> None:
    async def dies(peer: Peer) -> None:
        await peer.welcome()
        await peer.notification(1)
        await peer.notification(2)
        assert (await peer.hear())["seq"] == 1
        peer.abort()

    async def again(peer: Peer) -> None:
        await peer.welcome(pending=1)
        await peer.notification(2)
        await peer.until_closed()

    async with websocket_server(dies, again) as server, subscriber(server.url) as client:
        seen = []
        async for notification in client:
            seen.append(notification.seq)
            if len(seen) == 3:
                break
            if seen == [1]:
                await client.acknowledge(notification)
        assert seen in ([1, 2, 2], [1, 2, 2, 2])


async def test_an_acknowledgement_lost_with_its_connection_is_made_up_for_without_a_second_delivery() -> None:
    async def dies(peer: Peer) -> None:
        await peer.welcome()
        await peer.notification(1)
        await peer.hear()
        peer.abort()

    async def sends_it_again(peer: Peer) -> None:
        await peer.welcome(pending=1)
        await peer.notification(1)
        assert await peer.hear() == {"type": "ack", "seq": 1}
        await peer.notification(2)
        await peer.until_closed()

    async with websocket_server(dies, sends_it_again) as server, subscriber(server.url) as client:
        seen = []
        async for notification in client:
            seen.append(notification.seq)
            await client.acknowledge(notification)
            if seen[-1] == 2:
                break
        assert seen == [1, 2]


async def test_confirm_waits_until_the_server_has_said_that_it_is_final() -> None:
    may_settle = asyncio.Event()

    async def talk(peer: Peer) -> None:
        await peer.welcome()
        await peer.notification(7)
        assert await peer.hear() == {"type": "ack", "seq": 7, "confirm": True}
        await may_settle.wait()
        await peer.say({"type": "settled", "seq": 7})
        await peer.until_closed()

    async with websocket_server(talk) as server, subscriber(server.url) as client:
        notification = await anext(aiter(client))
        confirmed = asyncio.create_task(client.acknowledge(notification, confirm=True))
        await asyncio.sleep(0)
        assert not confirmed.done()
        may_settle.set()
        await confirmed


@pytest.mark.parametrize("sequel", ["sent again", "nothing pending", "only later mail pending"])
async def test_confirm_survives_a_reconnect(sequel: str) -> None:
    async def dies(peer: Peer) -> None:
        await peer.welcome()
        await peer.notification(7)
        await peer.hear()
        peer.abort()

    async def knows(peer: Peer) -> None:
        if sequel == "sent again":
            await peer.welcome(pending=1)
            await peer.notification(7)
            assert await peer.hear() == {"type": "ack", "seq": 7, "confirm": True}
            await peer.say({"type": "settled", "seq": 7})
        elif sequel == "nothing pending":
            await peer.welcome(pending=0)
        else:
            await peer.welcome(pending=1)
            await peer.notification(8)
        await peer.until_closed()

    async with websocket_server(dies, knows) as server, subscriber(server.url) as client:
        notification = await anext(aiter(client))
        async with asyncio.timeout(10):
            await client.acknowledge(notification, confirm=True)


async def test_a_confirmation_that_can_never_come_raises() -> None:
    async def bans(peer: Peer) -> None:
        await peer.welcome()
        await peer.notification(7)
        await peer.hear()
        await peer.close(4403, "banned")

    async with websocket_server(bans) as server, subscriber(server.url) as client:
        notification = await anext(aiter(client))
        with pytest.raises(Ended, match="banned"):
            await client.acknowledge(notification, confirm=True)
        with pytest.raises(Ended, match="banned"):
            await client.acknowledge(notification, confirm=True)


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 4429, 4999])
async def test_it_reconnects_after_a_close_that_is_not_for_good(code: int) -> None:
    async def closes(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(code, "why")

    async def stays(peer: Peer) -> None:
        await peer.welcome()
        await peer.until_closed()

    async with websocket_server(closes, stays) as server, subscriber(server.url) as client:
        assert isinstance(await client.next_event(), Connected)
        assert await client.next_event() == Disconnected(code, "why", 0.0)
        assert isinstance(await client.next_event(), Connected)


@pytest.mark.parametrize(
    ("code", "reason"), [(1009, "too_large"), (4400, "bad_frame"), (4403, "revoked"), (4409, "replaced")]
)
async def test_it_stops_where_reconnecting_would_not_help(code: int, reason: str) -> None:
    async def closes(peer: Peer) -> None:
        await peer.close(code, reason)

    async with websocket_server(closes) as server, subscriber(server.url) as client:
        with pytest.raises(Ended) as caught:
            await client.next_event()
        assert (caught.value.code, caught.value.reason) == (code, reason)
        assert caught.value.advice
    assert len(server.peers) == 1


async def test_a_drain_is_waited_out_as_the_server_asked() -> None:
    async def drains(peer: Peer) -> None:
        await peer.welcome()
        await peer.say({"type": "reconnect", "after_ms": 30})
        await peer.close(1012, "draining")

    async def stays(peer: Peer) -> None:
        await peer.welcome()
        await peer.until_closed()

    async with websocket_server(drains, stays) as server, subscriber(server.url) as client:
        assert isinstance(await client.next_event(), Connected)
        assert await client.next_event() == Disconnected(1012, "draining", 0.03)
        assert isinstance(await client.next_event(), Connected)


async def test_a_refused_token_is_renewed_once_and_welcome_makes_it_once_again() -> None:
    tokens = iter(["old", "new", "old again", "newest", "bad", "worse"])

    async def refuses(peer: Peer) -> None:
        await peer.close(4401, "token_expired")

    async def ends_after_a_while(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(4401, "token_expired")

    handlers = [refuses, ends_after_a_while, ends_after_a_while, refuses]
    async with websocket_server(*handlers) as server, subscriber(server.url, lambda: next(tokens)) as client:
        with pytest.raises(Ended) as caught:
            async for _ in client:
                pass
    assert caught.value.code == 4401
    assert [peer.token for peer in server.peers] == ["old", "new", "old again", "newest"]


async def test_a_token_that_cannot_be_renewed_ends_at_the_first_refusal() -> None:
    async def refuses(peer: Peer) -> None:
        await peer.close(4401, "token_invalid")

    async with websocket_server(refuses) as server, subscriber(server.url, "fixed") as client:
        with pytest.raises(Ended, match="fetch a new one"):
            await client.next_event()
    assert len(server.peers) == 1


async def test_a_new_token_is_handed_over_before_the_old_one_ends() -> None:
    tokens = iter(["first", "second"])

    async def talk(peer: Peer) -> None:
        await peer.welcome()
        await peer.say({"type": "token_expiring", "in_s": 30})
        assert await peer.hear() == {"type": "auth", "token": "second"}
        await peer.say({"type": "authenticated", "token_expires_at": "x"})
        await peer.notification(1)
        await peer.until_closed()

    async def fetch() -> str:
        await asyncio.sleep(0)
        return next(tokens)

    async with websocket_server(talk) as server, Subscriber(server.url, fetch, backoff=at_once()) as client:
        assert (await anext(aiter(client))).seq == 1


async def test_a_token_source_that_fails_for_now_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[str | Exception] = [OSError("the application restarts"), "good", TimeoutError("later")]

    def fetch() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def talk(peer: Peer) -> None:
        await peer.welcome()
        await peer.say({"type": "token_expiring", "in_s": 30})
        await peer.notification(1)
        await peer.until_closed()

    async with websocket_server(talk) as server, subscriber(server.url, fetch) as client:
        assert await client.next_event() == Disconnected(0, "the application restarts", 0.0)
        assert isinstance(await client.next_event(), Connected)
        assert (await anext(aiter(client))).seq == 1
    assert answers == []
    assert "no new token (later)" in caplog.text


async def test_a_token_source_with_a_bug_ends_it_with_that_bug() -> None:
    def fetch() -> str:
        raise KeyError("a bug")

    async with websocket_server() as server, subscriber(server.url, fetch) as client:
        with pytest.raises(KeyError, match="a bug"):
            await client.next_event()


async def test_refusals_by_http_mean_what_their_close_codes_mean() -> None:
    async def stays(peer: Peer) -> None:
        await peer.welcome()
        await peer.until_closed()

    refusals = [refusal(503, "draining", **{"Retry-After": "0"}), refusal(502, ""), refusal(401, "token_expired")]
    tokens = iter("abcd")
    async with (
        websocket_server(stays, refusals=refusals) as server,
        subscriber(server.url, lambda: next(tokens)) as client,
    ):
        codes = []
        while isinstance(event := await client.next_event(), Disconnected):
            codes.append((event.code, event.reason))
        assert codes == [(503, "draining"), (502, ""), (4401, "token_expired")]
    assert server.peers[0].token == "d"


@pytest.mark.parametrize(("status", "code"), [(403, 4403), (404, 404), (426, 426)])
async def test_a_refusal_for_good_ends_it(status: int, code: int) -> None:
    async with websocket_server(refusals=[refusal(status, "x")]) as server, subscriber(server.url) as client:
        with pytest.raises(Ended) as caught:
            await client.next_event()
        assert caught.value.code == code


async def test_a_server_that_is_not_there_yet_is_tried_again() -> None:
    async with websocket_server() as gone:
        url = gone.url
    async with subscriber(url) as client:
        event = await client.next_event()
        assert isinstance(event, Disconnected)
        assert event.code == 0
        assert isinstance(await client.next_event(), Disconnected)


async def test_a_flood_of_passing_notifications_is_bounded_and_stored_ones_are_kept() -> None:
    async def floods(peer: Peer) -> None:
        await peer.welcome()
        for _ in range(2000):
            await peer.notification(None)
        await peer.say({"type": "gap", "reason": "expired", "dropped": 1})
        await peer.until_closed()

    async with websocket_server(floods) as server, subscriber(server.url) as client:
        async with asyncio.timeout(20):
            while Gap("expired", 1) not in client._inbox:
                client._arrived.clear()
                await client._arrived.wait()
        assert len(client._inbox) <= 514


async def test_mail_beyond_the_inbox_waits_and_a_confirmation_passes_it() -> None:
    async def sends_much(peer: Peer) -> None:
        await peer.welcome()
        for seq in range(1, 1201):
            await peer.notification(seq)
        assert (await peer.hear())["confirm"] is True
        await peer.say({"type": "settled", "seq": 1})
        await peer.until_closed()

    async with websocket_server(sends_much) as server, subscriber(server.url) as client:
        first = await anext(aiter(client))
        async with asyncio.timeout(20):
            await client.acknowledge(first, confirm=True)
        rest = [event.seq async for event in _take(client, 1199)]
        assert rest == list(range(2, 1201))


async def _take(client: Subscriber, count: int):  # type: ignore[no-untyped-def]
    async for notification in client:
        yield notification
        count -= 1
        if count == 0:
            return


async def test_with_ack_auto_what_arrived_is_not_given_out_twice() -> None:
    async def dies(peer: Peer) -> None:
        assert peer.path == "/ws?ack=auto"
        await peer.welcome()
        await peer.notification(1)
        await peer.notification(2)
        await peer.close(1012)

    async def again(peer: Peer) -> None:
        await peer.welcome(pending=1)
        await peer.notification(2)
        await peer.notification(3)
        await peer.until_closed()

    async with websocket_server(dies, again) as server, subscriber(server.url, ack="auto") as client:
        seen = []
        async for notification in client:
            seen.append(notification.seq)
            if seen[-1] == 3:
                break
        assert seen == [1, 2, 3]


async def test_errors_that_the_server_reports_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def talk(peer: Peer) -> None:
        await peer.welcome()
        await peer.say({"type": "error", "code": "window_full", "message": "Send acks."})
        await peer.notification(1)
        await peer.until_closed()

    async with websocket_server(talk) as server, subscriber(server.url) as client:
        await anext(aiter(client))
    assert "window_full: Send acks." in caplog.text


async def test_leaving_closes_the_connection_and_ends_the_waiting() -> None:
    closed = asyncio.Event()

    async def talk(peer: Peer) -> None:
        await peer.welcome()
        await peer.until_closed()
        closed.set()

    async with websocket_server(talk) as server:
        async with subscriber(server.url) as client:
            await client.next_event()
        async with asyncio.timeout(10):
            await closed.wait()
        with pytest.raises(Ended, match="closed here"):
            await client.next_event()


async def test_it_must_be_entered() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await subscriber("http://127.0.0.1:1").next_event()
