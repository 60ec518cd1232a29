"""Runs the scenarios, several times over, and turns what they return into rows."""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

from bench.machine import Quiet
from bench.peers import SERVERS, NotRunError, Server
from bench.scenarios import SCENARIOS, Outcome, Scale, Scenario
from bench.scenarios.base import Metric

NAIVE = "naive"
STOLEN_PERCENT = 0.2
Pair = tuple[str, str]  # scenario, server
Row = dict[str, Any]
Rows = dict[str, Row]  # by "scenario.metric.server"


def plan(scenarios: Iterable[str], servers: Iterable[str]) -> list[Pair]:
    """Every scenario on every server that it is for, and what a ratio needs of the naive server."""
    wanted = set(servers)
    pairs = [(name, server) for name in scenarios for server in SCENARIOS[name].servers if server in wanted]
    for name, _ in list(pairs):
        pairs += [base for base in _bases(name) if base not in pairs]
    order = list(SCENARIOS)
    return sorted(pairs, key=lambda pair: order.index(pair[0]))


class Measurements:
    """All runs so far. A pair that could not be measured is not tried again."""

    def __init__(self, pairs: list[Pair], scale: Scale, say: Callable[[str], None], quiet: Quiet) -> None:
        self.pairs = pairs
        self.scale = scale
        self.quiet = quiet
        self.say = say
        self.runs: list[dict[Pair, Outcome]] = []
        self.not_run: dict[Pair, str] = {}

    def run(self) -> None:
        """One run: every pair once, the naive server and its rivals close together in time. Where it has no figure of
        its own in a scenario, the one that it is compared by is measured again, before and after."""
        results: dict[Pair, Outcome] = {}
        self.runs.append(results)
        before: dict[Pair, Outcome] = {}
        for pair in self.pairs:
            bases = {base for base in _bases(pair[0]) if base[0] != pair[0]}
            around = [before.get(base) or self._measure(base) for base in bases]
            outcome = self._measure(pair)
            if outcome is not None:
                results[pair] = outcome
            before = {base: again for base in bases if (again := self._measure(base)) is not None}
            around += before.values()
            if outcome is not None:
                outcome.naive = [naive for naive in around if naive is not None]

    def _measure(self, pair: Pair) -> Outcome | None:
        if pair in self.not_run:
            return None
        scenario, server = SCENARIOS[pair[0]], SERVERS[pair[1]]
        try:
            server.prepare()
            started = time.monotonic()
            outcome = self._left_alone(scenario, server)
        except (NotRunError, RuntimeError, OSError) as error:
            self.not_run[pair] = str(error) or type(error).__name__
            self.say(f"  {pair[0]:13} {pair[1]:16} not run: {self.not_run[pair]}")
            return None
        self._report(scenario, pair, outcome, time.monotonic() - started)
        return outcome

    def _left_alone(self, scenario: Scenario, server: Server) -> Outcome:
        """Where a scenario says what the host took of the CPU meanwhile, and it is too much, it is measured again.

        0.2 % is 40 ms in ten seconds of two cores, and the slowest hundredth of the notifications is 100 ms of them.
        What the host takes is no part of a result: if all windows were disturbed, the least disturbed one counts.
        """
        found: list[Outcome] = []
        for _ in range(self.scale.attempts):
            self.quiet.wait()
            found.append(scenario.measure(server, self.scale))
            if found[-1].values.get("stolen_percent", 0) <= STOLEN_PERCENT:
                break
        return min(found, key=lambda outcome: outcome.values.get("stolen_percent", 0))

    def _report(self, scenario: Scenario, pair: Pair, outcome: Outcome, seconds: float) -> None:
        values = ", ".join(f"{m.name} {outcome.values[m.name]:,.{m.digits}f}" for m in scenario.metrics)
        self.say(f"  {pair[0]:13} {pair[1]:16} {values} (load {outcome.load_share:.0%}, {seconds:.0f} s)")
        for problem in outcome.problems:
            self.say(f"  {'':13} {'':16} ! {problem}")

    def rows(self) -> Rows:
        rows: Rows = {}
        for name, server in self.pairs:
            for metric in SCENARIOS[name].metrics:
                rows[f"{name}.{metric.name}.{server}"] = self._row(name, server, metric)
        return rows

    def _row(self, name: str, server: str, metric: Metric) -> Row:
        row: Row = {"title": metric.title, "unit": metric.unit}
        if reason := self.not_run.get((name, server)):
            return row | {"not_run": reason}
        outcomes = [run[name, server] for run in self.runs if (name, server) in run]
        if not outcomes:
            return row | {"not_run": "interrupted"}
        values = [outcome.values[metric.name] for outcome in outcomes]
        row |= {"runs": [round(value, 4) for value in values], "median": round(statistics.median(values), 4)}
        row["load_share"] = round(max(outcome.load_share for outcome in outcomes), 3)
        row["problems"] = sorted({problem for outcome in outcomes for problem in outcome.problems})
        if ratios := self._ratios(name, server, metric):
            row |= {"ratio_runs": [round(r, 3) for r in ratios], "ratio": round(statistics.median(ratios), 3)}
        return row

    def _ratios(self, name: str, server: str, metric: Metric) -> list[float]:
        """To the naive server of the same run: the machine's bad minutes fall on both."""
        if metric.over is None:
            return []
        scenario, _, base = metric.over.partition(".")
        ratios = []
        for run in self.runs:
            if (name, server) not in run:
                continue
            ours = run[name, server]
            naive = ours.naive or ([run[scenario, NAIVE]] if (scenario, NAIVE) in run else [])
            if naive:
                ratios.append(ours.values[metric.name] / statistics.mean(one.values[base] for one in naive))
        return ratios


def _bases(scenario: str) -> set[Pair]:
    """What the ratios of this scenario are ratios to."""
    return {(metric.over.split(".")[0], NAIVE) for metric in SCENARIOS[scenario].metrics if metric.over}
