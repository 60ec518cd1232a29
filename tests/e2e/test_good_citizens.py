"""Clients that do nothing wrong, each in its own difficult way: all is delivered to them, and we close none.

The scenarios run side by side, because most of them wait most of the time: each test is the outcome of one.
`REAL_TIME=1` gives the phones their real 20 KB/s; else their time runs ten times as fast, the heartbeat's included.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.e2e.proxy import Line
from tests.e2e.sleeping import bare, listen, sleep_and_wake
from tests.harness import Client, Server, apublish, arequest
from tests.transport.eventstream import EventStream

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

FASTER = 1 if os.environ.get("REAL_TIME") else 10
PATIENCE = 300.0
CLOSED = "notifier_connections_closed_total"


class Servers(NamedTuple):
    default: Server
    hasty: Server
    """Heartbeats for phones whose time runs faster."""
    strict: Server
    """For those that must be let go."""
    patient: Server
    """Whose operator waits for sleeping clients."""
    streaming: Server
    """For an event stream that must be let go."""


Scenario = Callable[[Servers], Awaitable[None]]
SCENARIOS: list[Scenario] = []


def scenario(function: Scenario) -> Scenario:
    SCENARIOS.append(function)
    return function


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("citizens")
    with (
        Server(directory / "default") as default,
        Server(directory / "hasty", heartbeat_seconds=25 / FASTER, heartbeat_timeout_seconds=20 / FASTER) as hasty,
        Server(directory / "strict") as strict,
        Server(directory / "patient", heartbeat_timeout_seconds=90) as patient,
        Server(directory / "streaming") as streaming,
    ):
        yield Servers(default, hasty, strict, patient, streaming)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes(servers: Servers, request: pytest.FixtureRequest) -> AsyncIterator[dict[Scenario, Awaitable[None]]]:
    """Every scenario that was selected, begun."""
    chosen = [
        item.callspec.params["play"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec")
    ]
    tasks = {play: asyncio.create_task(play(servers)) for play in chosen}  # type: ignore[arg-type]
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


# -- what all of them do ----------------------------------------------------------------------------------------------


async def queue(server: Server, client_id: str, count: int, size: int = 20) -> list[str]:
    """So many notifications with so many bytes of data; their ids."""
    ids = [f"{client_id}-{n}" for n in range(count)]
    per_request = max(1, min(500, 3_000_000 // size))
    for start in range(0, count, per_request):
        items = [
            {"client_id": client_id, "id": id, "data": "x" * (size - 2)} for id in ids[start : start + per_request]
        ]
        answer = await arequest(server, "POST", "/batch", items)
        assert (answer.status, answer.headers["notifier-rejected"]) == (200, "0"), answer
    return ids


async def settled(server: Server, client_id: str, id: str, size: int = 20) -> dict[str, Any]:
    """What the last notification's publisher is told when it is settled."""
    repeat = await apublish(server, client_id=client_id, id=id, data="x" * (size - 2), wait=30)
    assert repeat.status == 200, repeat
    assert repeat.body["status"] == "delivered", repeat
    body: dict[str, Any] = repeat.body
    return body


def came(client: Client) -> list[str]:
    """The ids that came, which came in order."""
    mail = [frame for frame in client.frames if frame["type"] == "notification"]
    seqs = [frame["seq"] for frame in mail]
    assert seqs == sorted(set(seqs))
    return [frame["id"] for frame in mail]


def stayed_open(client: Client) -> None:
    assert client.close_code is None, f"closed by the server: {client.close_code} {client.close_reason}"


async def take(client: Client, count: int) -> None:
    """Receive, and acknowledge each by a frame of its own where the client has to."""
    by_frames = (await client.welcome)["ack"] == "client"
    for _ in range(count):
        frame = await client.next("notification", PATIENCE)
        if by_frames:
            await client.ack(frame["seq"])


# -- slow lines -------------------------------------------------------------------------------------------------------


async def over_a_line(server: Server, client_id: str, ack: str, rate: float, count: int, size: int) -> None:
    ids = await queue(server, client_id, count, size)
    async with (
        Line(server.port, rate) as line,
        Client(server, client_id, ack=ack, url=line.ws_url, open_timeout=60) as phone,
    ):
        await take(phone, count)
        told = await settled(server, client_id, ids[-1], size)
        assert told["acked_by"] == ("client" if ack == "client" else "transport")
        assert came(phone) == ids
        await phone.ping()
        stayed_open(phone)


@scenario
async def a_phone_at_20_kb_per_s_that_acknowledges_1000_x_4_kb(servers: Servers) -> None:
    await over_a_line(servers.hasty, "phone-acks", "client", 20_000 * FASTER, 1000, 4000)


@scenario
async def a_phone_at_20_kb_per_s_with_a_bare_socket_and_1000_x_4_kb(servers: Servers) -> None:
    await over_a_line(servers.hasty, "phone-bare", "auto", 20_000 * FASTER, 1000, 4000)


@scenario
async def sixty_of_60_kb_over_a_line_of_1_mb_per_s(servers: Servers) -> None:
    await over_a_line(servers.default, "large-acks", "client", 1_000_000, 60, 60_000)


@scenario
async def sixty_of_60_kb_over_a_line_of_1_mb_per_s_for_a_bare_socket(servers: Servers) -> None:
    await over_a_line(servers.default, "large-bare", "auto", 1_000_000, 60, 60_000)


# -- many at once -----------------------------------------------------------------------------------------------------


@scenario
async def sixty_of_60_kb(servers: Servers) -> None:
    ids = await queue(servers.default, "large", 60, 60_000)
    async with Client(servers.default, "large") as alice:
        await take(alice, 60)
        await settled(servers.default, "large", ids[-1], 60_000)
        assert came(alice) == ids
        stayed_open(alice)


@scenario
async def a_thousand_acknowledged_one_by_one_as_fast_as_possible(servers: Servers) -> None:
    ids = await queue(servers.default, "hasty", 1000)
    async with Client(servers.default, "hasty", ack="client") as alice:
        await take(alice, 1000)
        await settled(servers.default, "hasty", ids[-1])
        assert came(alice) == ids
        stayed_open(alice)
    async with Client(servers.default, "hasty") as alice:
        assert (await alice.welcome)["pending"] == 0


@scenario
async def nine_tabs_of_which_the_ninth_takes_the_place_of_the_first(servers: Servers) -> None:
    server = servers.strict
    tabs = [Client(server, "tabs", ack="client") for _ in range(9)]
    for tab in tabs[:8]:
        await tab.__aenter__()
        await tab.welcome
    before = await queue(server, "tabs", 10)
    for tab in tabs[:8]:
        await tab.notifications(10)
    await tabs[8].__aenter__()
    assert await tabs[0].closed() == (4409, "replaced")
    assert (await tabs[8].welcome)["pending"] == 10
    await tabs[8].notifications(10)
    (live,) = ((await apublish(server, client_id="tabs", data="live")).body["id"],)
    for tab in tabs[1:]:
        assert (await tab.next("notification"))["id"] == live
        assert came(tab) == [*before, live]
    last = tabs[1].frames[-1]["seq"]
    await tabs[1].ack(last)
    for tab in tabs[2:]:
        while (await tab.next("settled"))["seq"] < last:
            pass
        stayed_open(tab)
    for tab in tabs:
        await tab.close()


# -- sleep ------------------------------------------------------------------------------------------------------------


@scenario
async def a_sleep_of_40_s_through_which_the_connection_lasts(servers: Servers) -> None:
    """A ping is waiting when it wakes after 40 s, five seconds before the heartbeat would give up."""
    said = await sleep_and_wake(servers.default, "nap", 40, listen(servers.default, "nap"))
    assert "connection lost" not in said


@scenario
async def a_sleep_of_40_s_of_a_bare_socket(servers: Servers) -> None:
    await sleep_and_wake(servers.default, "bare-nap", 40, bare(servers.default, "bare-nap"))


@scenario
async def a_sleep_of_60_s_after_which_it_comes_back_by_itself(servers: Servers) -> None:
    """Longer than HEARTBEAT_SECONDS + HEARTBEAT_TIMEOUT_SECONDS: to us it is gone, and nothing is lost."""
    said = await sleep_and_wake(servers.strict, "sleeper", 60, listen(servers.strict, "sleeper"))
    assert said.count("connection lost (1006") == 1


@scenario
async def a_sleep_of_60_s_through_which_the_connection_lasts_where_sleepers_are_waited_for(servers: Servers) -> None:
    """All is delivered, and no connection was closed by us: the count of the closed has not moved."""
    server = servers.patient
    all_awake = asyncio.Barrier(2)

    async def nobody_was_closed() -> None:
        await all_awake.wait()
        assert not [name for name in await asyncio.to_thread(server.metrics) if CLOSED in name]
        await all_awake.wait()

    said, _ = await asyncio.gather(
        sleep_and_wake(server, "sleeper", 60, listen(server, "sleeper"), nobody_was_closed),
        sleep_and_wake(server, "bare-sleeper", 60, bare(server, "bare-sleeper"), nobody_was_closed),
    )
    assert "connection lost" not in said


# -- acknowledging late, or never -------------------------------------------------------------------------------------


@scenario
async def one_that_never_acknowledges_next_to_one_that_does(servers: Servers) -> None:
    """Each with a mailbox of its own: the first is told after 60 s that its window is full, and stays connected."""
    server = servers.default
    ids, others = await queue(server, "never", 1000), await queue(server, "always", 1000)
    async with Client(server, "never", ack="client") as never, Client(server, "always", ack="client") as always:
        await never.notifications(256)
        await take(always, 1000)
        await settled(server, "always", others[-1])
        assert came(always) == others
        error = await never.next("error", 90)
        assert error["code"] == "window_full"
        assert error["message"]
        assert server.metrics()["notifier_connections_window_full"] == 1
        await never.ping()
        assert came(never) == ids[:256]
        assert (await apublish(server, client_id="always", data="live")).status == 202
        await always.next("notification")
        # It has only forgotten: one frame, and the rest comes.
        await never.ack(never.frames[256]["seq"])
        await take(never, 744)
        assert came(never) == ids
        assert [frame["type"] for frame in never.frames].count("error") == 1
        stayed_open(never)
        stayed_open(always)


@scenario
async def a_tab_that_never_acknowledges_next_to_one_of_the_same_client_that_does(servers: Servers) -> None:
    server = servers.default
    ids = await queue(server, "two-tabs", 1000)
    async with Client(server, "two-tabs", ack="client") as never, Client(server, "two-tabs", ack="client") as always:
        await take(always, 1000)
        last = always.frames[-1]["seq"] if always.frames[-1]["type"] == "notification" else 0
        assert came(always) == ids
        await settled(server, "two-tabs", ids[-1])
        while (await never.next("settled"))["seq"] < last:
            pass
        assert set(came(never)) <= set(ids), "what was settled before it was written is not written any more"
        live = (await apublish(server, client_id="two-tabs", data="live")).body["id"]
        while (await never.next("notification"))["id"] != live:
            pass
        stayed_open(never)
        stayed_open(always)


@scenario
async def one_that_never_reads_is_cut_off_after_30_s_and_its_mail_stays(servers: Servers) -> None:
    """No good citizen, but the neighbour of some."""
    server = servers.strict
    ids = await queue(server, "deaf", 60, 60_000)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)  # or the kernel reads for it
    narrow.connect(("127.0.0.1", server.port))
    async with Client(server, "deaf", sock=narrow) as deaf, Client(server, "neighbour") as neighbour:
        deaf.socket.transport.pause_reading()
        await neighbour.welcome
        closed = "notifier_slow_consumers_total"
        async with asyncio.timeout(60):
            while not (await asyncio.to_thread(server.metrics))[closed]:
                await apublish(server, client_id="neighbour", data="live", ttl=0)
                await neighbour.next("notification")
                await asyncio.sleep(0.5)
        deaf.socket.transport.resume_reading()
        assert (await deaf.closed())[0] == 1006
        stayed_open(neighbour)
    async with Client(server, "deaf", ack="client") as back:
        assert (await back.welcome)["pending"] > 0
        await take(back, (await back.welcome)["pending"])
        assert came(back) == ids[-len(came(back)) :]


@scenario
async def an_event_stream_that_is_never_read_is_cut_off_after_30_s_and_its_mail_stays(servers: Servers) -> None:
    server = servers.streaming
    ids = await queue(server, "deaf", 60, 60_000)
    with socket.socket() as narrow:
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        narrow.connect(("127.0.0.1", server.port))
        narrow.sendall(
            f"GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token('deaf')}\r\n\r\n".encode()
        )
        begun = asyncio.get_running_loop().time()
        lost = CLOSED + '{code="1006",transport="sse"}'
        async with asyncio.timeout(60), EventStream(server, "neighbour") as neighbour:
            await neighbour.next("welcome")
            while not (await asyncio.to_thread(server.metrics)).get(lost):
                await apublish(server, client_id="neighbour", data="live", ttl=0)
                await neighbour.next("notification")
                await asyncio.sleep(0.5)
        assert asyncio.get_running_loop().time() - begun > 25
        assert server.metrics()["notifier_slow_consumers_total"] == 1
    async with EventStream(server, "deaf") as back:
        assert (await back.next("welcome")).frame["pending"] == 60
        assert [event.frame["id"] for event in await back.notifications(60)] == ids


def title(play: Scenario) -> str:
    return play.__name__.replace("_", " ")


@pytest.mark.parametrize("play", SCENARIOS, ids=title)
async def test_citizen(play: Scenario, outcomes: dict[Scenario, Awaitable[None]]) -> None:
    await outcomes[play]


async def test_we_closed_nobody(servers: Servers) -> None:
    """By the servers' own count: 1000 is the clients' own close."""
    for server in (servers.default, servers.hasty, servers.patient):
        prefix = f'{CLOSED}{{code="'
        codes = {name.removeprefix(prefix)[:4] for name in server.metrics() if name.startswith(prefix)}
        assert codes <= {"1000"}, server.metrics()
        assert server.metrics()["notifier_slow_consumers_total"] == 0
