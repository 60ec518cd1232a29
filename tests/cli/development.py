"""`notifier dev` as a newcomer starts it, in a directory that looks like a clone."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.cli.command import environment
from tests.harness.server import free_port


class Development:
    """A running `.venv/bin/notifier dev`, and what it printed when it was ready."""

    def __init__(self, directory: Path, *, port: int | None = None, **variables: str) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        venv = directory / ".venv"
        if not venv.exists():
            venv.symlink_to(Path(sys.executable).parents[1])
        self.port = free_port() if port is None else port
        self.environment = environment(**variables)
        self.printed = ""
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and read what it prints, up to the last line to paste."""
        with (self.directory / "dev.log").open("a") as log:
            self.process = subprocess.Popen(
                [".venv/bin/notifier", "dev", "--port", str(self.port)],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.printed = ""
        for line in self.process.stdout:
            self.printed += line
            if "ws.onclose" in line:
                return
        raise AssertionError(f"dev ended with {self.process.wait()}\n{self.printed}\n{self.log}")

    def stop(self) -> int:
        """Ctrl-C, and its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self._ended(30)

    def kill(self) -> None:
        """As by `kill -9`; nothing happens when it has ended."""
        if self.process is not None:
            self.process.kill()
            self._ended(30)

    def _ended(self, timeout: float) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        code = self.process.wait(timeout)
        self.process.stdout.close()
        return code

    @property
    def log(self) -> str:
        return (self.directory / "dev.log").read_text()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def value(self, name: str) -> str:
        """What stands after a label: `API key`, `Token for alice`."""
        found = re.search(rf"^ +{re.escape(name)} +(\S+)", self.printed, re.MULTILINE)
        assert found is not None, self.printed
        return found[1]

    def lines(self, word: str) -> list[str]:
        """The lines to paste that hold this word."""
        return [line.strip() for line in self.printed.splitlines() if line.startswith("    ") and word in line]

    def paste(self, line: str, *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a line in a terminal of its own; by default one that opened in another directory."""
        return subprocess.run(
            ["bash", "-c", line],
            cwd=cwd or "/",
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def paste_and_leave(self, line: str) -> subprocess.Popen[str]:
        """Run a line in a terminal of its own and come back while it runs. Ctrl-C reaches the command itself."""
        return subprocess.Popen(
            ["bash", "-c", line.replace("&& ", "&& exec ", 1)],
            cwd="/",
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
