"""A bare WebSocket in a process of its own, to be stopped and woken: prints frames, never acknowledges by itself.

python -m tests.e2e.sleeper URL TOKEN COUNT       ends after COUNT notifications
"""

from __future__ import annotations

import json
import sys

from websockets.sync.client import connect


def main(url: str, token: str, count: str) -> None:
    left = int(count)
    headers = {"Authorization": f"Bearer {token}"}
    with connect(url, additional_headers=headers, ping_interval=None, max_size=None, proxy=None) as socket:
        while left:
            frame = socket.recv()
            print(frame, flush=True)
            left -= json.loads(frame)["type"] == "notification"


if __name__ == "__main__":
    main(*sys.argv[1:])
