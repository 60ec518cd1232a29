"""What signals do beside the drain (tests/e2e/test_rolling_deploy.py)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.harness import Server


def test_a_second_signal_right_behind_the_first_ends_it_at_once(make_server: Callable[..., Server]) -> None:
    """Both are there before the loop has heard of the first; the drain would take a minute."""
    server = make_server(drain_delay_seconds=60)
    os.kill(server.pid, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGTERM)
    os.kill(server.pid, signal.SIGINT)
    os.kill(server.pid, signal.SIGCONT)
    assert server.wait() == 0
