"""`notifier send` and `notifier listen` against a real server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.cli.command import NOTIFIER, environment, notifier
from tests.harness import Server, publish


def access(server: Server, client_id: str = "") -> dict[str, str]:
    variables = {"NOTIFIER_URL": server.url, "NOTIFIER_API_KEY": server.key}
    return variables | ({"NOTIFIER_TOKEN": server.token(client_id)} if client_id else {})


class Listener:
    """`notifier listen --json` in the background."""

    def __init__(self, server: Server, client_id: str, *arguments: str, **variables: str) -> None:
        self._process = subprocess.Popen(
            [NOTIFIER, "listen", client_id, "--json", *arguments],
            env=environment(**({"NOTIFIER_URL": server.url, "NOTIFIER_JWT_SECRET": server.jwt_secret} | variables)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=server.directory,
        )

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def until(self, words: str) -> str:
        """Read its notes until one holds these words."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if words in line:
                return line
        raise AssertionError(f"it ended without saying {words!r}")

    def next(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close_output(self) -> None:
        """What `| head` does when it has seen enough."""
        assert self._process.stdout is not None
        self._process.stdout.close()

    def ended(self, *, interrupt: bool = False) -> tuple[int, str]:
        if interrupt:
            self._process.send_signal(2)
        assert self._process.stderr is not None
        err = self._process.stderr.read()
        return self._process.wait(30), err


def test_send_prints_the_answer_and_json_prints_it_whole(shared_server: Server, tmp_path: Path) -> None:
    plain = notifier("send", "send-1", "Backup done", cwd=tmp_path, **access(shared_server))
    assert (plain.code, plain.err) == (0, "")
    assert plain.out.startswith("queued id=")
    coded = notifier(
        "send", "send-1", "{}", "--id", "i", "--ttl", "1h", "--json", cwd=tmp_path, **access(shared_server)
    )
    assert coded.json["id"] == "i"
    assert {"seq", "expires_at", "accepted_at", "status", "connections"} <= set(coded.json)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("Backup done", "Backup done"),
        ("42", "42"),
        ("", ""),
        ("null", "null"),
        ('{"n": [1, 2.50]}', {"n": [1, 2.5]}),
        (' [1, "ä"]', [1, "ä"]),
        ('"quoted"', "quoted"),
        ("--", "--"),
    ],
)
def test_what_looks_like_json_is_json_and_the_rest_is_text(
    text: str, data: object, shared_server: Server, tmp_path: Path
) -> None:
    client_id = f"form-{abs(hash(text))}"
    assert notifier("send", client_id, "--json", "--", text, cwd=tmp_path, **access(shared_server)).code == 0
    got = notifier("listen", client_id, "--once", "--json", cwd=tmp_path, **access(shared_server, client_id))
    assert got.json["data"] == data


def test_a_refusal_is_one_line_with_code_field_and_mend_and_json_has_the_problem(
    shared_server: Server, tmp_path: Path
) -> None:
    wrong = ("send", "alice", "hi", "--event", "error")
    plain = notifier(*wrong, cwd=tmp_path, **access(shared_server))
    assert (plain.code, plain.out) == (1, "")
    assert plain.err.startswith("notifier: refused (invalid): ")
    assert "event: " in plain.err
    assert plain.err.count("\n") == 1
    coded = notifier(*wrong, "--json", cwd=tmp_path, **access(shared_server))
    assert coded.code == 1
    assert coded.json["code"] == "invalid"


def test_a_wrong_key_fails(shared_server: Server, tmp_path: Path) -> None:
    result = notifier("send", "alice", "hi", "--api-key", "wrong", cwd=tmp_path, **access(shared_server))
    assert result.code == 1
    assert "(unauthorized)" in result.err


def test_nobody_there_is_69(tmp_path: Path, make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.kill()
    sent = notifier("send", "alice", "hi", cwd=tmp_path, **access(server))
    assert sent.code == 69
    assert server.url in sent.err
    listened = notifier("listen", "alice", cwd=tmp_path, **access(server, "alice"))
    assert listened.code == 69
    assert server.url in listened.err


def test_wait_says_who_acknowledged(shared_server: Server, tmp_path: Path) -> None:
    with Listener(shared_server, "waited") as listener:
        listener.until("connected as waited")
        sent = notifier("send", "waited", "hi", "--wait", "20", cwd=tmp_path, **access(shared_server))
        assert sent.out.startswith("delivered ")
        assert "acked_by=client" in sent.out


def test_listen_survives_restarts_and_prints_each_once(make_server: Callable[..., Server]) -> None:
    server = make_server()
    with Listener(server, "alice") as listener:
        listener.until("connected as alice, 0 waiting")
        publish(server, client_id="alice", data=1)
        assert listener.next()["data"] == 1
        server.kill()
        listener.until("connection lost (1006)")
        server.start()
        publish(server, client_id="alice", data=2)
        listener.until("connected as alice")
        assert listener.next()["data"] == 2
        assert server.terminate() == 0
        listener.until("connection lost (1012 draining)")
        server.start()
        listener.until("connected as alice")
        publish(server, client_id="alice", data=3)
        assert listener.next()["data"] == 3
        code, _ = listener.ended(interrupt=True)
        assert code == 0


def test_a_fixed_token_that_ends_ends_listen_and_says_so(shared_server: Server, tmp_path: Path) -> None:
    expired = jwt.encode({"sub": "alice", "exp": 1}, shared_server.jwt_secret, algorithm="HS256")
    result = notifier("listen", "alice", "--url", shared_server.url, "--token", expired, cwd=tmp_path)
    assert result.code == 1
    assert "4401" in result.err
    assert "fetch a new one" in result.err


def test_a_token_for_somebody_else_is_refused_before_anything_is_printed(shared_server: Server, tmp_path: Path) -> None:
    publish(shared_server, client_id="mallory", data="private")
    token = shared_server.token("mallory")
    result = notifier("listen", "alice", "--url", shared_server.url, "--token", token, cwd=tmp_path)
    assert (result.code, result.out) == (1, "")
    assert "'mallory'" in result.err


def test_listen_prints_for_people_what_cannot_steer_their_terminal(shared_server: Server, tmp_path: Path) -> None:
    publish(shared_server, client_id="shown", data={"text": "\x1b[2J\x9b31m"}, event="a.b")
    got = notifier("listen", "shown", "--once", cwd=tmp_path, **access(shared_server, "shown"))
    assert got.out.rstrip("\n").endswith('  a.b  {"text":"\\u001b[2J\\u009b31m"}')
    assert got.out[2] == ":"


def test_a_reader_that_goes_away_leaves_the_rest_unacknowledged(shared_server: Server, tmp_path: Path) -> None:
    with Listener(shared_server, "piped") as listener:
        listener.until("connected as piped")
        publish(shared_server, client_id="piped", data=0)
        assert listener.next()["data"] == 0
        listener.close_output()
        publish(shared_server, client_id="piped", data=1)
        code, err = listener.ended()
        assert code == 1
        assert "Traceback" not in err
    rest = notifier("listen", "piped", "--once", "--json", cwd=tmp_path, **access(shared_server, "piped"))
    assert rest.json["data"] == 1
