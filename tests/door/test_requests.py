"""Requests that are cut short, refused early or answered slowly: each gets its answer and is counted; what was refused
is not done.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from notifier.transport.http import LINGER_S
from tests.door.raw import Raw, notify, request
from tests.door.watching import Observed, costs
from tests.harness import Server, publish
from tests.harness import request as ask

KIB = 1024
MIB = 1024 * KIB
MAIL = b'{"client_id": "alice", "data": 1, "ttl": 60}'


def refused(server: Server, reason: str) -> float:
    return server.metrics().get(f'notifier_requests_refused_total{{reason="{reason}"}}', 0)


# -- answered, although what follows is wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behind", "status"),
    [
        pytest.param(b"}", 400, id="a body that is longer than its Content-Length"),
        pytest.param(b"GARBAGE\r\n\r\n", 400, id="garbage"),
        pytest.param(request("POST", "/notify", {"Content-Length": "2000000"}), 401, id="a wrong key"),
        pytest.param(request("GET", "/" + "a" * 17 * KIB), 414, id="a long URL"),
    ],
)
def test_a_good_request_is_answered_before_the_bad_one_behind_it(
    observed: Observed, behind: bytes, status: int
) -> None:
    with costs(observed, kib=2 * KIB), Raw(observed) as client:
        client.send(notify(observed, MAIL) + behind)
        good, bad = client.answer(), client.answer()
        assert good is not None
        assert bad is not None
        assert (good.status, bad.status) == (202, status)
        assert client.ended()


def test_bytes_behind_the_last_request_do_not_eat_its_answer(observed: Observed) -> None:
    with Raw(observed) as client:
        client.send(request("POST", "/notify", {"X-API-Key": observed.key, "Connection": "close"}, MAIL) + b"garbage")
        answer = client.answer()
        assert answer is not None
        assert answer.status == 202
        assert client.ended()


def test_one_who_waits_is_answered_before_the_garbage_that_came_meanwhile(observed: Observed) -> None:
    with Raw(observed) as client:
        client.send(request("POST", "/notify?wait=1", {"X-API-Key": observed.key}, MAIL))
        time.sleep(0.1)  # in another segment
        client.send(b"garbage\r\n\r\n")
        good, bad = client.answer(), client.answer()
        assert good is not None
        assert bad is not None
        assert (good.status, bad.status) == (202, 400)
        assert client.ended()


def test_an_answer_that_is_taken_slowly_comes_whole_although_it_is_the_last(observed: Observed) -> None:
    item = b'{"client_id": "%d' + b"c" * 190 + b'", "id": "%d' + b"i" * 120 + b'", "data": 1, "ttl": 60}'
    items = b"[" + b",".join(item % (n, n) for n in range(1000)) + b"]"
    with Raw(observed, receive_buffer=4 * KIB) as client:
        client.send(request("POST", "/batch", {"X-API-Key": observed.key, "Connection": "close"}, items))
        time.sleep(2 * LINGER_S + 1)  # more than a peer has to hang up that has taken everything
        answer = client.answer()
        assert answer is not None
        assert answer.status == 200
        assert len(answer.body) == int(answer.headers["content-length"]) > 400 * KIB
        assert client.ended()


# -- upgrades that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["announced", "chunked"])
def test_an_upgrade_to_http_2_is_ignored_and_the_connection_goes_on(observed: Observed, framing: str) -> None:
    """As Java's HttpClient and `curl --http2` ask for it with each request (RFC 9110 §7.8)."""
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    headers |= {"X-API-Key": observed.key}
    if framing == "announced":
        publishing = request("POST", "/notify", headers, MAIL)
    else:
        publishing = request("POST", "/notify", headers | {"Transfer-Encoding": "chunked"})
        publishing += b"%x\r\n%b\r\n0\r\n\r\n" % (len(MAIL), MAIL)
    with costs(observed, kib=2 * KIB), Raw(observed) as client:
        for _ in range(3):
            answer = client.ask(publishing)
            assert answer is not None
            assert answer.status == 202
            assert "connection" not in answer.headers
        client.send(publishing * 50 + request("GET", "/livez", headers))  # pipelined
        answers = [client.answer() for _ in range(51)]
        assert [answer.status for answer in answers if answer is not None] == [202] * 50 + [200]


# -- refused means that nothing was done ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/clients/dora/notifications"), ("POST", "/clients/dora/revoke")]
)
@pytest.mark.parametrize("size", [70_000, 2_000_000])
def test_a_call_with_too_large_a_body_is_not_carried_out(observed: Observed, method: str, path: str, size: int) -> None:
    assert publish(observed, client_id="dora", data=1).status == 202
    before = refused(observed, "too_large")
    with Raw(observed) as client:
        client.send(request(method, path, {"X-API-Key": observed.key}, b"x" * size))
        answer = client.answer()
        assert answer is not None
        assert answer.status == 413
    assert refused(observed, "too_large") == before + 1
    dora = ask(observed, "GET", "/clients/dora").body
    assert dora["pending"] >= 1
    assert dora.get("revoked_at") is None


@pytest.mark.parametrize("size", [70_000, 2_000_000])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/batch/", 404),
        ("POST", "/nowhere", 404),
        ("POST", "/notifications/x", 405),
        ("GET", "/notifications/x", 401),
        ("GET", "/clients", 401),
        ("POST", "/notify", 401),
    ],
)
def test_a_large_body_does_not_hide_what_is_wrong_before_it(
    observed: Observed, method: str, path: str, status: int, size: int
) -> None:
    with costs(observed, kib=4 * KIB), Raw(observed) as client:
        client.send(request(method, path, body=b"x" * size))
        answer = client.answer()
        assert answer is not None
        assert answer.status == status


# -- counted ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(
            request("POST", "/notify", {"Expect": "100-continue", "Content-Length": "9"}), "unauthorized", id="0"
        ),
        pytest.param(request("POST", "/notify", {"Content-Length": "2000000"}), "unauthorized", id="1"),
        pytest.param(request("GET", "/notifications/x", {"Content-Length": "2000000"}), "unauthorized", id="2"),
        pytest.param(request("GET", "/", {f"X-{n}": "y" for n in range(129)}), "too_large", id="3"),
        pytest.param(request("GET", "/" + "a" * 17 * KIB), "too_large", id="4"),
        pytest.param(b"garbage\r\n\r\n", "bad_request", id="5"),
    ],
)
def test_what_no_handler_got_to_see_is_counted(observed: Observed, data: bytes, reason: str) -> None:
    before = refused(observed, reason)
    with Raw(observed) as client:
        assert client.ask(data) is not None
        assert client.ended()
    assert refused(observed, reason) == before + 1


def test_two_different_keys_are_refused_on_every_route(make_server: Callable[..., Server]) -> None:
    server = make_server()
    for path, method in (("/notify", "POST"), ("/clients/a", "GET")):
        head = request(method, path, {"X-API-Key": server.key}, b"{}").replace(
            b"\r\n\r\n", b"\r\nX-API-Key: other\r\n\r\n"
        )
        with Raw(server) as client:
            answer = client.ask(head)
            assert answer is not None
            assert answer.status == 401
