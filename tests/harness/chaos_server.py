"""`notifier`, but every wake between engine and node is lost, doubled or late. Nothing promised may depend on one.

    python -m tests.harness.chaos_server serve
    WAKE_CHAOS=1 pytest tests/e2e           # the harness starts every server like this

Only what an answer says of live connections (`sent`, `connections`) may differ from a calm server's.
"""

from __future__ import annotations

import random

from notifier.cli.main import run
from notifier.engine.base import Listener
from notifier.engine.sqlite import SQLiteEngine
from notifier.node import Node
from tests.harness.chaos import Deaf

RECONCILE_S = 0.5
"""Lost wakes are looked for more often than in earnest, or each would cost a test ten seconds."""


def install() -> None:
    honest_attach, honest_detach = SQLiteEngine.attach, SQLiteEngine.detach
    deaf: dict[Listener, Deaf] = {}

    def attach(engine: SQLiteEngine, listener: Listener) -> None:
        honest_attach(engine, deaf.setdefault(listener, Deaf(listener, random.Random())))

    def detach(engine: SQLiteEngine, listener: Listener) -> None:
        honest_detach(engine, deaf.pop(listener))

    SQLiteEngine.attach = attach  # type: ignore[method-assign, assignment]
    SQLiteEngine.detach = detach  # type: ignore[method-assign, assignment]
    defaults = Node.__init__.__kwdefaults__
    assert defaults is not None
    defaults["reconcile_s"] = RECONCILE_S


if __name__ == "__main__":
    install()
    run()
