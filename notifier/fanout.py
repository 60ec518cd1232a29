"""Frames that go to many connections: a slice per tick of the loop, so that others go on in between.

A broadcast begins where the walk through the clients is, and ends when it is there again. One that is accepted while
others are under way joins them: from there on each connection gets all of them in one write, in the order of
acceptance. Nothing is copied for it, however many connections there are. Who connects while a broadcast is under way
may get it or not.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from bisect import bisect_right
from collections import deque
from typing import Final

from notifier.diagnosis import Diagnosis
from notifier.engine.base import Handed
from notifier.errors import Busy
from notifier.hub import SLICE, Carrier, Hub
from notifier.metrics import Metrics

MAX_UNDER_WAY: Final = 64
"""Frames on their way to more connections than one slice has."""
MAX_JOINED: Final = 64 * 1024
"""Bytes that go out as one write without looking in between whether the connection keeps up."""


class Load:
    """What a connection gets in one write. `encoded`: see Carrier.carry."""

    __slots__ = ("encoded", "frames", "size")

    def __init__(self, frame: bytes) -> None:
        self.frames = [frame]
        self.size = len(frame)
        self.encoded: dict[str, bytes] = {}


class Walk:
    """A way through many connections, in slices."""

    def step(self) -> int:
        """Serve the next slice; how many frames were not taken."""
        raise NotImplementedError

    @property
    def frames(self) -> int:
        """How many are under way; none: it has ended."""
        raise NotImplementedError


class Fanout:
    """All that is under way. Walks take turns, so that a tick stays short however many there are."""

    def __init__(self, hub: Hub, loop: AbstractEventLoop, metrics: Metrics, diagnosis: Diagnosis) -> None:
        self._hub = hub
        self._loop = loop
        self._metrics = metrics
        self._diagnosis = diagnosis
        self._everyone = _Everyone(self, hub)
        self._walks: deque[Walk] = deque()

    def admit(self, group: str | None) -> None:
        """To this group, or to everyone. Raises Busy if so much is under way that what takes longer must be refused."""
        if sum([walk.frames for walk in self._walks]) >= MAX_UNDER_WAY:
            count = self._hub.connections if group is None else len(self._hub.members(group))
            if count > SLICE:
                raise Busy(f"{MAX_UNDER_WAY} frames for everyone or for large groups are on their way. None was sent.")

    def to_client(self, client_id: str, frame: bytes) -> Handed:
        """To the client's connections."""
        carriers, load = list(self._hub.of(client_id)), Load(frame)
        return Handed(len(carriers), len(carriers) - sum([self.serve(carrier, load) for carrier in carriers]))

    def to_group(self, group: str, frame: bytes) -> Handed:
        """To the group's connections as of now. The first slice is served at once; the rest is taken to take it too."""
        carriers = self._hub.members(group)
        return Handed(len(carriers), len(carriers) - self._begin(_Members(self, carriers, frame)))

    def to_everyone(self, frame: bytes) -> Handed:
        """To every connection. See `to_group`."""
        count = self._hub.connections
        joins = self._everyone.frames > 0
        self._everyone.add(frame)
        return Handed(count, count if joins else count - self._begin(self._everyone))

    def _begin(self, walk: Walk) -> int:
        missed = walk.step()
        if walk.frames:
            self._walks.append(walk)
            if len(self._walks) == 1:
                self._loop.call_soon(self._go_on)
        return missed

    def _go_on(self) -> None:
        walk = self._walks.popleft()
        walk.step()
        if walk.frames:
            self._walks.append(walk)
        if self._walks:
            self._loop.call_soon(self._go_on)

    def serve(self, carrier: Carrier, load: Load) -> int:
        """How many of the frames the connection does not take. They are lost to it, and counted."""
        missed = len(load.frames) - carrier.carry(load.frames, load.encoded)
        if missed and carrier.session.closing is None:
            self._metrics.notifications_lost("slow_consumer", missed)
            self._diagnosis.dropped(carrier.session.client_id, "slow_consumer", missed)
        return missed


class _Members(Walk):
    """One frame to a list of connections."""

    def __init__(self, fanout: Fanout, carriers: list[Carrier], frame: bytes) -> None:
        self._fanout = fanout
        self._carriers = carriers
        self._load = Load(frame)
        self._at = 0

    @property
    def frames(self) -> int:
        """See Walk.frames."""
        return 1 if self._at < len(self._carriers) else 0

    def step(self) -> int:
        """See Walk.step."""
        carriers = self._carriers[self._at : self._at + SLICE]
        self._at += len(carriers)
        return sum([self._fanout.serve(carrier, self._load) for carrier in carriers])


class _Round:
    """One frame's way through all clients: from behind `start` to the last, and from the first to `start`."""

    __slots__ = ("frame", "start", "turned")

    def __init__(self, frame: bytes, start: str) -> None:
        self.frame = frame
        self.start = start
        self.turned = False
        """Whether it has passed the last client."""


class _Everyone(Walk):
    """All broadcasts, through the clients in the order of their ids: their place is found whoever comes and goes."""

    def __init__(self, fanout: Fanout, hub: Hub) -> None:
        self._fanout = fanout
        self._hub = hub
        self._after = ""
        self._rounds: deque[_Round] = deque()
        """In the order of acceptance, which is the order in which they end."""
        self._loads: list[Load] = []

    @property
    def frames(self) -> int:
        """See Walk.frames."""
        return len(self._rounds)

    def add(self, frame: bytes) -> None:
        """A frame for everyone, from here on."""
        self._rounds.append(_Round(frame, self._after))
        self._pack()

    def step(self) -> int:
        """See Walk.step."""
        page = self._hub.page(self._after, SLICE)
        after, last = (page[-1] if page else self._after), len(page) < SLICE
        oldest = self._rounds[0]
        if oldest.turned and after > oldest.start:
            page = page[: bisect_right(page, oldest.start)]
            after, last = oldest.start, False
        writes = missed = 0
        before = ""
        for client_id in page:
            if writes >= SLICE:
                after, last = before, False
                break
            for carrier in list(self._hub.of(client_id)):
                writes += len(self._loads)
                for load in self._loads:
                    missed += self._fanout.serve(carrier, load)
            before = client_id
        self._after = after
        self._end(last)
        return missed

    def _end(self, last: bool) -> None:
        """Forget the rounds that are through. `last`: the walk has passed the last client."""
        rounds = self._rounds
        count = len(rounds)
        if last:
            while rounds and rounds[0].turned:
                rounds.popleft()
            for one in rounds:
                one.turned = True
            self._after = ""
        while rounds and rounds[0].turned and rounds[0].start <= self._after:
            rounds.popleft()
        if not rounds:
            self._after = ""
        if len(rounds) < count:
            self._pack()

    def _pack(self) -> None:
        """Put together what goes out in one write."""
        loads: list[Load] = []
        for one in self._rounds:
            size = len(one.frame)
            if loads and loads[-1].size + size <= MAX_JOINED:
                loads[-1].frames.append(one.frame)
                loads[-1].size += size
            else:
                loads.append(Load(one.frame))
        self._loads = loads
