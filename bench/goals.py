"""What the project wants to reach, as ratios or as limits, and whether the rows reach it."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from bench.measure import Rows

RSS_LIMIT_MB = 64  # a million notifications kept in memory would take several hundred


@dataclass(frozen=True)
class Verdict:
    measured: str
    reached: bool | None  # None: not measured


@dataclass(frozen=True)
class Goal:
    what: str
    goal: str
    judge: Callable[[Rows], Verdict]


NOT_MEASURED = Verdict("not measured", None)


def value(rows: Rows, key: str, field: str = "median") -> float | None:
    found = rows.get(key, {}).get(field)
    return None if found is None else float(found)


def ratio_at_least(scenario: str, metric: str, least: float) -> Callable[[Rows], Verdict]:
    def judge(rows: Rows) -> Verdict:
        ratio = value(rows, f"{scenario}.{metric}.notifier", "ratio")
        return NOT_MEASURED if ratio is None else Verdict(f"{ratio:.1f} ×", ratio >= least)

    return judge


def at_most(key: str, limit: float, unit: str, digits: int = 2) -> Callable[[Rows], Verdict]:
    def judge(rows: Rows) -> Verdict:
        found = value(rows, key)
        return NOT_MEASURED if found is None else Verdict(f"{found:,.{digits}f} {unit}", found <= limit)

    return judge


def more_than(key: str, rival: str) -> Callable[[Rows], Verdict]:
    def judge(rows: Rows) -> Verdict:
        ours, theirs = value(rows, f"{key}.notifier"), value(rows, f"{key}.{rival}")
        if ours is None or theirs is None:
            return NOT_MEASURED
        return Verdict(f"{ours:,.0f}/s against {theirs:,.0f}/s", ours >= theirs)

    return judge


def p99(rows: Rows) -> Verdict:
    runs = [rows.get(f"latency.{name}.notifier", {}).get("runs") for name in ("p99_ms", "fsync_p99_ms")]
    if runs[0] is None or runs[1] is None:
        return NOT_MEASURED
    over = statistics.median(ours - fsync for ours, fsync in zip(*runs, strict=True))
    pairs = ", ".join(f"{ours:.2f} ({fsync:.2f})" for ours, fsync in zip(*runs, strict=True))
    return Verdict(f"{over:+.2f} ms; p99 and (fsync p99 meanwhile) in ms: {pairs}", over <= 2)


def p99_unchanged(rows: Rows) -> Verdict:
    change = value(rows, "million.p99_change_percent.notifier")
    if change is None:
        return NOT_MEASURED
    return Verdict(f"{change:+.0f} %", change <= 20)  # a smaller p99 is no failure


GOALS = (
    Goal("one notify per request, delivered and acknowledged", "≥ 4.5 × naive", ratio_at_least("single", "per_s", 4.5)),
    Goal("… against socket.io, which stores nothing", "more", more_than("single.per_s", "socket.io")),
    Goal("`/batch` of 100", "≥ 10 × naive's single", ratio_at_least("batch", "per_s", 10)),
    Goal("`ack=auto`, single", "≥ 4 × naive", ratio_at_least("auto_single", "per_s", 4)),
    Goal("`ack=auto`, batch", "≥ 9 × naive's single", ratio_at_least("auto_batch", "per_s", 9)),
    Goal("queue only, single", "≥ 7 × naive's single", ratio_at_least("queue_single", "per_s", 7)),
    Goal("queue only, batch", "≥ 13 × naive's single", ratio_at_least("queue_batch", "per_s", 13)),
    Goal("`/broadcast` to 10,000", "≥ nchan", more_than("broadcast.per_s", "nchan")),
    Goal("memory per idle connection", "≤ 4 KB", at_most("connect.kb_per_connection.notifier", 4, "KB")),
    Goal("JWT handshakes", "≥ 3.2 × naive", ratio_at_least("connect", "handshakes_per_s", 3.2)),
    Goal("p99 publish to frame, 1,000/s, 10,000 connections", "≤ 2 ms + fsync p99", p99),
    Goal("15,000 clients back after a kill, 5 queued each", "≤ 12 s", at_most("comeback.seconds.notifier", 12, "s")),
    Goal("10,000 idle connections", "≤ 1 % of a core", at_most("idle.core_percent.notifier", 1, "%")),
    Goal("start to ready, empty", "≤ 0.7 s", at_most("start.seconds.notifier", 0.7, "s")),
    Goal("start to ready, 1,000,000 queued", "≤ 3 s", at_most("million.ready_seconds.notifier", 3, "s")),
    Goal("p99 of publishing with 1,000,000 queued", "unchanged ± 20 %", p99_unchanged),
    Goal(
        "memory for 1,000,000 queued",
        f"bounded (≤ {RSS_LIMIT_MB} MB more)",
        at_most("million.rss_growth_mb.notifier", RSS_LIMIT_MB, "MB", 0),
    ),
)
