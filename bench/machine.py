"""The conditions under which the figures were taken."""

import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.peers import DATA
from bench.toolchain import BUILD, HERE

QUIET_PERCENT = 4.0
PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "PyJWT", "apsw", "msgspec")


def raise_file_limit() -> int:
    """Server and load generator inherit it. Returns the number of files that one process may open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _fsyncs(path: Path, enough: Callable[[int], bool], pause_s: float) -> dict[str, float]:
    block = os.urandom(4096)
    times: list[float] = []
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        while not enough(len(times)):
            started = time.perf_counter()
            os.write(handle, block)
            os.fdatasync(handle)
            times.append((time.perf_counter() - started) * 1000)
            time.sleep(pause_s)
    finally:
        os.close(handle)
        path.unlink()
    times.sort()
    return {"p50": round(statistics.median(times), 3), "p99": round(times[int(len(times) * 0.99)], 3)}


def fsync_ms() -> dict[str, float]:
    """p50 and p99 of appending 4 KiB and fdatasync, where the servers keep their data."""
    BUILD.mkdir(exist_ok=True)
    return _fsyncs(BUILD / "fsync-probe", lambda done: done >= 400, 0)


class FsyncMeanwhile:
    """The same, a hundred times a second while a block runs: a disk, and the host that it belongs to, have seconds that
    are worse than others."""

    def __enter__(self) -> "FsyncMeanwhile":
        self._over = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._result = self._thread.submit(
            _fsyncs, BUILD / "fsync-meanwhile", lambda done: done > 0 and self._over.is_set(), 0.01
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.ms = self._result.result()
        self._thread.shutdown()


class Steal:
    """The share of the CPU that the hypervisor gave to other machines since this object was made."""

    def __init__(self) -> None:
        self.start = self._ticks()

    @staticmethod
    def _ticks() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return fields[7], sum(fields) - fields[3] - fields[4]  # of the time that was not idle

    def percent(self) -> float:
        stolen, busy = self._ticks()
        return round((stolen - self.start[0]) / max(1, busy - self.start[1]) * 100, 1)


class Quiet:
    """Waits for minutes in which the host leaves the machine to itself, `patience_s` seconds in all: the same for every
    server, and nothing that they do has a part in it."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self.waited_s = 0.0

    def wait(self) -> None:
        """Return when a second of work on all cores has lost less than 4 % to the host, after a minute at most."""
        end = min(self.waited_s + 60.0, self._patience_s)
        while self.waited_s < end and _stolen_percent(1.0) > QUIET_PERCENT:
            time.sleep(4)
            self.waited_s += 5


def _stolen_percent(seconds: float) -> float:
    """Of the CPU time that work on all cores asks for."""
    steal, block, end = Steal(), bytes(1 << 20), time.monotonic() + seconds

    def work() -> None:
        while time.monotonic() < end:
            hashlib.sha256(block)  # without Python's lock

    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as threads:
        for _ in range(cores):
            threads.submit(work)
    return steal.percent()


def _output(*command: str) -> str:
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        return "absent"
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[0] if done.returncode == 0 else "absent"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _locked(lock: Path, names: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for line in lock.read_text().splitlines():
        name, found, rest = line.partition("==")
        if found and name in names:
            versions[name] = rest.split()[0]
    return versions


def _npm_versions() -> dict[str, str]:
    package = json.loads((HERE / "servers" / "package.json").read_text())
    return dict(package["dependencies"])


def conditions() -> dict[str, Any]:
    versions = {"python": platform.python_version(), "node": _output("node", "--version").lstrip("v")}
    versions["nginx"] = _output("nginx", "-v").rpartition("/")[2]
    versions |= {name: metadata.version(name) for name in PACKAGES}
    versions |= _locked(HERE / "requirements.lock", ("python-socketio",)) | _npm_versions()
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "kernel": platform.release().partition("-")[0],  # what a distribution or host appends says nothing here
        "load_average_before": round(os.getloadavg()[0], 2),
        "fsync_ms": fsync_ms(),
        "payload_bytes": len(DATA.replace("@T", "0" * 16)),
        "versions": versions,
    }
