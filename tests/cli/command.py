"""The installed command as a process, in a directory and an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
NOTIFIER = str(Path(sys.executable).with_name("notifier"))


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**variables: str) -> dict[str, str]:
    """This environment without any setting, and wide enough that nothing is wrapped."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFIER_")}
    return kept | {"COLUMNS": "200", "PYTHONWARNINGS": "error"} | variables


def notifier(*arguments: str, cwd: Path, stdin: str = "", timeout: float = 60.0, **variables: str) -> Result:
    """Run `notifier` to its end."""
    done = subprocess.run(
        [NOTIFIER, *arguments],
        cwd=cwd,
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)
