"""`python -m bench`: measure, print, compare, write."""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from bench import machine, plot, report
from bench.measure import Measurements, plan
from bench.peers import SERVERS
from bench.scenarios import SCENARIOS, Scale
from bench.toolchain import HERE, ROOT, NotRunError, load_generator

RESULTS = HERE / "results"
LATEST, PLOT, BASELINE = RESULTS / "latest.json", RESULTS / "plot.svg", HERE / "baseline.json"
PATIENCE_S = 1_200
"""How long a whole run waits for the host's other guests, in all."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    listing = "\n".join(f"  {scenario.name:14}{scenario.help}" for scenario in SCENARIOS.values())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures Notifier beside other servers on this machine: medians of several runs, ratios to the\n"
        "naive service of the same run. Writes bench/results/latest.json, bench/results/plot.svg and the table in\n"
        "README.md; with --only or --server just those rows are renewed. A whole run takes 45 minutes, with\n"
        "loud neighbours twice as long.",
        epilog=f"scenarios:\n{listing}\n\nservers:\n  {', '.join(SERVERS)}",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one small run that writes nothing: does everything work?")
    add("--only", action="append", metavar="NAME", choices=SCENARIOS, help="only this scenario (may be repeated)")
    add("--server", action="append", metavar="NAME", choices=SERVERS, help="only this server (may be repeated)")
    add("--runs", type=int, metavar="N", help="take the median of N runs (default 3; 1 with --quick)")
    add("--json", action="store_true", help="print the results as JSON instead of tables")
    add("--no-write", action="store_true", help="print only, change no file")
    add("--set-baseline", action="store_true", help="keep these results as bench/baseline.json")
    chosen = parser.parse_args()
    if chosen.runs is not None and chosen.runs < 1:
        parser.error("--runs must be at least 1")
    if chosen.quick and chosen.set_baseline:
        parser.error("--quick is too small for a baseline")
    return chosen


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    runs = chosen.runs or (1 if chosen.quick else 3)
    pairs = plan(chosen.only or SCENARIOS, chosen.server or SERVERS)
    quiet = machine.Quiet(0 if chosen.quick else PATIENCE_S)
    measurements = Measurements(pairs, Scale.quick() if chosen.quick else Scale(), say, quiet)
    machine.raise_file_limit()
    say("looking at the machine")
    conditions = machine.conditions()
    if conditions["load_average_before"] > 0.5:
        say(f"the machine is busy (load average {conditions['load_average_before']}): figures will be too low")
    steal = machine.Steal()
    try:
        for number in range(1, runs + 1):
            say(f"run {number} of {runs}")
            measurements.run()
    except KeyboardInterrupt:
        say("interrupted: what follows is what was measured so far, and is not written")
        chosen.no_write = True
    conditions["steal_percent"] = steal.percent()
    if quiet.waited_s:
        say(f"waited {quiet.waited_s / 60:.0f} minutes for the host's other guests")
    return {"machine": conditions, "runs": runs, "quick": chosen.quick, "rows": measurements.rows()}


def merged(results: dict[str, Any]) -> dict[str, Any]:
    """The rows that were not measured this time stay as they are in latest.json."""
    if not LATEST.exists():
        return results
    before = json.loads(LATEST.read_text())
    # The worse of the two: rows of both stand side by side.
    steal = max(before["machine"]["steal_percent"], results["machine"]["steal_percent"])
    machine_then = results["machine"] | {"steal_percent": steal}
    return results | {"rows": before["rows"] | results["rows"], "machine": machine_then}


def write(results: dict[str, Any], readme: Path) -> None:
    RESULTS.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    PLOT.write_text(plot.svg(results["rows"]))
    written = [LATEST, PLOT]
    if report.write_readme(readme, results):
        written.append(readme)
    else:
        say(f"{readme.name} has no {report.START} … {report.END}: table not written")
    say("wrote " + ", ".join(str(path.relative_to(ROOT)) for path in written))


def main() -> int:
    chosen = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops like Ctrl-C: no server is left behind
    try:
        load_generator()
    except NotRunError as error:
        say(f"bench: {error}")
        return 1
    results = measure(chosen)
    rows = results["rows"]
    if chosen.json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
    else:
        print(report.table(rows), report.notes(rows), report.goals(rows), sep="\n\n")
        print("\n" + report.conditions(results["machine"], rows))
    if chosen.quick:
        say("a quick run: too small and too short to judge anything by")
        return 0
    worse = report.regressions(rows, BASELINE)
    say("\n".join(["against bench/baseline.json:", *(f"  {line}" for line in worse or ["nothing worse by 15 %"])]))
    if not chosen.no_write:
        complete = not (chosen.only or chosen.server)
        write(results if complete else merged(results), ROOT / "README.md")
        if chosen.set_baseline:
            BASELINE.write_text(json.dumps(report.baseline(rows), indent=1) + "\n")
            say("wrote bench/baseline.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
