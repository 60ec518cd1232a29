"""Programs that some tests need beside Python."""

from __future__ import annotations

import os
import shutil

import pytest


def need(tool: str) -> str:
    """The path of a program. Without it the test fails in CI, and is a visible skip elsewhere."""
    path = shutil.which(tool, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is not None:
        return path
    message = f"{tool} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{message}, and nothing may be skipped in CI")
    pytest.skip(message)
