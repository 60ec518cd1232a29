"""`notifier serve` as a real process on a free loopback port, with everything a test wants to know about it.

    server = Server(tmp_path, max_inflight=4)      # settings: lower case, without the prefix
    server.start()                                 # returns when /readyz says 200
    server.kill(); server.restart()                # same directory, same port, same secrets
    server.close()                                 # the fixtures do it

Nothing is left behind: the process gets SIGKILL when the test process dies, however it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import jwt

ROOT = Path(__file__).resolve().parents[2]
COMPILED = ROOT / "build" / "compiled" if os.environ.get("TEST_COMPILED") else None
"""Where the package is as it is shipped (`make compiled`); servers that tests change run the source."""
_GUARD = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if sys.argv[1] in ("prefix", str(os.getppid())): os.execvp(sys.argv[2], sys.argv[2:])
"""


class StartError(AssertionError):
    """The server did not become ready. `status` is the exit status, None if it still ran."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """One server process. Values of `**settings` are turned into text; None takes a default of the harness away."""

    live: ClassVar[weakref.WeakSet[Server]] = weakref.WeakSet()

    def __init__(
        self,
        directory: Path,
        *,
        argv: Sequence[str] = ("serve",),
        port: int | None = None,
        command: Sequence[str] | None = None,
        prefix: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        ready_timeout: float = 20.0,
        **settings: object,
    ) -> None:
        """`command` replaces the program, `argv` its arguments, `prefix` stands before both (strace, faketime)."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port() if port is None else port
        self.ready_timeout = ready_timeout
        self.jwt_secret = secrets.token_hex(32)
        self.key = secrets.token_urlsafe(32)
        self.process: subprocess.Popen[bytes] | None = None
        self.log_path = directory / "server.log"
        program = _program() if command is None else list(command)
        self._argv = [
            *_dies_with_parent(os.getpid()),
            *prefix,
            *(_dies_with_parent() if prefix else ()),
            *program,
            *argv,
        ]
        defaults: dict[str, object] = {"NOTIFIER_PORT": self.port}
        if tuple(argv) != ("dev",):  # dev makes its own secrets and its own database
            defaults |= {
                "NOTIFIER_JWT_SECRET": self.jwt_secret,
                "NOTIFIER_API_KEYS": f"test:{self.key}:notify+metrics+admin",
                "NOTIFIER_ENGINE": f"sqlite:///{directory / 'notifier.db'}",
                "NOTIFIER_MIN_FREE_DISK_BYTES": 0,
                "NOTIFIER_LOG_FORMAT": "json",
            }
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFIER_")}
        packages = [COMPILED] if COMPILED is not None and command is None else []
        self.environ |= {"PYTHONPATH": os.pathsep.join(map(str, [*packages, ROOT]))} | dict(environ or {})
        self.set(**(defaults | settings))

    def set(self, **settings: object) -> None:
        """Change settings; they hold from the next start."""
        for name, value in settings.items():
            variable = name.upper() if name.upper().startswith("NOTIFIER_") else f"NOTIFIER_{name.upper()}"
            if value is None:
                self.environ.pop(variable, None)
            else:
                self.environ[variable] = str(value).lower() if isinstance(value, bool) else str(value)

    # --- life -------------------------------------------------------------------------------------------------

    def spawn(self) -> Self:
        """Start the process and return at once. Not from a thread that ends: its end counts as the parent's death."""
        assert self.process is None or self.process.poll() is not None, "the server runs already"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv,
                cwd=self.directory,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # kill() takes a tracer in front and the traced together
            )
        Server.live.add(self)
        return self

    def start(self) -> Self:
        """Start the process and return when /readyz says 200."""
        self.spawn()
        deadline = time.monotonic() + self.ready_timeout
        while not self._is_ready(deadline):
            time.sleep(0.01)
        return self

    async def astart(self) -> Self:
        """The same without holding up the event loop (each poll of /readyz blocks for at most 1 s)."""
        self.spawn()
        deadline = time.monotonic() + self.ready_timeout
        while not self._is_ready(deadline):  # noqa: ASYNC110 (another process: there is no event)
            await asyncio.sleep(0.01)
        return self

    def _is_ready(self, deadline: float) -> bool:
        assert self.process is not None
        status = self.process.poll()
        if status is not None:
            raise StartError(f"the server ended with status {status}\n{self.tail()}", status)
        if time.monotonic() > deadline:
            self.kill()
            raise StartError(f"the server was not ready after {self.ready_timeout} s\n{self.tail()}", None)
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/readyz", timeout=1.0)[0] == 200
        return False

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def terminate(self, timeout: float = 30.0) -> int:
        """SIGTERM, wait for the drain; the exit status."""
        assert self.process is not None
        self._signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait until the process has ended by itself; the exit status."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not end within {timeout} s\n{self.tail()}") from None

    def restart(self) -> Self:
        """Kill it if it runs, and start it again on the same directory and port."""
        self.kill()
        return self.start()

    def close(self) -> None:
        """What a finalizer calls: the process is gone afterwards."""
        self.kill()
        Server.live.discard(self)

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that was started: the server itself, or the `prefix` before it."""
        assert self.process is not None
        return self.process.pid

    # --- what it says -----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def log(self) -> str:
        """Everything that it has written so far, over all starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tail(self, lines: int = 40) -> str:
        return "\n".join(["--- last lines of the server's log", *self.log.splitlines()[-lines:]])

    def token(self, client_id: str, ttl: float = 3600, groups: Sequence[str] = (), **claims: Any) -> str:
        """A token minted without the package's help. A claim that is None is left out: `token("alice", exp=None)`."""
        now = int(time.time())
        body: dict[str, Any] = {"sub": client_id, "iat": now, "exp": int(now + ttl)}
        if groups:
            body["groups"] = list(groups)
        body = {name: value for name, value in (body | claims).items() if value is not None}
        return jwt.encode(body, self.jwt_secret, algorithm="HS256")

    def get(self, path: str, headers: Mapping[str, str] | None = None, timeout: float = 10.0) -> tuple[int, str]:
        """A plain GET without a key: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Sample name with its labels, as the text has it (`notifier_publishes_total{outcome="sent"}`), to value."""
        status, text = self.get("/metrics", {"X-API-Key": self.key})
        assert status == 200, text
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}


def _program() -> list[str]:
    """The installed command, or the one whose wakes go wrong (chaos_server.py)."""
    if os.environ.get("WAKE_CHAOS"):
        return [sys.executable, "-m", "tests.harness.chaos_server"]
    return [str(Path(sys.executable).with_name("notifier"))]


def free_port() -> int:
    """A free port below the ephemeral range.

    Out of that range a client that reconnects to a dead server can be given the server's own port and connect to
    itself (TCP's simultaneous open), and the server cannot bind any more.
    """
    floor = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = random.SystemRandom().randrange(max(1024, floor - 16000), floor)
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def _dies_with_parent(parent: int | None = None) -> list[str]:
    """A command in front that asks for SIGKILL on the parent's death (PR_SET_PDEATHSIG survives exec).

    The parent may die before that was asked for: then the parent is another one, and nothing is started.
    Not a preexec_fn: that forks a process with threads, which newer Pythons warn about.
    """
    if setpriv := shutil.which("setpriv"):
        guard = [] if parent is None else ["sh", "-c", f'[ $PPID = {parent} ] && exec "$@"', "sh"]
        return [setpriv, "--pdeathsig", "KILL", *guard]
    return [sys.executable, "-ISc", _GUARD, str(parent or "prefix")]
