"""Deadlines on one timer: never early, late by a grain at most, and by nothing that a suspended process missed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from notifier.transport.wheel import GRAIN_S, LATE_S, SLICE, Wheel
from tests.harness.virtual import VirtualLoop


class Timed:
    def __init__(self, again: float | None = None) -> None:
        self.calls: list[float] = []
        self.again = again

    def on_timer(self, now: float) -> float | None:
        self.calls.append(now)
        return self.again


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def run(loop: VirtualLoop, seconds: float) -> None:
    loop.run_until_complete(asyncio.sleep(seconds))


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.25, 0.26, 1.0, 9.99, 60.0])
@pytest.mark.parametrize("start", [0.0, 0.1, 0.249])
def test_a_deadline_is_met_within_a_grain(loop: VirtualLoop, delay: float, start: float) -> None:
    wheel = Wheel(loop)
    run(loop, start)
    timed = Timed()
    added = loop.time()
    wheel.add(timed, delay)
    run(loop, 100)
    (call,) = timed.calls
    assert added + delay <= call + 1e-9
    assert call <= added + delay + 2 * GRAIN_S
    wheel.stop()


def test_who_asks_is_called_again(loop: VirtualLoop) -> None:
    wheel = Wheel(loop)
    timed = Timed(again=1.0)
    wheel.add(timed, 0.0)
    run(loop, 10)
    assert 7 <= len(timed.calls) <= 10
    assert all(later - earlier >= 1.0 for earlier, later in zip(timed.calls, timed.calls[1:], strict=False))
    wheel.stop()


def test_who_has_gone_answers_none_and_is_forgotten(loop: VirtualLoop) -> None:
    wheel = Wheel(loop)
    timed = Timed(again=None)
    wheel.add(timed, 0.5)
    run(loop, 10)
    assert len(timed.calls) == 1
    assert not any(wheel._slots.values())
    wheel.stop()


def test_many_are_served_in_slices(loop: VirtualLoop) -> None:
    wheel = Wheel(loop)
    many = [Timed() for _ in range(2 * SLICE + 1)]
    for timed in many:
        wheel.add(timed, 1.0)
    run(loop, 2)
    assert all(len(timed.calls) == 1 for timed in many)
    wheel.stop()


def test_who_is_still_to_be_served_when_the_process_pauses_is_judged_by_the_time_before_it(loop: VirtualLoop) -> None:
    wheel = Wheel(loop)
    many = [Timed() for _ in range(3 * SLICE)]
    for timed in many:
        wheel.add(timed, 1.0)
    while not many[0].calls:
        run(loop, 0.001)
    assert not many[-1].calls
    loop.now += LATE_S + 60
    run(loop, GRAIN_S)
    assert {call for timed in many for call in timed.calls} == set(many[0].calls)
    assert all(len(timed.calls) == 1 for timed in many)
    wheel.stop()


def test_a_wheel_that_was_stopped_calls_nobody(loop: VirtualLoop) -> None:
    wheel = Wheel(loop)
    many = [Timed() for _ in range(2 * SLICE)]
    for timed in many:
        wheel.add(timed, 1.0)
    while not many[0].calls:
        run(loop, 0.001)
    wheel.stop()
    run(loop, 10)
    assert not many[-1].calls


def test_after_a_pause_of_the_process_nobody_is_judged_before_he_was_heard(loop: VirtualLoop) -> None:
    wheel = Wheel(loop)
    timed = Timed()
    wheel.add(timed, 1.0)
    run(loop, 0.5)
    loop.now += LATE_S + 60  # SIGSTOP
    woken = loop.now
    run(loop, 0.001)
    assert not timed.calls
    run(loop, 2 * GRAIN_S)
    assert len(timed.calls) == 1
    assert timed.calls[0] > woken
    wheel.stop()


def test_a_stopped_wheel_calls_nobody(loop: VirtualLoop) -> None:
    wheel = Wheel(loop)
    timed = Timed()
    wheel.add(timed, 0.5)
    wheel.stop()
    run(loop, 5)
    assert not timed.calls
