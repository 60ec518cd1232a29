"""What cannot be sent, reached or printed: one line and the right exit code, never a stack trace or a secret."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import NOTIFIER, environment, notifier
from tests.harness import Server

KEY = "k" * 24
HERE = ("--url", "http://127.0.0.1:1")


def ran(arguments: list[bytes | str], cwd: Path, **variables: str) -> tuple[int, str, str]:
    """A command with arguments that need not be text."""
    done = subprocess.run(
        [NOTIFIER, *arguments], env=environment(**variables), cwd=cwd, capture_output=True, check=False
    )
    err = done.stderr.decode()
    assert "Traceback" not in err
    return done.returncode, done.stdout.decode(), err


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "alice", b"\xff\xfe"],
        ["send", b"\xff", "hi"],
        ["send", "alice", b'{"a":"\xff"}'],
        ["send", "alice", "hi", "--id", b"\xff"],
        ["send", "alice", "hi", "--event", b"\xff"],
        ["send", "alice", "hi", "--collapse-key", b"\xff"],
        ["send", b"\xff", "-"],
        ["listen", b"\xff"],
        ["listen", ""],
        ["listen", "a\nb"],
        ["token", b"\xff"],
    ],
)
def test_what_is_no_text_or_no_client_id_is_a_wrong_usage(arguments: list[bytes | str], tmp_path: Path) -> None:
    code, out, _ = ran([*arguments, *(HERE if arguments[0] != "token" else ())], tmp_path, NOTIFIER_API_KEY=KEY)
    assert (code, out) == (2, "")


@pytest.mark.parametrize("secret", ["canary\nx", "canary-é", " canary", b"canary\xff", "canary\r"])
@pytest.mark.parametrize(
    ("command", "option", "words"),
    [(["send", "alice", "hi"], "--api-key", "the API key"), (["listen", "alice"], "--token", "the token")],
)
def test_a_key_or_token_that_cannot_be_one_is_a_wrong_usage_and_not_shown(
    command: list[str], option: str, words: str, secret: str | bytes, tmp_path: Path
) -> None:
    code, out, err = ran([*command, option, secret, *HERE], tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"notifier: {words} ({option} or NOTIFIER_")
    assert "canary" not in err


@pytest.mark.parametrize(
    "url", ["http://a..b", "http://exa mple", "http://" + "a" * 64, "http://a\tb", "http://☃☃.example:x"]
)
@pytest.mark.parametrize("command", [["send", "alice", "hi"], ["listen", "alice", "--token", "t"]])
def test_what_is_no_url_is_a_wrong_usage(command: list[str], url: str, tmp_path: Path) -> None:
    code, out, err = ran([*command, "--url", url], tmp_path, NOTIFIER_API_KEY=KEY)
    assert (code, out) == (2, "")
    assert "is not a URL" in err


@pytest.mark.parametrize(
    ("redirection", "words"),
    [(">/dev/full", "cannot be written: No space left on device"), (">&-", "is closed")],
)
@pytest.mark.parametrize("command", ["send alice hi", "version", "keys new billing"])
def test_an_output_that_takes_nothing_is_a_failure(
    redirection: str, words: str, command: str, shared_server: Server, tmp_path: Path
) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{NOTIFIER} {command} {redirection}"],
        env=environment(NOTIFIER_URL=shared_server.url, NOTIFIER_API_KEY=shared_server.key),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, f"notifier: standard output {words}\n")


def test_notes_that_nobody_takes_change_no_exit_code(tmp_path: Path) -> None:
    for redirection in ("2>&-", "2>/dev/full"):
        command = f"{NOTIFIER} send alice hi {redirection}"
        assert subprocess.run(["bash", "-c", command], env=environment(), cwd=tmp_path, check=False).returncode == 69


def test_a_name_that_is_nobodys_is_unreachable(tmp_path: Path) -> None:
    assert notifier("send", "alice", "hi", "--url", "http://bogus.invalid", "--api-key", KEY, cwd=tmp_path).code == 69
    assert os.listdir(tmp_path) == []
