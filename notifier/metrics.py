"""Every instrument, once. The functions are named after what happened, so that no caller knows a metric's name.

The counters are plain integers that a collector reads when Prometheus asks: on the path of every notification an
increment must cost nanoseconds, and prometheus-client's own instruments take a lock and resolve labels each time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from notifier import errors as e
from notifier.engine.base import AckedBy, LossReason, Stats

QUICK: Final[tuple[float, ...]] = (
    0.0005,
    0.001,
    0.002,
    0.004,
    0.008,
    0.015,
    0.03,
    0.06,
    0.125,
    0.25,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
    15.0,
    30.0,
)
LONG: Final[tuple[float, ...]] = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 259200.0, 604800.0)
SIZES: Final[tuple[float, ...]] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

# What labels are known to say. Each is exported as 0 before it first happens: to Prometheus a series that begins with 1
# has not increased, and an alert on the first event would stay silent.
TRANSPORTS: Final[tuple[str, ...]] = ("websocket", "sse")
LOSSES: Final[tuple[str, ...]] = ("expired", "overflow", "purged", "slow_consumer")
OPERATIONS: Final[tuple[str, ...]] = ("commit",)
FAILURES: Final[tuple[str, ...]] = ("commit", "read", "damaged_record", "disk", "sweep")
OUTCOMES: Final[tuple[str, ...]] = (
    *("sent", "queued", "duplicate", "dropped"),
    *(e.Unauthorized.code, e.Forbidden.code, e.MethodNotAllowed.code, e.TooLarge.code, e.UnsupportedEncoding.code),
    *(e.BadJson.code, e.Invalid.code, e.IdConflict.code, e.MailboxFull.code, e.StorageFull.code),
    *(e.EngineUnavailable.code, e.Busy.code, e.Draining.code),
)
_OF_TOKENS: Final[tuple[str, ...]] = (
    *(e.TokenMissing.reason, e.TokenInvalid.reason, e.TokenExpired.reason, e.ForbiddenOrigin.reason),
    *(e.Revoked.reason, e.NoKeys.reason, e.EngineUnavailable.reason),
)
REFUSALS: Final[tuple[str, ...]] = (
    *_OF_TOKENS,
    *(e.BadHandshake.reason, e.UpgradeRequired.reason, e.ClientIdMismatch.reason, e.Overloaded.reason),
    *(e.Draining.reason, e.Invalid.reason),
)
UNSEEN: Final[tuple[str, ...]] = (
    *(e.Unauthorized.reason, e.Forbidden.reason, *_OF_TOKENS),
    *("bad_request", e.TooLarge.code, e.RequestTimeout.code),
)


class Histogram:
    """Classic buckets (upper bounds inclusive), seconds unless said otherwise."""

    __slots__ = ("_at", "_over", "_upto", "bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.total = 0.0
        # The bucket of the last value, in which most find themselves again: index, lower and upper bound.
        self._at = 0
        self._over = self._upto = inf

    def observe(self, value: float) -> None:
        if not self._over < value <= self._upto:
            at = self._at = bisect_left(self.bounds, value)
            self._over = self.bounds[at - 1] if at else -inf
            self._upto = self.bounds[at] if at < len(self.bounds) else inf
        self.counts[self._at] = self.counts[self._at] + 1
        self.total = self.total + value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        running, rows = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            rows.append((bound, float(running)))
        return rows


class Metrics:
    """One per node. Also the `engine.observer.Observer` of its engine."""

    def __init__(self, version: str, engine: str) -> None:
        self.opened: dict[str, int] = defaultdict(int)
        self.closed: dict[tuple[str, str], int] = defaultdict(int)
        self.refused: dict[str, int] = defaultdict(int)
        self.turned_away: dict[str, int] = defaultdict(int)
        self.publishes: dict[str, int] = {}
        self.lost: dict[str, int] = defaultdict(int)
        self.engine_errors: dict[str, int] = defaultdict(int)
        self.operations: dict[str, Histogram] = {name: Histogram(QUICK) for name in OPERATIONS}
        self.settled_by_client = self.settled_by_transport = 0
        self.resent = self.collapsed = self.slow_consumers = self.acks_ignored = 0
        self.duration = Histogram((1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 43200.0, 86400.0, 604800.0))
        self.publish = Histogram(QUICK)
        self.delivery = Histogram(QUICK)
        self.queue_wait = Histogram(LONG)
        self.batches = Histogram(SIZES)
        self.loop_lag = 0.0
        self.gauges: Callable[[], Gauges] = Gauges
        self._info = {"version": version, "engine": engine}
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(self))
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=self._registry)

    # -- connections --------------------------------------------------------------------------------------------------

    def connection_opened(self, transport: str) -> None:
        self.opened[transport] += 1

    def connection_closed(self, transport: str, code: int, seconds: float) -> None:
        """`code` is what the peer sees: 1006 when it was lost, or aborted without a close frame."""
        self.closed[transport, str(code)] += 1
        self.duration.observe(seconds)

    def handshake_refused(self, reason: str) -> None:
        self.refused[reason] += 1

    def request_refused(self, reason: str) -> None:
        """A request without a valid key or the scope it needs, or one that no handler got to see."""
        self.turned_away[reason] += 1

    def slow_consumer(self) -> None:
        """A connection was aborted because it did not take its bytes."""
        self.slow_consumers += 1

    def acks_were_ignored(self, count: int) -> None:
        """Acks above the highest seq written on their connection."""
        self.acks_ignored += count

    # -- notifications ------------------------------------------------------------------------------------------------

    def published(self, outcome: str) -> None:
        """`outcome`: sent, queued, duplicate, dropped, or a problem code."""
        self.publishes[outcome] = self.publishes.get(outcome, 0) + 1

    def stored(self, seconds: float) -> None:
        """From request to durable."""
        self.publish.observe(seconds)

    def settled(self, acked_by: AckedBy, count: int) -> None:
        if acked_by == "client":
            self.settled_by_client += count
        else:
            self.settled_by_transport += count

    def delivered(self, seconds: float) -> None:
        """Accepted to settled, of mail that a session took when it was accepted."""
        self.delivery.observe(seconds)

    def first_written(self, seconds: float) -> None:
        """Accepted to first written, of mail that had to wait."""
        self.queue_wait.observe(seconds)

    def notification_resent(self) -> None:
        self.resent += 1

    def notifications_collapsed(self, count: int) -> None:
        self.collapsed += count

    def notifications_lost(self, reason: LossReason | str, count: int) -> None:
        """`reason`: expired, overflow, purged, or slow_consumer for `ttl: 0` frames that nobody could take."""
        self.lost[reason] += count

    # -- the engine ---------------------------------------------------------------------------------------------------

    def engine_batch(self, size: int) -> None:
        self.batches.observe(size)

    def engine_operation(self, operation: str, seconds: float) -> None:
        histogram = self.operations.get(operation)
        if histogram is None:
            histogram = self.operations[operation] = Histogram(QUICK)
        histogram.observe(seconds)

    def engine_error(self, operation: str) -> None:
        self.engine_errors[operation] += 1

    # -- reading ------------------------------------------------------------------------------------------------------

    def text(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)

    def families(self) -> Iterator[Metric]:
        """Every family, with all its samples."""
        g = self.gauges()
        yield _gauge("connections", "Open connections.", _known(TRANSPORTS, g.connections), "transport")
        yield _gauge("clients", "Clients with at least one connection.", [("", g.clients)])
        yield _counter("connections_opened", "Connections welcomed.", _known(TRANSPORTS, self.opened), "transport")
        closed = CounterMetricFamily(
            "notifier_connections_closed", "Connections ended, by close code.", labels=["transport", "code"]
        )
        for (transport, code), count in self.closed.items():
            closed.add_metric([transport, code], count)
        yield closed
        yield _histogram("connection_duration_seconds", "How long connections lasted.", self.duration)
        yield _gauge("connections_window_full", "Connections that wait for an ack.", [("", g.window_full)])
        yield _counter("handshakes_refused", "Handshakes refused, by reason.", _known(REFUSALS, self.refused), "reason")
        yield _counter(
            "requests_refused",
            "Requests refused unseen: without the key they need, malformed, too large, too slow.",
            _known(UNSEEN, self.turned_away),
            "reason",
        )
        yield _counter("publishes", "Publishes answered, by outcome.", _known(OUTCOMES, self.publishes), "outcome")
        settled = (("client", self.settled_by_client), ("transport", self.settled_by_transport))
        yield _counter("notifications_settled", "Notifications settled.", settled, "acked_by")
        yield _counter("notifications_resent", "Written again on a later connection.", [("", self.resent)])
        yield _counter("notifications_lost", "Left without an acknowledgement.", _known(LOSSES, self.lost), "reason")
        yield _counter("notifications_collapsed", "Replaced by a later one.", [("", self.collapsed)])
        yield _counter("acks_ignored", "Acks above what was written.", [("", self.acks_ignored)])
        yield _gauge("pending_notifications", "Unacknowledged, over all mailboxes.", [("", g.stats.pending)])
        yield _gauge("oldest_pending_seconds", "Age of the oldest of them.", [("", g.oldest_s)])
        yield _histogram("publish_duration_seconds", "Request to durable.", self.publish)
        yield _histogram("delivery_duration_seconds", "Accepted to settled, of mail sent at once.", self.delivery)
        yield _histogram("queue_wait_seconds", "Accepted to first written, of mail that waited.", self.queue_wait)
        operations = HistogramMetricFamily(
            "notifier_engine_operation_duration_seconds", "Time of an engine operation.", labels=["operation"]
        )
        for name, histogram in self.operations.items():
            operations.add_metric([name], histogram.buckets(), histogram.total)
        yield operations
        yield _counter("engine_errors", "Engine operations failed.", _known(FAILURES, self.engine_errors), "operation")
        yield _histogram("engine_batch_size", "Notifications per commit.", self.batches)
        yield _gauge("engine_up", "1 while the engine works.", [("", int(g.stats.up))])
        yield _counter("slow_consumers", "Connections aborted for not reading.", [("", self.slow_consumers)])
        yield _gauge("event_loop_lag_seconds", "How late the loop ran its last timer.", [("", self.loop_lag)])
        info = GaugeMetricFamily("notifier_build_info", "What runs here.", labels=["version", "engine"])
        info.add_metric([self._info["version"], self._info["engine"]], 1)
        yield info


class Gauges:
    """What is counted when asked, not when it happens."""

    def __init__(
        self,
        connections: dict[str, int] | None = None,
        clients: int = 0,
        window_full: int = 0,
        stats: Stats | None = None,
        oldest_s: float = 0.0,
    ) -> None:
        self.connections = connections or {}
        self.clients = clients
        self.window_full = window_full
        self.stats = stats or Stats(0, None, False)
        self.oldest_s = oldest_s


class _Collector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.families()


def _samples(
    family: CounterMetricFamily | GaugeMetricFamily, rows: Iterable[tuple[str, float]], label: str | None
) -> Metric:
    for value, count in rows:
        family.add_metric([value] if label else [], count)
    return family


def _known(labels: tuple[str, ...], counts: dict[str, int]) -> Iterable[tuple[str, float]]:
    return (dict.fromkeys(labels, 0) | counts).items()


def _counter(name: str, text: str, rows: Iterable[tuple[str, float]], label: str | None = None) -> Metric:
    return _samples(CounterMetricFamily(f"notifier_{name}", text, labels=[label] if label else []), rows, label)


def _gauge(name: str, text: str, rows: Iterable[tuple[str, float]], label: str | None = None) -> Metric:
    return _samples(GaugeMetricFamily(f"notifier_{name}", text, labels=[label] if label else []), rows, label)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(f"notifier_{name}", text)
    family.add_metric([], histogram.buckets(), histogram.total)
    return family
