"""What a diagnosis remembers, and for how long."""

from __future__ import annotations

from notifier.clock import ManualClock
from notifier.diagnosis import DROPS, TEXTS, Diagnosis, Facts, Reader, causes


def test_the_memory_is_bounded_and_says_where_it_ends() -> None:
    clock = ManualClock()
    diagnosis = Diagnosis(clock, clients=3)
    started = diagnosis.recall("anyone").since_ms
    for name in "abc":
        diagnosis.ended(name, 1006, "", "websocket", "::1", 1.0)
    diagnosis.ended("a", 1000, "", "websocket", "::1", 1.0)
    clock.advance(10)
    diagnosis.ended("d", 1006, "", "websocket", "::1", 1.0)
    assert diagnosis.recall("b").ending is None, "the one to whom nothing happened for longest goes"
    assert diagnosis.recall("b").since_ms == started + 10_000, "what was before may have been forgotten"
    assert diagnosis.recall("a").ending is not None
    assert diagnosis.recall("a").since_ms == started


def test_claims_push_nothing_true_out() -> None:
    diagnosis = Diagnosis(ManualClock(), clients=2, claims=2)
    diagnosis.refused("a", "token_expired", "websocket", "::1", proven=True)
    for n in range(10):
        diagnosis.refused(f"made up {n}", "token_invalid", "websocket", "::1", proven=False)
    refusal = diagnosis.recall("a").refusal
    assert refusal is not None
    assert refusal.reason == "token_expired"
    assert diagnosis.recall("made up 0").refusal is None
    assert diagnosis.recall("made up 9").refusal is not None


def test_of_a_claim_and_a_proof_the_later_is_told() -> None:
    clock = ManualClock()
    diagnosis = Diagnosis(clock)
    diagnosis.refused("a", "token_invalid", "websocket", "::1", proven=False)
    clock.advance(1)
    diagnosis.refused("a", "token_expired", "websocket", "::1", proven=True)
    refusal = diagnosis.recall("a").refusal
    assert refusal is not None
    assert refusal.proven
    clock.advance(1)
    diagnosis.refused("a", "token_invalid", "websocket", "::1", proven=False)
    refusal = diagnosis.recall("a").refusal
    assert refusal is not None
    assert not refusal.proven


def test_erased_is_forgotten() -> None:
    diagnosis = Diagnosis(ManualClock())
    diagnosis.dropped("a", "expired", 2)
    diagnosis.dropped("a", "expired", 3)
    assert diagnosis.recall("a").dropped["expired"].number == 5
    diagnosis.forget("a")
    assert diagnosis.recall("a").dropped == {}


def test_every_cause_has_words() -> None:
    assert set(DROPS.values()) <= set(TEXTS)
    memory = Diagnosis(ManualClock()).recall("a")
    for readers in ([], [Reader(0, False, False)], [Reader(1, True, True)], [Reader(1, False, False)]):
        for pending in (0, 1):
            for revoked in (False, True):
                found = causes(Facts(memory, readers, pending, 0, {"expired": 2}, revoked))
                assert all(cause.text and "{" not in cause.text for cause in found)
                assert found[-1].cause == "expired"
