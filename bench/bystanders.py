"""What clients that never read cost those that do: `python -m bench.bystanders`.

1,000 healthy connections are sent 300 notifications a second whatever happens (open loop), in rounds of two phases:
alone, and beside 1,000 connections that take no byte, each with so much mail that every buffer on the way is full.
--cut-off adds a third phase, across the moment when these are cut off, 30 s after their last byte. The mail of those
that never read lies in their mailboxes in all phases, so that nothing else differs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt

from bench import load as loading
from bench import machine
from bench.peers import API_KEY, JWT_SECRET, Notifier, NotRunError, Running, running
from bench.scenarios.base import open_files_needed, outcome

PUBLISHERS, SETTLE_S, WARM_UP_S = 25, 1.0, 2.0
CUT_OFF_S = 30.0
LONG = 50_000
"""Bytes of each notification to those that never read."""
DEEP = 14
"""Of them each has so many: beyond what kernel and server take."""
ALONE, BESIDE, ACROSS = "alone", "beside", "while they are cut off"
FULL = 200_000
"""Bytes that wait in the server for a connection whose buffers are full: from 256 KiB on no mail is taken."""


class Visited(Notifier):
    """The same server, where the key is an operator's, too: it is asked for the bytes that wait."""

    name = "bystanders"

    def environment(self, port: int, directory: Path) -> dict[str, str]:
        return super().environment(port, directory) | {"NOTIFIER_API_KEYS": f"bench:{API_KEY}:admin"}


def fill(run: Running, count: int) -> None:
    """Queue the mail of those that never read."""
    for start in range(0, count, 500):
        client_ids = [f"never-{number}" for number in range(start, min(count, start + 500))]
        body = json.dumps({"client_ids": client_ids, "data": "x" * LONG}).encode()
        for _ in range(DEEP):
            connection = http.client.HTTPConnection("127.0.0.1", run.port, timeout=60)
            connection.request("POST", "/notify", body, {"X-API-Key": API_KEY})
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            if answer.status != 202 or json.loads(text)["rejected"]:
                raise RuntimeError(f"filling was answered {answer.status} {text[:200]!r}")
    os.sync()  # what the kernel still writes would be measured with the first phase


@contextmanager
def never_reading(run: Running, count: int) -> Iterator[float]:
    """So many connections that take no byte. Gives the moment when the first of them was full, at the earliest."""
    crowd = []
    expires = int(time.time()) + 3600
    began = time.monotonic()
    try:
        for number in range(count):
            client = socket.socket()
            crowd.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", run.port))
            token = jwt.encode({"sub": f"never-{number}", "exp": expires}, JWT_SECRET, algorithm="HS256")
            client.sendall(
                f"GET /ws?ack=client HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
        while unsent(run, count) < FULL:
            if time.monotonic() - began > 20:
                raise RuntimeError("the connections that never read did not fill up")
            time.sleep(0.2)
        time.sleep(1)
        yield began
    finally:
        for client in crowd:
            client.close()
        while run.metric("notifier_connections"):
            time.sleep(0.2)


def unsent(run: Running, count: int) -> int:
    """The least that waits in the server for any of some that never read."""
    found = []
    for number in range(0, count, max(1, count // 20)):
        connections = json.loads(run.get(f"/clients/never-{number}")[1])["connections"]
        found.append(connections[0]["unsent_bytes"] if connections else 0)
    return min(found)


def healthy(run: Running, connections: int, rate: float, seconds: float) -> loading.Report:
    """The healthy ones, for one phase."""
    return loading.load(
        run,
        connections=connections,
        per_address=5_000,  # the sockets of the phase before still hold their ports
        settle=SETTLE_S,
        publishers=PUBLISHERS,
        rate=rate,
        warmup=WARM_UP_S,
        seconds=seconds,
    )


def phase(run: Running, kind: str, chosen: argparse.Namespace) -> tuple[loading.Report, list[str]]:
    """One phase, and what is wrong with it."""
    problems = []
    if kind == ALONE:
        report = healthy(run, chosen.connections, chosen.rate, chosen.seconds)
    else:
        cut = run.metric("notifier_slow_consumers_total")
        with never_reading(run, chosen.never) as began:
            if kind == ACROSS:
                time.sleep(max(0.0, began + CUT_OFF_S - chosen.seconds / 2 - time.monotonic()))
            report = healthy(run, chosen.connections, chosen.rate, chosen.seconds)
            cut = run.metric("notifier_slow_consumers_total") - cut
            if kind == BESIDE and cut:
                problems.append(f"{cut:.0f} of those that never read were cut off too early: --seconds is too long")
            elif kind == ACROSS and cut < chosen.never:
                problems.append(f"only {cut:.0f} of those that never read were cut off within the phase")
    return report, problems + outcome(report, {}).problems


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.bystanders", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--connections", type=int, default=1_000, help="healthy ones (default 1,000)")
    add("--never", type=int, default=1_000, help="those that never read (default 1,000)")
    add("--rate", type=float, default=300, help="notifications per second (default 300)")
    add("--rounds", type=int, default=8, help="rounds of two phases (default 8, about 6 minutes)")
    add("--cut-off", action="store_true", help="a third phase in each round")
    add("--durability", default="fsync", help="page_cache leaves out what the disk does to the figures (default fsync)")
    add("--seconds", type=float, default=12, help="of each phase, at most 15 (default 12)")
    add("--json", action="store_true")
    chosen = parser.parse_args()
    if not 0 < chosen.seconds <= 15:
        parser.error("--seconds must be at most 15: those that never read are cut off after 30")
    return chosen


def main() -> int:
    chosen = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops like Ctrl-C: no server is left behind
    machine.raise_file_limit()
    open_files_needed(chosen.connections + chosen.never)
    load_before, steal = os.getloadavg()[0], machine.Steal()
    phases = (ALONE, BESIDE, ACROSS) if chosen.cut_off else (ALONE, BESIDE)
    p99s: dict[str, list[float]] = {kind: [] for kind in phases}
    problems: list[str] = []
    try:
        with running(Visited(), NOTIFIER_DURABILITY=chosen.durability) as run:
            fill(run, chosen.never)
            for number in range(chosen.rounds):
                for kind in phases if number % 2 == 0 else reversed(phases):
                    report, wrong = phase(run, kind, chosen)
                    problems += wrong
                    delivery = report["delivery_ms"]
                    p99s[kind].append(delivery["p99"])
                    if not chosen.json:
                        print(
                            f"{kind:23} delivery p50 {delivery['p50']:.2f}, p99 {delivery['p99']:.2f}, max "
                            f"{delivery['max']:.1f} ms; server {report['publish_server_cpu']:.0%} of a core, "
                            f"{run.rss_mb():.0f} MB",
                            flush=True,
                        )
    except NotRunError as error:
        print(f"bench.bystanders: {error}")
        return 1
    medians = {kind: statistics.median(found) for kind, found in p99s.items()}
    ratios = {
        kind: [there / alone for alone, there in zip(p99s[ALONE], p99s[kind], strict=True)] for kind in phases[1:]
    }
    if chosen.json:
        result = {"delivery_p99_ms": p99s, "ratios": ratios, "problems": problems}
        print(json.dumps(result | {"load_average_before": load_before, "steal_percent": steal.percent()}, indent=1))
        return 0
    for kind, found in ratios.items():
        print(
            f"p99 alone {medians[ALONE]:.2f} ms, {kind} {medians[kind]:.2f} ms (medians): ratio "
            f"{statistics.median(found):.2f} (median of {', '.join(f'{ratio:.2f}' for ratio in found)})"
        )
    print(f"load average before {load_before:.2f}, stolen {steal.percent()} %")
    for problem in dict.fromkeys(problems):
        print(f"! {problem}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
