"""Nothing secret reaches any output, and nothing that a stranger sends can write a line of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.door.raw import Raw, handshake, masked, request
from tests.harness import Client, Server, apublish, arequest
from tests.harness import request as ask

PAYLOAD = "canary-payload-8d1f"
EVIL = 'x\n{"event":"forged","level":"critical"}\r\n\x1b[31mred\u2028'
FORGED = ["\n", "\r", "\x1b", "\u2028", "\x85"]


@pytest.mark.parametrize("level", ["debug", "info"])
@pytest.mark.parametrize("format", ["json", "console"])
async def test_planted_secrets_appear_nowhere(make_server: Callable[..., Server], level: str, format: str) -> None:
    """A whole life: good and bad publishes, good and refused connections, a failing request, a drain."""
    previous = "canary-previous-secret-" + "p" * 32
    server = make_server(log_level=level, log_format=format, query_token=True, jwt_secret_previous=previous)
    token, other = server.token("canary-alice"), server.token("canary-bob")
    query = f"/ws?access_token={token}&ack=client"
    secrets = [server.key, server.jwt_secret, previous, PAYLOAD, "wrong-canary-key", "canary-query"]
    for jwt in (token, other):
        secrets += jwt.split(".")[1:]  # the header is the same in all tokens
    async with Client(server, "canary-alice", ack="client", token=token) as alice:
        answer = await apublish(server, client_id="canary-alice", data={"text": PAYLOAD}, id="i", receipt=True)
        assert answer.status == 202
        await alice.next("notification")
        await alice.send({"type": "auth", "token": other})
        await alice.closed()
    with Raw(server) as client:
        client.ask(handshake(server, "", target=query))
    with Raw(server) as client:
        client.ask(handshake(server, "", target=query, Origin="https://evil.example"))
    with Raw(server) as client:
        client.ask(handshake(server, token[:-2] + "xx"))
    with Raw(server) as client:
        client.ask(handshake(server, "", Sec_WebSocket_Protocol=f"notifier.v1, bearer.{token}x"))
    with Raw(server) as client:
        client.upgrade(server, "canary-alice")
        client.send(masked(1, f'{{"type":"ack","seq":"{PAYLOAD}"}}'.encode()))
        client.closed()
    with Raw(server) as client:
        client.ask(request("POST", "/notify", {"X-API-Key": server.key}, f'{{"data": {PAYLOAD}'.encode()))
    with Raw(server) as client:
        client.ask(f"GET /{PAYLOAD} HTTP/1.1\r\nHost: a\r\nbad header {PAYLOAD}\r\n\r\n".encode())
    await arequest(server, "POST", "/notify", {"data": PAYLOAD, "what": PAYLOAD}, key="wrong-canary-key")
    await arequest(server, "GET", "/metrics?x=canary-query")
    await arequest(server, "GET", "/livez?x=canary-query")
    await arequest(server, "GET", f"/notifications/i?client_id={quote('canary-alice')}")
    await arequest(server, "POST", "/notify/canary-alice?id=i", PAYLOAD + " differs")
    await arequest(server, "POST", "/clients/canary-alice/revoke")
    await arequest(server, "DELETE", "/clients/canary-alice")
    metrics = (await arequest(server, "GET", "/metrics")).body
    assert server.terminate() == 0
    for text in (server.log, metrics):
        for secret in secrets:
            assert secret not in text


def test_what_a_stranger_sends_writes_no_line(make_server: Callable[..., Server], tmp_path: Path) -> None:
    """Every line of the log is one object of ours, whatever names, paths, headers and messages hold."""
    server = make_server(log_level="debug", trusted_proxies="127.0.0.0/8")
    for text in (EVIL, *FORGED):
        for target in (f"/{quote(text)}", f"/ws?ack={quote(text)}", f"/notify/{quote(text)}"):
            ask(server, "GET", target)
            ask(server, "POST", target, text.encode())
        with Raw(server) as client:
            client.ask(handshake(server, "x", X_Forwarded_For="1.2.3.4%x'\"\t[31m, ::1%forged\x85"))
        with Raw(server) as client:
            client.upgrade(server, "injector")
            client.say({"type": text, "x": text})
            client.say({"type": "auth", "token": text})
            client.send(masked(8, (4000).to_bytes(2) + text.encode()[:100]))
        ask(server, "POST", "/notify", {"client_id": "a", "data": 1, text: text})
        ask(server, "POST", f"/clients/{quote(text)}/revoke")
        ask(server, "POST", f"/clients/{quote('é' + text)}x/revoke")
    ask(server, "POST", f"/clients/{quote('a b')}/revoke")
    assert server.terminate() == 0
    lines = server.log.removesuffix("\n").split("\n")
    assert len(lines) > 2
    for line in lines:
        entry = json.loads(line)
        assert entry["event"] != "forged"
        assert line.isprintable() or not any(bad in line for bad in FORGED)


def test_a_terminal_is_not_driven_either(make_server: Callable[..., Server]) -> None:
    server = make_server(log_level="debug", log_format="console", trusted_proxies="127.0.0.0/8")
    with Raw(server) as client:
        client.ask(handshake(server, "x", X_Forwarded_For="fe80::1%\x9b31m"))
    ask(server, "POST", "/clients/" + quote("a\u202eb") + "/revoke")
    assert server.terminate() == 0
    assert not any(bad in server.log for bad in ("\x9b", "\u202e", "\x1b]"))


def test_secrets_are_in_no_argument_and_no_environment_of_a_child(make_server: Callable[..., Server]) -> None:
    """What `ps` shows to every user of the machine."""
    server = make_server()
    for process in [server.pid, *children(server.pid)]:
        assert server.key.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
        assert server.jwt_secret.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_refused_configuration_does_not_tell_the_secret(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFIER_")} | {
        "NOTIFIER_JWT_SECRET": "weak-canary",
        "NOTIFIER_API_KEYS": "canary-name:canary-short",
    }
    done = subprocess.run(
        [str(Path(sys.executable).with_name("notifier")), "serve"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "canary" not in done.stdout + done.stderr
