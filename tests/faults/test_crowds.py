"""Crowds: half-open handshakes, clients that never read, connections that come and go. Others are served meanwhile, and
everything is given back.

In CI's size. BIG=1 takes the sizes of the goals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidMessage

from tests.door.health import unharmed
from tests.door.raw import Raw, handshake, request
from tests.door.watching import Bystander, Observed
from tests.harness import Client, Server, need
from tests.harness import request as ask

BIG = bool(os.environ.get("BIG"))
NEVER_READING = 1_000 if BIG else 250
COMINGS = 100_000 if BIG else 5_000
COMING_BACK = 15_000 if BIG else 500
pytestmark = pytest.mark.timeout(1800 if BIG else 120)


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    settings = {"heartbeat_seconds": 2, "heartbeat_timeout_seconds": 5}
    with Observed(tmp_path_factory.mktemp("crowds"), ready_timeout=60, **settings) as server:
        before = server.held
        yield server
        unharmed(server)
        server.comes_back_to(before, 60, objects=True)


def test_clients_that_never_read_and_1000_half_open_handshakes_next_to_healthy_ones(observed: Observed) -> None:
    """Who takes no byte is cut off after 30 s, who does not finish its handshake after 10 s; the healthy are served as
    if they were alone."""
    before = observed.held
    idle = Raw(observed)
    assert idle.ask(request("GET", "/livez")) is not None
    alone = times(observed, 300)
    never = [Raw(observed, receive_buffer=4096) for _ in range(NEVER_READING)]
    for number, client in enumerate(never):
        client.upgrade(observed, f"never-{number}", query="ack=client")
    for start in range(0, NEVER_READING, 250):  # a body holds no more client_ids beside that much
        body = {"client_ids": [f"never-{n}" for n in range(start, start + 250)], "data": "x" * 60_000}
        for _ in range(12):  # beyond what the kernel takes
            answer = ask(observed, "POST", "/notify", body)
            assert (answer.status, answer.body["accepted"]) == (202, 250), answer
    began = time.monotonic()
    beside = times(observed, 300)
    assert beside < max(3 * alone, alone + 0.02), f"alone {alone * 1000:.1f} ms, beside {beside * 1000:.1f} ms"
    print(f"p99 alone {alone * 1000:.2f} ms, beside {NEVER_READING} that never read {beside * 1000:.2f} ms")
    with Bystander(observed, pause_s=0.05):
        half_open(observed)
        idle.send(b"GET /livez HTTP/1.1\r\nHo")  # after a while of nothing the deadline is the same
        answer = idle.answer()
        assert answer is not None
        assert answer.status == 408
        idle.close()
        while observed.metrics()['notifier_connections{transport="websocket"}'] > 1:
            assert time.monotonic() < began + 60, "they are still there"
            time.sleep(0.5)
    assert time.monotonic() - began > 20
    assert observed.metrics()["notifier_slow_consumers_total"] >= NEVER_READING
    for client in never:
        client.close()
    observed.comes_back_to(before)


def test_who_comes_while_the_server_is_busy_finds_a_place_to_wait(tmp_path: Path) -> None:
    """Also twice as many as the kernel allows one listener: whoever finds no place tries again only after seconds, and
    together with the others."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    crowd = min(2 * int(Path("/proc/sys/net/core/somaxconn").read_text()), 10_000, limits[1] - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    with Server(tmp_path) as server, contextlib.ExitStack() as waiting:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for _ in range(crowd):
                last = waiting.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        last.sendall(request("GET", "/livez"))
        assert last.recv(4096).startswith(b"HTTP/1.1 200")
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def half_open(server: Observed) -> None:
    """A thousand clients, each of which says a part of a handshake or nothing, and waits."""
    whole = handshake(server, server.token("half-open"))
    memory, began = server.memory, time.monotonic()
    crowd = [Raw(server) for _ in range(1_000)]
    for number, client in enumerate(crowd):
        client.send(whole[: number % (len(whole) - 1)])
    cost = server.memory - memory
    print(f"1,000 half-open handshakes: {cost / 1024:.1f} MiB")
    assert cost < 16 * 1024, "16 KiB each"
    for client in crowd:
        assert client.ended(20)
        client.close()
    assert 9 < time.monotonic() - began < 25


def times(server: Observed, count: int) -> float:
    """The 99th percentile of a round trip, seconds."""
    took = []
    with Bystander(server, pause_s=60) as bystander:
        for _ in range(count):
            began = time.monotonic()
            bystander.trip()
            took.append(time.monotonic() - began)
    return statistics.quantiles(took, n=100)[98]


def test_connections_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    """By FIN, by RST, before and after the answer, with a session and without. A server of its own: where a crowd was
    before, the allocator has so much to give that no growth would show."""
    with Observed(tmp_path, ready_timeout=60, heartbeat_seconds=2, heartbeat_timeout_seconds=5) as server:
        token = server.token("comer")
        good, refused, plain = handshake(server, token), handshake(server, "x"), request("GET", "/livez")

        def come(number: int) -> None:
            client = Raw(server)
            match number % 5:
                case 0:
                    client.send(good)
                    assert client.answer() is not None
                case 1:
                    client.send(good)
                case 2:
                    client.send(refused)
                    client.answer()
                case 3:
                    client.send(plain)
                    client.answer()
            if number % 2:
                client.reset()
            else:
                client.close()

        # What has gone is forgotten when its next deadline comes, 10 s later: until then it costs some 2 KB. So many
        # come before that there are as many of these as there will ever be.
        before = server.held
        for number in range(min(COMINGS, 40_000)):
            come(number)
        server.comes_back_to(before, 30, objects=True)
        memory, began = server.memory, time.monotonic()
        with Bystander(server):
            for number in range(COMINGS):
                come(number)
        seconds, most = time.monotonic() - began, server.memory
        server.comes_back_to(before, 30, objects=True)
        print(
            f"{COMINGS} connections came and went in {seconds:.0f} s: resident {memory / 1024:.1f} MiB before, "
            f"{most / 1024:.1f} at the end, {server.memory / 1024:.1f} when forgotten; {before}, then {server.held}"
        )
        assert most - memory < 8 * 1024
        unharmed(server)


async def test_all_come_back_at_once_after_a_kill(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without jitter, each with five notifications waiting: all of it arrives, once each and in order."""
    with Observed(tmp_path_factory.mktemp("back"), ready_timeout=60) as server:
        names = [f"back-{n}" for n in range(COMING_BACK)]
        for start in range(0, len(names), 1_000):
            for n in range(5):
                body = {"client_ids": names[start : start + 1_000], "data": n}
                assert ask(server, "POST", "/notify", body).status == 202
        server.kill()
        await server.astart()

        async def come(name: str) -> int:
            """How often it had to try: so many in one process are slower than the 10 s that a handshake may take."""
            tries = 1
            while not await connected(client := Client(server, name, ack="client", open_timeout=None)):
                tries += 1
            mail = await client.notifications(5, timeout=120)
            assert [frame["data"] for frame in mail] == list(range(5))
            await client.ack(mail[-1]["seq"], confirm=True)
            await client.next("settled", timeout=120)
            await client.close()
            return tries

        began = time.monotonic()
        tries = await asyncio.gather(*map(come, names))
        print(f"{COMING_BACK} were back and settled after {time.monotonic() - began:.1f} s, {sum(tries)} handshakes")
        assert server.metrics()["notifier_pending_notifications"] == 0
        unharmed(server)


async def connected(client: Client) -> bool:
    """Whether this handshake was finished."""
    with contextlib.suppress(InvalidMessage, OSError):
        await client.__aenter__()
        return True
    return False


def test_out_of_descriptors_it_serves_who_is_there_and_accepts_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    limit = [need("prlimit"), "--nofile=700:700"]
    with Server(tmp_path_factory.mktemp("descriptors"), prefix=limit, max_connections=100) as server:
        with Bystander(server) as bystander:
            crowd = [Raw(server) for _ in range(1_000)]  # the rest wait in the listener's queue
            for client in crowd:
                client.send(b"GET / HTTP/1.1\r\n")
            served = bystander.trips
            time.sleep(2)
            assert bystander.trips > served
            for client in crowd:
                client.close()
        unharmed(server)
