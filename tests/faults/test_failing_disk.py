"""A disk that fails, is slow, or goes away under a commit: nothing that was answered 2xx is lost."""

from __future__ import annotations

import asyncio
import http.client
from pathlib import Path

import pytest

from notifier.engine.database import APPLICATION_ID, VERSION
from notifier.engine.writer import Store
from tests.faults.machine import tracer
from tests.harness import Client, Server, apublish, arequest, publish
from tests.harness.client import Response
from tests.harness.server import StartError


def publish_until_it_fails(server: Server, limit: int = 400) -> tuple[dict[str, int], Response | None]:
    """Ids that were answered 2xx with their seqs; then the answer that was none, or None where the server vanished."""
    accepted: dict[str, int] = {}
    for n in range(limit):
        try:
            answer = publish(server, client_id="alice", id=f"id-{n}", data={"n": n})
        except (OSError, http.client.HTTPException):
            return accepted, None
        if answer.status != 202:
            return accepted, answer
        accepted[answer.body["id"]] = answer.body["seq"]
    raise AssertionError("the fault did not happen")


async def assert_all_there(server: Server, accepted: dict[str, int]) -> None:
    """Everything accepted is delivered, in order, and still known by its id; one more may be there, unanswered."""
    async with Client(server, "alice", ack="client") as alice:
        pending = (await alice.welcome)["pending"]
        assert len(accepted) <= pending <= len(accepted) + 1
        mail = await alice.notifications(pending)
        assert [(frame["id"], frame["seq"]) for frame in mail[: len(accepted)]] == list(accepted.items())
        assert [frame["data"] for frame in mail] == [{"n": n} for n in range(pending)]
        live = await apublish(server, client_id="alice", data="live")
        assert (live.status, live.body["seq"] > mail[-1]["seq"] if mail else True) == (202, True)
        assert (await alice.next("notification"))["data"] == "live"
    for id, seq in list(accepted.items())[-2:]:
        again = await apublish(server, client_id="alice", id=id, data={"n": int(id.partition("-")[2])})
        assert (again.status, again.body["seq"]) == (200, seq)


@pytest.mark.parametrize(
    "injection",
    ["fdatasync:error=EIO:when=20", "fdatasync:error=EIO:when=25+", "pwrite64:error=EIO:when=60"],
    ids=["sync-once", "sync-for-good", "write-once"],
)
async def test_a_disk_that_fails_stops_the_server_and_nothing_answered_is_lost(injection: str, tmp_path: Path) -> None:
    """A sync that fails once and then succeeds has lost what it should have written: there is no going on."""
    with Server(tmp_path, prefix=tracer(injection), drain_seconds=0) as server:
        async with Client(server, "bob") as bob:
            accepted, refusal = await asyncio.to_thread(publish_until_it_fails, server)
            assert refusal is not None, "the connection ended without an answer"
            assert (refusal.status, refusal.body["code"]) == (503, "engine_unavailable")
            assert refusal.headers["retry-after"]
            assert (await bob.closed())[0] == 1012
        assert await asyncio.to_thread(server.wait) == 1
        assert '"engine_failed"' in server.log
        assert "Traceback" not in server.log
    with Server(tmp_path / "after", engine=f"sqlite:///{tmp_path}/notifier.db") as server:
        await assert_all_there(server, accepted)


@pytest.mark.parametrize(("call", "first"), [("fdatasync", 2), ("pwrite64", 4)])
async def test_a_disk_that_fails_the_checkpoint_stops_the_server(call: str, first: int, tmp_path: Path) -> None:
    """The log is good, and what is copied out of it into the database is not: SQLite by itself would say nothing.
    The checkpoint of the start succeeds."""
    database = tmp_path / "notifier.db"
    store = Store(str(database), "fsync", 60)
    store.open(True, APPLICATION_ID, VERSION)
    store.close()
    prefix = [*tracer(f"{call}:error=EIO:when={first}+"), "-P", str(database)]
    accepted = []
    with Server(tmp_path, prefix=prefix, drain_seconds=0, mailbox_bytes="100MiB") as server:
        for n in range(20):
            items = [{"client_id": "alice", "data": str(n) + "x" * 60_000} for _ in range(60)]
            try:
                answer = await arequest(server, "POST", "/batch", items)
            except (OSError, http.client.HTTPException):
                break
            accepted += [result["seq"] for result in answer.body if "seq" in result]
            if len(accepted) % 60:
                break
        assert await asyncio.to_thread(server.wait) == 1
        assert '"engine_failed"' in server.log
        assert 60 <= len(accepted) <= 6 * 60
    with Server(tmp_path / "after", engine=f"sqlite:///{database}") as server:
        async with Client(server, "alice") as alice:
            assert [frame["seq"] for frame in await alice.notifications(len(accepted))] == accepted


def test_a_disk_that_cannot_be_read_at_the_start_is_not_called_a_damaged_database(tmp_path: Path) -> None:
    database = tmp_path / "notifier.db"
    store = Store(str(database), "fsync", 60)
    store.open(True, APPLICATION_ID, VERSION)
    store.close()
    before = database.read_bytes()
    with pytest.raises(StartError, match="cannot be read or written") as refused:
        Server(tmp_path, prefix=[*tracer("pread64:error=EIO"), "-P", str(database)]).start()
    assert refused.value.status == 69
    assert database.read_bytes() == before


@pytest.mark.parametrize("when", [20, 33])
async def test_killed_in_the_middle_of_a_commit_nothing_answered_is_lost(when: int, tmp_path: Path) -> None:
    with Server(tmp_path, prefix=tracer(f"fdatasync:signal=SIGKILL:when={when}")) as server:
        accepted, refusal = await asyncio.to_thread(publish_until_it_fails, server)
        assert refusal is None
        assert await asyncio.to_thread(server.wait) != 0
    with Server(tmp_path / "after", engine=f"sqlite:///{tmp_path}/notifier.db") as server:
        await assert_all_there(server, accepted)


def test_killed_again_and_again_while_it_makes_its_database_it_starts_in_the_end(tmp_path: Path) -> None:
    for when in (2, 4):
        prefix = tracer(f"fdatasync:signal=SIGKILL:when={when}")
        with pytest.raises(StartError) as killed, Server(tmp_path, prefix=prefix):
            pass
        assert killed.value.status == -9
    with Server(tmp_path / "after", engine=f"sqlite:///{tmp_path}/notifier.db") as server:
        assert publish(server, client_id="alice", data=1).status == 202


async def test_a_slow_sync_delays_its_own_answer_and_nobody_else(tmp_path: Path) -> None:
    """200 ms per sync. The loop turns meanwhile: pings are answered while one commit is under way."""
    delay = f"fdatasync:delay_exit={200_000}"
    with Server(tmp_path, prefix=tracer(delay)) as server:
        async with Client(server, "alice", ack="client") as alice:
            answered_during, lags = [], []
            for n in range(7):
                publishing = asyncio.create_task(apublish(server, client_id="bob", data=n))
                pings = 0
                while not publishing.done() and pings < 15:  # more would be refused as too many
                    await alice.ping()
                    pings += 1
                answered_during.append(pings if not publishing.done() else pings - 1)
                assert (await publishing).status == 202
                lags.append((await asyncio.to_thread(server.metrics))["notifier_event_loop_lag_seconds"])
            # One that was blocked for a sync would be answered once per commit. Half of them leave room for a machine
            # that does something else now and then.
            assert sorted(answered_during)[3] >= 5, answered_during
            assert min(lags) < 0.02, lags
            assert (await arequest(server, "GET", "/readyz", key=None)).status == 200
        metrics = await asyncio.to_thread(server.metrics)
        name = "notifier_engine_operation_duration_seconds"
        assert metrics[f'{name}_sum{{operation="commit"}}'] >= 7 * 0.2
