"""How event streams end, who may have one, and what hostile and slow clients cost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from asyncio import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.harness import Server, arequest, need, publish, request
from tests.transport.eventstream import EventStream, acknowledge, send, shown, until

MakeServer = Callable[..., Server]


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
        lost = 'notifier_notifications_lost_total{reason="slow_consumer"}'
        before = server.metrics().get(lost, 0.0)
        passing = [publish(server, client_id=me, data="y" * 390_000, ttl=0).body["status"] for _ in range(20)]
        assert passing.count("dropped") > 0
        assert server.metrics()[lost] == before + passing.count("dropped")
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


@pytest.mark.parametrize(
    ("method", "path", "size", "status"),
    [
        ("POST", "/events", 0, 405),
        ("GET", "/events/ack", 0, 405),
        ("POST", "/events/ack", 2_000, 413),
        ("POST", "/events/ack", 500_000, 413),
        ("GET", "/events", 1, 413),
        ("GET", "/events", 500_000, 413),
    ],
)
async def test_cors_for_what_is_refused_before_all_else(
    server: Server, method: str, path: str, size: int, status: int
) -> None:
    headers = {"Origin": LISTED[0], "Authorization": f"Bearer {server.token('sse-cors')}"}
    answer = request(server, method, path, b"x" * size, key=None, headers=headers)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, LISTED[0])
    assert answer.headers["vary"] == "origin"
    foreign = request(server, method, path, b"x" * size, key=None, headers=headers | {"Origin": "https://evil.example"})
    assert foreign.status in (status, 403)
    assert "access-control-allow-origin" not in foreign.headers


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
