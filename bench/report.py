"""The tables: for the terminal, for the README, and against the baseline."""

import json
from pathlib import Path
from typing import Any

from bench.goals import GOALS
from bench.measure import Row, Rows
from bench.peers import SERVERS
from bench.scenarios import SCENARIOS

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
REGRESSION = 0.15
# The rows of the README's table; everything else is in latest.json.
HEADLINES = (
    "single.per_s",
    "batch.per_s",
    "auto_single.per_s",
    "auto_batch.per_s",
    "queue_single.per_s",
    "queue_batch.per_s",
    "broadcast.per_s",
    "connect.handshakes_per_s",
    "latency.p99_ms",
    "connect.kb_per_connection",
    "single.server_us",
    "idle.core_percent",
    "start.seconds",
    "comeback.seconds",
    "million.ready_seconds",
    "million.rss_growth_mb",
)


def _metric(headline: str) -> tuple[Any, Any]:
    scenario, _, name = headline.partition(".")
    found = SCENARIOS[scenario]
    return found, next(metric for metric in found.metrics if metric.name == name)


def _cell(row: Row | None, digits: int, best: bool) -> str:
    if row is None:
        return "–"
    if "median" not in row:
        return "not run"
    text = f"{row['median']:,.{digits}f}"
    if best:
        text = f"**{text}**"
    if "ratio" in row:
        text += f" ({row['ratio']:.1f} ×)"
    return text + ("†" if row["problems"] else "")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table(rows: Rows) -> str:
    """One line per measurement, one column per server; the best of a line is bold, whoever it is."""
    servers = [name for name in SERVERS if any(key.endswith(f".{name}") for key in rows)]
    lines = [
        _line(["", *(SERVERS[name].label for name in servers)]),
        _line(["---", *("---:" for _ in servers)]),
        _line(["kept until acknowledged", *(SERVERS[name].stores for name in servers)]),
    ]
    for headline in HEADLINES:
        _, metric = _metric(headline)
        found = {name: row for name in servers if (row := rows.get(f"{headline}.{name}")) is not None}
        measured = [row["median"] for row in found.values() if "median" in row]
        if not found:
            continue
        best = (min if metric.less_is_better else max)(measured) if len(measured) > 1 else None
        unit = f" ({metric.unit})" if metric.unit else ""
        cells = [
            _cell(found.get(name), metric.digits, best is not None and found.get(name, {}).get("median") == best)
            for name in servers
        ]
        lines.append(_line([metric.title + unit, *cells]))
    return "\n".join(lines)


def notes(rows: Rows) -> str:
    """Why a cell is missing or marked."""
    reasons: dict[str, set[str]] = {}
    for key, row in rows.items():
        scenario, server = key.split(".", 1)[0], key.split(".", 2)[2]
        for text in [f"not run: {row['not_run']}"] if "not_run" in row else [f"† {p}" for p in row["problems"]]:
            reasons.setdefault(f"{server}, {text}", set()).add(scenario)
    return "\n".join(f"- {text} ({', '.join(sorted(names))})" for text, names in sorted(reasons.items()))


def goals(rows: Rows) -> str:
    words = {True: "reached", False: "**not reached**", None: "–"}
    lines = [_line(["goal", "", "measured", ""]), _line(["---", "---", "---", "---"])]
    for goal in GOALS:
        verdict = goal.judge(rows)
        lines.append(_line([goal.what, goal.goal, verdict.measured, words[verdict.reached]]))
    return "\n".join(lines)


def conditions(machine: dict[str, Any], rows: Rows) -> str:
    versions, fsync = machine["versions"], machine["fsync_ms"]
    ours = [row["load_share"] for key, row in rows.items() if key.endswith((".notifier", ".naive")) and "runs" in row]
    share = max(ours, default=0.0)
    counts = sorted({len(row["runs"]) for row in rows.values() if "runs" in row})
    runs = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))) if counts else "no"
    return (
        f"Medians of {runs} runs, {machine['measured_at'][:10]}. In brackets: ratio to the naive service of the same "
        "run (for batch, auto and queue: to its one-per-request figure, measured before and after each). † is "
        "explained above. Notifier runs compiled, as in its container image; not compiled it is the same source. One "
        "server process, "
        f"clients on the same machine over loopback: {machine['cores']} cores ({machine['cpu']}), "
        f"Linux {machine['kernel']}, {machine['steal_percent']:.0f} % of the CPU time taken by other guests of the "
        f"host; fsync p50 {fsync['p50']:.2f} ms, p99 {fsync['p99']:.2f} ms; {machine['payload_bytes']} bytes of "
        f"payload. The load generator, with Notifier and the naive service, used at most {share:.0%} of its core.\n"
        f"Python {versions['python']}, uvicorn {versions['uvicorn']}, FastAPI {versions['fastapi']}, "
        f"uvloop {versions['uvloop']}, python-socketio {versions['python-socketio']}, Node {versions['node']}, "
        f"socket.io {versions['socket.io']}, ws {versions['ws']}, nginx {versions['nginx']}."
    )


def regressions(rows: Rows, baseline_file: Path) -> list[str]:
    """Ratios where there are any (they survive a change of machine), values elsewhere."""
    if not baseline_file.exists():
        return [f"no {baseline_file.name} to compare with"]
    found = []
    for key, before in json.loads(baseline_file.read_text())["rows"].items():
        row = rows.get(key, {})
        scenario, name, server = key.split(".", 2)
        metric = next((m for m in SCENARIOS[scenario].metrics if m.name == name), None)
        field = "ratio" if "ratio" in before else "median"
        if metric is None or field not in row or not before[field]:
            continue
        change = row[field] / before[field] - 1
        worse = change if metric.less_is_better else -change
        if worse > REGRESSION:
            what = "ratio to naive" if field == "ratio" else metric.unit
            found.append(
                f"{scenario}.{name} {server}: {before[field]:,.2f} → {row[field]:,.2f} ({what}, {change:+.0%})"
            )
    return found


def baseline(rows: Rows) -> dict[str, Any]:
    """What a later run is compared with: our own server, without what only describes the circumstances."""
    skipped = ("late_p99_ms", "fsync_p99_ms", "stolen_percent", "pongs", "p99_change_percent", "rss_growth_mb")
    return {
        "rows": {
            key: {field: row[field] for field in ("median", "ratio") if field in row}
            for key, row in rows.items()
            if key.endswith(".notifier") and "median" in row and key.split(".")[1] not in skipped
        }
    }


def readme_block(results: dict[str, Any]) -> str:
    rows = results["rows"]
    parts = [
        table(rows),
        notes(rows),
        "![The same as bars](bench/results/plot.svg)",
        conditions(results["machine"], rows),
        goals(rows),
        "Measure it yourself: `make bench` (bench/README.md says what each line does).",
    ]
    return "\n\n".join(part for part in parts if part)


def write_readme(path: Path, results: dict[str, Any]) -> bool:
    """Replace what is between the markers. False: there are none."""
    text = path.read_text() if path.exists() else ""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        return False
    path.write_text(f"{before}{START}\n{readme_block(results)}\n{END}{after}")
    return True
