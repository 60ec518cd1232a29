"""What every pump has in common, on a transport that does what it is told and a loop whose time jumps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from notifier.auth.tokens import Identity
from notifier.conversation import Limits
from notifier.engine.base import MailboxState, Notification, Page
from notifier.errors import NotifierError, TokenInvalid
from notifier.session import Session
from notifier.transport.carrier import HIGH_WATER, LOW_WATER, MAX_UNSENT
from notifier.transport.websocket import WebSocketConnection
from notifier.transport.wheel import Wheel
from tests.harness.virtual import VirtualLoop
from tests.transport.test_frames import frame

KIB = 1024
NOW = 1_800_000_000.0


class Pipe:
    """A transport whose peer takes what `take` says. Pauses and resumes its protocol as uvloop's does: at once."""

    def __init__(self) -> None:
        self.unsent = 0
        self.most = 0
        self.written = b""
        self.aborted = False
        self.protocol: Any = None
        self._paused = False

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert (high, low) == (HIGH_WATER, LOW_WATER)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def write(self, data: bytes) -> None:
        self.written += data
        self.unsent += len(data)
        self.most = max(self.most, self.unsent)
        if self.unsent > HIGH_WATER and not self._paused:
            self._paused = True
            self.protocol.pause_writing()

    def take(self, count: int) -> None:
        self.unsent = max(0, self.unsent - count)
        if self._paused and self.unsent <= LOW_WATER:
            self._paused = False
            self.protocol.resume_writing()


class Scene:
    """A WebSocket whose session has begun, and what is around it."""

    def __init__(self, loop: VirtualLoop, expires_s: float = 3600.0, window: int = 10_000) -> None:
        self.loop = loop
        self.checks: list[tuple[str, Callable[[Identity | NotifierError], None]]] = []
        self.slow = 0
        self.reads = 0
        limits = Limits(window, 25, 20, 10)
        node = SimpleNamespace(
            touch=lambda carrier: loop.call_soon(carrier.pump),
            acknowledge=lambda carrier, ack: None,
            regroup=lambda carrier, identity: carrier.session.reauthenticated(identity),
            read=self._read,
            metrics=SimpleNamespace(slow_consumer=self._slow),
        )
        self.door: Any = SimpleNamespace(
            time=loop.time,
            clock=SimpleNamespace(now=lambda: NOW + loop.time()),
            wheel=Wheel(loop),
            node=node,
            verify=lambda token, done: self.checks.append((token, done)),
        )
        self.pipe = Pipe()
        self.session = Session("c", self.token(expires_s), "client", limits, loop.time())
        self.carrier = WebSocketConnection(self.door, self.pipe, self.session, "192.0.2.1")  # type: ignore[arg-type]
        self.pipe.protocol = self.carrier
        self.session.start(MailboxState(0, None, None))
        self.carrier.pump()

    def token(self, ends_in_s: float) -> Identity:
        return Identity("alice", NOW + self.loop.time() + ends_in_s, NOW, ())

    def _slow(self) -> None:
        self.slow += 1

    def _read(self, carrier: Any) -> None:
        self.reads += 1

    def run(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def say(self, *messages: dict[str, Any]) -> None:
        """In one segment."""
        self.carrier.data_received(b"".join(frame(1, json.dumps(message).encode()) for message in messages))

    def auth(self, ends_in_s: float) -> None:
        self.say({"type": "auth", "token": "t"})
        self.checks.pop()[1](self.token(ends_in_s))
        self.run(0.001)

    @property
    def timers(self) -> int:
        return sum(len(slot) for slot in self.door.wheel._slots.values())


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


# -- pacing -----------------------------------------------------------------------------------------------------------


def large(seq: int, size: int) -> Notification:
    return Notification("alice", seq, "i" * 128, b"1" * size, 0, 1_900_000_000_000)


def test_the_largest_mail_that_is_allowed_ends_no_connection(loop: VirtualLoop) -> None:
    """256 KiB unsent, as much waiting to be written, and one of 512 KiB: it is read when the line is free again."""
    scene = Scene(loop)
    scene.pipe.unsent = HIGH_WATER
    session = scene.session
    taken = [session.offer(large(seq, 1280), seq - 1) for seq in range(1, 150)]
    assert all(taken)
    assert not session.offer(large(150, 512 * KIB), 149)
    scene.carrier.pump()
    assert session.paused
    assert session.behind
    scene.pipe.take(MAX_UNSENT)
    scene.run(0.001)
    assert scene.reads == 1
    session.mail(Page([large(150, 512 * KIB)], 150, False))
    scene.carrier.pump()
    assert session.position == 150
    assert (scene.slow, scene.pipe.aborted) == (0, False)
    assert scene.pipe.most < MAX_UNSENT


def test_a_page_of_small_mail_ends_no_connection_however_many_there_are(loop: VirtualLoop) -> None:
    scene = Scene(loop)
    scene.pipe.unsent = HIGH_WATER
    scene.session.behind = scene.session.reading = True
    scene.session.mail(Page([large(seq, 12) for seq in range(1, 10_001)], 10_000, False))
    scene.carrier.pump()
    assert scene.session.paused
    assert not scene.pipe.aborted
    assert scene.pipe.most < MAX_UNSENT
    assert len(scene.session.mail(Page([large(20_000, 1)], 20_000, False))) == 0, "while it is paused"


def test_a_transient_frame_counts_what_is_unsent(loop: VirtualLoop) -> None:
    scene = Scene(loop)
    scene.pipe.unsent = HIGH_WATER - 1000
    scene.session.offer(large(1, 1280), 0)  # so that it waits behind this one
    assert scene.carrier.carry([b"1" * 500_000], {}) == 0
    scene.pipe.take(10_000)
    assert scene.carrier.carry([b"1" * 500_000], {}) == 1
    scene.carrier.pump()
    assert not scene.pipe.aborted


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_two_tokens_in_one_segment_are_looked_at_one_after_another(loop: VirtualLoop) -> None:
    """The second is good; the first must not get lost all the same, nor come to count after it."""
    scene = Scene(loop)
    scene.say({"type": "auth", "token": "first"}, {"type": "auth", "token": "second"})
    ((token, done),) = scene.checks
    assert token == "first"
    scene.run(5.0)
    assert len(scene.checks) == 1, "its keys are being fetched"
    done(TokenInvalid("No."))
    scene.run(0.001)
    token, done = scene.checks[1]
    assert token == "second"
    done(scene.token(500))
    scene.run(0.001)
    assert scene.pipe.written.index(b"token_invalid") < scene.pipe.written.index(b"authenticated")


def test_a_token_of_another_client_ends_it_whatever_comes_behind(loop: VirtualLoop) -> None:
    scene = Scene(loop)
    scene.say({"type": "auth", "token": "bob's"}, {"type": "auth", "token": "mine"})
    scene.checks[0][1](Identity("bob", NOW + 500, NOW, ()))
    scene.run(0.001)
    assert scene.session.closing == (4403, "client_id_mismatch")
    assert len(scene.checks) == 1


def test_a_token_that_ends_sooner_is_enforced_in_time(loop: VirtualLoop) -> None:
    scene = Scene(loop)
    scene.run(1.0)
    scene.auth(6)
    assert b'"token_expiring","in_s":6' in scene.pipe.written, "at once, for less than 30 s are left"
    scene.run(15.9)
    assert scene.session.closing is None
    scene.run(1.0)
    assert scene.session.closing == (4401, "token_expired")


def test_the_end_of_a_token_that_ends_sooner_is_told_30_seconds_before(loop: VirtualLoop) -> None:
    scene = Scene(loop)
    scene.run(1.0)
    scene.auth(33)
    assert b"token_expiring" not in scene.pipe.written
    scene.run(3.6)
    assert b'"token_expiring","in_s":30' in scene.pipe.written


def test_a_longer_token_takes_the_early_end_back(loop: VirtualLoop) -> None:
    scene = Scene(loop)
    scene.run(1.0)
    scene.auth(6)
    scene.auth(600)
    scene.session.heard_at = 40.0  # no heartbeats here
    scene.pipe.take(MAX_UNSENT)
    scene.run(30.0)
    assert scene.session.closing is None


def test_many_tokens_leave_no_timers_behind(loop: VirtualLoop) -> None:
    scene = Scene(loop)
    scene.run(1.0)
    before = scene.timers
    for _ in range(100):
        scene.auth(40)
    assert scene.timers <= before + 1
    for n in range(100):
        scene.auth(40 - n / 1000)
    assert scene.timers <= before + 2
    scene.session.heard_at = 25.0
    scene.run(24.5)
    assert scene.timers <= before + 1
