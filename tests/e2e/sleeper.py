"""A bare WebSocket in a process of its own, to be stopped and woken: prints each frame, never acknowledges by itself.

python -m tests.e2e.sleeper URL TOKEN
"""

from __future__ import annotations

import contextlib
import sys

from websockets.sync.client import connect


def main(url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    plain = connect(url, additional_headers=headers, ping_interval=None, max_size=None, proxy=None)
    with plain as socket, contextlib.suppress(KeyboardInterrupt):
        for frame in socket:
            print(frame, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
