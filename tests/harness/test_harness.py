"""The harness keeps its own word: nothing is left behind, and a start that fails says why."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.server import ROOT, Server, StartError

ORPHAN = """
import sys
from pathlib import Path
from tests.harness import Server
server = Server(Path(sys.argv[1]), command=["sleep"], argv=["60"]).spawn()
print(server.pid, flush=True)
sys.stdin.read()
"""


def has_ended(pid: int, within_s: float) -> bool:
    """Whether the process ends in this time; a zombie has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], within_s)[0])
    finally:
        os.close(handle)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_server_dies_with_the_test_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ORPHAN, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not has_ended(pid, 0)
        parent.kill()
    assert has_ended(pid, 10)


def test_kill_takes_the_tracer_and_the_traced(tmp_path: Path) -> None:
    server = Server(tmp_path, command=["sleep"], argv=["60"], prefix=["sh", "-c", '"$@" & echo started; wait', "-"])
    server.spawn()
    assert server.process is not None
    while "started" not in server.log:
        assert server.running
    (traced,) = children(server.pid)
    server.close()
    assert has_ended(traced, 10)


def test_a_start_that_ends_shows_the_log_and_the_status(tmp_path: Path) -> None:
    server = Server(tmp_path, command=["sh", "-c", "echo no such luck; exit 78"])
    with pytest.raises(StartError, match="no such luck") as failure:
        server.start()
    assert failure.value.status == 78


def test_settings_are_variables_without_their_prefix(tmp_path: Path) -> None:
    server = Server(tmp_path, max_inflight=4, QUERY_TOKEN=True, notifier_log_format=None)
    assert server.environ["NOTIFIER_MAX_INFLIGHT"] == "4"
    assert server.environ["NOTIFIER_QUERY_TOKEN"] == "true"
    assert "NOTIFIER_LOG_FORMAT" not in server.environ
