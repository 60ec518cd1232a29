"""After a crash: everybody back at once, start to ready, and what a long queue costs."""

import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from bench import load as loading
from bench.load import load
from bench.peers import NotRunError, Running, Server, running
from bench.scenarios.base import ONLY_NOTIFIER, Metric, Outcome, Scale, Scenario, open_files_needed, outcome

EACH = 5
BATCH = 100
RATE = 1_000
TIMES = 5


def comeback(server: Server, scale: Scale) -> Outcome:
    """All are connected with 5 unacknowledged each; the server is killed and started; all reconnect at once."""
    open_files_needed(scale.comeback)
    with running(server) as run:
        line = loading.command(
            run,
            connections=scale.comeback,
            dialing=scale.comeback,  # nobody waits for the others when they come back
            publishers=8,
            batch=BATCH,
            publish_path="/batch",
            comeback=EACH,
            count=scale.comeback * EACH // BATCH,
            per_address=5_000,  # old and new sockets at once need more ports than one address has
            settle=0.5,
        )
        player = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert player.stderr is not None
            heard = []
            for text in player.stderr:
                if text == "armed\n":
                    break
                heard.append(text)
            killed = time.monotonic_ns()
            run.kill()
            run.start()
            ready = time.monotonic_ns()
            output, errors = player.communicate()
        finally:
            player.kill()
        report = loading.parse(output, "".join(heard) + errors, player.returncode)
        if report["settled"] < scale.comeback:
            raise NotRunError(f"only {report['settled']} of {scale.comeback} clients were settled again")
        settled = report["all_settled_ns"]
        values = {
            "seconds": (settled - killed) / 1e9,
            "connected_seconds": (report["all_connected_ns"] - killed) / 1e9,
            "after_ready_seconds": (settled - ready) / 1e9,
        }
        return outcome(report, values, share="comeback_load_share")


def start(server: Server, scale: Scale) -> Outcome:
    """The second start counts: a first one writes Python's byte code."""
    with running(server):
        pass
    with running(server) as run:
        return Outcome({"seconds": run.ready_seconds})


def _publishing(run: Running, scale: Scale) -> loading.Report:
    return load(run, clients=scale.crowd, publishers=50, rate=RATE, warmup=scale.warmup, seconds=scale.latency_seconds)


def _p99(reports: list[loading.Report]) -> float:
    return statistics.median([float(report["answer_ms"]["p99"]) for report in reports])


def million(server: Server, scale: Scale) -> Outcome:
    """Publishing to the one that holds them and to an empty one at the same time: a disk, and the other guests of a
    host, make some seconds worse than others by more than any queue could."""
    with running(server) as run, running(server, "empty") as empty, ThreadPoolExecutor(2) as both:
        first = _publishing(run, scale)
        rss_before = run.rss_mb()
        fill = load(
            run, clients=scale.crowd, publishers=8, batch=BATCH, publish_path="/batch", count=scale.queued // BATCH
        )
        time.sleep(2)
        pairs = [list(both.map(_publishing, (run, empty), (scale, scale))) for _ in range(TIMES)]
        long, short = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        rss_after = run.rss_mb()
        pending = run.metric("notifier_pending_notifications")
        run.kill()
        run.start()
        values = {
            "p99_empty_ms": _p99(short),
            "p99_queued_ms": _p99(long),
            "p99_change_percent": (_p99(long) / _p99(short) - 1) * 100,
            "rss_growth_mb": rss_after - rss_before,
            "rss_after_mb": rss_after,
            "ready_seconds": run.ready_seconds,
        }
        result = outcome(fill, values, share="none")
        for report in (*short, *long):
            result.problems += outcome(report, {}).problems
        accepted = first["total_accepted"] + fill["total_accepted"] + sum(report["total_accepted"] for report in long)
        if pending != accepted:
            result.problems.append(f"{accepted} accepted, but {pending:.0f} are pending")
        if (restarted := run.metric("notifier_pending_notifications")) != accepted:
            result.problems.append(f"{accepted} accepted, but {restarted:.0f} are pending after kill -9")
        return result


RESTART = (
    Scenario(
        "start",
        "start to ready with an empty queue",
        ("notifier", "naive"),
        (Metric("seconds", "start to ready, empty", "s", 2, less_is_better=True),),
        start,
    ),
    Scenario(
        "comeback",
        "kill -9 and start again with 15,000 clients and 5 unacknowledged each: until all are connected and settled",
        ONLY_NOTIFIER,
        (
            Metric("seconds", "15,000 clients back, 5 queued each: kill to all settled", "s", 2, less_is_better=True),
            Metric("connected_seconds", "… kill to all connected", "s", 2, less_is_better=True),
            Metric("after_ready_seconds", "… ready to all settled", "s", 2, less_is_better=True),
        ),
        comeback,
    ),
    Scenario(
        "million",
        "1,000,000 queued for 10,000 clients: publishing beside an empty one, memory, start to ready after kill -9",
        ONLY_NOTIFIER,
        (
            Metric("p99_empty_ms", "publishing at 1,000/s, empty queue: p99", "ms", 2, less_is_better=True),
            Metric("p99_queued_ms", "… with 1,000,000 queued: p99", "ms", 2, less_is_better=True),
            Metric("p99_change_percent", "… change of p99", "%", 0, less_is_better=True),
            Metric("rss_growth_mb", "memory for 1,000,000 queued", "MB", 0, less_is_better=True),
            Metric("rss_after_mb", "resident memory with 1,000,000 queued", "MB", 0, less_is_better=True),
            Metric("ready_seconds", "start to ready after kill -9, 1,000,000 queued", "s", 2, less_is_better=True),
        ),
        million,
    ),
)
