"""What operators who look on cost those who are served: `python -m bench.paging`.

15,000 connections; 500 notifications a second, whatever happens (open loop), for 1,000 of them, in pairs of phases:
alone, and beside an operator who asks for one page of `GET /clients` after the other, now and then for 1,000 or one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt

from bench import load as loading
from bench import machine, toolchain
from bench.peers import API_KEY, DATA, JWT_SECRET, Notifier, Running, running
from bench.scenarios.base import open_files_needed, outcome

LIVE, PUBLISHERS, WARMUP = 1_000, 25, 1.0
PAGE, LONG_PAGE, ONE = "page of 100", "page of 1,000", "one client"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
NEXT = re.compile(rb'"next":"([^"]*)"')


class Operated(Notifier):
    """The same server, where the key is an operator's, too."""

    name = "operated"

    def environment(self, port: int, directory: Path) -> dict[str, str]:
        return super().environment(port, directory) | {"NOTIFIER_API_KEYS": f"bench:{API_KEY}:admin"}


class Operator(threading.Thread):
    """One keep-alive connection with little work of its own, so that not this program is measured."""

    def __init__(self, run: Running, connections: int, rate: float) -> None:
        super().__init__(daemon=True)
        self.run_, self.connections, self.rate = run, connections, rate
        self.times: dict[str, list[float]] = {PAGE: [], LONG_PAGE: [], ONE: []}
        self.rounds = 0
        """How often the last page was reached."""
        self.ended = threading.Event()
        self.failure: Exception | None = None

    def run(self) -> None:
        os.sched_setaffinity(0, {loading.CPU})  # beside the load generator
        try:
            with socket.create_connection(("127.0.0.1", self.run_.port), timeout=10) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._look_on(connection)
        except (OSError, RuntimeError) as error:
            self.failure = error

    def _look_on(self, connection: socket.socket) -> None:
        after, number, due = "", 0, time.perf_counter()
        while not self.ended.wait(max(0.0, due - time.perf_counter())):
            due += 1 / self.rate
            number += 1
            if number % 10 == 0:
                self._ask(connection, LONG_PAGE, "/clients?limit=1000")
            elif number % 5 == 0:
                self._ask(connection, ONE, f"/clients/c{number * 37 % self.connections}")
            else:
                found = NEXT.search(self._ask(connection, PAGE, f"/clients?limit=100&after={after}"))
                after = found[1].decode() if found else ""
                self.rounds += not found

    def _ask(self, connection: socket.socket, kind: str, path: str) -> bytes:
        started = time.perf_counter()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\n\r\n".encode())
        answer, expected = b"", 1
        while len(answer) < expected:
            if not (more := connection.recv(1 << 18)):
                raise RuntimeError("the server closed the operator's connection")
            answer += more
            if expected == 1 and (end := answer.find(b"\r\n\r\n")) >= 0:
                length = LENGTH.search(answer, 0, end + 2)
                expected = end + 4 + (int(length[1]) if length else 0)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{path} was answered {answer[:200]!r}")
        self.times[kind].append((time.perf_counter() - started) * 1000)
        return answer


@contextmanager
def onlookers(run: Running, connections: int) -> Iterator[None]:
    """Connections that only stay, in a load generator of their own."""
    line = loading.command(run, connections=connections, per_address=5_000, hold=86_400)
    player = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        while run.metric("notifier_connections") < connections:
            if player.poll() is not None:
                raise RuntimeError(f"the load generator ended with {player.returncode}")
            time.sleep(0.5)
        yield
    finally:
        player.kill()
        player.wait()


def tokens() -> Path:
    """Of clients that are none of the onlookers."""
    path = toolchain.BUILD / "tokens-paging"
    claims = ({"sub": f"live{number}", "exp": int(time.time()) + 86_400} for number in range(LIVE))
    path.touch(mode=0o600)
    path.write_text("".join(jwt.encode(claim, JWT_SECRET, algorithm="HS256") + "\n" for claim in claims))
    return path


def phase(run: Running, connections: int, rate: float, seconds: float, asks: float) -> tuple[loading.Report, Operator]:
    """One phase; `asks` a second by the operator, 0 for none."""
    line = loading.command(
        run,
        connections=LIVE,
        settle=0.5,
        publishers=PUBLISHERS,
        rate=rate,
        warmup=WARMUP,
        seconds=seconds,
        publish_body=f'{{"client_id":"live@C","data":{DATA}}}',
        tokens=str(toolchain.BUILD / "tokens-paging"),
    )
    operator = Operator(run, connections, asks or 1)
    if asks:
        operator.start()
    try:
        done = subprocess.run(line, capture_output=True, text=True)
    finally:
        operator.ended.set()
    if asks:
        operator.join()
        if operator.failure is not None:
            raise operator.failure
    return loading.parse(done.stdout, done.stderr, done.returncode), operator


def spread(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"asked": len(ordered), "p50": statistics.median(ordered), "p99": p99, "max": ordered[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.paging", description=__doc__)
    add = parser.add_argument
    add("--connections", type=int, default=15_000)
    add("--rate", type=float, default=500, help="notifications per second (default 500)")
    add("--asks", type=float, default=20, help="requests of the operator per second (default 20)")
    add("--pairs", type=int, default=20, help="pairs of phases (default 20)")
    add("--seconds", type=float, default=6, help="of each phase (default 6)")
    add("--json", action="store_true")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops like Ctrl-C: no server is left behind
    machine.raise_file_limit()
    open_files_needed(chosen.connections)
    load_before, steal = os.getloadavg()[0], machine.Steal()
    times: dict[str, list[float]] = {PAGE: [], LONG_PAGE: [], ONE: []}
    p99s: dict[bool, list[float]] = {False: [], True: []}
    problems: list[str] = []
    rounds = 0
    tokens()
    onlooking = chosen.connections - LIVE
    with running(Operated()) as run, onlookers(run, onlooking):
        for number in range(chosen.pairs):
            for looking in (False, True) if number % 2 == 0 else (True, False):
                asks = chosen.asks if looking else 0
                report, operator = phase(run, onlooking, chosen.rate, chosen.seconds, asks)
                problems += outcome(report, {}).problems
                p99s[looking].append(report["delivery_ms"]["p99"])
                rounds += operator.rounds
                for kind, found in operator.times.items():
                    times[kind] += found
                if not chosen.json:
                    words = "with an operator" if looking else "without"
                    delivery, cpu = report["delivery_ms"], report["publish_server_cpu"]
                    print(
                        f"{words:17} delivery p50 {delivery['p50']:.2f}, p99 {delivery['p99']:.2f}, max "
                        f"{delivery['max']:.1f} ms; server {cpu:.0%} of a core",
                        flush=True,
                    )
    ratios = [looked / calm for calm, looked in zip(p99s[False], p99s[True], strict=True)]
    figures = {kind: spread(found) for kind, found in times.items() if found}
    without, looked = statistics.median(p99s[False]), statistics.median(p99s[True])
    ratio = round(statistics.median(ratios), 3)
    if chosen.json:
        result = {"load_average_before": load_before, "steal_percent": steal.percent(), "ms": figures, "rounds": rounds}
        result |= {"delivery_p99_ms": p99s[False], "delivery_p99_ms_with": p99s[True], "ratio": ratio}
        print(json.dumps(result | {"problems": problems}, indent=1))
        return
    for kind, of in figures.items():
        print(f"{kind:14} p50 {of['p50']:.2f}, p99 {of['p99']:.2f}, max {of['max']:.2f} ms ({of['asked']} asked)")
    print(f"all pages were read {rounds} times")
    print(f"delivery p99: without {without:.2f} ms, with an operator {looked:.2f} ms (medians)")
    print(f"ratio {ratio} (median of {', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    print(f"load average before {load_before:.2f}, stolen {steal.percent()} %")
    for problem in dict.fromkeys(problems):
        print(f"! {problem}")


if __name__ == "__main__":
    main()
