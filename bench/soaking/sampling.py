"""What the server process holds, read from outside, and the line through it."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.soaking.target import Caller

KIB_PER_MIB = 1024


@dataclass(frozen=True)
class Sample:
    """At one moment. Memory in KiB: resident, its proportional share, and what is no file."""

    at_s: float
    rss: int
    pss: int
    anonymous: int
    descriptors: int
    threads: int
    cpu_s: float
    connections: float
    pending: float

    @property
    def row(self) -> str:
        """For a file of comma-separated values."""
        return ",".join(f"{value:g}" for value in asdict(self).values())


HEADER = ",".join(Sample.__dataclass_fields__)


def descriptors(pid: int) -> int:
    """Open descriptors of the process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    """Threads of the process."""
    return len(os.listdir(f"/proc/{pid}/task"))


def cpu_s(pid: int) -> float:
    """Processor time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def metrics(caller: Caller) -> dict[str, float]:
    """Every `notifier_` sample by its name with labels."""
    text = (await caller.call("GET", "/metrics")).body
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("notifier_"))
    return {name: float(value) for name, value in rows}


def total(values: dict[str, float], name: str) -> float:
    """The sum over a metric's labels."""
    return sum(value for key, value in values.items() if key.partition("{")[0] == name)


async def sample(pid: int, caller: Caller, at_s: float) -> Sample:
    """Look at the process."""
    values = await metrics(caller)
    rolled = _table(Path(f"/proc/{pid}/smaps_rollup"))
    status = _table(Path(f"/proc/{pid}/status"))
    return Sample(
        at_s=round(at_s, 1),
        rss=status["VmRSS"],
        pss=rolled["Pss"],
        anonymous=rolled["Anonymous"],
        descriptors=descriptors(pid),
        threads=threads(pid),
        cpu_s=cpu_s(pid),
        connections=total(values, "notifier_connections"),
        pending=total(values, "notifier_pending_notifications"),
    )


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) for name, value, *_ in rows}


def least_squares(at_s: Sequence[float], kib: Sequence[float]) -> float:
    """The slope in MiB/h."""
    return statistics.linear_regression(at_s, kib).slope * 3600 / KIB_PER_MIB


def theil_sen(at_s: Sequence[float], kib: Sequence[float]) -> float:
    """The median of the slopes of all pairs, in MiB/h: single steps and peaks do not move it."""
    slopes = [
        (kib[j] - kib[i]) / (at_s[j] - at_s[i]) for i in range(len(kib)) for j in range(i + 1, len(kib))
    ]  # fmt: skip
    return statistics.median(slopes) * 3600 / KIB_PER_MIB


def growth_mib(kib: Sequence[float]) -> float:
    """The median of the last quarter over that of the first."""
    quarter = max(1, len(kib) // 4)
    return (statistics.median(kib[-quarter:]) - statistics.median(kib[:quarter])) / KIB_PER_MIB
