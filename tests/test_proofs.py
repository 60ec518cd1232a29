"""Pings and their pongs, and what was told of losses: bounded, cumulative, and nothing proven that was not read."""

from __future__ import annotations

from notifier.engine.base import LossReason
from notifier.proofs import MAX_PINGS, Proofs
from tests.talking import losses

EXPIRED: LossReason = "expired"


def test_a_pong_proves_what_was_said_before_its_ping() -> None:
    proofs = Proofs()
    first, second, third = proofs.ping(1), proofs.ping(2), proofs.ping(3)
    assert proofs.pong(second) == 2
    assert proofs.pong(first) == proofs.pong(second) == -1, "once, and cumulatively"
    assert proofs.pong(third) == 3


def test_no_two_pings_are_the_same() -> None:
    proofs = Proofs()
    assert len({proofs.ping(7) for _ in range(5_000)}) == 5_000
    assert proofs.ping(8) == (8).to_bytes(8)


def test_what_an_ack_has_proven_is_given_up_and_its_pong_is_free_all_the_same() -> None:
    proofs = Proofs()
    pings = [proofs.ping(position) for position in range(1, 6)]
    proofs.acknowledged(3)
    assert len(proofs._pings) == 2
    assert [proofs.pong(ping) for ping in pings] == [0, 0, 0, 4, 5]
    assert [proofs.pong(ping) for ping in pings] == [-1] * 5


def test_no_more_pongs_are_free_than_pings_were_given_up() -> None:
    proofs = Proofs()
    pings = [proofs.ping(position) for position in range(1, 4)]
    proofs.acknowledged(3)
    assert [proofs.pong(pings[0]) for _ in range(5)] == [0, 0, 0, -1, -1]
    assert proofs.pong(b"x") == proofs.pong(b"x" * 8) == -1


def test_the_oldest_are_given_up_when_there_are_too_many() -> None:
    proofs = Proofs()
    pings = [proofs.ping(position) for position in range(1, 10_001)]
    assert len(proofs._pings) <= MAX_PINGS
    assert {proofs.pong(ping) for ping in pings[:9_000]} == {0}
    assert proofs.pong(pings[-1]) == 10_000


def test_the_ping_of_a_gap_is_not_given_up() -> None:
    proofs = Proofs()
    proofs.ping(5)
    proofs.tell(EXPIRED, 1, 101, 5, [])
    gap = proofs._gap
    for position in range(6, 3_000):
        proofs.ping(position)
    proofs.acknowledged(2_000)
    assert not proofs.heard(5)
    assert proofs.pong(gap) == 5
    assert proofs.heard(5)


def test_a_pong_that_was_on_its_way_before_the_gap_is_none_of_its_ping() -> None:
    """The ack has made the list empty; the next ping of the same position must be another all the same."""
    proofs = Proofs()
    before = proofs.ping(5)
    proofs.acknowledged(5)
    proofs.tell(EXPIRED, 1, 101, 5, [])
    assert proofs.pong(before) == 0
    assert not proofs.heard(5)


def test_losses_that_stand_side_by_side_are_one_frame_with_one_ping() -> None:
    proofs, out = Proofs(), []  # type: ignore[var-annotated]
    for n in range(1, 1_001):
        proofs.tell(EXPIRED, 1, 100 + n, 5, out)
    assert len(out) == 2
    assert out[0] == b'{"type":"gap","reason":"expired","dropped":1000}'
    proofs.tell("purged", 2, 2, 5, out)
    assert len(out) == 4
    assert proofs.told == (5, {"expired": 1_100, "purged": 2})
    out.clear()
    proofs.tell(EXPIRED, 1, 1_101, 5, out)
    assert out[0] == b'{"type":"gap","reason":"expired","dropped":1}', "what was written is not said again"


def test_where_nothing_is_untold_nothing_is_said() -> None:
    proofs, out = Proofs(), []  # type: ignore[var-annotated]
    proofs.tell_untold(losses(expired=0), 0, out)
    assert (out, proofs.told) == ([], None)
