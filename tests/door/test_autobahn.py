"""The Autobahn cases (by `kosoku`) against notifier's own frame reader and writer: RFC 6455 as others understand it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import need
from tests.harness.server import ROOT

pytestmark = pytest.mark.timeout(300)
COMPRESSION = ("12.*", "13.*")  # permessage-deflate is not offered: 64 KiB for each connection


@pytest.fixture
def echo() -> Iterator[int]:
    command = [sys.executable, "-m", "tests.door.echo_server"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, cwd=ROOT) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


def test_no_autobahn_case_fails(echo: int, tmp_path: Path) -> None:
    options = [option for case in COMPRESSION for option in ("-x", case)]
    program = Path(sys.executable).with_name("kosoku")
    command = [str(program) if program.exists() else need("kosoku"), *options, "-o", str(tmp_path)]
    done = subprocess.run([*command, f"127.0.0.1:{echo}"], capture_output=True, text=True, timeout=280, check=False)
    (report,) = json.loads((tmp_path / "index.json").read_text()).values()
    bad = {
        case: result
        for case, result in report.items()
        if result["behavior"] not in ("OK", "NON-STRICT", "INFORMATIONAL")
        or result["behaviorClose"] not in ("OK", "INFORMATIONAL")
    }
    assert not bad, done.stdout[-2000:]
    assert len(report) > 200
