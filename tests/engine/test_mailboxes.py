"""The index in memory, by itself."""

from __future__ import annotations

import random

from notifier.engine.mailboxes import Expiries, Mailbox

NOW = 1_700_000_000_000


def box_with(*expiries_ms: int) -> Mailbox:
    box = Mailbox()
    for seq, expires_ms in enumerate(expiries_ms, 1):
        box.put(seq, expires_ms, 10, 0, None)
    return box


# -- expiries ---------------------------------------------------------------------------------------------------------


def test_a_mailbox_stands_in_one_bucket_however_much_passes_through_it() -> None:
    expiries, box = Expiries(), Mailbox()
    for minute in range(1_000):
        expiries.add("alice", box, NOW + minute * 60_000 + 3_600_000, NOW + minute * 60_000)
        assert len(expiries) == 1
    expiries.forget("alice", box)
    assert (len(expiries), box.due) == (0, 0)


def test_the_earliest_that_anything_needs_counts() -> None:
    expiries, box = Expiries(), Mailbox()
    expiries.add("alice", box, NOW + 600_000, NOW)
    expiries.add("alice", box, NOW + 5_000, NOW)
    expiries.add("alice", box, NOW + 300_000, NOW)
    assert len(expiries) == 1
    assert expiries.due(NOW + 4_999) == []
    assert expiries.due(NOW + 6_000) == ["alice"]
    assert len(expiries) == 0


def test_buckets_that_nobody_stands_in_are_forgotten() -> None:
    expiries = Expiries()
    boxes = [Mailbox() for _ in range(1_000)]
    for n, box in enumerate(boxes):
        expiries.add(f"client-{n}", box, NOW + n * 60_000 + 600_000, NOW)
    for n, box in enumerate(boxes):
        expiries.forget(f"client-{n}", box)
    assert len(expiries._buckets) <= 1


def test_mailboxes_are_found_soon_after_their_time_whatever_the_order() -> None:
    """Within a second if it was near, else within a minute; and as often as there is something left."""
    rng = random.Random(1)
    expiries, boxes = Expiries(), {f"client-{n}": Mailbox() for n in range(50)}
    left: dict[str, list[int]] = {client_id: [] for client_id in boxes}
    for now_ms in range(NOW, NOW + 1_800_000, 1_000):
        client_id = rng.choice(list(boxes))
        expires_ms = now_ms + rng.choice((1_000, 5_500, 90_000, 300_000, 900_000))
        left[client_id].append(expires_ms)
        expiries.add(client_id, boxes[client_id], expires_ms, now_ms)
        for found in expiries.due(now_ms):
            left[found] = [e for e in left[found] if e > now_ms]
            boxes[found].due = 0
            if left[found]:
                expiries.add(found, boxes[found], min(left[found]), now_ms)
        assert all(e > now_ms - 61_000 for held in left.values() for e in held)
        assert len(expiries) == sum(map(bool, left.values()))


def test_the_soonest() -> None:
    assert box_with(NOW + 5).soonest() == NOW + 5
    assert box_with(NOW + 7, NOW + 5, NOW + 6).soonest() == NOW + 5
