"""A real server, killed at random moments under load, loses nothing that it promised."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from tests.e2e.oracle.run import Plan, execute
from tests.harness import Server

SEED = int(os.environ.get("ORACLE_SEED") or random.SystemRandom().randrange(1 << 32))


@pytest.mark.timeout(300)
def test_fifty_kills_lose_repeat_or_invent_nothing(tmp_path: Path) -> None:
    print(f"ORACLE_SEED={SEED}")
    server = Server(tmp_path)
    try:
        report = execute(server, Plan(SEED))
    finally:
        server.close()
    print(report)
    assert not report.violations, str(report)
    assert report.kills == 50
    assert report.in_flight >= 40, str(report)
    assert report.journal.counts["accepted"] >= 50_000, str(report)


def test_kills_under_wakes_that_are_lost_doubled_or_late_break_nothing_either(tmp_path: Path) -> None:
    print(f"ORACLE_SEED={SEED}")
    server = Server(tmp_path, command=[sys.executable, "-m", "tests.harness.chaos_server"])
    try:
        report = execute(server, Plan(SEED, kills=4, accepted=0, deadline=100))
    finally:
        server.close()
    print(report)
    assert not report.violations, str(report)
    assert report.kills == 4
