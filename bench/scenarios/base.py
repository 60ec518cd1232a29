"""What scenarios have in common: their size, what they return, and which results do not count."""

from collections.abc import Callable
from dataclasses import dataclass, field

from bench.load import Report
from bench.peers import NotRunError, Running, Server

# Above this the load generator may be what is measured.
LOAD_SHARE_LIMIT = 0.70


@dataclass(frozen=True)
class Scale:
    """How large and how long. The README's figures come from the defaults."""

    subscribers: int = 2_000
    crowd: int = 10_000
    comeback: int = 15_000
    queued: int = 1_000_000
    warmup: float = 1.0
    seconds: float = 4.0
    latency_seconds: float = 10.0
    idle_seconds: float = 50.0  # two heartbeats of 25 s
    attempts: int = 5
    """How often a window that the host disturbed is measured, at most."""

    @classmethod
    def quick(cls) -> "Scale":
        return cls(
            1_000, 2_000, 2_000, 50_000, warmup=0.5, seconds=1.5, latency_seconds=3.0, idle_seconds=5.0, attempts=1
        )


@dataclass
class Outcome:
    """The values of one scenario on one server in one run, and what is wrong with them."""

    values: dict[str, float]
    load_share: float = 0.0
    problems: list[str] = field(default_factory=list)
    naive: list["Outcome"] = field(default_factory=list)
    """What the naive server did just before and after, in the scenario that this one is compared with."""


@dataclass(frozen=True)
class Metric:
    name: str
    title: str
    unit: str = "/s"
    digits: int = 0
    less_is_better: bool = False
    # What it is divided by for the ratio: a metric of the naive server in the same run.
    over: str | None = None


@dataclass(frozen=True)
class Scenario:
    name: str
    help: str
    servers: tuple[str, ...]
    metrics: tuple[Metric, ...]
    measure: Callable[[Server, Scale], Outcome]


ALL_SERVERS = ("notifier", "naive", "python-socketio", "socket.io", "ws", "nchan")
ONLY_NOTIFIER = ("notifier",)


def outcome(report: Report, values: dict[str, float], share: str = "load_share") -> Outcome:
    """Values with the doubts that the load generator's own counters raise."""
    problems = []
    for name, text in (
        ("missing", "notifications were not delivered"),
        ("rejected", "notifications were rejected"),
        ("failed_requests", "publishes failed"),
        ("reordered", "notifications came out of order"),
        ("lost_connections", "connections were lost"),
        ("refused", "handshakes were refused"),
    ):
        if report.get(name, 0):
            problems.append(f"{report[name]:.0f} {text}")
    if report["connections"] != report.get("connected", report["connections"]):
        problems.append(f"only {report['connected']} of {report['connections']} connected")
    if report.get(share, 0) > LOAD_SHARE_LIMIT:
        problems.append(f"lower bound: the load generator used {report[share]:.0%} of its core")
    return Outcome(values, report.get(share, 0.0), problems)


def open_files_needed(count: int) -> None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if count + 100 > limit:
        raise NotRunError(f"{count:,} sockets in one process need a higher open-file limit than {limit:,}")


def check_settled(run: Running, result: Outcome) -> None:
    """Delivered and acknowledged means that the server has nothing left."""
    if run.server.name == "notifier" and (left := run.metric("notifier_pending_notifications")):
        result.problems.append(f"{left:.0f} notifications were not settled at the end")
