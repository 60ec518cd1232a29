"""The clock that does not jump, on invented time sources."""

from __future__ import annotations

import math
import time

import pytest

from notifier.clock import BUILD_DATE, LATEST, Clock, ManualClock, SystemClock, check_plausible
from notifier.errors import ConfigurationError

START_S = 1_800_000_000
SECOND, MILLISECOND = 1_000_000, 1_000
"""in µs"""


class Machine:
    """A system clock and a boot clock that can be moved apart."""

    def __init__(self) -> None:
        self.wall_ns = START_S * 1_000_000_000
        self.boot_ns = 5_000_000_123
        self.clock = SystemClock(lambda: self.wall_ns, lambda: self.boot_ns)

    def run(self, seconds: float) -> None:
        self.wall_ns += round(seconds * 1e9)
        self.boot_ns += round(seconds * 1e9)

    def step(self, seconds: float) -> None:
        self.wall_ns += round(seconds * 1e9)

    def behind_us(self) -> int:
        return self.wall_ns // 1000 - self.clock.now_us()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_stepped_system_clock_moves_nothing_at_once(machine: Machine, hours: int) -> None:
    machine.run(10)
    before = machine.clock.now_us()
    machine.step(hours * 3600)
    assert machine.clock.now_us() == before
    machine.run(1)
    machine.clock.now_us()
    machine.run(0.5)
    assert abs(machine.clock.now_us() - before - 1.5 * SECOND) <= 0.01 * 1.5 * SECOND


@pytest.mark.parametrize("step_s", [-5, 5])
def test_it_follows_a_step_at_one_percent_and_arrives(machine: Machine, step_s: int) -> None:
    machine.step(step_s)
    previous = machine.clock.now_us()
    for _ in range(520):
        machine.run(1)
        now = machine.clock.now_us()
        assert 0.99 * SECOND - 1 <= now - previous <= 1.01 * SECOND + 1
        previous = now
    assert abs(machine.behind_us()) < MILLISECOND


def test_it_does_not_overshoot_when_nobody_asked_for_an_hour(machine: Machine) -> None:
    machine.step(0.005)
    machine.run(1)
    machine.clock.now_us()  # from here on it runs 0.5 % too fast, for one second
    machine.run(3600)
    assert abs(machine.behind_us()) < MILLISECOND


def test_it_never_goes_backwards(machine: Machine) -> None:
    seen = [machine.clock.now_us()]
    for index in range(5000):
        machine.run(0.000_7 * (index % 3500))
        machine.step(-0.3 if index % 2 else 0.2)
        seen.append(machine.clock.now_us())
    assert seen == sorted(seen)


def test_it_loses_nothing_to_rounding(machine: Machine) -> None:
    for _ in range(500):  # so few that drift would stay below what is slewed away
        machine.run(1.000_000_7)
        machine.clock.now_us()
    assert abs(machine.behind_us()) <= 1


def test_a_suspended_machine_is_noticed(machine: Machine) -> None:
    before = machine.clock.now()
    machine.run(8 * 3600)  # the boot clock goes on in suspend
    assert machine.clock.now() == pytest.approx(before + 8 * 3600, abs=0.001)


def test_the_units_agree(machine: Machine) -> None:
    machine.run(1.234_567)
    assert machine.clock.now_us() == START_S * SECOND + 1_234_567
    assert machine.clock.now_ms() == START_S * 1000 + 1234
    assert machine.clock.now() == START_S + 1.234567


def test_the_real_clock_shows_the_real_time() -> None:
    clock: Clock = SystemClock()
    assert math.isclose(clock.now(), time.time(), abs_tol=5)
    assert clock.monotonic() <= clock.monotonic()


def test_a_manual_clock_moves_only_by_hand() -> None:
    clock = ManualClock(START_S)
    protocol: Clock = clock
    assert (protocol.now(), protocol.now_ms(), protocol.now_us()) == (START_S, START_S * 1000, START_S * SECOND)
    start = clock.monotonic()
    clock.advance(0.25)
    assert clock.now() == START_S + 0.25
    assert clock.monotonic() == start + 0.25


@pytest.mark.parametrize("now", [0, BUILD_DATE.timestamp() - 1, LATEST.timestamp(), 1e12])
def test_a_clock_that_is_certainly_wrong_stops_the_start(now: float) -> None:
    with pytest.raises(ConfigurationError, match="the system clock shows") as caught:
        check_plausible(now)
    assert "NTP" in caught.value.problems[0].mend


@pytest.mark.parametrize("now", [BUILD_DATE.timestamp(), START_S, LATEST.timestamp() - 1])
def test_a_plausible_clock_passes(now: float) -> None:
    check_plausible(now)
