"""`notifier dev`: what it prints can be pasted and works, and it keeps its things to itself."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import notifier
from tests.cli.development import Development


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Development]:
    # A space in the path, as in many home directories.
    with Development(tmp_path_factory.mktemp("a clone") / "notifier") as running:
        yield running


def test_the_lines_it_prints_deliver_a_first_notification(dev: Development) -> None:
    (listen,) = dev.lines(" listen alice")
    (curl,) = dev.lines("curl")
    (send,) = dev.lines(" send alice")
    with dev.paste_and_leave(listen) as listener:
        assert listener.stdout is not None
        assert listener.stderr is not None
        assert "connected as alice" in listener.stderr.readline()
        posted = dev.paste(curl)
        assert posted.returncode == 0
        answer = json.loads(posted.stdout)
        assert (answer["client_id"], answer["status"]) == ("alice", "sent")
        assert '{"text":"Hello"}' in listener.stdout.readline()
        sent = dev.paste(send)
        assert (sent.returncode, sent.stderr) == (0, "")
        assert sent.stdout.startswith("sent id=")
        assert '"Hello"' in listener.stdout.readline()
        listener.send_signal(2)
        assert listener.wait(30) == 0


def test_what_was_sent_before_anybody_listened_is_still_there(dev: Development) -> None:
    queued = notifier("send", "bob", '{"n": 1.10}', "--event", "e", "--id", "x1", "--json", cwd=dev.directory)
    assert (queued.json["status"], queued.json["id"]) == ("queued", "x1")
    again = notifier("send", "bob", '{"n": 1.10}', "--event", "e", "--id", "x1", cwd=dev.directory)
    assert again.out.startswith("queued id=x1 ")
    assert "already sent" in again.out
    got = notifier("listen", "bob", "--once", "--json", cwd=dev.directory)
    assert got.code == 0
    frame = got.json
    assert (frame["id"], frame["event"], frame["data"]) == ("x1", "e", {"n": 1.1})
    # The acknowledgement was confirmed before it left: the next one waits for what is new.
    notifier("send", "bob", "new", cwd=dev.directory)
    assert notifier("listen", "bob", "--once", "--json", cwd=dev.directory).json["data"] == "new"


def test_the_commands_find_it_from_below_its_directory(dev: Development) -> None:
    below = dev.directory / "some" / "where"
    below.mkdir(parents=True)
    assert notifier("send", "carol", "hi", cwd=below).code == 0
    assert notifier("listen", "carol", "--once", cwd=below).out.endswith('"hi"\n')


def test_the_printed_token_and_key_work_with_options_and_environment_as_well(dev: Development, tmp_path: Path) -> None:
    key, token = dev.value("API key"), dev.value("Token for alice")
    assert notifier("send", "alice", "o", "--url", dev.url, "--api-key", key, cwd=tmp_path).code == 0
    listened = notifier("listen", "alice", "--once", "--url", dev.url, "--token", token, cwd=tmp_path)
    assert listened.out.endswith('"o"\n')
    variables = {"NOTIFIER_URL": dev.url, "NOTIFIER_API_KEY": key, "NOTIFIER_TOKEN": token}
    assert notifier("send", "alice", "e", cwd=tmp_path, **variables).code == 0
    assert notifier("listen", "alice", "--once", cwd=tmp_path, **variables).out.endswith('"e"\n')


def test_its_key_is_not_sent_to_another_server(dev: Development) -> None:
    result = notifier("send", "alice", "hi", "--url", "http://127.0.0.1:1", cwd=dev.directory)
    assert result.code == 2
    assert "--api-key" in result.err


def test_everything_it_keeps_is_private(dev: Development) -> None:
    directory = dev.directory / ".notifier"
    assert directory.stat().st_mode & 0o777 == 0o700
    files = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert {"secrets.json", "run.json", "notifier.db", ".gitignore"} <= set(files)
    assert set(files.values()) == {0o600}
    git = subprocess.run(["git", "init", "-q", str(dev.directory)], check=True, capture_output=True)
    git = subprocess.run(
        ["git", "-C", str(dev.directory), "status", "--short", "-uall"], check=True, capture_output=True, text=True
    )
    assert ".notifier" not in git.stdout


def test_secrets_are_not_in_the_log(dev: Development) -> None:
    kept = json.loads((dev.directory / ".notifier" / "secrets.json").read_text())
    for secret in (*kept.values(), dev.value("Token for alice")):
        assert secret not in dev.log


def test_a_second_one_in_the_same_directory_points_at_the_first(dev: Development) -> None:
    result = notifier("dev", cwd=dev.directory)
    assert result.code == 1
    assert dev.url in result.err
    assert "already runs here" in result.err


def test_a_taken_port_is_explained_and_the_proposed_command_works(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = notifier("dev", "--port", str(port), cwd=tmp_path)
        assert result.code == 1
        assert f"port {port} is taken by another program" in result.err
        proposed = int(result.err.split("--port ")[1])
        with Development(tmp_path, port=proposed) as running:
            assert notifier("send", "alice", "hi", cwd=tmp_path).code == 0
            assert running.stop() == 0


def test_it_survives_kill_9_with_its_secrets_and_mail_and_forgets_where_it_ran(tmp_path: Path) -> None:
    with Development(tmp_path) as running:
        key = running.value("API key")
        assert notifier("send", "alice", "kept", cwd=tmp_path).code == 0
        running.kill()
        gone = notifier("send", "alice", "hi", cwd=tmp_path)
        assert gone.code == 69
        assert "start 'notifier dev'" in gone.err
        assert notifier("token", "alice", cwd=tmp_path).code == 0
        running.start()
        assert running.value("API key") == key
        assert notifier("listen", "alice", "--once", cwd=tmp_path).out.endswith('"kept"\n')
        assert running.stop() == 0
        assert not (tmp_path / ".notifier" / "run.json").exists()


def test_it_uses_its_own_secrets_and_says_what_it_ignores(tmp_path: Path) -> None:
    foreign = {"NOTIFIER_JWT_ISSUER": "https://issuer.example", "NOTIFIER_API_KEYS": "x:0123456789abcdef01234567"}
    with Development(tmp_path, **foreign) as running:
        assert "ignores NOTIFIER_API_KEYS, NOTIFIER_JWT_ISSUER" in running.log
        assert notifier("send", "alice", "hi", cwd=tmp_path, **foreign).code == 0
        assert notifier("listen", "alice", "--once", cwd=tmp_path, **foreign).code == 0


def test_a_wrong_setting_stops_it_as_it_stops_serve(tmp_path: Path) -> None:
    result = notifier("dev", cwd=tmp_path, NOTIFIER_MAX_INFLIGHT="many")
    assert result.code == 78
    assert "NOTIFIER_MAX_INFLIGHT" in result.err


def test_a_directory_that_cannot_be_written_is_explained() -> None:
    result = notifier("dev", cwd=Path("/proc"))  # where not even root can make a directory
    assert result.code == 78
    assert "run dev in a directory that you may write to" in result.err
