"""A full disk refuses publishes, and only those; it accepts again by itself when there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.machine import fill, free, small_disk
from tests.harness import Client, Server, apublish, publish
from tests.harness.server import StartError

SIZE = 2 * 1024 * 1024


async def until_accepted(server: Server, **fields: object) -> dict[str, object]:
    """Ask until it is taken: nothing else tells that there is room again."""
    async with asyncio.timeout(20):
        while (answer := await apublish(server, **fields)).status == 507:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.1)
    assert answer.status == 202, answer
    return dict(answer.body)


async def test_live_sockets_go_on_beside_a_full_disk_and_it_accepts_again_by_itself(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk:
        server = make_server(engine=f"sqlite:///{disk}/notifier.db")
        accepted = [publish(server, client_id="alice", data=n, id=f"early-{n}").body["seq"] for n in range(3)]
        async with Client(server, "alice", ack="client") as alice:
            await alice.notifications(3)
            ballast = fill(disk, leave=64 * 1024)
            for n in range(100):
                answer = await apublish(server, client_id="alice", data="x" * 5000, id=f"late-{n}")
                if answer.status != 202:
                    break
                accepted.append(answer.body["seq"])
            assert (answer.status, answer.body["code"], answer.body["id"]) == (507, "storage_full", f"late-{n}")
            assert len(accepted) < 3 + 20

            # What needs no room works: the socket, mail that is not stored, the probes, a new connection.
            await alice.ping()
            assert (await apublish(server, client_id="alice", data="now", ttl=0)).body["status"] == "sent"
            async with Client(server, "bob") as bob:
                assert (await bob.welcome)["pending"] == 0
            assert server.get("/readyz")[0] == server.get("/livez")[0] == 200
            assert server.metrics()["notifier_engine_up"] == 1
            assert (await apublish(server, client_id="alice", data="x" * 5000)).status == 507
            await alice.ack(accepted[2])

            ballast.unlink()
            # A refused publish has used up no id, and nothing of it was delivered.
            again = await until_accepted(server, client_id="alice", data="x" * 5000, id=f"late-{n}")
            accepted.append(again["seq"])
            mail = [frame for frame in await alice.notifications(len(accepted) - 3 + 1) if "seq" in frame]
            assert [frame["seq"] for frame in mail] == accepted[3:]
            await alice.ack(accepted[-1], confirm=True)
            assert (await alice.next("settled"))["seq"] == accepted[-1]
        assert server.metrics()['notifier_publishes_total{outcome="storage_full"}'] >= 2
        assert server.terminate() == 0


async def test_below_the_floor_publishes_are_refused_before_the_disk_is_full(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk:
        server = make_server(engine=f"sqlite:///{disk}/notifier.db", min_free_disk_bytes=SIZE // 2)
        assert publish(server, client_id="alice", data=1).status == 202
        ballast = fill(disk, leave=SIZE // 4)
        async with asyncio.timeout(20):
            while (answer := await apublish(server, client_id="alice", data=2)).status == 202:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert (answer.status, answer.body["code"]) == (507, "storage_full")
        assert "MIN_FREE_DISK_BYTES" in answer.body["detail"]
        async with Client(server, "alice", ack="client") as alice:
            # There is room left for what takes mail out of mailboxes.
            frame = await alice.next("notification")
            await alice.ack(frame["seq"], confirm=True)
            await alice.next("settled")
        ballast.unlink()
        await until_accepted(server, client_id="alice", data=3)


def test_started_on_a_full_disk_it_says_so_and_what_was_accepted_is_there_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, SIZE), Server(tmp_path / "server", engine=f"sqlite:///{disk}/notifier.db") as server:
        first = publish(server, client_id="alice", data=1, id="first").body["seq"]
        assert server.terminate() == 0
        ballast = fill(disk)
        assert free(disk) == 0
        before = (disk / "notifier.db").read_bytes()
        with pytest.raises(StartError, match=r"is full\. Free some space") as refused:
            server.start()
        assert refused.value.status == 69
        assert (disk / "notifier.db").read_bytes() == before
        ballast.unlink()
        server.start()
        assert publish(server, client_id="alice", data=1, id="first").body["seq"] == first
