"""Runs the load generator against a running server."""

import functools
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import jwt

from bench import toolchain
from bench.peers import API_KEY, JWT_SECRET, Running

# The load generator stays on the last core; the server may use all of them.
CPU = max(os.sched_getaffinity(0))
Report = dict[str, Any]


@functools.cache
def tokens(count: int) -> Path:
    """A file with a token per client, each for another client."""
    path = toolchain.BUILD / f"tokens-{count}"
    expires = int(time.time()) + 86_400
    claims = ({"sub": f"c{number}", "exp": expires, "iat": expires - 86_400} for number in range(count))
    path.touch(mode=0o600)
    path.write_text("".join(jwt.encode(claim, JWT_SECRET, algorithm="HS256") + "\n" for claim in claims))
    return path


def command(run: Running, **options: float | str) -> list[str]:
    """The load generator's command line: `per_address=3` becomes `--per-address 3`."""
    broadcast = bool(options.pop("broadcast", False))
    line = [str(toolchain.load_generator()), "--port", str(run.port), "--cpu", str(CPU), "--server-pid", str(run.pid)]
    if connections := int(options.get("connections", 0)):
        subscribe = run.server.subscribe_all if broadcast else None
        line += [*(subscribe or run.server.subscribe), "--tokens", str(tokens(connections))]
    if options.get("publishers"):
        line += run.server.broadcast if broadcast else run.server.notify
        line += ["--publish-header", f"X-API-Key: {API_KEY}"]
    line += ["--broadcast"] if broadcast else []
    for name, value in options.items():
        line += [f"--{name.replace('_', '-')}", str(value)]
    return line


def load(run: Running, **options: float | str) -> Report:
    """Run to the end and return what it printed."""
    done = subprocess.run(command(run, **options), capture_output=True, text=True)
    return parse(done.stdout, done.stderr, done.returncode)


def parse(output: str, errors: str, status: int) -> Report:
    if status:
        raise RuntimeError(f"the load generator ended with {status}: {errors.strip()[-400:]}")
    report: Report = json.loads(output)
    report["stderr"] = errors.strip()
    return report
