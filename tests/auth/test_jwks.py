"""JWKS against a real HTTPS server: it is down, slow, hostile, and rotates its keys."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from notifier.auth import jwks
from notifier.auth.jwks import FLOOR_S, Jwks
from notifier.auth.tokens import Identity, Rules, TokenVerifier, token_verifier
from notifier.clock import ManualClock
from notifier.errors import ConfigurationError, NoKeys, NotifierError, TokenInvalid
from tests.auth.forging import GOOD, SECRET, clock, encode, sign
from tests.auth.issuer import Issuer, SigningKey, issuer, response, trust_authority

NEVER = 1e6
"""seconds: a timer that plays no part in a test"""

Start = Callable[..., Awaitable["Checks"]]


class Checks:
    """A verifier on an issuer's JWKS."""

    def __init__(self, url: str, **times: float) -> None:
        self.clock: ManualClock = clock()
        chosen = {"refresh_s": NEVER, "retry_s": NEVER, "wait_s": NEVER} | times
        self.jwks = Jwks(url, self.clock, **chosen)
        self.verifier = TokenVerifier(self.jwks, Rules(), self.clock)

    async def outcome(self, token: str) -> Identity | NotifierError:
        told: asyncio.Future[Identity | NotifierError] = asyncio.get_running_loop().create_future()
        self.verifier.verify(token, told.set_result)
        return await told

    async def kind(self, token: str) -> type:
        return type(await self.outcome(token))


@pytest.fixture(autouse=True)
def _trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust_authority(tmp_path / "authority.pem", monkeypatch.setenv)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def server() -> AsyncIterator[Issuer]:
    async with issuer() as running:
        yield running


@pytest.fixture
async def start(server: Issuer) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def started(**times: float) -> Checks:
            checks = Checks(server.url, **times)
            await checks.verifier.start()
            stack.push_async_callback(checks.verifier.stop)
            return checks

        yield started


# --- an issuer that cannot be reached, or says nonsense --------------------------------------------------------


def test_only_https() -> None:
    for url in ("http://localhost/jwks", "file:///etc/passwd", "ftp://localhost/", ""):
        with pytest.raises(ValueError, match="https"):
            Jwks(url, clock())


async def test_trusted_certificates_that_cannot_be_read_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        await Checks("https://localhost/").verifier.start()


async def test_an_issuer_that_nobody_vouches_for_is_not_believed(
    server: Issuer, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    server.publish(SigningKey("one"))
    checks = await start()
    assert await checks.kind(SigningKey("one").token()) is NoKeys
    assert server.requests == 0


async def test_down_at_the_start_and_then_up(server: Issuer, start: Start) -> None:
    key = SigningKey("one")
    server.publish(key)
    await server.down()
    checks = await start(retry_s=0.01)
    assert await checks.kind(key.token()) is NoKeys
    assert checks.verifier.ready() == "the JWKS was never loaded"
    with pytest.raises(NoKeys):
        checks.verifier.verify_now(key.token())
    await server.up()
    await server.asked(1)
    assert await checks.outcome(key.token()) == Identity("alice", GOOD["exp"], GOOD["iat"], ())


GOOD_KEY = SigningKey("good").jwk()
GOOD_BODY = json.dumps({"keys": [GOOD_KEY]}).encode()

# Wherever it can be, there is a good key inside: only the one thing that is wrong makes it useless.
USELESS: dict[str, bytes] = {
    "not HTTP": b"hello\r\n\r\n",
    "nothing": b"",
    "half an answer": response(GOOD_BODY)[:-3],
    "status 500": response(GOOD_BODY, "500 Internal Server Error"),
    "status 404": response(GOOD_BODY, "404 Not Found"),
    "status 204": b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    "empty": response(b""),
    "HTML": response(b"<html>log in</html>"),
    "a list": response([GOOD_KEY]),
    "null": response(None),
    "no keys": response({}),
    "keys null": response({"keys": None}),
    "keys an object": response({"keys": GOOD_KEY}),
    "keys empty": response({"keys": []}),
    "keys twice": response(b'{"keys":[],' + GOOD_BODY[1:]),
    "only keys that are none": response({"keys": [1, None, "x", [], {}, {"kty": "oct", "k": "AAAA"}]}),
    "too many keys": response({"keys": [GOOD_KEY] * 257}),
    "nested 100,000 deep": response(b'{"keys":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "not UTF-8": response(b'{"keys":["\xff"]}'),
    "1 MiB and one byte": response(GOOD_BODY.ljust(1024 * 1024 + 1)),
    "endless": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + GOOD_BODY.ljust(4 * 1024 * 1024),
    "compressed": response(gzip.compress(GOOD_BODY), "200 OK", "Content-Encoding: gzip"),
    "said to be compressed": response(GOOD_BODY, "200 OK", "Content-Encoding: br"),
    "a bomb": response(gzip.compress(b" " * (64 * 1024 * 1024)), "200 OK", "Content-Encoding: gzip"),
}


@pytest.mark.parametrize("answer", USELESS.values(), ids=USELESS)
async def test_a_useless_answer_gives_no_keys(server: Issuer, start: Start, answer: bytes) -> None:
    server.answer = answer
    checks = await start()
    assert await checks.kind(SigningKey("one").token()) is NoKeys


@pytest.mark.parametrize("answer", USELESS.values(), ids=USELESS)
async def test_a_useless_answer_takes_no_keys_away(server: Issuer, start: Start, answer: bytes) -> None:
    key, unknown = SigningKey("one"), SigningKey("two")
    server.publish(key)
    checks = await start()
    assert await checks.kind(key.token()) is Identity
    server.answer = answer
    assert await checks.kind(unknown.token()) is TokenInvalid
    assert server.requests == 2
    assert await checks.kind(key.token()) is Identity
    assert checks.verifier.ready() is None


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
async def test_a_redirect_is_not_followed(server: Issuer, start: Start, status: str) -> None:
    server.answer = response(GOOD_BODY, status, f"Location: {server.url}?again")
    checks = await start()
    assert await checks.kind(SigningKey("one").token()) is NoKeys
    assert server.requests == 1


async def test_an_issuer_that_never_answers_is_given_up(server: Issuer, start: Start) -> None:
    server.gate.clear()
    checks = await start(fetch_s=0.05)
    assert await checks.kind(SigningKey("one").token()) is NoKeys
    assert server.requests <= 1


# --- waiting --------------------------------------------------------------------------------------------------


async def test_tokens_wait_for_the_first_answer(server: Issuer, start: Start) -> None:
    key = SigningKey("one")
    server.publish(key)
    server.gate.clear()
    checks = await start()
    told: list[Identity | NotifierError] = []
    for _ in range(10):
        checks.verifier.verify(key.token(), told.append)
    checks.verifier.verify("nonsense", told.append)
    assert [type(outcome) for outcome in told] == [TokenInvalid]
    await server.asked(1)
    server.gate.set()
    assert await checks.kind(key.token()) is Identity
    assert [type(outcome) for outcome in told] == [TokenInvalid] + [Identity] * 10
    assert server.requests == 1


async def test_waiting_ends_even_if_the_first_answer_does_not_come(server: Issuer, start: Start) -> None:
    server.gate.clear()
    checks = await start(wait_s=0.01)
    assert await checks.kind(SigningKey("one").token()) is NoKeys


async def test_waiting_ends_even_if_the_issuer_has_become_slow(server: Issuer, start: Start) -> None:
    key, unknown = SigningKey("one"), SigningKey("two")
    server.publish(key)
    checks = await start()
    assert await checks.kind(key.token()) is Identity
    server.gate.clear()
    checks.jwks.wait_s = 0.01
    assert await checks.kind(unknown.token()) is TokenInvalid
    assert await checks.kind(key.token()) is Identity  # known keys need no answer


async def test_only_so_many_wait(server: Issuer, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "MAX_WAITING", 3)
    server.gate.clear()
    checks = await start()
    told: list[Identity | NotifierError] = []
    for _ in range(5):
        checks.verifier.verify(SigningKey("one").token(), told.append)
    assert [type(outcome) for outcome in told] == [NoKeys] * 2


async def test_a_stop_tells_those_who_wait(server: Issuer) -> None:
    server.gate.clear()
    checks = Checks(server.url)
    await checks.verifier.start()
    waiting = asyncio.create_task(checks.kind(SigningKey("one").token()))
    await server.asked(1)
    await checks.verifier.stop()
    assert await waiting is NoKeys
    assert await checks.kind(SigningKey("one").token()) is NoKeys  # after the stop nobody waits
    assert "jwks" not in {task.get_name() for task in asyncio.all_tasks()}
    await checks.verifier.stop()


async def test_what_one_of_them_raises_is_not_the_others_business(server: Issuer, start: Start) -> None:
    key = SigningKey("one")
    server.publish(key)
    server.gate.clear()
    checks = await start()
    raised: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
    checks.verifier.verify(key.token(), lambda _: 1 / 0)  # type: ignore[func-returns-value, arg-type]
    waiting = asyncio.create_task(checks.kind(key.token()))
    await server.asked(1)
    server.gate.set()
    assert await waiting is Identity
    assert [type(error) for error in raised] == [ZeroDivisionError]


# --- rotation -------------------------------------------------------------------------------------------------


async def test_a_new_key_is_fetched_when_a_token_names_it(server: Issuer, start: Start) -> None:
    old, new = SigningKey("old"), SigningKey("new")
    server.publish(old)
    checks = await start()
    assert await checks.kind(old.token()) is Identity
    server.publish(old, new)
    assert await checks.kind(new.token()) is Identity
    assert await checks.kind(old.token()) is Identity
    assert server.requests == 2


async def test_invented_key_names_cause_one_fetch_per_floor(server: Issuer, start: Start) -> None:
    key = SigningKey("one")
    server.publish(key)
    checks = await start()
    assert await checks.kind(key.token()) is Identity
    for number in range(50):
        assert await checks.kind(SigningKey(f"invented-{number}").token()) is TokenInvalid
    assert server.requests == 2
    checks.clock.advance(FLOOR_S - 0.001)
    assert await checks.kind(SigningKey("invented").token()) is TokenInvalid
    assert server.requests == 2
    checks.clock.advance(0.001)
    rotated = SigningKey("rotated")
    server.publish(rotated)
    assert await checks.kind(rotated.token()) is Identity
    assert server.requests == 3


async def test_many_tokens_with_unknown_keys_share_one_fetch(server: Issuer, start: Start) -> None:
    old, new = SigningKey("old"), SigningKey("new")
    server.publish(old)
    checks = await start()
    assert await checks.kind(old.token()) is Identity
    server.publish(new)
    server.gate.clear()
    waiting = [asyncio.create_task(checks.kind(new.token())) for _ in range(100)]
    await server.asked(2)
    server.gate.set()
    assert set(await asyncio.gather(*waiting)) == {Identity}
    assert server.requests == 2


async def test_a_key_that_was_taken_back_is_refused_after_the_next_fetch(server: Issuer, start: Start) -> None:
    stolen, new = SigningKey("stolen"), SigningKey("new")
    server.publish(stolen)
    checks = await start()
    assert await checks.kind(stolen.token()) is Identity
    server.publish(new)
    assert await checks.kind(new.token()) is Identity
    assert await checks.kind(stolen.token()) is TokenInvalid


async def test_keys_are_fetched_again_from_time_to_time(server: Issuer, start: Start) -> None:
    old = SigningKey("old")
    server.publish(old)
    checks = await start(refresh_s=0.01)
    await server.asked(3)
    assert await checks.kind(old.token()) is Identity


async def test_tokens_that_no_fetch_can_help_cause_none(server: Issuer, start: Start) -> None:
    key, stranger = SigningKey("one"), SigningKey("one")
    server.publish(key)
    checks = await start()
    assert await checks.kind(key.token()) is Identity
    for token in (
        "nonsense",
        stranger.token(),
        sign({"alg": "HS256", "kid": "unknown"}, GOOD),
        sign({"alg": "none", "kid": "unknown"}, GOOD, "", "none"),
        sign({"alg": "ES256", "kid": 5}, GOOD, SECRET),
    ):
        assert await checks.kind(token) is TokenInvalid
    assert server.requests == 1


# --- which key ------------------------------------------------------------------------------------------------


async def test_a_token_without_kid_is_allowed_if_exactly_one_key_fits(server: Issuer, start: Start) -> None:
    key, other = SigningKey("one"), SigningKey("two")
    unfit = {"kty": "OKP", "crv": "Ed25519", "kid": "three", "x": encode(b"\x07" * 32).decode()}
    server.publish(key, unfit)
    checks = await start()
    assert await checks.kind(key.token(kid=None)) is Identity
    server.publish(key, other, unfit)
    assert await checks.kind(other.token()) is Identity
    assert await checks.kind(key.token(kid=None)) is TokenInvalid


async def test_a_key_without_kid_serves_tokens_without_kid_only(server: Issuer, start: Start) -> None:
    nameless = SigningKey(None)
    server.publish(nameless)
    checks = await start()
    assert await checks.kind(nameless.token()) is Identity
    assert await checks.kind(nameless.token(kid="some")) is TokenInvalid


async def test_the_kid_must_match(server: Issuer, start: Start) -> None:
    one, two = SigningKey("one"), SigningKey("two")
    server.publish(one, two)
    checks = await start()
    assert await checks.kind(one.token()) is Identity
    assert await checks.kind(one.token(kid="two")) is TokenInvalid
    assert await checks.kind(one.token(kid="ONE")) is TokenInvalid


async def test_a_secret_in_a_jwks_is_none(server: Issuer, start: Start) -> None:
    key = SigningKey("one")
    shared = {"kty": "oct", "kid": "shared", "alg": "HS256", "k": encode(SECRET.encode()).decode()}
    server.publish(shared, key)
    checks = await start()
    assert await checks.kind(key.token()) is Identity
    assert await checks.kind(sign({"alg": "HS256", "kid": "shared"}, GOOD)) is TokenInvalid
    assert await checks.kind(sign({"alg": "HS256"}, GOOD)) is TokenInvalid
    assert await checks.kind(sign({"alg": "HS256", "kid": "one"}, GOOD, json.dumps(key.jwk()))) is TokenInvalid


async def test_settings_narrow_the_algorithms(server: Issuer) -> None:
    key = SigningKey("one")
    server.publish(key)
    verifier = token_verifier(clock(), jwks_url=server.url, algorithms=("RS256",))
    await verifier.start()
    await server.asked(1)
    with pytest.raises(TokenInvalid, match="algorithm"):
        verifier.verify_now(key.token())
    await verifier.stop()


# --- what is sent, and what is told ---------------------------------------------------------------------------


async def test_the_request_offers_no_compression(server: Issuer, start: Start) -> None:
    server.publish(SigningKey("one"))
    await start()
    await server.asked(1)
    assert "accept-encoding: identity" in server.heads[0].lower()


async def test_the_log_tells_failures_without_the_query(server: Issuer) -> None:
    server.answer = response(b"", "503 Service Unavailable")
    with structlog.testing.capture_logs() as logged:
        checks = Checks(server.url + "?key=hidden")
        await checks.verifier.start()
        assert await checks.kind(SigningKey("one").token()) is NoKeys
        await checks.verifier.stop()
    (entry,) = logged
    assert entry["event"] == "jwks_failed"
    assert "503" in entry["reason"]
    assert "hidden" not in str(entry)
