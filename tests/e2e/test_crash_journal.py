"""The journal's rules, one by one, on words made up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.e2e.oracle.journal import Connection, Entry, Frame, Journal


class Story:
    """Tells a journal what happened, in few words."""

    def __init__(self, **features: bool) -> None:
        self.journal = Journal(frozenset(features))
        self.journal.started()

    def publish(self, id: str, seq: int, client: str = "a", status: str = "queued", **fields: Any) -> Entry:
        entry = Entry(client, id, b"1", **fields)
        self.answer(entry, seq, status)
        return entry

    def answer(self, entry: Entry, seq: int, status: str = "queued", again: bool = False, lives: float = 60.0) -> None:
        asked = self.journal.sending(entry)
        expires = datetime.fromtimestamp(datetime.now(UTC).timestamp() + lives, UTC).isoformat()
        body = {"id": entry.id, "client_id": entry.client, "seq": seq, "status": status, "expires_at": expires}
        self.journal.answered(entry, asked, 200 if again else 202, again, body | ({"duplicate": True} if again else {}))

    def connect(self, client: str = "a") -> Connection:
        return self.journal.connecting(client)

    def receive(self, connection: Connection, id: str, seq: int, data: bytes = b"1") -> None:
        self.journal.received(connection, Frame("notification", id=id, seq=seq, data=msgspec.Raw(data)))

    def settle(self, connection: Connection, seq: int) -> None:
        self.journal.acknowledging(connection, seq, confirm=True)
        self.journal.settled(connection, seq)

    def kinds(self) -> list[str]:
        return [violation.kind for violation in self.journal.violations()]


@pytest.fixture
def story() -> Story:
    return Story()


def test_what_is_received_and_settled_is_no_violation(story: Story) -> None:
    entry = story.publish("one", 10)
    connection = story.connect()
    story.receive(connection, "one", 10)
    story.settle(connection, 10)
    story.answer(entry, 10, "delivered", again=True)
    assert story.kinds() == []


def test_an_answered_id_that_never_came_is_lost(story: Story) -> None:
    story.publish("one", 10)
    assert story.kinds() == ["lost"]


def test_an_id_without_a_definite_answer_is_unresolved(story: Story) -> None:
    entry = Entry("a", "one", b"1")
    story.journal.sending(entry)
    story.journal.killed()
    story.journal.unknown(entry, story.journal.epoch)
    assert story.kinds() == ["unresolved"]
    assert story.journal.lost_publishes == {1: 1}


def test_an_id_that_nobody_published_is_invented(story: Story) -> None:
    story.receive(story.connect(), "one", 10)
    assert story.kinds() == ["invented"]


def test_a_refused_id_that_comes_is_invented(story: Story) -> None:
    entry = Entry("a", "one", b"1")
    story.journal.sending(entry)
    story.journal.refused(entry)
    assert story.kinds() == []
    story.receive(story.connect(), "one", 10)
    assert story.kinds() == ["invented"]


def test_a_refused_id_that_was_accepted_before_is_a_finding(story: Story) -> None:
    entry = story.publish("one", 10)
    story.receive(story.connect(), "one", 10)
    story.journal.sending(entry)
    story.journal.refused(entry)
    assert story.kinds() == ["answer"]


def test_a_repeat_at_the_first_attempt_is_invented(story: Story) -> None:
    entry = Entry("a", "one", b"1")
    story.answer(entry, 10, again=True)
    story.receive(story.connect(), "one", 10)
    assert story.kinds() == ["invented"]


def test_mail_of_another_client_is_crossed(story: Story) -> None:
    story.publish("one", 10)
    story.receive(story.connect("b"), "one", 10)
    assert story.kinds() == ["crossed", "lost"]


def test_other_data_is_altered(story: Story) -> None:
    story.publish("one", 10)
    story.receive(story.connect(), "one", 10, b"1.0")
    assert story.kinds() == ["altered"]


@pytest.mark.parametrize("second", [10, 9])
def test_a_seq_that_does_not_increase_on_a_connection_is_out_of_order(story: Story, second: int) -> None:
    connection = story.connect()
    first, later = Entry("a", "one", b"1"), Entry("a", "two", b"1")
    story.journal.sending(first)
    story.journal.sending(later)
    story.receive(connection, "one", 10)
    story.receive(connection, "two", second)
    assert "order" in story.kinds()


def test_a_later_publish_with_a_lower_seq_is_out_of_order(story: Story) -> None:
    story.publish("one", 10)
    story.publish("two", 9)
    for id, seq in (("two", 9), ("one", 10)):
        story.receive(story.connect(), id, seq)
    assert story.kinds() == ["order"]


def test_another_seq_for_an_id_is_renumbered(story: Story) -> None:
    story.publish("one", 10)
    story.receive(story.connect(), "one", 11)
    assert story.kinds() == ["renumbered"]


def test_an_id_that_is_accepted_twice_is_renumbered(story: Story) -> None:
    entry = story.publish("one", 10)
    story.receive(story.connect(), "one", 10)
    story.answer(entry, 11)
    assert set(story.kinds()) == {"renumbered"}


def test_one_seq_for_two_ids_is_renumbered(story: Story) -> None:
    story.publish("one", 10)
    later = Entry("a", "two", b"1")
    story.journal.sending(later)
    story.receive(story.connect(), "one", 10)
    story.receive(story.connect(), "two", 10)
    assert "renumbered" in story.kinds()


def test_what_was_told_settled_must_not_return_on_a_later_connection(story: Story) -> None:
    story.publish("one", 10)
    first, parallel = story.connect(), story.connect()
    story.receive(first, "one", 10)
    story.settle(first, 10)
    story.receive(parallel, "one", 10)
    assert story.kinds() == []
    story.receive(story.connect(), "one", 10)
    assert story.kinds() == ["returned"]


def test_an_acknowledgement_that_was_not_told_may_be_undone(story: Story) -> None:
    story.publish("one", 10)
    connection = story.connect()
    story.receive(connection, "one", 10)
    story.journal.acknowledging(connection, 10, confirm=True)
    story.journal.killed()
    story.journal.cut(connection)
    story.receive(story.connect(), "one", 10)
    assert story.kinds() == []
    assert story.journal.lost_acks == {1: 1}


def test_what_a_repeat_called_delivered_must_not_return(story: Story) -> None:
    entry = story.publish("one", 10)
    connection = story.connect()
    story.receive(connection, "one", 10)
    story.journal.acknowledging(connection, 10)
    story.answer(entry, 10, "delivered", again=True)
    story.answer(entry, 10, "queued", again=True)
    story.receive(story.connect(), "one", 10)
    assert story.kinds() == ["returned", "returned"]


def test_a_repeat_cannot_be_pending_after_its_seq_was_told_settled(story: Story) -> None:
    entry = story.publish("one", 10)
    connection = story.connect()
    story.receive(connection, "one", 10)
    story.settle(connection, 10)
    story.answer(entry, 10, "sent", again=True)
    assert story.kinds() == ["returned"]


def test_settled_beyond_every_acknowledgement_is_not_believed(story: Story) -> None:
    entry = story.publish("one", 10)
    connection = story.connect()
    story.receive(connection, "one", 10)
    story.journal.settled(connection, 10)
    story.answer(entry, 10, "delivered", again=True)
    assert story.kinds() == ["settled", "settled"]


def test_collapsed_mail_may_be_missing_but_must_not_return(story: Story) -> None:
    for id, seq in (("one", 10), ("two", 11), ("three", 12)):
        story.publish(id, seq, key="k")
    connection = story.connect()
    story.receive(connection, "three", 12)
    assert story.kinds() == []
    story.receive(story.connect(), "two", 11)
    assert story.kinds() == ["returned"]


def test_collapsed_needs_a_successor(story: Story) -> None:
    entry = story.publish("one", 10, key="k")
    story.receive(story.connect(), "one", 10)
    story.answer(entry, 10, "collapsed", again=True)
    assert story.kinds() == ["settled"]


def test_expired_mail_may_be_missing_but_must_not_come() -> None:
    story = Story(ttl=True)
    entry = Entry("a", "one", b"1", ttl=1)
    story.answer(entry, 10, lives=-1)
    assert story.kinds() == []
    story.receive(story.connect(), "one", 10)
    assert story.kinds() == ["returned"]


def test_purged_mail_may_be_missing_but_must_not_return() -> None:
    story = Story(purge=True)
    story.publish("one", 10)
    asked = story.journal.purging("a")
    story.publish("two", 11)
    story.journal.purged("a", asked, known=True)
    story.publish("three", 12)
    connection = story.connect()
    story.receive(connection, "two", 11)
    story.receive(connection, "three", 12)
    assert story.kinds() == []
    story.receive(story.connect(), "one", 10)
    assert story.kinds() == ["returned"]


def test_the_first_end_of_a_receipt_stays() -> None:
    story = Story(purge=True)
    entry = story.publish("one", 10)
    connection = story.connect()
    story.receive(connection, "one", 10)
    story.journal.acknowledging(connection, 10)
    story.journal.purging("a")
    for state in ("pending", "delivered", "purged"):
        body = {"client_id": "a", "seq": 10, "state": state}
        story.journal.receipt(entry, story.journal.asking("a"), 200, body)
    assert story.kinds() == ["returned"]


def test_an_answer_that_was_on_its_way_meanwhile_is_not_accused(story: Story) -> None:
    entry = story.publish("one", 10)
    connection = story.connect()
    story.receive(connection, "one", 10)
    asked = story.journal.asking("a")
    story.settle(connection, 10)
    story.journal.receipt(entry, asked, 200, {"client_id": "a", "seq": 10, "state": "pending"})
    assert story.kinds() == []


def test_a_gap_needs_a_reason(story: Story) -> None:
    story.journal.gap(story.connect(), "overflow", 1)
    assert story.kinds() == ["gap"]
    other = Story(ttl=True)
    other.journal.gap(other.connect(), "expired", 1)
    assert other.kinds() == []


def test_a_connection_that_is_lost_under_a_living_server_is_a_finding(story: Story) -> None:
    story.journal.cut(story.connect())
    assert story.kinds() == ["cut"]
