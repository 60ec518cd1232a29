"""The real server with one promise broken, to show that the oracle notices.

python -m tests.e2e.oracle.buggy_server MODE serve

early_answer   the 2xx leaves while the transaction is still open; the commit comes a little later
dropped        one publish in 10,000 is answered and thrown away
early_settled  an acknowledgement is told at once and made durable a little later
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

from notifier.cli.main import run
from notifier.engine.base import Appended, Draft, Outcome
from notifier.engine.sqlite import SQLiteEngine
from notifier.engine.writer import Store

LATE_S = 0.1
ONE_IN = 10_000


def early_answer() -> None:
    """Mail stands in an open transaction for a while: the server sees it, a restart does not.

    Acknowledgements stay honest, so that a loss is the only thing to be seen: mail that they settle is made durable.
    """
    honest = Store.commit
    held: list[tuple[float, tuple[Any, ...]]] = []

    def commit(store: Store, operations: list[tuple[Any, ...]]) -> None:
        if store._connection.in_transaction:
            store._connection.execute("ROLLBACK")
        others = [row for row in operations if row[0] != "put"]
        settled = {seq for row in others if row[0] == "settle" for seq in row[1]}
        now = time.monotonic()
        held.extend((now, row) for row in operations if row[0] == "put")
        due = [row for at, row in held if at < now - LATE_S or row[1] in settled]
        held[:] = [(at, row) for at, row in held if row not in due]
        if due or others:
            honest(store, due + others)
        if held:
            store._connection.execute("BEGIN")
            honest(store, [row for _, row in held])

    Store.commit = commit  # type: ignore[method-assign, assignment]


def dropped() -> None:
    honest = SQLiteEngine.append
    number = itertools.count(ONE_IN // 2)

    def append(engine: SQLiteEngine, draft: Draft, done: Callable[[Outcome], None]) -> None:
        if next(number) % ONE_IN:
            return honest(engine, draft, done)
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
