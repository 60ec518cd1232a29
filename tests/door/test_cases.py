"""Hostile cases, one line of data each (cases/*.toml), against a real server over raw sockets.

Every case names the sentence of docs/protocol.md that it defends. Whatever is sent: no answer is 500 or above, the log
holds no traceback, and the server delivers afterwards.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.door.health import delivers, unharmed
from tests.door.raw import CLOSE, PING, PONG, TEXT, Answer, Raw, handshake, masked, request
from tests.harness import Server

HERE = Path(__file__).parent
PROTOCOL = " ".join((HERE.parents[1] / "docs" / "protocol.md").read_text().split())
ISSUER, AUDIENCE = "https://issuer.example", "notifier"
METRICS_KEY = "a-key-that-may-read-metrics-only"


def cases(name: str) -> list[Any]:
    """One pytest parameter for each case of a file."""
    data = tomllib.loads((HERE / "cases" / f"{name}.toml").read_text())
    found = []
    for group in data.get("group", ()):
        shared = {key: value for key, value in group.items() if key != "cases"}
        found += [shared | (case if isinstance(case, dict) else {"input": case}) for case in group["cases"]]
    found += data.get("case", [])
    parameters = []
    for number, case in enumerate(found):
        text = case.get("name") or case.get("body") or case.get("hex") or str(case.get("input"))
        label = re.sub(r"[^ -~]|[\[\]]", "", f"{number} {text}")[:60]
        parameters.append(pytest.param(case, id=label))
    return parameters


@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "cases").glob("*.toml")))
def test_every_case_names_a_sentence_of_the_protocol(name: str) -> None:
    for parameter in cases(name):
        sentence = " ".join(parameter.values[0]["defends"].split())
        assert sentence in PROTOCOL, f"{parameter.id}: docs/protocol.md does not say {sentence!r}"


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that gets all of it."""
    server = Server(tmp_path_factory.mktemp("victim"), metrics_auth=False)
    server.set(api_keys=f"{server.environ['NOTIFIER_API_KEYS']},metrics:{METRICS_KEY}:metrics")
    with server:
        yield server
        unharmed(server)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has an issuer and an audience configured."""
    with Server(tmp_path_factory.mktemp("strict"), jwt_issuer=ISSUER, jwt_audience=AUDIENCE) as server:
        yield server


def fill(text: str) -> str:
    """Long things by their names: DEEPn, DIGITSn, Xn, IDSn, ITEMSn."""
    text = re.sub(r"DEEP(\d+)", lambda m: "[" * int(m[1]) + "]" * int(m[1]), text)
    text = re.sub(r"DIGITS(\d+)", lambda m: "9" * int(m[1]), text)
    text = re.sub(r"LONG(\d+)", lambda m: "x" * int(m[1]), text)
    text = re.sub(r"\bX(\d+)", lambda m: "x" * int(m[1]), text)
    text = re.sub(r"IDS(\d+)", lambda m: json.dumps([f"c{n}" for n in range(int(m[1]))]), text)
    item = '{"client_id":"a","data":1}'
    text = re.sub(r"ITEMS(\d+)", lambda m: "[" + ",".join([item] * int(m[1])) + "]", text)
    return text.replace("BOM", "\ufeff").replace("NUL", "\x00")


def harmless(answer: Answer | None) -> Answer:
    """An answer that shows nothing of our inside."""
    assert answer is not None, "ended without an answer"
    assert answer.status < 500, answer
    for secret in (b"Traceback", b".py", b"/notifier", b"site-packages"):
        assert secret not in answer.body, answer.body
    if answer.status >= 400 and answer.body:
        assert answer.problem["status"] == answer.status
    return answer


# -- tokens -----------------------------------------------------------------------------------------------------------


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(server: Server, case: dict[str, Any]) -> str:
    """The token that a case describes."""
    now = int(time.time())
    good: dict[str, Any] = {"sub": "alice", "iat": now, "exp": now + 3600}

    def laid_over(base: dict[str, Any], changes: dict[str, Any]) -> str:
        merged = {key: value for key, value in (base | changes).items() if value != "absent"}
        for key, value in merged.items():
            if key in ("exp", "nbf", "iat") and isinstance(value, str):
                merged[key] = now + int(value)
        return json.dumps(merged)

    def written(text: str) -> str:
        text = text.replace("NOW00", str(now + 3600)).replace("NOW", str(now))
        text = text.replace("DEEP", "[" * 1000 + "]" * 1000).replace("DIGITS", "9" * 400)
        text = text.replace("A201", "a" * 201).replace("E101", "é" * 101)
        return text.replace("G101", json.dumps([f"g{n}" for n in range(101)]))

    text = case.get("claims_text")
    claims = written(text) if text is not None else laid_over(good, case.get("claims", {}))
    text = case.get("header_text")
    header = written(text) if text is not None else laid_over({"alg": "HS256", "typ": "JWT"}, case.get("header", {}))
    parts = [encode(header.encode()), encode(claims.encode())]
    secret = {
        "other": b"another-secret-of-somebody-else!",
        "public": b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n",
        "empty": b"",
        "embedded": b"\0" * 32,
    }.get(case.get("sign", "ours"), server.jwt_secret.encode())
    signature = encode(hmac.digest(secret, ".".join(parts).encode(), "sha256"))
    if case.get("sign") == "none":
        signature = ""
    elif case.get("sign") == "broken":
        signature = ("A" if signature[0] != "A" else "B") + signature[1:]
    token = str(case.get("token", "HEAD.CLAIMS.SIGNATURE")).replace("GOOD", "HEAD.CLAIMS.SIGNATURE")
    names = {"HEAD": parts[0], "CLAIMS": parts[1], "SIGNATURE": signature}
    return re.sub("HEAD|CLAIMS|SIGNATURE", lambda m: names[m[0]], token)


def test_a_forged_token_without_a_flaw_is_taken(victim: Server, strict: Server) -> None:
    """Else every case below would pass for the wrong reason."""
    with Raw(victim).upgrade(victim, token=forge(victim, {})) as client:
        assert client.next("welcome")["client_id"] == "alice"
    good = {"claims": {"iss": ISSUER, "aud": ["x", AUDIENCE], "nbf": "+5", "iat": "+5"}, "header": {"typ": "at+jwt"}}
    with Raw(strict).upgrade(strict, token=forge(strict, good)) as client:
        assert client.next("welcome")["client_id"] == "alice"


@pytest.mark.parametrize("case", cases("jwt"))
def test_tokens_that_must_be_refused(victim: Server, strict: Server, case: dict[str, Any]) -> None:
    server = strict if case.get("strict") else victim
    token, code = forge(server, case), case.get("code", "token_invalid")
    with Raw(server) as client:
        answer = harmless(client.ask(handshake(server, token)))
        assert (answer.status, answer.problem["code"]) == (401, code)
    with Raw(server) as browser:
        protocols = f"notifier.v1, bearer.{token}"
        if re.fullmatch(r"[!-~]+", token) and not re.search(r'[(),/:;<=>?@\[\\\]{}"]', token):
            answer = harmless(browser.ask(handshake(server, "", Origin=server.url, Sec_WebSocket_Protocol=protocols)))
            assert answer.headers["sec-websocket-protocol"] == "notifier.v1"
            assert browser.closed() == (4401, code)
    if server is victim:
        with Raw(server).upgrade(server, "alice") as session:  # the same token, later: the session goes on
            session.next("welcome")
            session.say({"type": "auth", "token": token})
            assert session.next("error")["code"] == "token_invalid"
            session.say({"type": "ping"})
            session.next("pong")
    if server is victim:
        delivers(server)


# -- handshakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("handshakes"))
def test_handshakes(victim: Server, case: dict[str, Any]) -> None:
    stand_ins = {
        "TOKEN": victim.token("alice"),
        "OTHER": victim.token("bob"),
        "EXPIRED": victim.token("alice", ttl=-60),
        "HOST": f"127.0.0.1:{victim.port}",
        "KEY": victim.key,
    }

    def put(text: str) -> str:
        return re.sub("|".join(stand_ins), lambda m: stand_ins[m[0]], text)

    headers: dict[str, Any] = {
        "Host": "HOST",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    } | ({"Authorization": "Bearer TOKEN"} if case.get("auth", True) else {})
    lines = [f"{case.get('method', 'GET')} {put(case.get('target', '/ws'))} HTTP/1.1"]
    for name, value in (headers | case.get("headers", {})).items():
        values = value if isinstance(value, list) else [value]
        lines += [f"{name}: {put(text)}" for text in values if text]
    with Raw(victim) as client:
        answer = harmless(client.ask(("\r\n".join(lines) + "\r\n\r\n" + case.get("body", "")).encode()))
        expected = case["expect"]
        if isinstance(expected, list):
            assert answer.status == 101, answer
            assert [101, *client.closed()] == expected
            client.send(masked(CLOSE, expected[1].to_bytes(2)))
            assert client.ended()
        else:
            assert answer.status == expected, answer
            if expected == 101:
                assert "sec-websocket-extensions" not in answer.headers
                assert client.next("welcome")["client_id"] == "alice"
            elif case.get("method") != "HEAD" and "code" in case:
                assert answer.problem["code"] == case["code"]
        assert victim.key.encode() not in answer.body
    delivers(victim)


# -- frames and messages ----------------------------------------------------------------------------------------------


def from_hex(text: str) -> bytes:
    out = b""
    for word in text.replace("MASK", "00000000").split():
        digits, _, times = word.partition("x")
        out += bytes.fromhex(digits) * int(times or 1)
    return out


@pytest.mark.parametrize("case", cases("frames"))
def test_frames(victim: Server, case: dict[str, Any]) -> None:
    with Raw(victim).upgrade(victim, "frames") as client:
        client.next("welcome")
        client.send(from_hex(case["bytes"]))
        if case["expect"] == "open":
            client.say({"type": "ping"})
            client.next("pong")
        elif case["expect"] == "echo":
            frame = next(frame for frame in client.frames() if frame.opcode == CLOSE)
            assert frame.payload[:2] == (b"" if case["code"] == 1005 else case["code"].to_bytes(2))
            assert client.ended()
        else:
            code, _ = client.closed()
            assert code == case["expect"]
            client.send(masked(CLOSE, code.to_bytes(2)))
            assert client.ended()
    delivers(victim)


@pytest.mark.parametrize("case", cases("client_messages"))
def test_client_messages(victim: Server, case: dict[str, Any]) -> None:
    with Raw(victim).upgrade(victim, "messages") as client:
        client.next("welcome")
        client.send(masked(TEXT, fill(case["input"]).encode()))
        client.say({"type": "ping"})
        told: list[object] = []
        expected = {
            "ignored": ["pong"],
            "pong": ["pong", "pong"],
            "token_invalid": ["pong", "token_invalid"],  # a token may take longer to check than a ping to answer
            4400: ["bad_frame", (4400, "bad_frame")],
        }[case["expect"]]
        for frame in client.frames():
            if frame.opcode == TEXT:
                told.append(frame.json.get("code") or frame.json["type"])
                if len(told) == len(expected):
                    break
            elif frame.opcode == CLOSE:
                told.append(frame.close)
            elif frame.opcode == PING:
                client.send(masked(PONG, frame.payload))
        assert sorted(map(str, told)) == sorted(map(str, expected))
    delivers(victim)


# -- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("bodies"))
def test_bodies(victim: Server, case: dict[str, Any]) -> None:
    body = bytes.fromhex(case["hex"]) if "hex" in case else fill(case["body"]).encode()
    target = case.get("path", "/notify") + (f"?{case['query']}" if "query" in case else "")
    with Raw(victim) as client:
        answer = harmless(
            client.ask(request("POST", target, {"X-API-Key": victim.key} | case.get("headers", {}), body))
        )
        assert answer.status == case["expect"], answer
        if "code" in case:
            assert answer.problem["code"] == case["code"]
        if "field" in case:
            assert case["field"] in [error["field"] for error in answer.problem["errors"]]
    delivers(victim)


def test_what_was_accepted_is_deliverable(victim: Server) -> None:
    """No poison: a strict reader gets every notification that the cases above left behind."""
    with Raw(victim).upgrade(victim, "good") as client:
        for _ in range(client.next("welcome")["pending"]):
            client.next("notification")


@pytest.mark.parametrize("case", cases("requests"))
def test_requests(victim: Server, case: dict[str, Any]) -> None:
    stand_ins = {
        "METRICSKEY": METRICS_KEY,
        "HOST": f"127.0.0.1:{victim.port}",
        "KEY": victim.key,
        "TOKEN": victim.token("alice"),
    }
    head = re.sub(r"METRICSKEY|HOST|\bKEY|TOKEN", lambda m: stand_ins[m[0]], "\r\n".join(case["input"]) + "\r\n\r\n")
    with Raw(victim) as client:
        answer = harmless(client.ask(head.encode()))
        assert answer.status == case["expect"], answer
        if head.startswith("HEAD"):
            client.send(request("GET", "/livez"))  # nothing was sent behind the head
            assert harmless(client.answer()).status == 200
    delivers(victim)
