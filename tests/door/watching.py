"""What an attack costs: memory, descriptors, tasks and objects of the server, and how others are served meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.door.observed_server import SOCKET
from tests.door.raw import Raw
from tests.harness import Server

USUAL_S = 3.0
"""A round trip takes a few ms; the holes that this looks for held the loop up for 5 to 150 s. The room between is for
busy machines."""


class Held(NamedTuple):
    """What the process holds."""

    descriptors: int
    tasks: int
    objects: int


class Observed(Server):
    """A server with a window (observed_server.py)."""

    def __init__(self, directory: Path, **options: Any) -> None:
        command = [sys.executable, "-m", "tests.door.observed_server"]
        super().__init__(directory, command=command, **options)

    def look(self) -> dict[str, int]:
        """Tasks, and connection objects by class."""
        with socket.socket(socket.AF_UNIX) as window, window.makefile() as lines:
            window.connect(os.path.relpath(self.directory / SOCKET))
            return dict(json.loads(lines.readline()))

    @property
    def held(self) -> Held:
        seen = self.look()
        descriptors = len(os.listdir(f"/proc/{self.pid}/fd"))
        return Held(descriptors, seen["tasks"], seen["objects"])

    @property
    def memory(self) -> int:
        """Resident KiB now."""
        return _status(self.pid, "VmRSS")

    def forget_peak(self) -> None:
        """The peak is counted from now on (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def peak(self) -> int:
        """The most resident KiB since `forget_peak`."""
        return _status(self.pid, "VmHWM")

    def comes_back_to(self, before: Held, within_s: float = 5.0, *, objects: bool = False) -> None:
        """The process holds no more than `before`. `objects`: nor any trace of a connection, for which the timer wheel
        must have turned: it keeps what has a deadline until then."""
        give_up = time.monotonic() + within_s
        held = self.held
        while any(now > then for now, then in zip(held[: 3 if objects else 2], before, strict=False)):
            assert time.monotonic() < give_up, f"before: {before}, now: {held}, {self.look()}"
            time.sleep(0.05)
            held = self.held


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise AssertionError(name)


@contextlib.contextmanager
def costs(server: Observed, *, kib: int) -> Iterator[None]:
    """What happens inside costs the process at most `kib` of memory at any moment, and nothing afterwards; another
    client is served all the time."""
    before = server.held
    with Bystander(server) as bystander:
        memory = server.memory
        server.forget_peak()
        yield
        assert server.peak - memory <= kib
    assert bystander.trips > 0
    server.comes_back_to(before)


class Bystander:
    """Another client: a notification for it is published, delivered and acknowledged over and over."""

    def __init__(self, server: Server, pause_s: float = 0.01) -> None:
        self._server = server
        self._pause_s = pause_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None
        self.worst_s = 0.0
        self.trips = 0

    def __enter__(self) -> Self:
        self._client_id = f"bystander-{os.urandom(4).hex()}"
        self._client = Raw(self._server).upgrade(self._server, self._client_id, query="ack=client")
        self._client.next("welcome")
        self._publisher = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=20)
        self.trip()  # connects
        self.worst_s = 0.0
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._publisher.close()
        self._client.close()
        if kind is None:
            if self._failure is not None:
                raise self._failure
            assert self.worst_s < USUAL_S, f"another client had to wait {self.worst_s:.2f} s"

    def _run(self) -> None:
        try:
            while not self._over.wait(self._pause_s):
                self.trip()
        except BaseException as failure:
            self._failure = failure

    def trip(self) -> None:
        """Publish, receive, acknowledge."""
        began = time.monotonic()
        body = json.dumps({"client_id": self._client_id, "data": self.trips})
        self._publisher.request("POST", "/notify", body, {"X-API-Key": self._server.key})
        answer = self._publisher.getresponse()
        assert answer.status == 202, answer.read()
        answer.read()
        frame = self._client.next("notification")
        assert frame["data"] == self.trips, frame
        self.worst_s = max(self.worst_s, time.monotonic() - began)
        self._client.say({"type": "ack", "seq": frame["seq"]})
        self.trips += 1
