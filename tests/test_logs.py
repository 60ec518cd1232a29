"""What a log line never holds, in either format."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAILING = """
import logging, sys
import structlog
from notifier.logs import configure

configure("info", sys.argv[1])

def verify(token):
    raise ValueError("not \\x1b[2J usable")

for logger in (structlog.get_logger("ours"), logging.getLogger("a library's")):
    try:
        verify("t0p-" + "s3cret")
    except ValueError:
        logger.exception("callback_failed")
"""


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_traceback_shows_the_way_and_no_values(format: str) -> None:
    ran = subprocess.run([sys.executable, "-c", FAILING, format], capture_output=True, text=True, check=True)
    assert ran.stderr.count("Traceback (most recent call last)") == 2
    assert ran.stderr.count("in verify") == 2
    assert "s3cret" not in ran.stderr
    assert "\x1b[2J" not in ran.stderr, "what an error quotes does not drive the terminal"
