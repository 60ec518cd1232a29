"""What 10,000 connections cost: handshakes, memory, broadcasts, delays, idling."""

from bench import machine
from bench.load import load
from bench.peers import Server, running
from bench.scenarios.base import ALL_SERVERS, Metric, Outcome, Scale, Scenario, open_files_needed, outcome

RATE = 1_000
PUBLISHERS = 50
HEARTBEAT = 25
GATHER_US = 1_000
"""Clients elsewhere would cost the server no wake-ups of theirs; of a broadcast's 10,000, each would be one."""


def connect(server: Server, scale: Scale) -> Outcome:
    """Every client is new to the server and brings its own token."""
    open_files_needed(scale.crowd)
    with running(server) as run:
        report = load(run, connections=scale.crowd)
        values = {
            "handshakes_per_s": report["handshakes_per_s"],
            "kb_per_connection": report["kb_per_connection"],
            "server_us": report["connect_server_us_each"],
        }
        return outcome(report, values, share="connect_load_share")


def broadcast(server: Server, scale: Scale) -> Outcome:
    """The next broadcast goes out while the one before is still on its way, so that no server waits for us."""
    open_files_needed(scale.crowd)
    with running(server) as run:
        report = load(
            run,
            broadcast=True,
            connections=scale.crowd,
            publishers=2,
            window=2 * scale.crowd,
            gather=GATHER_US,
            warmup=scale.warmup,
            seconds=scale.seconds,
        )
        return outcome(report, {"per_s": report["delivered_per_s"], "server_us": report["publish_server_us_each"]})


def latency(server: Server, scale: Scale) -> Outcome:
    """Open loop: a request that leaves late still counts from the moment when it was due."""
    open_files_needed(scale.crowd)
    with running(server) as run, machine.FsyncMeanwhile() as fsync:
        report = load(
            run,
            connections=scale.crowd,
            publishers=PUBLISHERS,
            rate=RATE,
            warmup=scale.warmup,
            seconds=scale.latency_seconds,
        )
    delivery = report["delivery_ms"]
    values = {"p50_ms": delivery["p50"], "p99_ms": delivery["p99"], "fsync_p99_ms": fsync.ms["p99"]}
    values["late_p99_ms"] = report["lateness_ms"]["p99"]
    values["stolen_percent"] = report["stolen_share"] * 100
    return outcome(report, values)


def idle(server: Server, scale: Scale) -> Outcome:
    open_files_needed(scale.crowd)
    with running(server) as run:
        report = load(run, connections=scale.crowd, hold=scale.idle_seconds)
        result = outcome(report, {"core_percent": report["hold_server_cpu"] * 100, "pongs": report["hold_pongs"]})
        if scale.idle_seconds > HEARTBEAT and not report["hold_pongs"]:
            result.problems.append("no heartbeat was seen")
        return result


CROWD = (
    Scenario(
        "connect",
        "10,000 clients with a token each connect: handshakes per second, memory per idle connection",
        ALL_SERVERS,
        (
            Metric("handshakes_per_s", "handshakes (HS256, each client new)", over="connect.handshakes_per_s"),
            Metric("kb_per_connection", "memory per idle connection (10,000)", "KB", 1, less_is_better=True),
            Metric("server_us", "handshake: server CPU each", "µs", 0, less_is_better=True),
        ),
        connect,
    ),
    Scenario(
        "broadcast",
        "/broadcast to 10,000 connections: deliveries per second",
        ALL_SERVERS,
        (
            Metric("per_s", "`/broadcast` to 10,000: deliveries", over="broadcast.per_s"),
            Metric("server_us", "broadcast: server CPU per delivery", "µs", 1, less_is_better=True),
        ),
        broadcast,
    ),
    Scenario(
        "latency",
        "p99 from publish to frame at 1,000 notifications per second with 10,000 connections, open loop",
        ALL_SERVERS,
        (
            Metric("p50_ms", "publish to frame at 1,000/s, 10,000 connections: p50", "ms", 2, less_is_better=True),
            Metric("p99_ms", "publish to frame at 1,000/s, 10,000 connections: p99", "ms", 2, less_is_better=True),
            Metric("fsync_p99_ms", "this disk's fsync p99 meanwhile", "ms", 2, less_is_better=True),
            Metric("late_p99_ms", "lateness of the load generator, p99", "ms", 2, less_is_better=True),
            Metric("stolen_percent", "CPU that the host took meanwhile", "%", 2, less_is_better=True),
        ),
        latency,
    ),
    Scenario(
        "idle",
        "CPU of 10,000 idle connections over two heartbeats",
        ("notifier", "naive"),
        (
            Metric("core_percent", "10,000 idle connections, heartbeat on", "% of a core", 2, less_is_better=True),
            Metric("pongs", "heartbeats answered meanwhile", "", 0),
        ),
        idle,
    ),
)
