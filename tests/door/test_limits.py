"""The limits of docs/protocol.md (section 9), and the holes that a stock stack has: each is tried on a real server over
raw sockets, with another client served all the time, and everything it held is given back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.door.raw import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Raw,
    handshake,
    head,
    masked,
    notify,
    request,
    xor,
)
from tests.door.watching import Bystander, Observed, costs
from tests.harness import Server, publish
from tests.harness import request as ask

KIB = 1024
MIB = 1024 * KIB
DEADLINE_S = 10.0
LATE_S = 4.0
"""Deadlines are looked at four times a second, and this machine may be busy."""


def lines(count: int, size: int = 8) -> dict[str, str]:
    return {f"X-{number}": "y" * size for number in range(count)}


# -- request line and headers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/notify", "/livez", "/nowhere", "/ws"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"X-Long": "y" * 64 * KIB}, 431, id="one header of 64 KiB"),
        pytest.param(lines(100, 700), 431, id="100 headers of 70 KiB together"),
        pytest.param(lines(129), 431, id="129 headers"),
        pytest.param({"X" * 64 * KIB: "y"}, 431, id="a name of 64 KiB"),
    ],
)
def test_too_large_heads_are_answered_and_closed(
    observed: Observed, path: str, headers: dict[str, str], status: int
) -> None:
    with costs(observed, kib=2 * KIB), Raw(observed) as client:
        answer = client.ask(request("GET", path, headers))
        assert answer is not None
        assert answer.status == status
        assert answer.problem["code"] == "too_large"
        assert answer.headers["connection"] == "close"
        assert client.ended()


def test_heads_up_to_the_limits_are_read(observed: Observed) -> None:
    with Raw(observed) as client:
        good = client.ask(request("GET", "/livez", lines(127)))  # and Host
        assert good is not None
        assert good.status == 200
        good = client.ask(request("GET", "/livez", {"X": "y" * 63 * KIB}))
        assert good is not None
        assert good.status == 200
    with Raw(observed) as client:
        client.upgrade(observed, "large", X_Groups="g" * 60 * KIB)
        assert client.next("welcome")["client_id"] == "large"


@pytest.mark.parametrize("path", ["/", "/notify/", "/ws?x="])
def test_a_long_url_is_414_and_closed(observed: Observed, path: str) -> None:
    with costs(observed, kib=2 * KIB), Raw(observed) as client:
        answer = client.ask(request("GET", path + "a" * 16 * KIB))
        assert answer is not None
        assert answer.status == 414
        assert answer.problem["code"] == "too_large"
        assert client.ended()


def test_a_url_of_16_kib_is_read(observed: Observed) -> None:
    with Raw(observed) as client:
        answer = client.ask(request("GET", "/" + "a" * (16 * KIB - 1)))
        assert answer is not None
        assert answer.status == 404


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda: b"X-%d: " % time.monotonic_ns() + b"y" * 1000 + b"\r\n", id="headers"),
        pytest.param(lambda: b"y" * 1000, id="one header"),
    ],
)
def test_60_mb_of_headers_are_not_kept(observed: Observed, attack: object) -> None:
    assert callable(attack)
    with costs(observed, kib=4 * KIB), Raw(observed) as client:
        client.send(b"GET / HTTP/1.1\r\nX: ")
        sent = 0
        while sent < 60 * MIB and client.send(b"".join(attack() for _ in range(100))):
            sent += 100_000
        assert sent < 8 * MIB, "it went on reading"
        assert client.ended()


def test_trailers_are_limited_and_never_headers(observed: Observed) -> None:
    chunked = {"Transfer-Encoding": "chunked", "X-API-Key": observed.key}
    with costs(observed, kib=4 * KIB), Raw(observed) as client:
        client.send(request("POST", "/notify", chunked) + b"2\r\n{}\r\n0\r\nX: ")
        sent = 0
        while sent < 60 * MIB and client.send(b"y" * 100_000):
            sent += 100_000
        assert sent < 8 * MIB, "it went on reading"
    body = b'{"client_id": "trailers", "data": 1}'
    with Raw(observed) as client:
        answer = client.ask(
            request("POST", "/notify", chunked)
            + b"%x\r\n%b\r\n0\r\nContent-Encoding: gzip\r\nIdempotency-Key: from-a-trailer\r\n\r\n" % (len(body), body)
        )
        assert answer is not None
        assert answer.status == 202
        assert b"from-a-trailer" not in answer.body


# -- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/notify", "/notify/alice", "/broadcast", "/batch"])
@pytest.mark.parametrize("framing", ["announced", "chunked"])
def test_too_large_bodies_are_413(observed: Observed, path: str, framing: str) -> None:
    size = (4 * MIB if path == "/batch" else 64 * KIB) + 1
    headers = {"X-API-Key": observed.key}
    body = b'"' + b"x" * (size - 2) + b'"'
    with costs(observed, kib=16 * KIB), Raw(observed) as client:
        if framing == "announced":
            client.send(request("POST", path, headers, body))
        else:
            client.send(request("POST", path, headers | {"Transfer-Encoding": "chunked"}))
            client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (size, body))
        answer = client.answer()
        assert answer is not None
        assert answer.status == 413
        assert answer.problem["code"] == "too_large"


@pytest.mark.parametrize("key", ["good", "none"])
@pytest.mark.parametrize("framing", ["announced", "chunked"])
def test_200_mb_of_body_are_not_kept(observed: Observed, key: str, framing: str) -> None:
    headers = {"X-API-Key": observed.key} if key == "good" else {}
    chunked = framing == "chunked"
    headers |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": "200000000"}
    part = b"%x\r\n%b\r\n" % (250_000, b"x" * 250_000) if chunked else b"x" * 250_000
    with costs(observed, kib=4 * KIB), Raw(observed) as client:
        client.send(request("POST", "/notify", headers))
        sent = 0
        while sent < 200_000_000 and client.send(part):
            sent += 250_000
        assert sent < 12 * MIB, "it went on reading"  # 1 MiB is drained; the rest sat in the kernel's buffers
        assert client.ended()


@pytest.mark.parametrize("status", [401, 413])
def test_a_refusal_is_told_before_the_body_when_the_client_asks_first(observed: Observed, status: int) -> None:
    key = {"X-API-Key": observed.key} if status == 413 else {}
    with Raw(observed) as client:
        answer = client.ask(request("POST", "/notify", key | {"Expect": "100-continue", "Content-Length": "100000"}))
        assert answer is not None
        assert answer.status == status
        assert client.ended()


def test_a_body_in_tiny_chunks_costs_no_more_than_others(observed: Observed) -> None:
    """Each chunk is a call into Python; joining them one by one would copy the body each time."""
    with costs(observed, kib=4 * KIB), Raw(observed) as client:
        client.send(request("POST", "/batch", {"Transfer-Encoding": "chunked", "X-API-Key": observed.key}))
        client.send(b"1\r\n[\r\n" * 400_000)
        answer = client.answer()
        assert answer is not None
        assert answer.status == 431


def test_pipelined_requests_wait_while_their_answers_are_not_taken(observed: Observed) -> None:
    with costs(observed, kib=8 * KIB), Raw(observed, receive_buffer=4096) as client:
        many, until = request("POST", "/notify", body=b"{}") * 500, time.monotonic() + 4
        while time.monotonic() < until:
            if not client.send_some(many):  # in the middle of one or not: every answer is longer than its request
                time.sleep(0.01)


def test_a_segment_full_of_tiny_requests_is_not_parsed_at_once(observed: Observed) -> None:
    crowd = [Raw(observed, receive_buffer=4096) for _ in range(20)]
    with costs(observed, kib=32 * KIB):
        for client in crowd:
            client.send_some(b"GET /a HTTP/1.1\r\n\r\n" * 20_000)
        observed.get("/livez")
        for client in crowd:
            client.reset()


def test_pipelined_requests_are_answered_in_order(observed: Observed) -> None:
    with Raw(observed) as client:
        count = 300  # more than one slice of what is parsed at a time
        bodies = [b'{"client_id": "pipelined", "id": "p-%d", "data": 1}' % n for n in range(count)]
        client.send(b"".join(notify(observed, body) for body in bodies))
        client.finish()
        for n in range(count):
            answer = client.answer()
            assert answer is not None
            assert answer.status == 202
            assert b'"p-%d"' % n in answer.body
        assert client.ended()


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_whatever_does_not_arrive_within_10_s_is_ended(observed: Observed) -> None:
    """All at once, since each takes its ten seconds."""
    key = {"X-API-Key": observed.key}
    upgrade = handshake(observed, observed.token("slow"))
    idle = Raw(observed)
    assert idle.ask(request("GET", "/livez")) is not None
    silent: list[Raw] = []
    answered: list[Raw] = []
    trickled: list[Raw] = []
    blank: list[Raw] = []

    def begin(data: bytes, into: list[Raw]) -> None:
        client = Raw(observed)
        client.send(data)
        into.append(client)

    with costs(observed, kib=8 * KIB):
        began = time.monotonic()
        begin(b"", silent)
        begin(b"\r\n", silent)
        begin(b"\r\n", blank)
        begin(b"G", answered)
        begin(b"GET / HTTP/1.1\r\nHost: a", answered)
        begin(upgrade[:-20], answered)
        begin(request("POST", "/notify", key | {"Content-Length": "100"}), answered)
        begin(request("POST", "/notify", {"Content-Length": "100"}) + b"{", answered)
        begin(request("POST", "/notify", key | {"Transfer-Encoding": "chunked"}) + b"5\r\n{", answered)
        begin(request("POST", "/nowhere", {"Transfer-Encoding": "chunked"}) + b"1\r\n{\r\n0\r\nX: y", answered)
        idle.send(b"GET /livez HTTP/1.1\r\nHo")  # on a connection that has been used before
        answered.append(idle)
        begin(b"GET / HTTP/1.1\r\nX: ", trickled)
        begin(request("POST", "/notify", key | {"Content-Length": "10000"}), trickled)
        begin(upgrade.replace(b"\r\n\r\n", b"\r\nX: "), trickled)
        while time.monotonic() - began < DEADLINE_S - 2:
            for client in trickled:
                assert client.send(b"a"), "ended too early"
            for client in blank:  # before a request it is skipped (RFC 9112 §2.2), so it is not the beginning of one
                assert client.send(b"\r\n"), "ended too early"
            time.sleep(0.2)
        for client in silent + blank:
            assert client.ended(2 + LATE_S)
            client.close()
        for client in answered + trickled:
            answer = client.answer()
            assert answer is not None
            assert answer.status == 408
            assert answer.headers["connection"] == "close"
            assert client.ended()
            client.close()
        assert time.monotonic() - began < DEADLINE_S + LATE_S


# -- upgrades ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "body", "status"),
    [
        pytest.param({"Content-Length": "5"}, b"hello", 400, id="Content-Length"),
        pytest.param({"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n0\r\n\r\n", 400, id="Transfer-Encoding"),
        pytest.param({f"X-{n}": "y" for n in range(130)}, b"", 431, id="headers"),
        pytest.param({"X": "y" * 64 * KIB}, b"", 431, id="a long header"),
    ],
)
def test_upgrades_beyond_the_rules_are_answered_and_closed(
    observed: Observed, change: dict[str, str], body: bytes, status: int
) -> None:
    token = observed.token("upgrade")
    with costs(observed, kib=2 * KIB), Raw(observed) as client:
        data = handshake(observed, token).replace(
            b"\r\n\r\n", "".join(f"\r\n{name}: {value}" for name, value in change.items()).encode() + b"\r\n\r\n"
        )
        answer = client.ask(data + body)
        assert answer is not None
        assert answer.status == status
        assert client.ended()


# -- frames -----------------------------------------------------------------------------------------------------------


def connected(observed: Observed, client: Raw, client_id: str = "hostile") -> Raw:
    client.upgrade(observed, client_id)
    client.next("welcome")
    return client


def test_messages_up_to_32_kib_are_read_and_no_larger_ones(observed: Observed) -> None:
    room = 32 * KIB - len('{"type":"x","x":""}')
    with Raw(observed) as client:
        connected(observed, client)
        client.say({"type": "ping"})
        client.next("pong")
        client.send(masked(TEXT, b'{"type":"x","x":"%b"}' % (b"x" * room)))
        client.say({"type": "ping"})
        client.next("pong")
        client.send(masked(TEXT, b'{"type":"x","x":"%b"}' % (b"x" * (room + 1))))
        assert client.closed() == (1009, "too_large")
        assert client.ended()


@pytest.mark.parametrize("size", [32 * KIB + 1, 64 * KIB, 2**31, 2**63 - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_frame_that_announces_too_much_is_refused_by_its_head(observed: Observed, size: int, opcode: int) -> None:
    with costs(observed, kib=2 * KIB), Raw(observed) as client:
        connected(observed, client)
        client.send(head(opcode, size) + b"mask")
        assert client.closed() == (1009, "too_large")


def test_the_rest_of_a_refused_message_does_not_eat_the_close_frame(observed: Observed) -> None:
    with costs(observed, kib=4 * KIB), Raw(observed) as client:
        connected(observed, client)
        mask = os.urandom(4)
        client.send(head(TEXT, 50 * MIB) + mask)
        for _ in range(5):  # all of it is taken, so that nothing makes the peer's kernel throw the close frame away
            assert client.send(xor(b"x" * 256 * KIB, mask))
            time.sleep(0.02)
        assert client.closed() == (1009, "too_large")
        assert client.ended()


def test_fragments_of_more_than_32_kib_together_are_refused(observed: Observed) -> None:
    with costs(observed, kib=2 * KIB), Raw(observed) as client:
        connected(observed, client)
        client.send(masked(TEXT, b"x" * 20 * KIB, fin=False) + masked(0, b"x" * 20 * KIB))
        assert client.closed() == (1009, "too_large")


def test_a_message_may_have_1024_fragments(observed: Observed) -> None:
    with Raw(observed) as client:
        connected(observed, client)
        text = b'{"type":"ping"}'
        client.send(masked(TEXT, text, fin=False) + masked(0, fin=False) * 1022 + masked(0))
        client.next("pong")
        client.send(masked(TEXT, text, fin=False) + masked(0, fin=False) * 1023 + masked(0))
        assert client.closed() == (1009, "too_large")


def test_fragments_take_tokens_too(observed: Observed) -> None:
    """Else a client could send 100,000 frames a second."""
    text = b'{"type":"ping"}'
    message = masked(TEXT, text, fin=False) + masked(0, fin=False) * 1022 + masked(0)
    with Raw(observed) as client:
        connected(observed, client)
        client.send(message * 2)
        client.next("pong")
        client.next("pong")
        client.send(message * 8)
        assert client.closed() == (4429, "rate_limited")


@pytest.mark.parametrize(
    ("first", "flood", "close"),
    [
        pytest.param(masked(TEXT, fin=False), masked(0, fin=False), (1009, "too_large"), id="empty fragments"),
        pytest.param(b"", masked(PING, b"x" * 125), (4429, "rate_limited"), id="pings"),
        pytest.param(b"", masked(10, b"x" * 125), (4429, "rate_limited"), id="pongs that nobody asked for"),
        pytest.param(b"", masked(TEXT, b'{"type":"ping"}'), (4429, "rate_limited"), id="ping frames"),
        pytest.param(b"", masked(TEXT, b'{"type":"ack","seq":1}'), (4429, "rate_limited"), id="idle acks"),
        pytest.param(b"", masked(TEXT, b'{"type":"no such"}'), (4429, "rate_limited"), id="unknown types"),
        pytest.param(b"", masked(TEXT, b'{"type":"auth","token":"x"}'), (4429, "rate_limited"), id="bad tokens"),
    ],
)
def test_floods_end_and_cost_nothing(observed: Observed, first: bytes, flood: bytes, close: tuple[int, str]) -> None:
    with costs(observed, kib=4 * KIB), Raw(observed) as client:
        connected(observed, client)
        client.send(first + flood * 20_000)
        assert client.closed() == close
        assert client.ended()


def test_a_flood_of_pings_whose_pongs_are_not_read_is_cut_off(observed: Observed) -> None:
    with costs(observed, kib=4 * KIB), Raw(observed, receive_buffer=4096) as client:
        connected(observed, client)
        until = time.monotonic() + 12
        while time.monotonic() < until and client.send(masked(PING, b"x" * 125) * 1000):
            pass
        assert time.monotonic() < until, "it was never cut off"


def test_invalid_utf_8_closes_with_1007_and_no_noise(observed: Observed) -> None:
    before = len(observed.log)
    for text in (b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b'{"type":"\xf5"}'):
        with Raw(observed) as client:
            connected(observed, client)
            client.send(masked(TEXT, text))
            code, _ = client.closed()
            assert code == 1007
    assert "Traceback" not in observed.log[before:]


# -- keys and tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("browser", [False, True])
def test_a_token_over_16_kib_is_invalid_before_any_crypto(observed: Observed, browser: bool) -> None:
    token = observed.token("large", groups=["g" * 190] * 64)
    assert len(token) > 16 * KIB
    with costs(observed, kib=2 * KIB), Raw(observed) as client:
        if browser:
            client.send(
                handshake(observed, "", Origin=observed.url, Sec_WebSocket_Protocol=f"notifier.v1, bearer.{token}")
            )
            answer = client.answer()
            assert answer is not None
            assert answer.status == 101
            assert client.closed() == (4401, "token_invalid")
        else:
            answer = client.ask(handshake(observed, token))
            assert answer is not None
            assert answer.status == 401
            assert answer.problem["code"] == "token_invalid"
        assert client.ended()


def test_wrong_keys_and_tokens_never_lock_out_and_are_counted(observed: Observed) -> None:
    log, before = len(observed.log), observed.metrics()
    with costs(observed, kib=4 * KIB):
        for n in range(300):
            assert publish(observed, key=f"wrong-{n}", client_id="a", data=1).status == 401
            with Raw(observed) as client:
                answer = client.ask(handshake(observed, f"wrong.{n}.token"))
                assert answer is not None
                assert answer.status == 401
        assert ask(observed, "GET", "/notifications/x", key="wrong").status == 401
        assert publish(observed, client_id="a", data=1).status == 202
    after = observed.metrics()

    def grown(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert grown('notifier_requests_refused_total{reason="unauthorized"}') == 301
    assert grown('notifier_handshakes_refused_total{reason="token_invalid"}') == 300
    assert grown('notifier_publishes_total{outcome="unauthorized"}') == 300
    assert observed.log[log:].count('"refused"') <= 2, "one line per address, reason and minute"


def test_a_browser_that_is_refused_is_gone_within_a_second(observed: Observed) -> None:
    before = observed.metrics().get('notifier_handshakes_refused_total{reason="token_missing"}', 0)
    with costs(observed, kib=2 * KIB):
        crowd = [Raw(observed) for _ in range(50)]
        for client in crowd:
            client.send(handshake(observed, "", Origin=observed.url))
        for client in crowd:
            answer = client.answer()
            assert answer is not None
            assert answer.status == 101
            assert client.closed() == (4401, "token_missing")
        for client in crowd:  # they say nothing
            assert client.ended(1 + LATE_S)
            client.close()
    assert observed.metrics()['notifier_handshakes_refused_total{reason="token_missing"}'] == before + 50


# -- mail and slow clients --------------------------------------------------------------------------------------------


def test_a_batch_of_large_mail_reaches_a_healthy_client_whole(observed: Observed) -> None:
    """Stored mail never closes a connection by its size, not even when one commit brings 4 MiB of it."""
    with Bystander(observed), Raw(observed) as client:
        client.upgrade(observed, "large-mail", query="ack=client")
        client.next("welcome")
        answer = ask(observed, "POST", "/batch", [{"client_id": "large-mail", "data": "x" * 64_000} for _ in range(60)])
        assert answer.status == 200
        seqs = [client.next("notification")["seq"] for _ in range(60)]
        assert seqs == sorted(seqs)


def test_clients_that_never_read_cost_a_bounded_part_of_their_mailboxes(observed: Observed) -> None:
    """256 KiB and a page each; the rest stays in the mailbox, 150 MB here. They are cut off when they took no byte for
    30 s (test_crowds.py)."""
    names = [f"never-reads-{n}" for n in range(10)]
    before = observed.held
    with Bystander(observed):
        memory = observed.memory
        crowd = [Raw(observed, receive_buffer=4096).upgrade(observed, name, query="ack=client") for name in names]
        for name in names * 4:
            items = [{"client_id": name, "data": "x" * 64_000} for _ in range(60)]
            assert ask(observed, "POST", "/batch", items).status == 200
        transient = [{"client_id": names[0], "data": "x" * 64_000, "ttl": 0} for _ in range(60)]
        statuses = [item["status"] for item in ask(observed, "POST", "/batch", transient).body]
        assert statuses.count("dropped") >= 55
        assert observed.memory - memory < 64 * KIB  # of which SQLite's page cache may take 32 MiB
        for client in crowd:
            client.reset()
    observed.comes_back_to(before)
    with Raw(observed) as client:  # all of it is still there
        client.upgrade(observed, names[0], query="ack=client")
        assert client.next("welcome")["pending"] == 240
        for _ in range(240):
            client.next("notification")
        client.send(masked(CLOSE, (1000).to_bytes(2)))


def test_an_ack_above_what_was_written_settles_nothing(make_server: Callable[..., Server]) -> None:
    """Else a client could settle mail that it has never seen, by mistake or by guessing."""
    server = make_server(max_inflight=1)
    first, second = (publish(server, client_id="alice", data=n).body["seq"] for n in range(2))
    with Raw(server).upgrade(server, "alice", query="ack=client") as client:
        assert client.next("notification")["seq"] == first
        for seq in (second, second + 1, 2**53):
            client.say({"type": "ack", "seq": seq, "confirm": True})
        client.say({"type": "ping"})
        client.next("pong")
        assert server.metrics()["notifier_pending_notifications"] == 2
        client.say({"type": "ack", "seq": first})
        assert client.next("notification")["seq"] == second
