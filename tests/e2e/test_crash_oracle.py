"""The oracle sees what it is for: three servers with one broken promise each, and the sound one with the same load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.e2e.oracle.run import Plan, Report, buggy, execute
from tests.harness import Server

# Every second client is away until the end: what is lost for it cannot have been delivered before.
SMALL = Plan(seed=7, kills=4, accepted=0, devices=50, life=(0.3, 0.7), stillborn=0, deadline=90, features=frozenset())


def run(directory: Path, plan: Plan, mode: str | None) -> Report:
    server = Server(directory, command=mode and buggy(mode), mailbox_limit=10_000)
    try:
        report = execute(server, plan)
    finally:
        server.close()
    print(report)
    return report


def test_a_sound_server_is_not_accused(tmp_path: Path) -> None:
    assert not run(tmp_path, SMALL, None).violations


def test_an_answer_before_the_commit_is_seen_as_a_loss(tmp_path: Path) -> None:
    report = run(tmp_path, SMALL, "early_answer")
    # A repeat of a lost id is accepted anew under another seq, and what was called delivered may be lost with it.
    assert "lost" in report.kinds()
    assert report.kinds() <= {"lost", "renumbered", "returned"}


def test_one_dropped_in_ten_thousand_is_seen_as_a_loss(tmp_path: Path) -> None:
    report = run(tmp_path, replace(SMALL, kills=0, accepted=16_000, pause=0.0, longest=90.0), "dropped")
    assert report.journal.counts["accepted"] >= 16_000
    assert "lost" in report.kinds()
    assert len(report.violations) <= 4


def test_an_acknowledgement_told_before_it_is_durable_is_seen_to_return(tmp_path: Path) -> None:
    report = run(tmp_path, SMALL, "early_settled")
    assert report.kinds() == {"returned"}
