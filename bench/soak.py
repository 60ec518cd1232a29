"""`python -m bench.soak --minutes 60`: does the server hold on to anything under a load that comes and goes?"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import API_KEY, COMPILED, JWT_SECRET, ROOT, Notifier, NotRunError, running
from bench.soaking import sampling
from bench.soaking.churn import SETTINGS, Churn
from bench.soaking.journal import Journal
from bench.soaking.sampling import Sample
from bench.soaking.target import Caller, Target

RATE = 100.0
MOST_MIB_PER_HOUR = 1.0
JUDGED_FROM_MINUTES = 30.0
FILLING_MIB = 6.0
"""What a shorter run may grow after its warm-up: see EPILOG."""
EPILOG = f"""\
The load, operations per second in all (--rate): WebSocket clients with ack=client and ack=auto and SSE clients that
come for some seconds and leave with and without a close; half-open handshakes, clients that never read, bad tokens, bad
frames, bad requests; publishes of every kind (ids and their repeats, collapse_key, short ttl, ttl 0, wait with and
without hanging up, batch, client_ids, groups, broadcast, receipts), mailboxes that overflow, purges, erasures,
revocations, disconnections.

The state has a bound. Client_ids, ids and receipts come from sets that never grow, ids are remembered for two minutes
and nothing lives longer than one, so a minute or two after the start the server has nothing more to remember. What
still fills slowly is bounded too: SQLite's page cache (24 MiB at most), the log's index, the memory of refused
handshakes, the caches of times and heads, and what Python's and C's allocators keep of their peaks. Hence the first
fifth of the time (at least a minute, at most half of all) is warm-up; a run of {JUDGED_FROM_MINUTES:.0f} minutes or
more is judged by the slope of the resident memory, {MOST_MIB_PER_HOUR:.0f} MiB/h at most; a shorter one may grow by
{FILLING_MIB:.0f} MiB in all, from the first to the last quarter after its warm-up.

Lost is counted by notification: each one that a publisher was told is stored must have been received by its client, or
have ended otherwise (expired, collapsed, purged, dropped), as the server says when its id is repeated; and the
server's own counters must sum up to the same number.

Exit status 1: a slope above the limit, a descriptor or a thread left over, anything lost or wrong."""


@dataclass
class Report:
    """What came of it."""

    minutes: float
    warm_up_s: float
    journal: Journal
    samples: list[Sample] = field(default_factory=list)
    descriptors: tuple[int, int] = (0, 0)
    threads: tuple[int, int] = (0, 0)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def judged(self) -> list[Sample]:
        """Those after the warm-up."""
        return [sample for sample in self.samples if sample.at_s >= self.warm_up_s]

    def slopes(self, of: Callable[[Sample], float]) -> tuple[float, float]:
        """MiB/h, by least squares and by Theil and Sen."""
        at_s, kib = [sample.at_s for sample in self.judged], [of(sample) for sample in self.judged]
        return sampling.least_squares(at_s, kib), sampling.theil_sen(at_s, kib)

    @property
    def growth_mib(self) -> float:
        """After the warm-up, from the first to the last quarter."""
        return sampling.growth_mib([sample.rss for sample in self.judged])

    def ended(self) -> dict[str, int]:
        """How many notifications ended how, as the server counts them."""
        names = {
            "delivered": "notifier_notifications_settled_total",
            "collapsed": "notifier_notifications_collapsed_total",
            "pending": "notifier_pending_notifications",
        }
        found = {end: int(sampling.total(self.metrics, name)) for end, name in names.items()}
        for end, reason in (("expired", "expired"), ("purged", "purged"), ("dropped", "overflow")):
            found[end] = int(self.metrics.get(f'notifier_notifications_lost_total{{reason="{reason}"}}', 0))
        return found

    def problems(self) -> list[str]:
        """What is not as it should be."""
        journal, found = self.journal, list(self.journal.wrong)
        if journal.counts["wrong"] > len(journal.wrong):
            found.append(f"… {journal.counts['wrong']} such things in all")
        if journal.unseen:
            examples = ", ".join(f"{seq} for {it.body['client_id']}" for seq, it in list(journal.unseen.items())[:3])
            found.append(f"{len(journal.unseen)} notifications were lost: {examples}")
        if journal.phantoms:
            found.append(f"{journal.phantoms} notifications were received that nobody published")
        if (ended := sum(self.ended().values())) != len(journal.accepted) or self.ended()["pending"]:
            found.append(f"{len(journal.accepted)} were accepted, but the server counts {ended}: {self.ended()}")
        for what, (before, after) in (("descriptors", self.descriptors), ("threads", self.threads)):
            if after > before:
                found.append(f"{what}: {before} at the start, {after} at the end")
        if len(self.judged) >= 4:
            slope = self.slopes(lambda sample: sample.rss)[0]
            if self.minutes >= JUDGED_FROM_MINUTES and slope > MOST_MIB_PER_HOUR:
                found.append(f"resident memory grows by {slope:.2f} MiB/h")
            elif self.minutes < JUDGED_FROM_MINUTES and self.growth_mib > FILLING_MIB:
                found.append(f"resident memory has grown by {self.growth_mib:.1f} MiB after the warm-up")
        return found

    def text(self) -> str:
        """For people."""
        counts, lines = self.journal.counts, []
        for name in ("rss", "pss", "anonymous"):
            values = [getattr(sample, name) / sampling.KIB_PER_MIB for sample in self.judged]
            squares, robust = self.slopes(lambda sample, name=name: float(getattr(sample, name)))
            lines.append(
                f"{name:10}{squares:+7.2f} MiB/h by least squares, {robust:+7.2f} by Theil-Sen; "
                f"{min(values):.1f} to {max(values):.1f} MiB in {len(values)} samples after {self.warm_up_s:.0f} s"
            )
        first, last = self.samples[0], self.samples[-1]
        busy = (last.cpu_s - first.cpu_s) / (last.at_s - first.at_s)
        most = max(sample.connections for sample in self.samples)
        lines += [
            f"growth    {self.growth_mib:+.2f} MiB from the first to the last quarter after the warm-up",
            f"held      descriptors {self.descriptors[0]} before, {self.descriptors[1]} after "
            f"(at most {max(sample.descriptors for sample in self.samples)}); "
            f"threads {self.threads[0]} before, {self.threads[1]} after",
            f"load      {counts['operations']} operations in {self.minutes:g} min ({counts['skipped']} skipped), "
            f"{counts['connections']} connections (at most {most:.0f} at once), {busy:.0%} of a core",
            f"mail      {counts['publishes']} publishes, {len(self.journal.accepted)} notifications accepted, "
            f"{counts['frames']} frames received",
            "ended     " + ", ".join(f"{end} {count}" for end, count in self.ended().items()),
            "unseen    " + (", ".join(f"{end} {count}" for end, count in self.journal.ends.items()) or "none"),
            f"lost      {len(self.journal.unseen)}",
            "closes    " + ", ".join(f"{code}: {count}" for code, count in sorted(self.journal.closes.items())),
        ]
        return "\n".join(lines)


async def soak(
    target: Target,
    minutes: float,
    *,
    rate: float = RATE,
    seed: int = 1,
    every_s: float = 5.0,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Load the server (which was started with SETTINGS), wait until everything is gone, and report."""
    seconds = minutes * 60
    caller = Caller(target)
    before = sampling.descriptors(target.pid), sampling.threads(target.pid)
    churn = Churn(target, caller, rate=rate, seconds=seconds, seed=seed)
    report = Report(minutes, min(max(60.0, seconds / 5), seconds / 2), churn.journal)
    began = time.monotonic()

    async def watch() -> None:
        said = 0.0
        while True:
            now = time.monotonic() - began
            if now > seconds:
                return
            sample = await sampling.sample(target.pid, caller, now)
            report.samples.append(sample)
            if now >= said:
                said += 60
                say(
                    f"{now:6.0f} s: {sample.rss / 1024:.1f} MiB resident, {sample.anonymous / 1024:.1f} anonymous, "
                    f"{sample.descriptors} descriptors, {sample.connections:.0f} connections, "
                    f"{len(churn.journal.accepted)} accepted, {len(churn.journal.unseen)} not seen yet, "
                    f"{churn.journal.counts['wrong']} wrong"
                )
            await asyncio.sleep(every_s)

    await asyncio.gather(watch(), churn.run())
    for _ in range(50):  # the last acknowledgements are committed within a second
        report.metrics = await sampling.metrics(caller)
        if not report.metrics["notifier_pending_notifications"]:
            break
        await asyncio.sleep(0.1)
    caller.hang_up()
    for _ in range(200):
        after = sampling.descriptors(target.pid), sampling.threads(target.pid)
        if after[0] <= before[0]:
            break
        await asyncio.sleep(0.1)
    report.descriptors, report.threads = (before[0], after[0]), (before[1], after[1])
    return report


class Soaked(Notifier):
    """The server as it lies beside this program, also where another one is installed."""

    name = "soak"

    def __init__(self, compiled: bool) -> None:
        self._compiled = compiled

    def command(self, port: int, directory: Path) -> list[str]:
        return [sys.executable, "-c", "from notifier.cli.main import run; run()", "serve"]

    def environment(self, port: int, directory: Path) -> dict[str, str]:
        settings = {f"NOTIFIER_{name.upper()}": str(value) for name, value in SETTINGS.items()}
        keys = {"NOTIFIER_API_KEYS": f"soak:{API_KEY}:notify+metrics+admin"}
        where = COMPILED if self._compiled else ROOT
        return super().environment(port, directory) | settings | keys | {"PYTHONPATH": str(where)}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Starts `notifier serve` and loads it with clients and publishers that come and go; watches its\n"
        "memory, descriptors and threads, and accounts for every notification.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, metavar="N", help="how long (default 10; the goal is over 60)")
    add("--rate", type=float, default=RATE, metavar="R", help=f"operations per second (default {RATE:g})")
    add("--seed", type=int, default=1, metavar="N", help="of what is picked by chance (default 1)")
    add("--compiled", action="store_true", help="the package as `make compiled` makes it, not its source")
    add("--samples", type=Path, metavar="FILE", help="write all samples there as CSV")
    add("--keep-log", type=Path, metavar="FILE", help="copy the server's log there")
    chosen = parser.parse_args()
    if chosen.compiled and not (COMPILED / "notifier").exists():
        parser.error("the package is not compiled: make compiled")
    if chosen.minutes <= 0 or not 1 <= chosen.rate <= 1000:
        parser.error("--minutes must be above 0, --rate from 1 to 1000")
    return chosen


def measured(chosen: argparse.Namespace) -> tuple[Report, str]:
    """The report, and the server's log."""
    with running(Soaked(chosen.compiled)) as run:
        target = Target(run.port, run.pid, API_KEY, JWT_SECRET)
        try:
            report = asyncio.run(soak(target, chosen.minutes, rate=chosen.rate, seed=chosen.seed, say=say))
        finally:
            log = (run.directory / "log").read_text(errors="replace")
            if chosen.keep_log:
                chosen.keep_log.write_text(log)
    return report, log


def main() -> int:
    chosen = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops like Ctrl-C: no server is left behind
    try:
        report, log = measured(chosen)
    except NotRunError as error:
        say(f"bench.soak: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    if chosen.samples:
        rows = [sampling.HEADER, *(sample.row for sample in report.samples)]
        chosen.samples.write_text("\n".join(rows) + "\n")
    print(report.text())
    problems = report.problems()
    if "Traceback" in log or '"defect"' in log:
        problems.append("the server's log has a traceback (--keep-log shows it)")
    for problem in problems:
        print(f"WRONG     {problem}")
    print("not passed" if problems else "passed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
