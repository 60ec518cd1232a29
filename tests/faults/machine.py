"""Disks that are full, slow or broken, for real servers: a small tmpfs, and strace in front of the server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import Server, need


def unavailable(message: str) -> None:
    """What the machine does not allow is a visible skip, and a failure in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{message}, and nothing may be skipped in CI")
    pytest.skip(message)


@contextmanager
def small_disk(directory: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes."""
    directory.mkdir()
    done = subprocess.run(
        [need("mount"), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        unavailable(f"cannot mount a tmpfs ({done.stderr.strip()})")
    try:
        yield directory
    finally:
        subprocess.run([need("umount"), "--lazy", str(directory)], check=True)


def free(directory: Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def fill(directory: Path, leave: int = 0) -> Path:
    """Occupy all but `leave` bytes; the file to remove for room."""
    ballast = directory / "ballast"
    with ballast.open("wb") as file:
        if (size := free(directory) - leave) > 0:
            os.posix_fallocate(file.fileno(), 0, size)
    return ballast


def tracer(injection: str) -> list[str]:
    """strace in front of the server: `fdatasync:error=EIO:when=5+`. Calls are counted per thread."""
    call = injection.partition(":")[0]
    # All other calls run at full speed; but then strace overlooks the signal that it should send.
    fast = [] if "signal=" in injection else ["--seccomp-bpf"]
    return [need("strace"), "-f", *fast, "-qq", "-e", f"trace={call}", "-e", f"inject={injection}", "-o", os.devnull]


def traced_pid(server: Server) -> int:
    """The server's own process id where a tracer stands in front of it."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])
