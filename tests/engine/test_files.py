"""The file of the embedded engine: not ours, damaged, newer, held by another, and records with flipped bits."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.engine import database, open_engine
from notifier.engine.checksums import checksum, digest
from notifier.errors import ConfigurationError, EngineUnavailable
from tests.engine.world import World

Make = Callable[..., World]


def contents(path: Path) -> dict[str, bytes]:
    """The database and what SQLite puts beside it, byte by byte; but the index of a log, which may be made anew."""
    files = [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-journal", "-shm")]
    found = {file.name: file.read_bytes() for file in files if file.exists()}
    if files[1].name in found:
        found.pop(files[3].name, None)
    return found


async def refused(world: World, error: type[Exception]) -> str:
    before = contents(world.path)
    with pytest.raises(error) as refusal:
        await world.start()
    assert contents(world.path) == before, "untouched"
    return str(refusal.value)


@pytest.mark.parametrize(
    "content", [b"hello", b"x" * 5000, b"SQLite format 3\0", b"SQLite format 3\0" + b"\xff" * 5000]
)
async def test_a_file_that_is_not_ours(a_world: Make, content: bytes) -> None:
    """Raises … ConfigurationError (not ours, damaged, newer)."""
    world = a_world()
    world.path.write_bytes(content)
    await refused(world, ConfigurationError)


async def test_a_database_of_another_program(a_world: Make) -> None:
    world = a_world()
    other = sqlite3.connect(world.path)
    other.execute("CREATE TABLE t (x)")
    other.close()
    assert "another program" in await refused(world, ConfigurationError)


async def made(world: World) -> None:
    await world.start()
    for _ in range(100):
        await world.put(data=b'"%b"' % (b"x" * 500))
    await world.stop()


@pytest.mark.parametrize(("by", "words"), [(1, "newer version"), (-1, "before the first release")])
async def test_another_schema(a_world: Make, by: int, words: str) -> None:
    world = a_world()
    await made(world)
    other = sqlite3.connect(world.path)
    other.execute(f"PRAGMA user_version={database.VERSION + by}")
    other.close()
    assert words in await refused(world, ConfigurationError)


async def test_a_truncated_file(a_world: Make) -> None:
    world = a_world()
    await made(world)
    content = world.path.read_bytes()
    world.path.write_bytes(content[: len(content) // 2])
    assert "truncated" in await refused(world, ConfigurationError)


async def test_a_file_with_ruined_pages(a_world: Make) -> None:
    world = a_world()
    await made(world)
    content = bytearray(world.path.read_bytes())
    content[4096:-4096] = b"\xa5" * (len(content) - 8192)
    world.path.write_bytes(content)
    assert "backup" in await refused(world, ConfigurationError)


async def test_a_file_with_ruined_pages_beside_its_log(a_world: Make, tmp_path: Path) -> None:
    """After a crash: what stands in the log is not brought into what is damaged."""
    world, copy = a_world(), a_world()
    await made(world)
    await world.start()
    await world.put()
    copy.path = tmp_path / "copy.db"
    crashed = contents(world.path)
    ruined = crashed["notifier.db"][:8192].ljust(len(crashed["notifier.db"]), b"\xa5")
    copy.path.write_bytes(ruined)
    copy.path.with_name("copy.db-wal").write_bytes(crashed["notifier.db-wal"])
    await world.stop()
    assert "backup" in await refused(copy, ConfigurationError)


async def test_a_backup_put_in_place_of_a_damaged_file_is_taken(a_world: Make) -> None:
    world = a_world()
    await made(world)
    whole = world.path.read_bytes()
    world.path.write_bytes(whole[:4096] + b"\xff" * 4096 + whole[8192:])
    await refused(world, ConfigurationError)
    world.path.write_bytes(whole)
    await world.start()
    assert len(await world.pending()) == 100
    await world.stop()


async def test_our_marks_without_our_tables(a_world: Make) -> None:
    world = a_world()
    other = sqlite3.connect(world.path)
    other.execute("CREATE TABLE t (x)")
    other.execute(f"PRAGMA application_id={database.APPLICATION_ID}")
    other.execute(f"PRAGMA user_version={database.VERSION}")
    other.close()
    assert "cannot be used" in await refused(world, ConfigurationError)


async def test_an_empty_file_becomes_ours(a_world: Make) -> None:
    world = a_world()
    world.path.touch()
    await world.start()
    await world.put()
    await world.stop()


async def test_a_directory_that_does_not_exist(a_world: Make) -> None:
    world = a_world()
    world.path = world.path.parent / "missing" / "notifier.db"
    assert "does not exist" in await refused(world, ConfigurationError)


async def test_the_engine_is_not_up_before_its_start_and_after_its_end(a_world: Make) -> None:
    world = a_world()
    engine = open_engine(f"sqlite:///{world.path}", world.clock, world.errors)
    assert not engine.stats().up
    world.engine = engine  # type: ignore[assignment]
    assert isinstance(await world.append(), EngineUnavailable)
    await world.start()
    await world.stop()
    assert not world.engine.stats().up
    assert isinstance(await world.append(), EngineUnavailable)


@pytest.mark.parametrize("url", ["postgres://host/db", "sqlite:notifier.db", "sqlite:///", "notifier.db", ""])
def test_an_engine_that_does_not_exist(a_world: Make, url: str) -> None:
    world = a_world()
    with pytest.raises(ConfigurationError):
        open_engine(url, world.clock, world.errors)


async def test_one_process_holds_the_file(a_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises EngineUnavailable (busy, out of reach)."""
    world, second = a_world(), a_world()
    await world.start()
    await world.put()
    monkeypatch.setattr(database.Lock.take, "__defaults__", (0.0,))
    with pytest.raises(EngineUnavailable):
        await second.start()
    await world.put()
    await world.stop()
    await second.start()
    assert len(await second.pending()) == 2
    await second.stop()


async def test_the_next_holder_waits_for_the_last_one(a_world: Make) -> None:
    world, second = a_world(), a_world()
    await world.start()
    starting = asyncio.ensure_future(second.start())
    await world.put()
    await world.stop()
    await starting
    assert len(await second.pending()) == 1
    await second.stop()


@pytest.mark.parametrize(("durability", "synchronous"), [("fsync", 2), ("page_cache", 1)])
async def test_sqlite_is_as_durable_as_asked(a_world: Make, durability: str, synchronous: int) -> None:
    world = a_world(durability=durability)
    await world.start()
    run = world.engine._store._connection.execute
    assert run("PRAGMA synchronous").fetchall() == [(synchronous,)]
    assert run("PRAGMA journal_mode").fetchall() == [("wal",)]
    await world.stop()


# -- flipped bits -----------------------------------------------------------------------------------------------------

CHANGES = {
    "data": "UPDATE mail SET data = replace(data, '1', '2') WHERE seq = ?",
    "client_id": "UPDATE mail SET id = 'other' WHERE seq = ?",
    "no UTF-8": "UPDATE mail SET data = CAST(x'22ff22' AS TEXT) WHERE seq = ?",
    "expiry": "UPDATE mail SET expires_ms = expires_ms + 1 WHERE seq = ?",
    "receiver": "UPDATE mail SET crc = crc + 1 WHERE seq = ?",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_damaged_record_is_set_aside_counted_and_never_handed_out(a_world: Make, change: str) -> None:
    """A record whose checksum is wrong is set aside, counted, and never handed out."""
    world = a_world()
    await world.start()
    seqs = [await world.put("alice", f"n{n}", data=b'"%d1"' % n, receipt=True) for n in range(3)]
    await world.stop()
    file = sqlite3.connect(world.path)
    file.execute(change, (seqs[1],))
    file.commit()
    file.close()
    await world.start()
    assert await world.pending() == [seqs[0], seqs[2]]
    assert world.errors.errors == ["damaged_record"]
    assert await world.pending() == [seqs[0], seqs[2]]
    assert world.engine.stats().pending == 2
    await world.reopen()
    assert await world.pending() == [seqs[0], seqs[2]]
    assert world.errors.errors == ["damaged_record"]
    await world.stop()
    file = sqlite3.connect(world.path)
    assert file.execute("SELECT seq FROM damaged").fetchall() == [(seqs[1],)]
    file.close()


async def test_what_was_damaged_is_lost_and_that_is_told(a_world: Make, tmp_path: Path) -> None:
    """What leaves a mailbox unacknowledged is counted and told to the client (docs/protocol.md, guarantee 6)."""
    world = a_world()
    await world.start()
    seq = await world.put("alice", "a", receipt=True)
    await world.stop()
    file = sqlite3.connect(world.path)
    file.execute(CHANGES["data"], (seq,))
    file.commit()
    file.close()
    await world.start()
    assert await world.pending() == []
    await world.flush()
    state = await world.ask(world.engine.open, "alice")
    assert state.losses is not None
    assert state.losses.untold() == {"purged": 1}
    assert (await world.append("alice", "a")).state == "purged", "and not `delivered`"
    assert (await world.ask(world.engine.receipts, "a", "alice"))[0].state == "purged"
    await world.stop()


def test_what_files_hold_is_still_understood() -> None:
    """Another formula would set all pending mail aside as damaged, and call true repeats conflicts."""
    assert database.VERSION == 3, "then these values may change, and files of version 3 need a migration"
    plain = digest(b'{"text":"Invoice paid"}', 86_400_000, None, None)
    assert plain == 99214530502
    assert digest(b"1", 0, "e", "k") == 7753160496
    assert checksum(plain, 1_795_386_343_150_193, "alice", "inv-17", 1_795_386_343_150) == 2020477135
    assert checksum(0, 7, "é", "a", 1) == 1536196982


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=9)


@given(st.binary(max_size=40), st.integers(0, 2**40), st.none() | NAMES, st.none() | NAMES, st.data())
def test_other_content_is_another_digest(
    data: bytes, lifetime_ms: int, event: str | None, collapse_key: str | None, draw: st.DataObject
) -> None:
    """Every part counts, and no two of them can be mistaken for each other."""
    parts = (data, lifetime_ms, event, collapse_key)
    other = draw.draw(st.tuples(
        st.just(data) | st.binary(max_size=40), st.just(lifetime_ms) | st.integers(0, 2**40),
        *[st.sampled_from((value, None, event, collapse_key, "None", "x")) for value in (event, collapse_key)],
    ))  # fmt: skip
    assert (digest(*parts) == digest(*other)) == (parts == other)


@given(st.integers(0, 2**53), NAMES, NAMES, st.integers(0, 2**42), st.data())
def test_another_place_is_another_checksum(
    seq: int, client_id: str, id: str, accepted_ms: int, draw: st.DataObject
) -> None:
    """A flipped bit in any of the numbers, another client, another id."""
    content = digest(b"1", 1000, None, None)
    right = checksum(content, seq, client_id, id, accepted_ms)
    bit = draw.draw(st.integers(0, 52))
    assert checksum(content ^ 1 << bit % 32, seq, client_id, id, accepted_ms) != right
    assert checksum(content, seq ^ 1 << bit, client_id, id, accepted_ms) != right
    assert checksum(content, seq, client_id + "x", id, accepted_ms) != right
    assert checksum(content, seq, client_id, id + "x", accepted_ms) != right
    assert checksum(content, seq, client_id, id, accepted_ms ^ 1 << bit) != right
