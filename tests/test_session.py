"""The rules of a conversation about mail: what is written, how far, and what settles it."""

from __future__ import annotations

import pytest

from notifier.engine.base import MailboxState, Page
from tests.talking import NOW, Talk, losses, mail, page

# -- welcome, gap -----------------------------------------------------------------------------------------------------


def test_welcome_is_first_and_says_what_holds() -> None:
    talk = Talk(state=MailboxState(3, None, None))
    assert talk.greeting == [
        {
            "type": "welcome",
            "client_id": "alice",
            "connection_id": "conn-1",
            "pending": 3,
            "ack": "client",
            "max_inflight": 4,
            "heartbeat_s": 25,
            "token_expires_at": "2027-01-15T09:00:00.000Z",
        }
    ]
    assert talk.session.wants == 4


def test_an_empty_mailbox_is_not_read() -> None:
    talk = Talk()
    assert talk.session.wants == 0
    assert talk.session.ready


def test_a_gap_is_told_after_welcome_and_before_the_backlog() -> None:
    talk = Talk(state=MailboxState(2, losses(expired=2, purged=1), None))
    assert [frame["type"] for frame in talk.greeting] == ["welcome", "gap", "gap"]
    assert talk.greeting[1:] == [
        {"type": "gap", "reason": "expired", "dropped": 2},
        {"type": "gap", "reason": "purged", "dropped": 1},
    ]
    talk.session.mail(page(1, 2))
    assert talk.said() == [1, 2]


def test_a_gap_is_acknowledged_by_a_later_ack() -> None:
    talk = Talk(state=MailboxState(1, losses(expired=2), None))
    talk.session.mail(page(1))
    talk.ack(1)
    assert talk.acknowledged() == (1, "client", False, {"expired": 102})
    talk.live(2)
    talk.ack(2)
    assert talk.acknowledged() == (2, "client", False, None), "once"


def test_a_gap_with_nothing_after_it_is_acknowledged_by_any_ack() -> None:
    talk = Talk(state=MailboxState(0, losses(expired=2), None))
    talk.ack(0)
    assert talk.acknowledged() == (0, "client", False, {"expired": 102})


def test_a_gap_with_nothing_after_it_is_proven_by_a_pong() -> None:
    talk = Talk("auto", MailboxState(0, losses(expired=2), None))
    *_, ping = talk.greeting
    talk.session.receive_pong(ping, 0)
    assert talk.acknowledged() == (0, "transport", False, {"expired": 102})


def test_a_pong_of_mail_does_not_prove_a_gap_that_followed_it() -> None:
    talk = Talk("auto")
    talk.live(1)
    _, before = talk.said()
    talk.session.ended([2], "expired", losses(expired=1))
    gap, after = talk.said()
    assert gap["type"] == "gap"
    assert before != after
    talk.session.receive_pong(before, 0)
    assert talk.acknowledged() == (1, "transport", False, None)
    talk.session.receive_pong(after, 0)
    assert talk.acknowledged() == (1, "transport", False, {"expired": 101})


def test_a_loss_is_told_at_once_for_mail_not_written_here() -> None:
    talk = Talk(state=MailboxState(5, None, None), window=2)
    talk.session.mail(page(1, 2, more=True))
    talk.said()
    talk.session.ended([2, 3, 4], "purged", losses(purged=3))
    assert talk.said() == [{"type": "gap", "reason": "purged", "dropped": 2}]
    talk.session.ended([1], "expired", losses(expired=1))
    assert talk.said() == [], "the client has seen it"


def test_a_collapse_is_no_gap() -> None:
    talk = Talk(state=MailboxState(2, None, None), window=1)
    talk.session.mail(page(1, more=True))
    talk.said()
    talk.session.ended([1, 2], None, None)
    assert talk.said() == []


def test_a_loss_that_was_counted_at_the_start_is_not_told_again_by_its_commit() -> None:
    counted = losses(expired=2)
    talk = Talk(state=MailboxState(0, counted, None))
    talk.session.ended([5, 6], "expired", counted)
    assert talk.said() == []


# -- live and read ----------------------------------------------------------------------------------------------------


def test_live_mail_is_taken_by_a_session_that_is_level() -> None:
    talk = Talk()
    assert talk.live(5, 7) == [True, True]
    assert talk.said() == [5, 7]


def test_a_doubled_wake_is_written_once() -> None:
    talk = Talk()
    assert talk.live(5) == [True]
    assert talk.live(5) == [False]
    assert talk.said() == [5]
    assert talk.session.wants == 0


def test_a_missed_wake_is_read_from_the_mailbox() -> None:
    talk = Talk()
    talk.live(5)
    assert not talk.session.offer(mail(7), 6)
    assert talk.session.wants == 3
    talk.session.reading = True
    talk.session.mail(page(6, 7))
    assert talk.said() == [5, 6, 7]


def test_a_wake_of_what_others_have_settled_comes_too_late() -> None:
    talk = Talk()
    talk.session.settled(5)
    assert talk.live(5) == [False]
    assert talk.live(6) == [True]
    assert [item for item in talk.said() if item != {"type": "settled", "seq": 5}] == [6]


def test_a_wake_of_what_has_ended_is_preceded_by_a_look_at_the_mailbox() -> None:
    talk = Talk()
    talk.session.ended([5], None, None)
    assert talk.live(5) == [False]
    talk.session.mail(Page([], 5, False))
    assert talk.live(5) == [False]
    assert talk.said() == []


def test_nothing_that_ended_before_the_start_is_taken() -> None:
    talk = Talk(state=MailboxState(0, None, None, through=9))
    assert talk.live(9) == [False]
    assert talk.live(10) == [True]


def test_mail_is_written_in_order_and_once() -> None:
    talk = Talk(state=MailboxState(4, None, None))
    talk.session.mail(page(1, 2, more=True))
    talk.session.mail(page(2, 3))
    assert talk.said() == [1, 2, 3]


# -- window and pacing ------------------------------------------------------------------------------------------------


def test_the_window_bounds_what_is_unacknowledged() -> None:
    talk = Talk(window=3)
    assert talk.live(1, 2, 3, 4) == [True, True, True, False]
    assert talk.session.window_full
    assert talk.session.filled
    assert talk.session.wants == 0
    assert talk.limits.full == 1
    talk.ack(2)
    assert talk.session.inflight == 1
    assert talk.session.wants == 2
    assert talk.limits.full == 0


@pytest.mark.parametrize("event", ["settled", "ended"])
def test_what_leaves_the_mailbox_leaves_the_window(event: str) -> None:
    talk = Talk(window=2)
    talk.live(1, 2, 3)
    if event == "settled":
        talk.session.settled(1)
    else:
        talk.session.ended([1], None, None)
    assert talk.session.inflight == 1
    assert talk.session.wants == 1
    assert talk.limits.full == 0


def test_a_window_that_is_full_for_a_minute_is_told_once() -> None:
    talk = Talk(window=1)
    talk.live(1)
    talk.session.note_filled(100.0)
    talk.session.tick(159.9, NOW, 0)
    assert [item for item in talk.said() if isinstance(item, dict)] == []
    talk.session.tick(160.0, NOW, 0)
    talk.session.tick(161.0, NOW, 0)
    (error,) = [item for item in talk.said() if isinstance(item, dict)]
    assert (error["type"], error["code"]) == ("error", "window_full")
    talk.ack(1)
    talk.live(2)
    talk.session.note_filled(200.0)
    talk.session.tick(260.0, NOW, 0)
    assert [item["code"] for item in talk.said() if isinstance(item, dict)] == ["window_full"], "once per filling"


def test_an_ack_in_time_keeps_the_window_from_being_told() -> None:
    talk = Talk(window=1)
    talk.live(1)
    talk.session.note_filled(100.0)
    talk.ack(1)
    talk.session.tick(200.0, NOW, 0)
    assert [item for item in talk.said() if isinstance(item, dict)] == []


def test_a_session_that_has_gone_is_not_counted_as_full() -> None:
    talk = Talk(window=1)
    talk.live(1)
    talk.session.release()
    assert talk.limits.full == 0
    assert talk.session.wants == 0


def test_a_paused_session_takes_and_wants_nothing() -> None:
    talk = Talk()
    talk.session.paused = True
    assert talk.live(1) == [False]
    assert talk.session.wants == 0
    assert not talk.session.transient(b"{}")
    talk.session.paused = False
    assert talk.session.wants == 4
    assert talk.session.transient(b"{}")


def test_a_tick_of_the_loop_hands_over_a_bounded_amount() -> None:
    talk = Talk(window=100)
    taken = [talk.session.offer(mail(seq, size=100_000), seq - 1) for seq in range(1, 6)]
    assert taken == [True, True, True, False, False]
    assert not talk.session.transient(b"{}")
    talk.said()
    assert talk.session.wants == 97
    talk.session.mail(page(4, 5))
    assert talk.said() == [4, 5]


def test_a_transient_frame_has_no_place_in_window_or_order() -> None:
    talk = Talk(window=1)
    talk.live(1)
    assert talk.session.transient(b'{"type":"notification"}')
    assert talk.said() == [1, {"type": "notification"}]
    assert talk.session.position == 1


# -- acknowledgements -------------------------------------------------------------------------------------------------


def test_an_ack_is_cumulative() -> None:
    talk = Talk()
    talk.live(1, 2, 3)
    talk.ack(2)
    assert talk.acknowledged() == (2, "client", False, None)
    assert talk.session.inflight == 1


def test_an_ack_above_what_was_written_is_ignored_and_counted() -> None:
    talk = Talk()
    talk.live(1, 2)
    for seq in (3, 2**53, 2**64, 10**300):
        talk.ack(seq)
    assert talk.acknowledged() is None
    assert talk.session.inflight == 2
    assert talk.session.ignored_acks >= 2
    assert talk.session.closing is None


def test_mail_that_is_sent_again_is_acknowledged_again() -> None:
    talk = Talk(state=MailboxState(2, None, None))
    talk.session.mail(page(1, 2))
    talk.ack(1)
    talk.ack(2)
    assert talk.acknowledged() == (2, "client", False, None), "two in one packet are one"


def test_an_ack_that_advances_nothing_is_not_committed_again() -> None:
    talk = Talk()
    talk.live(1, 2)
    talk.ack(2)
    talk.acknowledged()
    talk.ack(2)
    talk.ack(1)
    assert talk.acknowledged() is None


def test_confirm_is_answered_when_it_is_durable() -> None:
    talk = Talk()
    talk.live(1)
    talk.said()
    talk.ack(1, confirm=True)
    assert talk.acknowledged() == (1, "client", True, None)
    assert talk.said() == []
    talk.session.confirm(1)
    assert talk.said() == [{"type": "settled", "seq": 1}]


def test_confirm_of_an_old_ack_is_answered_too() -> None:
    talk = Talk()
    talk.live(1, 2)
    talk.ack(2)
    talk.acknowledged()
    talk.ack(1, confirm=True)
    assert talk.acknowledged() == (1, "client", True, None)


def test_settled_is_told_to_the_others_the_highest_of_a_tick() -> None:
    talk = Talk()
    talk.live(1, 2, 3)
    talk.ack(2)
    talk.said()
    assert not talk.session.settled(2), "that was its own ack"
    assert talk.said() == []
    talk.session.settled(1)
    assert talk.session.settled(3)
    talk.session.settled(3)
    assert talk.said() == [{"type": "settled", "seq": 3}]


def test_settled_stands_behind_the_mail_that_it_settles() -> None:
    talk = Talk()
    talk.live(1)
    talk.session.settled(1)
    assert talk.said() == [1, {"type": "settled", "seq": 1}]


# -- ack=auto ---------------------------------------------------------------------------------------------------------


def test_a_ping_with_the_highest_seq_follows_the_mail() -> None:
    talk = Talk("auto")
    talk.live(5, 2**52)
    assert talk.said() == [5, (5).to_bytes(8), 2**52, (2**52).to_bytes(8)]


def test_a_page_is_proven_by_one_ping() -> None:
    talk = Talk("auto", MailboxState(3, None, None))
    talk.session.mail(page(1, 2, 3))
    assert talk.said() == [1, 2, 3, (3).to_bytes(8)]


def test_a_pong_proves_everything_up_to_its_ping() -> None:
    talk = Talk("auto")
    talk.live(1, 2, 3)
    talk.session.receive_pong((2).to_bytes(8), 0)
    assert talk.acknowledged() == (2, "transport", False, None)
    assert talk.session.inflight == 1


def test_only_the_pong_of_an_outstanding_ping_counts() -> None:
    talk = Talk("auto")
    talk.live(1, 2)
    talk.session.receive_pong((2).to_bytes(8), 0)
    talk.acknowledged()
    talk.live(3)
    for payload in (b"", (2).to_bytes(8), (1).to_bytes(8), (4).to_bytes(8), b"3", (3).to_bytes(4)):
        talk.session.receive_pong(payload, 0)
    assert talk.acknowledged() is None
    assert talk.session.inflight == 1


def test_no_pings_prove_mail_in_ack_client() -> None:
    talk = Talk("client")
    talk.live(1)
    assert talk.said() == [1]
    talk.session.receive_pong((1).to_bytes(8), 0)
    assert talk.acknowledged() is None


def test_ack_frames_are_obeyed_in_both_modes() -> None:
    talk = Talk("auto")
    talk.live(1)
    talk.ack(1)
    assert talk.acknowledged() == (1, "client", False, None)
    talk.session.receive_pong((1).to_bytes(8), 0)
    assert talk.acknowledged() is None, "proven twice is settled once"
