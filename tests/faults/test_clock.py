"""Clocks that jump and processes that are suspended: nothing expires wrongly, nobody is closed, seqs and order hold."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from notifier.transport.wheel import Wheel
from tests.door.health import unharmed
from tests.door.raw import PING, PONG, Raw, masked, notify
from tests.harness import Client, Server, apublish, need, publish

TWO_HOURS = 7200


def library() -> str:
    """libfaketime, which the `faketime` command preloads."""
    program = Path(need("faketime")).resolve()
    found = sorted(program.parents[1].glob("lib/**/faketime/libfaketimeMT.so.1"))
    assert found, "faketime is installed without its library"
    return str(found[0])


@pytest.fixture
def jumping(tmp_path: Path, make_server: Callable[..., Server]) -> tuple[Server, Callable[[int], None]]:
    """A server, and a function that sets its CLOCK_REALTIME off by so many seconds while it runs."""
    control = tmp_path / "offset"
    control.write_text("+0s")
    environ = {
        "LD_PRELOAD": library(),
        "FAKETIME_TIMESTAMP_FILE": str(control),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    server = make_server(environ=environ)

    def jump(seconds: int) -> None:
        control.write_text(f"{seconds:+d}s")

    return server, jump


@pytest.mark.parametrize("seconds", [TWO_HOURS, -TWO_HOURS], ids=["forward", "back"])
async def test_a_wall_clock_that_jumps_changes_nothing(
    jumping: tuple[Server, Callable[[int], None]], seconds: int
) -> None:
    server, jump = jumping
    token = server.token("alice", ttl=600)
    before = [publish(server, client_id="alice", data=n, ttl=600).body["seq"] for n in range(3)]
    async with Client(server, "alice", ack="client", token=token) as alice, Client(server, "bob") as bob:
        assert [frame["seq"] for frame in await alice.notifications(3)] == before
        jump(seconds)
        await asyncio.sleep(2.5)  # the upkeep of each second has seen it
        after = [(await apublish(server, client_id="alice", data=n, ttl=600)).body["seq"] for n in range(3)]
        assert [frame["seq"] for frame in await alice.notifications(3)] == after
        assert before[-1] < after[0] < before[-1] + 60_000_000, "seqs go on where they were, not two hours away"
        assert sorted(after) == after
        await alice.ping()
        await bob.ping()
        assert not [frame for frame in alice.frames if frame["type"] in ("gap", "token_expiring")]
    async with Client(server, "alice", ack="client", token=token) as alice:  # the token is neither old nor too young
        assert [frame["seq"] for frame in await alice.notifications(6)] == before + after
    metrics = server.metrics()
    assert metrics.get('notifier_notifications_lost_total{reason="expired"}', 0) == 0
    assert metrics['notifier_connections_opened_total{transport="websocket"}'] == 3


async def test_a_clock_that_was_ahead_at_the_last_run_does_not_turn_seqs_back(
    jumping: tuple[Server, Callable[[int], None]],
) -> None:
    server, jump = jumping
    jump(TWO_HOURS)
    server.restart()
    ahead = publish(server, client_id="alice", data=1, ttl=86400).body["seq"]
    assert ahead / 1e6 > time.time() + TWO_HOURS - 600
    jump(0)
    server.restart()
    seqs = [publish(server, client_id="alice", data=n, ttl=86400).body["seq"] for n in range(3)]
    assert ahead < seqs[0] < seqs[1] < seqs[2]
    async with Client(server, "alice", ack="client") as alice:
        assert [frame["seq"] for frame in await alice.notifications(4)] == [ahead, *seqs]


def test_a_suspended_process_ends_nothing_when_it_goes_on(make_server: Callable[..., Server]) -> None:
    """It slept longer than any deadline, with pings under way and a request half read; what they waited for has come
    meanwhile, and waits in its sockets."""
    server = make_server(heartbeat_seconds=1, heartbeat_timeout_seconds=5)
    body = b'{"client_id": "alice", "data": 1}'
    publisher = Raw(server)
    publisher.send(notify(server, body)[:-5])
    crowd = [Raw(server).upgrade(server, f"client-{n}") for n in range(50)]
    for client in crowd:
        client.next("welcome")
    for client in crowd:  # each has a ping under way and has not answered it
        frame = client.frame()
        assert frame is not None
        assert frame.opcode == PING
    os.kill(server.pid, signal.SIGSTOP)
    publisher.send(body[-5:])
    for client in crowd:
        client.send(masked(PONG, b"heartbeat"))
    time.sleep(11)
    os.kill(server.pid, signal.SIGCONT)
    answer = publisher.answer()
    assert answer is not None
    assert answer.status == 202
    publisher.close()
    for client in crowd:
        client.say({"type": "ping"})
        client.next("pong")
        client.close()
    unharmed(server)


async def test_a_suspended_client_gets_its_mail_again(server: Server) -> None:
    """A laptop that was closed: its connection is given up, and what it had not acknowledged comes again."""
    server.set(heartbeat_seconds=1, heartbeat_timeout_seconds=1)
    server.restart()
    with Raw(server).upgrade(server, "alice") as suspended:
        suspended.next("welcome")
        seq = publish(server, client_id="alice", data=1).body["seq"]
        assert suspended.ended(10), "nothing was heard from it"
    async with Client(server, "alice") as alice:
        assert (await alice.next("notification"))["seq"] == seq


def test_after_a_pause_what_has_arrived_is_read_before_deadlines_are_looked_at() -> None:
    """Suspended in the middle of its work, the loop would look at its timers before its sockets."""

    class Deadline:
        def on_timer(self, now: float) -> None:
            seen.append("deadline")
            done.set()

    async def main() -> None:
        nonlocal done
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        wheel = Wheel(loop)
        wheel.add(Deadline(), 1.0)

        def suspended() -> None:
            first.recv(1)
            other_end_of_second.send(b"x")
            time.sleep(2)

        loop.add_reader(first, suspended)
        loop.add_reader(second, lambda: seen.append(second.recv(1).decode()))
        other_end_of_first.send(b"x")
        await asyncio.wait_for(done.wait(), 10)
        wheel.stop()
        loop.remove_reader(first)
        loop.remove_reader(second)

    seen: list[str] = []
    done = asyncio.Event()
    first, other_end_of_first = socket.socketpair()
    second, other_end_of_second = socket.socketpair()
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with first, other_end_of_first, second, other_end_of_second, runner:
        runner.run(main())
    assert seen == ["x", "deadline"]
