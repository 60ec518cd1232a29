"""SQLite does not notice a bit that flips in a stored payload; we do, and never deliver it."""

from __future__ import annotations

import json
import random
import sqlite3
from pathlib import Path

from notifier.engine import database
from notifier.engine.writer import Store
from tests.harness import Client, Server, publish
from tests.harness import request as ask

FLIPS = 1_000
SEED = 20_261_122


def stored(server: Server, count: int, size: int) -> dict[int, str]:
    """Mail for alice in a database that lies still: seq → data."""
    pick = random.Random(SEED)
    texts = ["".join(pick.choices("abcdefghijklmnopqrstuvwxyzé€", k=size)) for _ in range(count)]
    body = json.dumps([{"client_id": "alice", "data": text} for text in texts], ensure_ascii=False)
    answer = ask(server, "POST", "/batch", body)
    assert answer.status == 200, answer
    assert server.terminate() == 0
    with sqlite3.connect(server.directory / "notifier.db") as file:
        file.execute("VACUUM")  # pages that were divided keep old copies of payloads: those are nobody's
    file.close()
    return {result["seq"]: text for result, text in zip(answer.body, texts, strict=True)}


def places(content: bytes, texts: dict[int, str]) -> dict[int, range]:
    """Where each payload lies in the file: seq → offsets. They are short enough to lie in one piece."""
    found = {}
    for seq, text in texts.items():
        data = text.encode()
        assert content.count(data) == 1
        at = content.index(data)
        found[seq] = range(at, at + len(data))
    return found


def test_a_thousand_flipped_bits_are_each_noticed(server: Server) -> None:
    texts = stored(server, 40, 300)
    path = server.directory / "notifier.db"
    content = path.read_bytes()
    where = places(content, texts)
    pick = random.Random(SEED)
    for _ in range(FLIPS):
        hit = pick.choice(list(where))
        at, bit = pick.choice(where[hit]), 1 << pick.randrange(8)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([content[at] ^ bit]))
        store = Store(str(path), "page_cache", 60)
        store.open(False, database.APPLICATION_ID, database.VERSION)
        found, damaged = store.read(list(texts))
        store.close(checkpoint=False)
        assert damaged == [hit], f"byte {at}, bit {bit}"
        assert {seq: n.data.decode()[1:-1] for seq, n in found.items()} == {
            seq: text for seq, text in texts.items() if seq != hit
        }
        with path.open("r+b") as file:
            file.seek(at)
            file.write(content[at : at + 1])


async def test_flipped_records_are_set_aside_counted_and_told_and_the_others_delivered(server: Server) -> None:
    texts = stored(server, 60, 300)
    path = server.directory / "notifier.db"
    content = bytearray(path.read_bytes())
    pick = random.Random(SEED)
    hit = sorted(pick.sample(list(texts), 12))
    for seq, offsets in places(bytes(content), texts).items():
        if seq in hit:
            content[pick.choice(offsets)] ^= 1 << pick.randrange(8)
    path.write_bytes(content)
    server.start()
    async with Client(server, "alice", ack="client") as alice:
        mail = await alice.notifications(len(texts) - len(hit))
        assert {frame["seq"]: frame["data"] for frame in mail} == {s: t for s, t in texts.items() if s not in hit}
        assert publish(server, client_id="alice", data="after").status == 202
        assert (await alice.next("notification"))["data"] == "after"
    assert server.metrics()['notifier_engine_errors_total{operation="damaged_record"}'] == len(hit)
    assert server.terminate() == 0
    with sqlite3.connect(path) as file:
        assert [seq for (seq,) in file.execute("SELECT seq FROM damaged ORDER BY seq")] == hit
    file.close()
    server.start()
    async with Client(server, "alice", ack="client") as alice:
        assert (await alice.next("gap"))["dropped"] == len(hit)


def test_a_bit_anywhere_in_the_file_never_makes_wrong_mail(server: Server) -> None:
    """Not only in payloads: what can be read is exactly what was stored, for the one it was stored for."""
    texts = stored(server, 40, 300)
    path: Path = server.directory / "notifier.db"
    content = path.read_bytes()
    pick = random.Random(SEED)
    noticed = 0
    for _ in range(150):
        at, bit = pick.randrange(len(content)), 1 << pick.randrange(8)
        flipped = content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
        path.write_bytes(flipped)
        store = Store(str(path), "page_cache", 60)
        try:
            store.open(False, database.APPLICATION_ID, database.VERSION)
            rows = list(store.load()[0])
            found, damaged = store.read([row[0] for row in rows])
        except Exception:  # the server refuses to start with this
            noticed += 1
            continue
        finally:
            store.close(checkpoint=False)
        noticed += bool(damaged) or len(found) < len(texts)
        for seq, notification in found.items():
            assert (notification.client_id, notification.data.decode()[1:-1]) == ("alice", texts[seq])
    assert noticed
