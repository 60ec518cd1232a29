"""Clients in processes of their own, which are stopped as a shut lid stops them, and woken."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.harness import Server, apublish

PER_PHASE = 10


def listen(server: Server, client_id: str) -> list[str]:
    """`notifier listen`, which acknowledges by frames."""
    url, token = f"--url={server.url}", f"--token={server.token(client_id)}"
    program = str(Path(sys.executable).with_name("notifier"))
    return [program, "listen", client_id, "--json", f"--count={3 * PER_PHASE}", url, token]


def bare(server: Server, client_id: str) -> list[str]:
    """A socket that only answers pings."""
    return [sys.executable, "-m", "tests.e2e.sleeper", server.ws_url, server.token(client_id), str(3 * PER_PHASE)]


@asynccontextmanager
async def asleep(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """The lid is shut. The kernel goes on taking bytes for it."""
    process.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


async def sleep_and_wake(
    server: Server,
    client_id: str,
    seconds: float,
    command: Sequence[str],
    awake: Callable[[], Awaitable[None]] | None = None,
) -> str:
    """Ten notifications before, during and after the sleep, each received once; what the client says beside them.

    `awake` is called when those of the sleep have come.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=server.environ,
    )
    assert process.stdout is not None
    received: list[str] = []

    async def receive(id: str) -> None:
        assert process.stdout is not None
        while id not in received[-1:]:
            frame = json.loads(await process.stdout.readline())
            if frame["type"] == "notification":
                received.append(frame["id"])

    async def send() -> list[str]:
        return [await _sent(server, client_id) for _ in range(PER_PHASE)]

    try:
        ids = await send()
        await receive(ids[-1])
        async with asleep(process):
            ids += await send()
            await asyncio.sleep(seconds)
        async with asyncio.timeout(60):
            if awake is not None:
                await receive(ids[-1])
                await awake()
            ids += await send()
            await receive(ids[-1])
        assert received == ids
        _, said = await process.communicate()
        return said.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _sent(server: Server, client_id: str) -> str:
    answer = await apublish(server, client_id=client_id, data="x" * 200)
    assert answer.status == 202, answer
    return str(answer.body["id"])
