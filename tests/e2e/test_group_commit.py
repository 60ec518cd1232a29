"""The commit finished, then the 2xx was written; and one commit serves many."""

from __future__ import annotations

import json
import re
import selectors
import socket
from bisect import bisect_right
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.harness import Server, need
from tests.harness.strace import Call, read

PUBLISHERS = 64
SYNCS = frozenset({"fdatasync", "fsync", "sync_file_range", "msync", "syncfs"})
WRITES = frozenset({"write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg", "sendmmsg"})
TRACE = ",".join(sorted(SYNCS | WRITES))


def test_the_sync_that_covers_a_notification_returns_before_its_answer_is_written(
    tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    trace = tmp_path / "trace"
    strace = [need("strace"), "-f", "-y", "-s", "5000", "-e", f"trace={TRACE}", "-e", "signal=none", "-o", str(trace)]
    server = make_server(prefix=strace, ready_timeout=60)
    ids = publish_in_parallel(server, rounds=5)
    commits = server.metrics()['notifier_engine_operation_duration_seconds_count{operation="commit"}']
    server.terminate(timeout=60)

    calls = list(read(trace))
    syncs = [call for call in calls if call.name in SYNCS and "notifier.db-wal>" in call.arguments and call.result == 0]
    starts = [call.began for call in syncs]
    stored = first_with(ids, (call for call in calls if call.name in WRITES and "notifier.db-wal>" in call.arguments))
    told = first_with(ids, (call for call in calls if call.name in WRITES and is_socket(call)))
    assert stored.keys() == told.keys() == set(ids)
    for id in ids:
        covering = bisect_right(starts, stored[id].ended)  # the first sync that began after it was in the log
        assert covering < len(syncs), f"{id} was never synced"
        assert syncs[covering].ended < told[id].began, f"{id} was answered before it was durable"

    first, last = min(call.began for call in told.values()), max(call.began for call in told.values())
    every = sum(1 for call in calls if call.name in SYNCS and first < call.ended < last)
    assert every <= commits, f"{every} syncs for {commits} commits"
    assert every * 4 <= len(ids), f"{every} syncs for {len(ids)} answers (tracing slows all but the disk)"


def test_at_64_publishers_a_commit_serves_at_least_eight(server: Server) -> None:
    """At full speed, by the server's own count: each commit that appends is one sync, as the trace above shows."""
    before = server.metrics()
    ids = publish_in_parallel(server, rounds=100)
    after = server.metrics()

    def counted(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert counted("notifier_engine_batch_size_sum") == len(ids)
    assert counted("notifier_engine_batch_size_count") * 8 <= len(ids)


def first_with(ids: list[str], calls: Iterable[Call]) -> dict[str, Call]:
    """The first of these calls that carries each id."""
    wanted = set(ids)
    found: dict[str, Call] = {}
    for call in calls:
        for id in re.findall(r"gc-\d+-\d+-x", call.arguments):
            if id in wanted:
                found.setdefault(id, call)
    return found


def is_socket(call: Call) -> bool:
    return re.match(r"\d+<(socket|TCP)", call.arguments) is not None


def publish_in_parallel(server: Server, rounds: int) -> list[str]:
    """64 publishers, each with its next request as soon as it has the answer to the last; the ids answered 202.

    One selector loop with ready-made bytes: the load must be lighter than the server, or it is the load's own pace
    that is measured.
    """
    requests = {}
    for number in range(PUBLISHERS):
        requests[number] = [request(server, f"gc-{number}-{turn}-x", f"client-{number}") for turn in range(rounds)]
    answered = []
    with selectors.DefaultSelector() as selector:
        for number in requests:
            publisher = socket.create_connection(("127.0.0.1", server.port))
            publisher.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            publisher.settimeout(30)
            selector.register(publisher, selectors.EVENT_READ, iter(requests[number]))
        for key in list(selector.get_map().values()):
            key.fileobj.sendall(next(key.data))  # type: ignore[union-attr]
        while selector.get_map():
            for key, _ in selector.select(timeout=30):
                publisher = key.fileobj  # type: ignore[assignment]
                answered.append(receive(publisher)["id"])
                following = next(key.data, None)
                if following is None:
                    selector.unregister(publisher)
                    publisher.close()
                else:
                    publisher.sendall(following)
    assert len(answered) == PUBLISHERS * rounds
    return answered


def receive(publisher: socket.socket) -> dict[str, Any]:
    """One 202, whole: its body."""
    answer = b""
    while True:
        chunk = publisher.recv(65536)
        assert chunk, "the connection was closed"
        answer += chunk
        head, found, body = answer.partition(b"\r\n\r\n")
        if found:
            assert head.startswith(b"HTTP/1.1 202"), answer
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            assert length is not None, head
            if len(body) >= int(length[1]):
                return dict(json.loads(body))


def request(server: Server, id: str, client_id: str) -> bytes:
    body = json.dumps({"client_id": client_id, "id": id, "data": {"text": "Invoice paid"}}).encode()
    head = f"POST /notify HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {server.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
