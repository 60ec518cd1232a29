"""`notifier backup`: a whole copy of a database in use, and never anything instead of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.cli.command import notifier
from tests.cli.development import Development
from tests.harness import Client, Server, publish, request


def backup(server: Server, file: Path | str, *options: str, **variables: str) -> tuple[int, str, str]:
    engine = {"NOTIFIER_ENGINE": server.environ["NOTIFIER_ENGINE"]} | variables
    return notifier("backup", str(file), *options, cwd=server.directory, **engine)


def listing(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_a_copy_of_a_server_that_is_busy_holds_all_that_was_answered_before(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = make_server(mailbox_limit=100_000)
    before = [publish(server, client_id="alice", id=f"before-{n}", data={"n": n}).body["seq"] for n in range(20)]
    stop, sent = threading.Event(), []

    def keep_publishing() -> None:
        while not stop.is_set():
            items = [{"client_id": "bob", "data": "x" * 1000} for _ in range(100)]
            sent.append(request(server, "POST", "/batch", items).status)

    publisher = threading.Thread(target=keep_publishing)
    publisher.start()
    try:
        copies = [tmp_path / f"copy-{n}.db" for n in range(3)]
        for copy in copies:
            code, out, err = backup(server, copy)
            assert (code, err) == (0, ""), err
            assert str(copy) in out
    finally:
        stop.set()
        publisher.join()
    assert set(sent) == {200}
    assert listing(tmp_path) == ["copy-0.db", "copy-1.db", "copy-2.db", "server0"]

    restored = make_server(engine=f"sqlite:///{copies[-1]}")
    assert "log_missing" not in restored.log, "a copy is whole without one"
    async with Client(restored, "alice", ack="client") as alice:
        got = await alice.notifications(20)
        assert [(frame["seq"], frame["data"]) for frame in got] == [(seq, {"n": n}) for n, seq in enumerate(before)]
    again = publish(restored, client_id="alice", id="before-7", data={"n": 7})
    assert (again.status, again.body["seq"], again.body["duplicate"]) == (200, before[7], True)
    assert publish(restored, client_id="alice", data=1).body["seq"] > before[-1]


def test_the_copy_is_for_its_owner_only_and_tells_what_it_holds(server: Server, tmp_path: Path) -> None:
    publish(server, client_id="alice", data=1)
    copy = tmp_path / "copy.db"
    result = notifier(
        "backup", str(copy), "--json", cwd=tmp_path, NOTIFIER_ENGINE=f"sqlite:///{server.directory}/notifier.db"
    )
    assert result.json == {
        "from": f"{server.directory}/notifier.db",
        "to": str(copy),
        "bytes": copy.stat().st_size,
        "pending": 1,
    }
    assert copy.stat().st_mode & 0o777 == 0o600


def test_a_file_that_exists_is_never_written_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("copy.db", "dangling"):
        code, out, err = backup(server, tmp_path / name)
        assert (code, out) == (1, "")
        assert "exists" in err
    assert (tmp_path / "copy.db").read_text() == "precious"
    assert listing(tmp_path) == ["copy.db", "dangling", "server"]


def test_a_server_that_was_killed_leaves_a_database_to_copy_and_it_stays_as_it_is(
    server: Server, tmp_path: Path
) -> None:
    publish(server, client_id="alice", data="in the log only")
    server.kill()
    files = {name: (server.directory / name).read_bytes() for name in ("notifier.db", "notifier.db-wal")}
    code, out, _ = backup(server, tmp_path / "copy.db")
    assert (code, "1 pending notification" in out) == (0, True)
    assert {name: (server.directory / name).read_bytes() for name in files} == files


def test_the_database_of_dev_is_found_from_a_directory_below(tmp_path: Path) -> None:
    with Development(tmp_path) as dev:
        below = tmp_path / "src"
        below.mkdir()
        assert notifier("send", "alice", "hello", cwd=below).code == 0
        done = notifier("backup", "copy.db", cwd=below)
        assert (done.code, "1 pending notification" in done.out) == (0, True), done.err
        assert dev.process is not None


def test_two_databases_here_are_not_guessed_between(tmp_path: Path) -> None:
    (tmp_path / ".notifier").mkdir()
    for path in (tmp_path / ".notifier" / "notifier.db", tmp_path / "notifier.db"):
        path.write_bytes(b"")
    done = notifier("backup", "copy.db", cwd=tmp_path)
    assert (done.code, "NOTIFIER_ENGINE=sqlite:///" in done.err) == (2, True)
    assert notifier("backup", cwd=tmp_path).code == 2


def other_program(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE t (x)")
    connection.close()


@pytest.mark.parametrize(
    ("engine", "prepare", "code", "says"),
    [
        ("", lambda path: None, 69, "no database here"),
        ("sqlite:///notifier.db", lambda path: None, 69, "there is no database at"),
        ("redis://localhost", lambda path: None, 78, "Redis"),
        ("sqlite:///notifier.db", lambda path: path.write_text("a letter to my aunt" * 20), 78, "not a database"),
        ("sqlite:///notifier.db", other_program, 78, "another program"),
        ("sqlite:////nowhere/notifier.db", lambda path: None, 78, "does not exist"),
    ],
)
def test_what_is_no_database_of_ours_is_not_copied(
    engine: str, prepare: Callable[[Path], object], code: int, says: str, tmp_path: Path
) -> None:
    prepare(tmp_path / "notifier.db")
    before = listing(tmp_path)
    done = notifier("backup", "copy.db", cwd=tmp_path, NOTIFIER_ENGINE=engine)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert listing(tmp_path) == before


def test_where_nothing_can_be_written_it_fails_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    code, _, err = backup(server, tmp_path / "missing" / "copy.db")
    assert (code, "No such file or directory" in err) == (1, True)


def test_a_damaged_database_is_not_copied(server: Server, tmp_path: Path) -> None:
    for n in range(200):
        publish(server, client_id="alice", data="x" * 100 + str(n))
    assert server.terminate() == 0
    path = server.directory / "notifier.db"
    damaged = bytearray(path.read_bytes())
    damaged[4096 * 3 : 4096 * 12] = b"\xff" * (4096 * 9)
    path.write_bytes(damaged)
    code, _, err = backup(server, tmp_path / "copy.db")
    assert (code, "damaged" in err) == (78, True), err
    assert listing(tmp_path) == ["server"]
