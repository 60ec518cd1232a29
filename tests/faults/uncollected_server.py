"""The observed server with Python's collector off. Its window tells what would have needed it.

    python -m tests.faults.uncollected_server serve

The full collector runs once in hours under a usual load, so a cycle that holds a connection or a request is as good as
a leak until then.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from types import FunctionType
from typing import Any

from notifier.cli.main import run
from tests.door import observed_server

OURS = ("notifier", "uvloop", "uvicorn", "asyncio", "_asyncio", "starlette", "fastapi", "websockets")
TRACES = ("frame", "traceback", "coroutine", "generator", "async_generator")


def name(it: Any) -> str:
    """The kind of an object; a function is a kind of its own."""
    kind = it if isinstance(it, FunctionType) else type(it)
    return f"{kind.__module__}.{kind.__qualname__}"


def observe() -> bytes:
    """Tasks, connection objects, and by kind what nobody refers to and counting has not freed."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    garbage = Counter(map(name, gc.garbage))
    gc.garbage.clear()
    gc.set_debug(0)
    gc.collect()
    held = {
        kind: count
        for kind, count in garbage.items()
        if kind.partition(".")[0] in OURS or kind.removeprefix("builtins.") in TRACES
    }
    objects = sum(type(it).__name__ in observed_server.WATCHED for it in gc.get_objects())
    return json.dumps({"tasks": len(asyncio.all_tasks()), "objects": objects, **held}).encode() + b"\n"


if __name__ == "__main__":
    gc.disable()
    observed_server.observe = observe
    observed_server.install()
    run()
