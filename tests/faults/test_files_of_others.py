"""A database that is not ours, broken or held, on a real server: the exit code says which, and the file stays as is."""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.door.health import delivers
from tests.harness import Client, Server, publish
from tests.harness.server import StartError


def filled(server: Server, count: int = 50) -> list[int]:
    return [publish(server, client_id="alice", data={"n": n, "x": "y" * 400}).body["seq"] for n in range(count)]


def remove(server: Server, *suffixes: str) -> None:
    for suffix in suffixes:
        Path(f"{server.directory / 'notifier.db'}{suffix}").unlink()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version=99")
    file.close()


def another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE mail (seq)")
    file.close()


def alike(path: Path) -> None:
    """Another program's, with tables of the same names."""
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA application_id=7")
    file.close()


BROKEN: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("this is no database\n" * 100),
    "noise behind our header": lambda path: path.write_bytes(path.read_bytes()[:100] + b"\x5a" * 50_000),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:20_000]),
    "truncated within the header": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "a page of zeros": lambda path: path.write_bytes(path.read_bytes()[:4096] + bytes(4096) + path.read_bytes()[8192:]),
    "a page of noise": lambda path: path.write_bytes(
        path.read_bytes()[:4096] + b"\xff" * 4096 + path.read_bytes()[8192:]
    ),
    "newer": newer,
    "another program's": another_program,
    "another program's, alike": alike,
}


@pytest.mark.parametrize("breaking", BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_used_ends_the_start_with_78_and_stays_as_it_is(
    server: Server, breaking: Callable[[Path], object]
) -> None:
    filled(server)
    assert server.terminate() == 0
    path = server.directory / "notifier.db"
    whole = path.read_bytes()
    breaking(path)
    before = path.read_bytes()
    with pytest.raises(StartError) as refusal:
        server.start()
    assert refusal.value.status == 78
    assert path.read_bytes() == before
    assert not [beside.name for beside in path.parent.glob("notifier.db-*") if beside.name != "notifier.db-lock"]
    path.write_bytes(whole)
    delivers(server.start())
    assert "Traceback" not in server.log


def test_truncated_beside_a_log_it_is_not_touched_either(server: Server) -> None:
    """After a crash the log stands beside it; opening must not copy the log into the broken file."""
    filled(server)
    assert server.terminate() == 0
    server.start()
    filled(server)
    server.kill()
    path = server.directory / "notifier.db"
    path.write_bytes(path.read_bytes()[: 4096 * 3])
    before = path.read_bytes()
    with pytest.raises(StartError) as refusal:
        server.start()
    assert refusal.value.status == 78
    assert path.read_bytes() == before


def refused_start(server: Server) -> tuple[int | None, float]:
    """Exit status and seconds of a start that must fail."""
    began = time.monotonic()
    with pytest.raises(StartError) as refusal:
        server.start()
    return refusal.value.status, time.monotonic() - began


def test_a_database_that_another_process_holds(make_server: Callable[..., Server]) -> None:
    """At the start: exit 69, after the 10 s in which a rolling update's last process may still drain. While it runs:
    publishes are 503, and go on by themselves. The three at once, for each takes its time."""
    locked, exclusive, running = make_server(), make_server(), make_server()
    for server in (locked, exclusive):
        filled(server, 2)
        assert server.terminate() == 0
    foreign = sqlite3.connect(exclusive.directory / "notifier.db", isolation_level=None, check_same_thread=False)
    foreign.execute("PRAGMA locking_mode=EXCLUSIVE")
    foreign.execute("BEGIN EXCLUSIVE")
    writer = sqlite3.connect(running.directory / "notifier.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor() as pool, (locked.directory / "notifier.db-lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        first, second = pool.submit(refused_start, locked), pool.submit(refused_start, exclusive)
        refused = publish(running, client_id="alice", id="retried", data=1)
        assert (refused.status, refused.body["code"]) == (503, "engine_unavailable")
        assert running.get("/livez")[0] == 200
        (status, seconds), (exclusive_status, _) = first.result(), second.result()
    assert (status, exclusive_status) == (69, 69)
    assert seconds >= 10
    for held in (foreign, writer):
        held.execute("ROLLBACK")
        held.close()
    assert publish(running, client_id="alice", id="retried", data=1).status == 202
    for server in (locked.start(), exclusive.start(), running):
        delivers(server)


async def test_a_deleted_index_of_the_log_loses_nothing(server: Server) -> None:
    seqs = filled(server)
    server.kill()
    remove(server, "-shm")
    server.start()
    async with Client(server, "alice", ack="client") as alice:
        assert [frame["seq"] for frame in await alice.notifications(len(seqs))] == seqs


async def test_a_log_that_is_deleted_while_it_runs_loses_nothing_at_an_orderly_end(server: Server) -> None:
    seqs = filled(server)
    remove(server, "-wal")
    seqs += filled(server)
    assert server.terminate() == 0
    server.start()
    async with Client(server, "alice", ack="client") as alice:
        assert [frame["seq"] for frame in await alice.notifications(len(seqs))] == seqs


async def test_a_log_that_is_deleted_after_a_crash_takes_only_what_it_held(server: Server) -> None:
    """docs/operations.md says what is lost then. What was in the database is there, and new seqs do not go back."""
    kept = filled(server)
    assert server.terminate() == 0
    server.start()
    server.kill()
    server.start()
    assert "log_missing" not in server.log, "after an orderly end there need not be one, after a crash there is"
    lost = filled(server)
    server.kill()
    remove(server, "-wal", "-shm")
    server.start()
    assert "log_missing" in server.log, "nothing is lost in silence"
    async with Client(server, "alice", ack="client") as alice:
        assert [frame["seq"] for frame in await alice.notifications(len(kept))] == kept
        answer = publish(server, client_id="alice", data="next")
        assert answer.body["seq"] > lost[-1]
        assert (await alice.next("notification"))["seq"] == answer.body["seq"]


async def test_a_backup_made_while_it_runs_is_a_server_s_whole_state(server: Server, tmp_path: Path) -> None:
    seqs = filled(server)
    copy = tmp_path / "copy.db"
    with sqlite3.connect(server.directory / "notifier.db") as origin, sqlite3.connect(copy) as target:
        origin.backup(target)  # what any SQLite tool does; `notifier backup` has its own tests (tests/cli)
    origin.close()
    target.close()
    filled(server)
    server.kill()
    remove(server, "", "-wal", "-shm")
    shutil.copy(copy, server.directory / "notifier.db")
    server.start()
    async with Client(server, "alice", ack="client") as alice:
        assert [frame["seq"] for frame in await alice.notifications(len(seqs))] == seqs
