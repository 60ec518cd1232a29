"""The real server with one promise broken, to show that the oracle notices.

python -m tests.e2e.oracle.buggy_server MODE serve

early_answer   the 2xx leaves before the mail is where a restart finds it
dropped        one publish in 10,000 is answered and thrown away
early_settled  an acknowledgement is told at once and made durable a little later
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from notifier.cli.main import run
from notifier.engine.base import Appended, Draft, Outcome
from notifier.engine.sqlite import SQLiteEngine
from notifier.errors import NotifierError

LATE_S = 0.1
ONE_IN = 10_000


def early_answer() -> None:
    """A restart finds the file as it was up to LATE_S ago, though every publish since then was answered.

    Confirmations stay honest (they await the next copy of the file), so that losses are what is to be seen.
    """
    live = Path(os.environ["NOTIFIER_ENGINE"].removeprefix("sqlite:///"))
    kept, copy = live.with_suffix(".kept"), live.with_suffix(".copy")
    honest_start, honest_acknowledge = SQLiteEngine.start, SQLiteEngine.acknowledge
    unconfirmed: list[Callable[[], None]] = []
    tasks: list[asyncio.Task[None]] = []

    def forget(path: Path) -> None:
        for end in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + end).unlink(missing_ok=True)

    async def keep(engine: SQLiteEngine) -> None:
        while True:
            await asyncio.sleep(LATE_S)
            forget(copy)
            confirmed, unconfirmed[:] = unconfirmed[:], []
            copied = asyncio.get_running_loop().create_future()
            engine.backup(str(copy), copied.set_result)
            await copied
            copy.replace(kept)
            for done in confirmed:
                done()

    async def start(engine: SQLiteEngine) -> None:
        if kept.exists():
            forget(live)
            shutil.copy(kept, live)
        await honest_start(engine)
        tasks.append(asyncio.create_task(keep(engine)))

    def acknowledge(
        engine: SQLiteEngine, client_id: str, seq: int, acked_by: Any, told: Any = None, done: Any = None
    ) -> None:
        def durable(error: NotifierError | None) -> None:
            unconfirmed.append(partial(done, error))

        honest_acknowledge(engine, client_id, seq, acked_by, told, durable if done is not None else None)

    SQLiteEngine.start = start  # type: ignore[method-assign, assignment]
    SQLiteEngine.acknowledge = acknowledge  # type: ignore[method-assign, assignment]


def dropped() -> None:
    honest = SQLiteEngine.append
    number = itertools.count(ONE_IN // 2)

    def append(engine: SQLiteEngine, draft: Draft, done: Callable[[Outcome], None], now_us: int) -> None:
        if next(number) % ONE_IN:
            return honest(engine, draft, done, now_us)
        now = time.time_ns()
        return done(Appended(now // 1000, now // 1_000_000, now // 1_000_000 + draft.ttl * 1000, 0, 0))

    SQLiteEngine.append = append  # type: ignore[method-assign, assignment]


def early_settled() -> None:
    honest = SQLiteEngine.acknowledge

    def acknowledge(
        engine: SQLiteEngine, client_id: str, seq: int, acked_by: Any, told: Any = None, done: Any = None
    ) -> None:
        if done is not None:
            done(None)
        asyncio.get_running_loop().call_later(LATE_S, honest, engine, client_id, seq, acked_by, told)

    SQLiteEngine.acknowledge = acknowledge  # type: ignore[method-assign, assignment]


MODES = {"early_answer": early_answer, "dropped": dropped, "early_settled": early_settled}

if __name__ == "__main__":
    MODES[sys.argv.pop(1)]()
    run()
