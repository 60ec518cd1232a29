"""The parts of the command line that can be looked at by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from notifier.cli import devfiles, durations, invocation
from notifier.cli.output import CommandError, as_json, as_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604800), ("2w", 1209600), (" 5s ", 5)],
)
def test_durations(text: str, expected: int) -> None:
    assert durations.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "h", "1y", "-1", "1.5h", "1 h", "٣s", "9999999999", "1h30m"])
def test_what_is_no_duration_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write seconds or for example"):
        durations.seconds(text)


def test_json_and_text_cannot_steer_a_terminal() -> None:
    hostile = "\x1b[2J\x9b31m\x07\u202e"
    shown = as_json({"text": hostile})
    assert json.loads(shown) == {"text": hostile}
    assert not {"\x1b", "\x9b", "\x07"} & set(shown)
    assert as_text(hostile) == "\\u001b[2J\\u009b31m\\u0007\\u202e"


def test_dev_files_are_private_and_made_once(tmp_path: Path) -> None:
    directory = tmp_path / ".notifier"
    before = os.umask(0)
    try:
        first = devfiles.load_or_create(directory)
    finally:
        os.umask(before)
    assert devfiles.load_or_create(directory) == first
    assert devfiles.load(directory) == first
    assert len(first.jwt_secret) >= 64
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()} == {
        "secrets.json": 0o600,
        ".gitignore": 0o600,
    }
    assert (directory / ".gitignore").read_text() == "*\n"


def test_a_directory_that_others_may_read_is_closed(tmp_path: Path) -> None:
    directory = tmp_path / ".notifier"
    directory.mkdir(mode=0o755)
    devfiles.load_or_create(directory)
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "{", "[]", '{"jwt_secret": "x"}'])
def test_damaged_secrets_are_named_and_not_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text(text)
    with pytest.raises(CommandError, match="delete it"):
        devfiles.load_or_create(tmp_path)
    assert (tmp_path / "secrets.json").read_text() == text


def test_a_file_in_the_way_is_a_problem_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / ".notifier").write_text("")
    with pytest.raises(CommandError) as caught:
        devfiles.load_or_create(tmp_path / ".notifier")
    assert caught.value.code == 78


def test_the_nearest_directory_is_found_from_below(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    devfiles.load_or_create(tmp_path / ".notifier")
    assert devfiles.find(below) == tmp_path / ".notifier"
    devfiles.load_or_create(tmp_path / "a" / ".notifier")
    assert devfiles.find(below) == tmp_path / "a" / ".notifier"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_not_believed(tmp_path: Path) -> None:
    devfiles.load_or_create(tmp_path / ".notifier")
    os.chown(tmp_path / ".notifier", 12345, 12345)
    assert devfiles.find(tmp_path) != tmp_path / ".notifier"


def test_a_running_server_is_announced_found_and_withdrawn(tmp_path: Path) -> None:
    announcement = devfiles.announce(tmp_path, "http://127.0.0.1:8000")
    assert devfiles.running(tmp_path) == devfiles.Running("http://127.0.0.1:8000", os.getpid())
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600
    devfiles.withdraw(tmp_path, announcement)
    assert devfiles.running(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_died_is_not_found_though_its_process_id_is_in_use_again(tmp_path: Path) -> None:
    devfiles.announce(tmp_path, "http://127.0.0.1:8000").close()
    assert json.loads((tmp_path / "run.json").read_text())["pid"] == os.getpid()
    assert devfiles.running(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"url": "x"}'])
def test_a_damaged_announcement_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    assert devfiles.running(tmp_path) is None


@pytest.mark.parametrize(
    ("started", "directory", "path", "expected"),
    [
        (".venv/bin/notifier", "{tmp}", "", ".venv/bin/notifier"),
        ("{tmp}/.venv/bin/notifier", "{tmp}", "", ".venv/bin/notifier"),
        ("{tmp}/.venv/bin/notifier", "{tmp}/else where", "", "{tmp}/.venv/bin/notifier"),
        ("{tmp}/.venv/bin/notifier", "{tmp}/else where", "{tmp}/.venv/bin", "notifier"),
        ("notifier", "{tmp}/.venv/bin", "", "./notifier"),
        ("{tmp}/x/__main__.py", "{tmp}", "", f"{sys.executable} -m notifier.cli"),
    ],
)
def test_the_command_is_shown_as_it_can_be_pasted(
    started: str, directory: str, path: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / ".venv" / "bin" / "notifier"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    (tmp_path / "else where").mkdir()
    monkeypatch.chdir(directory.format(tmp=tmp_path))
    monkeypatch.setenv("PATH", path.format(tmp=tmp_path) or "/nonexistent")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.setattr(sys, "argv", [started.format(tmp=tmp_path)])
    assert invocation.command() == expected.format(tmp=tmp_path)


def test_in_an_activated_environment_the_path_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "venv" / "bin" / "notifier"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "venv"))
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert invocation.command() == str(program)


def test_from_anywhere_means_with_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "it's here"
    odd.mkdir()
    monkeypatch.chdir(odd)
    done = subprocess.run(
        ["sh", "-c", invocation.command_from_anywhere().rsplit(" && ", 1)[0] + " && pwd"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert done.stdout == f"{odd}\n"
