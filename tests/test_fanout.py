"""Frames to many connections: who gets them, how often, in which order, and how long a tick may take."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from notifier.auth.tokens import Identity
from notifier.clock import ManualClock
from notifier.conversation import Limits
from notifier.diagnosis import Diagnosis
from notifier.errors import Busy
from notifier.fanout import MAX_JOINED, MAX_UNDER_WAY, Fanout
from notifier.hub import SLICE, Carrier, Hub
from notifier.metrics import Metrics
from notifier.session import Session


class Member(Carrier):
    """A carrier that keeps what it was given to write, one list per write."""

    kind = "test"

    def __init__(self, client_id: str, *groups: str) -> None:
        self.session = Session("c", Identity(client_id, 2e9, 0.0, groups), "auto", Limits(1, 1, 1, 1), 0.0)
        self.writes: list[list[bytes]] = []
        self.reads = True

    def carry(self, frames: list[bytes], encoded: dict[str, bytes]) -> int:
        """See Carrier.carry."""
        if not self.reads:
            return 0
        joined = encoded.setdefault(self.kind, b"".join(frames))
        assert joined == b"".join(frames), "bytes that were made for other frames"
        self.writes.append(list(frames))
        return len(frames)

    @property
    def frames(self) -> list[bytes]:
        """All that came, in order."""
        return [frame for write in self.writes for frame in write]


class World:
    """A fan-out whose ticks are run by hand."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.metrics = Metrics("test", "sqlite")
        self.diagnosis = Diagnosis(ManualClock())
        self._due: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        loop: Any = self
        self.fanout = Fanout(self.hub, loop, self.metrics, self.diagnosis)

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        """As much of a loop as it needs."""
        self._due.append((callback, args))

    def connect(self, client_id: str, *groups: str) -> Member:
        member = Member(client_id, *groups)
        self.hub.add(member)
        return member

    def crowd(self, count: int, *groups: str) -> list[Member]:
        return [self.connect(f"c{n:05}", *groups) for n in range(count)]

    def tick(self) -> bool:
        """What is due now, and nothing that becomes due by it. Whether there was anything."""
        now, self._due = self._due, deque()
        for callback, args in now:
            callback(*args)
        return bool(now)

    def settle(self) -> None:
        while self.tick():
            pass


@pytest.fixture
def world() -> World:
    return World()


def served(members: list[Member]) -> int:
    return sum(len(member.writes) for member in members)


def test_more_than_may_be_under_way_is_refused_and_not_sent(world: World) -> None:
    members = world.crowd(SLICE + 1, "g")
    for n in range(MAX_UNDER_WAY // 2):
        world.fanout.to_everyone(b"%d" % n)
        world.fanout.to_group("g", b"%d" % n)
    for group in (None, "g"):
        with pytest.raises(Busy, match="None was sent"):
            world.fanout.admit(group)
    world.settle()
    world.fanout.admit(None)
    world.fanout.admit("g")
    assert {len(member.frames) for member in members} == {MAX_UNDER_WAY}


def test_what_is_served_at_once_is_never_refused(world: World) -> None:
    world.crowd(SLICE + 1)
    small = [world.connect(f"small-{n}", "small") for n in range(SLICE)]
    for _ in range(MAX_UNDER_WAY):
        world.fanout.to_everyone(b"x")
    world.fanout.admit("small")
    world.fanout.admit("nobody")
    handed = world.fanout.to_group("small", b"y")
    assert (handed.connections, handed.taken) == (SLICE, SLICE)
    assert all(b"y" in member.frames for member in small)


def test_a_connection_that_does_not_read_loses_each_frame_and_that_is_counted(world: World) -> None:
    slow, quick = world.connect("alice"), world.connect("bob")
    slow.reads = False
    handed = world.fanout.to_everyone(b"x")
    assert (handed.connections, handed.taken) == (2, 1)
    handed = world.fanout.to_client("alice", b"y")
    assert (handed.connections, handed.taken) == (1, 0)
    assert world.metrics.lost == {"slow_consumer": 2}
    assert quick.frames == [b"x"]


def test_a_connection_that_is_closing_has_lost_nothing(world: World) -> None:
    member = world.connect("alice")
    member.reads = False
    member.session.close(1000, "")
    world.fanout.to_everyone(b"x")
    assert world.metrics.lost == {}


def test_nobody_is_there(world: World) -> None:
    for handed in (world.fanout.to_everyone(b"x"), world.fanout.to_group("g", b"x"), world.fanout.to_client("a", b"x")):
        assert (handed.connections, handed.taken) == (0, 0)
    assert not world.tick()


@pytest.mark.parametrize("count", [1, SLICE - 1, SLICE, SLICE + 1, 3 * SLICE, 3 * SLICE + 7])
def test_everyone_once(world: World, count: int) -> None:
    members = world.crowd(count, "g")
    handed = world.fanout.to_everyone(b"x")
    assert (handed.connections, handed.taken) == (count, count)
    handed = world.fanout.to_group("g", b"y")
    assert (handed.connections, handed.taken) == (count, count)
    world.settle()
    assert all(sorted(member.frames) == [b"x", b"y"] for member in members)


def test_a_tick_serves_one_slice_however_much_is_under_way(world: World) -> None:
    members = world.crowd(5 * SLICE, "g")
    world.fanout.to_everyone(b"a")
    world.fanout.to_everyone(b"b")
    world.fanout.to_group("g", b"c")
    world.fanout.to_group("g", b"d")
    ticks, before = 0, served(members)
    while world.tick():
        assert served(members) - before <= SLICE
        ticks, before = ticks + 1, served(members)
    assert ticks > 3 * 4, "they took turns"
    assert all(sorted(member.frames) == [b"a", b"b", b"c", b"d"] for member in members)


def test_a_tick_is_as_short_where_clients_have_many_connections(world: World) -> None:
    members = [world.connect(f"client-{n % SLICE}") for n in range(5 * SLICE)]
    world.fanout.to_everyone(b"x")
    assert served(members) == SLICE
    world.settle()
    assert all(member.frames == [b"x"] for member in members)


def test_a_broadcast_joins_those_that_are_under_way(world: World) -> None:
    members = world.crowd(4 * SLICE)
    world.fanout.to_everyone(b"a")
    world.tick()
    handed = world.fanout.to_everyone(b"b")
    assert (handed.connections, handed.taken) == (4 * SLICE, 4 * SLICE)
    world.settle()
    assert [member.writes for member in members[: 2 * SLICE]] == [[[b"a"], [b"b"]]] * 2 * SLICE
    assert [member.writes for member in members[2 * SLICE :]] == [[[b"a", b"b"]]] * 2 * SLICE


def test_what_is_large_goes_out_by_itself(world: World) -> None:
    """So that in between it is seen whether the connection keeps up."""
    members = world.crowd(SLICE + 1)
    half = b"x" * (MAX_JOINED // 2)
    for frame in (half, half, b"y", half, half + b"y", b"z"):
        world.fanout.to_everyone(frame)
    world.settle()
    assert [[len(frame) for frame in write] for write in members[-1].writes] == [
        [len(half), len(half)],
        [1, len(half)],
        [len(half) + 1, 1],
    ]


def test_a_tick_is_as_short_where_many_writes_go_to_each(world: World) -> None:
    members = world.crowd(2 * SLICE)
    large = b"x" * MAX_JOINED
    for _ in range(10):
        world.fanout.to_everyone(large)
    before = served(members)
    while world.tick():
        assert served(members) - before < SLICE + 10, "a client is served whole"
        before = served(members)
    assert all(len(member.writes) == 10 for member in members)


def test_whoever_comes_and_goes_the_others_get_each_broadcast_once_and_in_order() -> None:
    for seed in range(60):
        dice, world = random.Random(seed), World()
        members = [world.connect(f"c{dice.randrange(2_000)}") for _ in range(dice.randrange(2 * SLICE, 5 * SLICE))]
        stayed, sent = set(members), 0
        for _ in range(40):
            for _ in range(dice.choice((0, 0, 1, 3))):
                sent += 1
                world.fanout.to_everyone(b"%d" % sent)
            for _ in range(dice.choice((0, 5, 60))):
                gone = dice.choice(members)
                stayed.discard(gone)
                world.hub.remove(gone)
                members.append(world.connect(f"c{dice.randrange(2_000)}"))
            world.tick()
        world.settle()
        everything = [b"%d" % n for n in range(1, sent + 1)]
        assert all(member.frames == everything for member in stayed), f"seed {seed}"
        for member in members:
            numbers = [int(frame) for frame in member.frames]
            assert numbers == sorted(set(numbers)), f"seed {seed}"
