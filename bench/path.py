"""Where the microseconds of one notification go, without a network: `python -m bench.path [--auto] [--batch 100]`.

The real node, engine, sessions and HTTP class, with transports that only count. What is left out is what the kernel
does: two reads, two writes and their share of epoll. CPU time of the loop and of the writer thread per notification.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from notifier.app import Parts
from notifier.auth.tokens import Identity
from notifier.engine.base import MailboxState
from notifier.server import COLLECT_AFTER, SWITCH_INTERVAL_S
from notifier.session import Session
from notifier.settings import load_settings
from notifier.transport.http import HttpProtocol
from notifier.transport.websocket import WebSocketConnection

PUBLISHERS, BATCH_PUBLISHERS, CONNECTIONS = 64, 8, 2_000
KEY = "benchbenchbenchbenchbench"
BODY = b'{"client_id":"c%d","data":{"text":"about forty-five bytes of payload"}}'
REQUEST = b"POST %b HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %b\r\nContent-Length: %d\r\n\r\n%b"


class CountingTransport:
    """Takes every byte at once, and tells somebody."""

    def __init__(self) -> None:
        self.told: Callable[[bytes], None] = lambda data: None

    def write(self, data: bytes) -> None:
        self.told(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, *limits: int) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class ServerState:
    """What uvicorn would hand in."""

    connections: set[Any] = set()  # noqa: RUF012
    tasks: set[Any] = set()  # noqa: RUF012


def subscribe(parts: Parts, number: int, mode: Any) -> None:
    """A connection that acknowledges what it gets."""
    loop, transport = asyncio.get_running_loop(), CountingTransport()
    identity = Identity(f"c{number}", time.time() + 3600, None, ())
    session = Session(f"s{number}", identity, mode, parts.door.limits, loop.time())
    connection = WebSocketConnection(parts.door, transport, session, "127.0.0.1")  # type: ignore[arg-type]
    session.start(MailboxState(0, None, None))
    parts.node.register(connection)
    connection.pump()

    def told(data: bytes) -> None:
        at = data.find(b'"seq":')
        if at >= 0 and mode == "client":
            answer = b'{"type":"ack","seq":%b}' % data[at + 6 : at + 22]
            loop.call_soon(connection.data_received, b"\x81%c\1\2\3\4%b" % (0x80 | len(answer), mask(answer)))
        elif at >= 0:
            proof = data[data.rfind(b"\x89\x08") + 2 :][:8]
            loop.call_soon(connection.data_received, b"\x8a\x88\0\0\0\0" + proof)

    transport.told = told


def mask(payload: bytes) -> bytes:
    """As a client masks, with the key 01 02 03 04."""
    key = (b"\1\2\3\4" * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(len(payload))


def request(first: int, batch: int) -> bytes:
    """What one publisher sends: one notification, or `batch` of them."""
    bodies = [BODY % ((first + at) % CONNECTIONS) for at in range(batch)]
    path, body = (b"/notify", bodies[0]) if batch == 1 else (b"/batch", b"[%b]" % b",".join(bodies))
    return REQUEST % (path, KEY.encode(), len(body), body)


async def measure(directory: str, count: int, batch: int, mode: str, profile: bool) -> None:
    """Publish `count` notifications in a closed loop and print what each cost."""
    loop = asyncio.get_running_loop()
    parts = Parts(load_settings({
        "NOTIFIER_JWT_SECRET": "bench" * 8, "NOTIFIER_API_KEYS": f"bench:{KEY}",
        "NOTIFIER_ENGINE": f"sqlite:///{directory}/bench.db", "NOTIFIER_MIN_FREE_DISK_BYTES": "0",
    }))  # fmt: skip
    await parts.node.start()
    for number in range(CONNECTIONS):
        subscribe(parts, number, mode)
    finished = loop.create_future()
    sent = answered = 0

    def publish(publisher: HttpProtocol) -> None:
        nonlocal sent
        if sent < count:
            sent += batch
            publisher.data_received(request(sent, batch))

    def publisher() -> HttpProtocol:
        protocol, transport = HttpProtocol(None, ServerState, {"door": parts.door}), CountingTransport()
        protocol.connection_made(transport)  # type: ignore[arg-type]

        def told(data: bytes) -> None:
            nonlocal answered
            assert data.startswith(b"HTTP/1.1 20"), data
            answered += batch
            if answered < count:
                loop.call_soon(publish, protocol)
            elif not finished.done():
                finished.set_result(None)

        transport.told = told
        return protocol

    publishers = [publisher() for _ in range(PUBLISHERS if batch == 1 else BATCH_PUBLISHERS)]
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 50)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    profiler = cProfile.Profile()
    started, loop_cpu, all_cpu = time.perf_counter(), time.thread_time(), time.process_time()
    if profile:
        profiler.enable()
    for protocol in publishers:
        publish(protocol)
    await finished
    profiler.disable()
    seconds, loop_cpu, all_cpu = (
        time.perf_counter() - started, time.thread_time() - loop_cpu, time.process_time() - all_cpu,
    )  # fmt: skip
    print(
        f"{count / seconds:,.0f}/s; µs of CPU each: loop {loop_cpu / count * 1e6:.1f}, "
        f"writer {(all_cpu - loop_cpu) / count * 1e6:.1f}"
    )
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    await parts.node.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.path", description=__doc__)
    parser.add_argument("--count", type=int, default=50_000, help="notifications (default 50,000)")
    parser.add_argument("--batch", type=int, default=1, help="notifications per request, with /batch (default 1)")
    parser.add_argument("--auto", action="store_true", help="acknowledged by pongs instead of ack frames")
    parser.add_argument("--profile", action="store_true", help="where in Python; inflates calls")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        mode = "auto" if arguments.auto else "client"
        uvloop.run(measure(directory, arguments.count, arguments.batch, mode, arguments.profile))


if __name__ == "__main__":
    main()
