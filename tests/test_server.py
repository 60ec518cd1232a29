"""The end of the process, as far as no process has to end for it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from notifier.server import Server


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
