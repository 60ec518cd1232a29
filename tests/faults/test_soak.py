"""Clients and publishers come and go all the time: nothing is lost, and the server holds on to nothing.

In CI's size. `SOAK_MINUTES=10` takes the long form; `python -m bench.soak` is the same without pytest.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.soak import soak
from bench.soaking.churn import SETTINGS
from bench.soaking.target import Target
from tests.door.health import unharmed
from tests.door.watching import Observed
from tests.harness import Server
from tests.harness.server import COMPILED, ROOT

MINUTES = float(os.environ.get("SOAK_MINUTES", "0.25"))
pytestmark = pytest.mark.timeout(MINUTES * 60 + 180)


class Uncollected(Observed):
    """Without Python's collector, which comes so seldom that nothing may wait for it."""

    def __init__(self, directory: Path, **options: Any) -> None:
        command = [sys.executable, "-m", "tests.faults.uncollected_server"]
        # As it is shipped, where that was made: compiled functions hold what they close over in other ways.
        packages = os.pathsep.join(str(path) for path in (COMPILED, ROOT) if path is not None)
        Server.__init__(self, directory, command=command, environ={"PYTHONPATH": packages}, **options)


async def test_what_comes_and_goes_leaves_nothing(tmp_path: Path) -> None:
    with Uncollected(tmp_path, ready_timeout=60, **SETTINGS) as server:
        before = server.held
        target = Target(server.port, server.pid, server.key, server.jwt_secret)
        report = await soak(target, MINUTES, every_s=min(5.0, MINUTES * 2), say=print)
        print(report.text())
        assert report.problems() == []
        assert report.journal.counts["skipped"] == 0
        ended = report.ended()
        assert min(ended[end] for end in ("delivered", "expired", "collapsed", "purged", "dropped")) > 0, ended
        seen = server.look()
        left = {kind: count for kind, count in seen.items() if kind not in ("tasks", "objects")}
        assert left == {}, "these hold themselves: only the collector would free them"
        unharmed(server)
        # Whoever had a full window is looked at once more a minute later, also when it is gone.
        server.comes_back_to(before, 90, objects=MINUTES >= 2)
