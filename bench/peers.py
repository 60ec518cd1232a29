"""The servers that are measured: how each is started, and how its clients and publishers speak to it."""

import http.client
import os
import secrets
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from bench import toolchain
from bench.toolchain import BUILD, HERE, ROOT, NotRunError

JWT_SECRET = secrets.token_hex(32)
COMPILED = ROOT / "build" / "compiled"
"""The package as the container image has it (`make compiled`)."""
API_KEY = secrets.token_hex(16)
# 49 bytes of data; the time stamp is what the load generator reads the delay from.
DATA = '{"text":"Invoice 1042 paid","at":"TS=@T"}'
BODY = f'{{"client_id":"c@C","data":{DATA}}}'
AUTHORIZATION = ["--header", "Authorization: Bearer @K"]


class Server:
    """One kind of server. `subscribe`, `notify` and `broadcast` are options of the load generator."""

    name: ClassVar[str]
    label: ClassVar[str]
    stores: ClassVar[str] = "no"
    subscribe: ClassVar[list[str]] = ["--path", "/ws", *AUTHORIZATION]
    subscribe_all: ClassVar[list[str] | None] = None  # for broadcasts, where it differs
    notify: ClassVar[list[str]] = ["--publish-path", "/notify", "--publish-body", BODY]
    broadcast: ClassVar[list[str]] = ["--publish-path", "/broadcast", "--publish-body", f'{{"data":{DATA}}}']
    health: ClassVar[str] = "/healthz"

    def prepare(self) -> None:
        """Install what is missing; raise NotRunError where it cannot be had."""

    def command(self, port: int, directory: Path) -> list[str]:
        raise NotImplementedError

    def environment(self, port: int, directory: Path) -> dict[str, str]:
        return {"BENCH_JWT_SECRET": JWT_SECRET, "BENCH_API_KEY": API_KEY, "BENCH_PORT": str(port)}

    def worker(self, pid: int) -> int:
        """The process that does the work, given the one that was started."""
        return pid


class Notifier(Server):
    name = "notifier"
    label = "**Notifier**"
    stores = "yes (fsync)"
    subscribe: ClassVar[list[str]] = [
        *("--path", "/ws?ack=client", "--ack", "--ready", '"welcome"'),
        *AUTHORIZATION,
    ]
    health = "/readyz"

    def prepare(self) -> None:
        if not (Path(sys.executable).parent / "notifier").exists():
            raise NotRunError("the command `notifier` is not installed beside this Python (make bench does that)")
        if not (COMPILED / "notifier").exists():
            raise NotRunError("the package is not compiled (make bench does that)")

    def command(self, port: int, directory: Path) -> list[str]:
        return [str(Path(sys.executable).parent / "notifier"), "serve"]

    def environment(self, port: int, directory: Path) -> dict[str, str]:
        return {
            "NOTIFIER_PORT": str(port),
            "NOTIFIER_ENGINE": f"sqlite:///{directory}/notifier.db",
            "NOTIFIER_JWT_SECRET": JWT_SECRET,
            "NOTIFIER_API_KEYS": f"bench:{API_KEY}:notify+metrics",
            "NOTIFIER_MIN_FREE_DISK_BYTES": "0",
            "NOTIFIER_LOG_FORMAT": "json",
            "PYTHONPATH": str(COMPILED),
        }


class Interpreted(Notifier):
    """The same source, as `pip install` has it where nobody asks for the compiler."""

    name = "interpreted"
    label = "Notifier, not compiled"

    def environment(self, port: int, directory: Path) -> dict[str, str]:
        return super().environment(port, directory) | {"PYTHONPATH": str(ROOT)}


class NotifierAuto(Notifier):
    """The same server with clients that have no code for acknowledging: the pong of a ping does it."""

    name = "notifier"
    subscribe: ClassVar[list[str]] = ["--path", "/ws", "--ready", '"welcome"', *AUTHORIZATION]


def _uvicorn(python: Path | str, application: str, port: int) -> list[str]:
    return [
        *(str(python), "-m", "uvicorn", application, "--app-dir", str(HERE / "servers")),
        *("--host", "127.0.0.1", "--port", str(port), "--backlog", "4096"),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ]


class Naive(Server):
    name = "naive"
    label = "naive FastAPI"

    def command(self, port: int, directory: Path) -> list[str]:
        return _uvicorn(sys.executable, "naive:app", port)


SOCKETIO = [
    *("--path", "/socket.io/?EIO=4&transport=websocket", "--hello", '40{"token":"@K"}', "--ready", '40{"sid"'),
    *("--text-ping", "2", "--text-pong", "3"),
]


class PythonSocketIO(Server):
    name = "python-socketio"
    label = "python-socketio"
    subscribe: ClassVar[list[str]] = SOCKETIO

    def prepare(self) -> None:
        toolchain.socketio_python()

    def command(self, port: int, directory: Path) -> list[str]:
        return _uvicorn(toolchain.socketio_python(), "python_socketio:app", port)


class SocketIO(Server):
    name = "socket.io"
    label = "socket.io (Node)"
    subscribe: ClassVar[list[str]] = SOCKETIO
    script: ClassVar[str] = "socketio.mjs"

    def prepare(self) -> None:
        toolchain.node_servers()

    def command(self, port: int, directory: Path) -> list[str]:
        return ["node", str(toolchain.node_servers() / self.script)]


class Ws(SocketIO):
    name = "ws"
    label = "ws (Node)"
    subscribe: ClassVar[list[str]] = ["--path", "/ws", *AUTHORIZATION]
    script = "ws.mjs"


class Nchan(Server):
    name = "nchan"
    label = "nchan (nginx, no JWT)"
    subscribe: ClassVar[list[str]] = ["--path", "/subscribe/c@C"]
    subscribe_all: ClassVar[list[str] | None] = ["--path", "/subscribe/all"]
    notify: ClassVar[list[str]] = ["--publish-path", "/publish/c@C", "--publish-body", DATA]
    broadcast: ClassVar[list[str]] = ["--publish-path", "/publish/all", "--publish-body", DATA]

    def prepare(self) -> None:
        toolchain.nchan_modules()

    def command(self, port: int, directory: Path) -> list[str]:
        template = string.Template((HERE / "servers" / "nchan.conf").read_text())
        words = {"MODULES": toolchain.nchan_modules(), "DIRECTORY": directory, "PORT": port, "KEY": API_KEY}
        configuration = directory / "nginx.conf"
        configuration.write_text(template.safe_substitute(words))
        return ["nginx", "-c", str(configuration), "-p", str(directory)]

    def worker(self, pid: int) -> int:
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


SERVERS: dict[str, Server] = {
    server.name: server for server in (Notifier(), Interpreted(), Naive(), PythonSocketIO(), SocketIO(), Ws(), Nchan())
}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """A server process in a directory of its own; it can be killed and started again on the same data."""

    server: Server
    directory: Path
    extra: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=_free_port)
    process: subprocess.Popen[bytes] | None = None
    pid: int = 0
    ready_seconds: float = 0.0

    def start(self, limit: float = 60) -> None:
        # A clean environment: nothing of the caller's (PYTHONDONTWRITEBYTECODE, NODE_OPTIONS, …) changes a figure.
        path = f"{os.environ.get('PATH', '')}:/usr/sbin"
        environment = {"PATH": path, "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8", "NODE_ENV": "production"}
        environment |= self.server.environment(self.port, self.directory) | self.extra
        command = self.server.command(self.port, self.directory)
        with (self.directory / "log").open("ab") as log:
            started = time.perf_counter()
            self.process = subprocess.Popen(
                command, cwd=self.directory, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        while not self._healthy():
            if self.process.poll() is not None or time.perf_counter() - started > limit:
                self.kill()
                last = (self.directory / "log").read_text(errors="replace").strip().rpartition("\n")[2]
                raise NotRunError(f"{self.server.name} did not start: {last or 'no output'}")
            time.sleep(0.005)
        self.ready_seconds = time.perf_counter() - started
        self.pid = self.server.worker(self.process.pid)

    def _healthy(self) -> bool:
        try:
            return self.get(self.server.health)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path, headers={"X-API-Key": API_KEY})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def kill(self) -> None:
        """SIGKILL, to the whole group: nginx has a worker."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def rss_mb(self) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@contextmanager
def running(server: Server, place: str = "", **extra: str) -> Iterator[Running]:
    """Start a server on empty data, and leave nothing of it behind. `place`: where, if it is the second of its kind."""
    directory = BUILD / "run" / (place or server.name)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    run = Running(server, directory, extra)
    try:
        run.start()
        yield run
    finally:
        run.kill()
        shutil.rmtree(directory, ignore_errors=True)


__all__ = ["API_KEY", "JWT_SECRET", "ROOT", "SERVERS", "NotRunError", "NotifierAuto", "Running", "Server", "running"]
