"""What the process asks of the system at its start, and its end, as far as no process has to end for it."""

from __future__ import annotations

import asyncio
import resource
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn
from structlog.testing import capture_logs

from notifier import server
from notifier.server import Server


@pytest.mark.parametrize("error", [ValueError("not allowed to raise maximum limit"), PermissionError(1, "no")])
def test_a_limit_of_open_files_that_may_not_be_raised_stays_as_it_is(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seccomp filter may refuse it, with the unit of deploy/ or in a container."""
    asked = []

    def refuse(what: int, limits: tuple[int, int]) -> None:
        asked.append((what, limits))
        raise error

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with capture_logs() as logs:
        server._raise_file_limit()
    assert asked == [(resource.RLIMIT_NOFILE, (4096, 4096))]
    assert [(entry["event"], entry["log_level"], entry["open_files"]) for entry in logs] == [
        ("file_limit_not_raised", "warning", 1024)
    ]


def test_what_nobody_catches_is_told_without_what_a_client_sent() -> None:
    def fail() -> None:
        raise ValueError("what a client sent")

    async def main() -> None:
        asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(0)

    with capture_logs() as logs, asyncio.Runner(loop_factory=server._Loop) as runner:
        runner.run(main())
    assert [(entry["event"], entry["error"]) for entry in logs] == [("defect", "ValueError")]
    assert "what a client sent" not in repr(logs)


async def test_after_a_failure_the_process_ends_though_its_disk_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end waits for the engine's thread, and that may wait for the disk for ever."""
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr("notifier.server.os._exit", ended.set_result)
    monkeypatch.setattr("notifier.server.GRACE_S", 0.0)
    monkeypatch.setattr("notifier.server.HARD_S", 0.0)
    node = SimpleNamespace(on_failure=None)
    server = Server(uvicorn.Config("none:app"), cast(Any, SimpleNamespace(node=node)))
    cast(Any, node.on_failure)()
    assert (server.failed, server.should_exit) == (True, True)
    async with asyncio.timeout(10):
        assert await ended == 1
