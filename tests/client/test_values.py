"""The parts of the client that do no I/O: addresses, back-off, verdicts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from notifier.client import Publisher, Subscriber
from notifier.client.addresses import http_base, is_loopback, websocket_url
from notifier.client.backoff import Backoff
from notifier.client.closing import Action, after_close, after_refusal
from notifier.client.errors import Refused

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("given", "http", "websocket"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "ws://127.0.0.1:8000/ws?ack=client"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000", "ws://127.0.0.1:8000/ws?ack=client"),
        ("https://example.com/push/", "https://example.com/push", "wss://example.com/push/ws?ack=client"),
        ("wss://example.com/ws", "https://example.com", "wss://example.com/ws?ack=client"),
        ("ws://[::1]:8000/ws?ack=auto#x", "http://[::1]:8000", "ws://[::1]:8000/ws?ack=client"),
    ],
)
def test_any_form_of_the_servers_url_leads_to_both_addresses(given: str, http: str, websocket: str) -> None:
    assert http_base(given) == http
    assert websocket_url(given, "client") == websocket


@pytest.mark.parametrize(
    "given", ["", "example.com", "127.0.0.1:8000", "ftp://x", "http://", "http://x:99999", "ws://["]
)
def test_what_is_no_url_of_a_server_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(ValueError, match="is not a URL like"):
        http_base(given)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:1", True),
        ("ws://127.1.2.3", True),
        ("http://[::1]", True),
        ("https://example.com", False),
        ("https://localhost.example.com", False),
    ],
)
def test_loopback_is_recognised(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


def test_each_delay_is_uniform_below_a_ceiling_that_doubles_up_to_the_cap() -> None:
    backoff = Backoff(base=1.0, cap=8.0)
    runs = []
    for _ in range(400):
        runs.append([backoff.next_delay() for _ in range(6)])
        backoff.reset()
    for position, ceiling in enumerate([1.0, 2.0, 4.0, 8.0, 8.0, 8.0]):
        delays = [run[position] for run in runs]
        assert 0.0 <= min(delays) < 0.1 * ceiling
        assert 0.9 * ceiling < max(delays) <= ceiling


def test_backoff_stays_at_the_cap_after_very_many_tries() -> None:
    backoff = Backoff(base=1.0, cap=8.0)
    assert all(backoff.next_delay() <= 8.0 for _ in range(2000))


def test_the_verdict_on_each_close_code_is_the_one_of_the_documentation() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    table = page.split("| close | reason", 1)[1].split("\n\n", 1)[0]
    seen = {}
    for line in table.splitlines()[2:]:
        codes, _, todo = (cell.strip() for cell in line.strip("|").split("|"))
        for code in re.findall(r"\d{4}", codes):
            seen[int(code)] = todo
    assert len(seen) >= 15
    for code, todo in seen.items():
        if code == 1000:
            continue  # only ever the answer to a close of our own
        expected = (
            Action.RENEW
            if todo.startswith("fetch a new token")
            else Action.STOP
            if todo.startswith("stop")
            else Action.RECONNECT
        )
        assert after_close(code, "").action is expected, code


def test_unknown_close_codes_mean_reconnect() -> None:
    assert {after_close(code, "").action for code in (1014, 3000, 4999)} == {Action.RECONNECT}


@pytest.mark.parametrize("reason", ["forbidden_origin", "client_id_mismatch", "revoked", "banned", "something new"])
def test_a_stop_says_what_to_do(reason: str) -> None:
    verdict = after_close(4403, reason)
    assert verdict.action is Action.STOP
    assert verdict.advice


@pytest.mark.parametrize(
    ("status", "code", "action"),
    [
        (401, 4401, Action.RENEW),
        (403, 4403, Action.STOP),
        (404, 404, Action.STOP),
        (426, 426, Action.STOP),
        (500, 500, Action.RECONNECT),
        (502, 502, Action.RECONNECT),
        (503, 503, Action.RECONNECT),
    ],
)
def test_a_handshake_refused_by_http_means_what_its_close_code_means(status: int, code: int, action: Action) -> None:
    told, verdict = after_refusal(status, "")
    assert (told, verdict.action) == (code, action)


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"[]", b"\xff", b"[" * 100_000])
def test_a_refusal_whose_body_is_no_problem_document_still_tells_the_status(body: bytes) -> None:
    refusal = Refused.from_body(502, body)
    assert (refusal.status, refusal.code, refusal.fields) == (502, "http_502", {})


def test_a_refusal_tells_its_fields() -> None:
    refusal = Refused(
        422, {"code": "invalid", "detail": "Two fields.", "errors": [{"field": "ttl", "message": "no"}, 7]}
    )
    assert (refusal.code, refusal.detail, refusal.fields) == ("invalid", "Two fields.", {"ttl": "no"})


@pytest.mark.parametrize("secret", ["", "canary\nx", "canary-é", " canary", "canary\udcff"])
def test_a_key_or_token_that_no_header_can_carry_is_refused_and_not_shown(secret: str) -> None:
    for make in (lambda: Publisher("http://localhost", secret), lambda: Subscriber("http://localhost", secret)):
        with pytest.raises(ValueError, match="no header") as refusal:
            make()
        assert "canary" not in str(refusal.value)


@pytest.mark.parametrize("url", ["http://a..b", "http://exa mple", "http://a\n", "http://" + "a" * 64 + ".example"])
def test_a_host_that_cannot_be_one_is_no_url(url: str) -> None:
    for make in (lambda: Publisher(url, "key"), lambda: Subscriber(url, "token")):
        with pytest.raises(ValueError, match="is not a URL"):
            make()
