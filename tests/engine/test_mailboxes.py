"""The index in memory, by itself."""

from __future__ import annotations

import random

import pytest

from notifier.engine.mailboxes import Cell, Expiries, Mailbox

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


# -- what leaves, and what comes back ---------------------------------------------------------------------------------


def contents(box: Mailbox) -> dict[int, tuple[int, int, str | None]]:
    """seq → expiry, size, collapse_key; without asking for anything to be taken."""
    names = {seq: key for key, held in (box.keys or {}).items() for seq in held}
    assert all(held == sorted(held) and held for held in (box.keys or {}).values())
    cells = [] if not box else box._spread().tolist()
    return {cells[i]: (cells[i + 1], cells[i + 2] >> 3, names.get(cells[i])) for i in range(0, len(cells), 3)}


@pytest.mark.parametrize("seed", range(20))
def test_any_may_leave_and_come_back(seed: int) -> None:
    """Few or many, from the front or from anywhere, with keys or without; also those that are not there."""
    rng = random.Random(seed)
    box, model, seq = Mailbox(), dict[int, tuple[int, int, str | None]](), 0
    out: list[list[Cell]] = []
    keys = [None] if seed % 4 == 0 else [None, "k", "l", *map(str, range(50))]
    for _ in range(200):
        for _ in range(rng.choice((0, 1, 5, 40))):
            seq += rng.randrange(1, 3)
            model[seq] = (NOW + rng.randrange(1000), rng.randrange(100), rng.choice(keys))
            box.put(seq, model[seq][0], model[seq][1], 0, model[seq][2])
        held = sorted(model)
        chosen = [held[: rng.randrange(len(held) + 1)], rng.sample(held, rng.randrange(len(held) + 1)), [seq + 1]]
        some = rng.choice(chosen)[: rng.choice((1, 3, 100, 1000))]
        if rng.random() < 0.8:
            taken = box.take(sorted(some))
            assert {cell[0]: (cell[1], cell[2] >> 3, cell[3]) for cell in taken} == {
                s: model.pop(s) for s in some if s in model
            }
            out.append(taken)
        elif out:
            back = out.pop(rng.randrange(len(out)))
            box.restore(back)
            model |= {cell[0]: (cell[1], cell[2] >> 3, cell[3]) for cell in back}
        assert len(box) == len(model)
        assert (box.first, box.last) == (min(model, default=0), max(model, default=0))
        assert box.size == sum(size for _, size, _ in model.values())
        if rng.random() < 0.5:
            assert contents(box) == model


@pytest.mark.parametrize("which", ["all", "the front", "every other"])
def test_many_keys_are_not_gone_through_for_each_that_leaves(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the rest moved for each: it would hold up the loop for seconds."""
    box = Mailbox()
    for seq in range(1, 2_001):
        box.put(seq, NOW, 10, 0, f"key-{seq}")
    seqs = {"all": box.upto(2_000), "the front": box.upto(1_500), "every other": box.upto(2_000)[::2]}[which]

    def one_by_one(*_: object) -> str:
        raise AssertionError("one by one")

    monkeypatch.setattr(Mailbox, "_forget_key", one_by_one)
    taken = box.take(seqs)
    assert [(cell[0], cell[3]) for cell in taken] == [(seq, f"key-{seq}") for seq in seqs]
    assert len(box) == 2_000 - len(seqs)
    monkeypatch.setattr(Mailbox, "_find", one_by_one)
    box.restore(taken)
    assert (len(box), len(box.keys or ())) == (2_000, 2_000)
