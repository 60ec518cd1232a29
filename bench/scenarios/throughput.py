"""How many notifications per second, one per request and 100 per request, delivered or only queued."""

from functools import partial

from bench.load import load
from bench.peers import NotifierAuto, Server, running
from bench.scenarios.base import ALL_SERVERS, ONLY_NOTIFIER, Metric, Outcome, Scale, Scenario, check_settled, outcome

SINGLE_PUBLISHERS = 64
BATCH_PUBLISHERS = 8
BATCH = 100
NAIVE_SINGLE = "single.per_s"


def _requests(batch: int) -> dict[str, float | str]:
    if batch == 1:
        return {"publishers": SINGLE_PUBLISHERS}
    return {"publishers": BATCH_PUBLISHERS, "batch": batch, "publish_path": "/batch"}


def delivered(server: Server, scale: Scale, batch: int = 1) -> Outcome:
    """Closed loop: every publisher sends its next request when the last one was answered."""
    with running(server) as run:
        report = load(
            run,
            connections=scale.subscribers,
            **_requests(batch),
            warmup=scale.warmup,
            seconds=scale.seconds,
        )
        result = outcome(report, {"per_s": report["delivered_per_s"], "server_us": report["publish_server_us_each"]})
        check_settled(run, result)
        return result


def delivered_auto(server: Server, scale: Scale, batch: int = 1) -> Outcome:
    return delivered(NotifierAuto(), scale, batch)


def queued(server: Server, scale: Scale, batch: int = 1) -> Outcome:
    """Nobody is connected: what is measured is the durable queue."""
    with running(server) as run:
        report = load(
            run,
            clients=scale.crowd,
            **_requests(batch),
            warmup=scale.warmup,
            seconds=scale.seconds,
        )
        values = {"per_s": report["accepted_per_s"], "server_us": report["publish_server_us_each"]}
        result = outcome(report, values)
        pending = run.metric("notifier_pending_notifications")
        if pending != report["total_accepted"]:
            result.problems.append(f"{report['total_accepted']} accepted, but {pending:.0f} are pending")
        return result


def _metrics(title: str) -> tuple[Metric, ...]:
    return (
        Metric("per_s", title, over=NAIVE_SINGLE),
        Metric("server_us", f"{title}: server CPU each", "µs", 1, less_is_better=True),
    )


THROUGHPUT = (
    Scenario(
        "single",
        "one notification per HTTP request, delivered; notifier: stored and acknowledged by an ack frame",
        (*ALL_SERVERS, "interpreted"),
        _metrics("one notify per HTTP request, delivered (and acknowledged)"),
        delivered,
    ),
    Scenario(
        "batch",
        "100 notifications per /batch, delivered and acknowledged by ack frames",
        ONLY_NOTIFIER,
        _metrics("`/batch` of 100, delivered and acknowledged"),
        partial(delivered, batch=BATCH),
    ),
    Scenario(
        "auto_single",
        "as single, acknowledged by the pong (ack=auto)",
        ONLY_NOTIFIER,
        _metrics("one per request, `ack=auto`"),
        delivered_auto,
    ),
    Scenario(
        "auto_batch",
        "as batch, acknowledged by the pong (ack=auto)",
        ONLY_NOTIFIER,
        _metrics("`/batch` of 100, `ack=auto`"),
        partial(delivered_auto, batch=BATCH),
    ),
    Scenario(
        "queue_single",
        "one per HTTP request, nobody connected: queued durably",
        ONLY_NOTIFIER,
        _metrics("one per request, queued (nobody connected)"),
        queued,
    ),
    Scenario(
        "queue_batch",
        "100 per /batch, nobody connected",
        ONLY_NOTIFIER,
        _metrics("`/batch` of 100, queued (nobody connected)"),
        partial(queued, batch=BATCH),
    ),
)
