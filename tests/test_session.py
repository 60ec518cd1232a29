"""The rules of a conversation about mail: what is written, how far, and what settles it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notifier.conversation import ProtocolPing
from notifier.engine.base import MailboxState, Notification, Page
from notifier.protocol import AckMode
from notifier.transport.sse import EventStream
from notifier.transport.websocket import WebSocketConnection
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
    assert talk.greeting[0]["type"] == "welcome"
    assert talk.greeting[1:] == [
        {"type": "gap", "reason": "expired", "dropped": 2},
        {"type": "gap", "reason": "purged", "dropped": 1},
        bytes(8),
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


def test_a_gap_with_nothing_after_it_is_acknowledged_by_any_ack_once_its_ping_is_answered() -> None:
    talk = Talk(state=MailboxState(0, losses(expired=2), None))
    *_, ping = talk.greeting
    talk.ack(0)
    assert talk.acknowledged() is None, "it may have been sent before the gap was read"
    talk.session.receive_pong(ping, 0)
    assert talk.acknowledged() is None, "in ack=client only acks acknowledge"
    talk.ack(0)
    assert talk.acknowledged() == (0, "client", False, {"expired": 102})
    talk.ack(0)
    assert talk.acknowledged() is None


def test_such_an_ack_may_be_the_last_of_an_earlier_connection() -> None:
    """It is above everything written here, so it settles nothing."""
    talk = Talk(state=MailboxState(0, losses(expired=2), None))
    *_, ping = talk.greeting
    talk.ack(7)
    assert talk.acknowledged() is None, "it may have been sent before the gap was read"
    talk.session.receive_pong(ping, 0)
    talk.ack(7)
    assert talk.acknowledged() == (0, "client", False, {"expired": 102})
    assert talk.session.ignored_acks == 2


def talk_of_a_gap_between_1_and_3() -> Talk:
    talk = Talk()
    talk.live(1)
    talk.session.ended([2], "purged", losses(purged=1))
    talk.session.seen = 2
    talk.session.behind = False
    talk.live(3)
    return talk


def test_an_ack_of_what_was_never_written_does_not_acknowledge_a_gap_for_being_high() -> None:
    talk = talk_of_a_gap_between_1_and_3()
    talk.ack(9)
    assert talk.acknowledged() is None
    talk.ack(3)
    assert talk.acknowledged() == (3, "client", False, {"purged": 101})


@pytest.mark.parametrize("ack", ["auto", "client"])
@pytest.mark.parametrize("confirm", [True, False])
def test_an_ack_that_may_have_been_sent_before_a_gap_was_read_does_not_acknowledge_it(
    ack: AckMode, confirm: bool
) -> None:
    talk = Talk(ack)
    talk.live(1, 2)
    talk.said()
    talk.session.ended([3], "purged", losses(purged=1))
    _, ping = talk.said()
    talk.ack(1, confirm)
    assert talk.acknowledged() == (1, "client", confirm, None)
    talk.ack(2, confirm)
    assert talk.acknowledged() == (2, "client", confirm, None)
    talk.session.receive_pong(ping, 0)
    assert talk.acknowledged() == (None if ack == "client" else (2, "transport", False, {"purged": 101}))
    talk.ack(2, confirm=True)
    assert talk.acknowledged() == (2, "client", True, {"purged": 101} if ack == "client" else None)


def test_an_ack_of_mail_that_came_after_a_gap_acknowledges_it_without_any_pong() -> None:
    talk = talk_of_a_gap_between_1_and_3()
    talk.ack(1)
    assert talk.acknowledged() == (1, "client", False, None)
    talk.ack(3)
    assert talk.acknowledged() == (3, "client", False, {"purged": 101})


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
    assert talk.said() == [{"type": "gap", "reason": "purged", "dropped": 2}, (2).to_bytes(8)]
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
    assert taken == [True, True, False, False, False]
    talk.said()
    assert talk.session.wants == 98
    talk.session.mail(page(3, 4, 5))
    assert talk.said() == [3, 4, 5]


def widest(seq: int, size: int) -> Notification:
    """With as much around its `data` as the rules of names allow."""
    return Notification("alice", seq, '"' * 128, b"1" * size, 0, 1_900_000_000_000, "e" * 64, "\\" * 64)


LARGEST = 512 * 1024


@given(st.lists(st.tuples(st.sampled_from(["live", "page", "transient"]), st.sampled_from([1, 300, 70_000, LARGEST]))))
@example([("live", 1)] * 3000)
@example([("page", 1)] * 3000)
@example([("page", 130_000), ("page", LARGEST), ("page", 1)])
def test_what_a_tick_hands_over_leaves_room_below_the_end_of_a_connection(steps: list[tuple[str, int]]) -> None:
    """By construction: with 256 KiB unsent before it, which is the most that does not pause a session, and with 64 KiB
    of other frames, nothing that is stored brings a carrier over 1 MiB, however its frames look."""
    talk = Talk("auto", MailboxState(9, None, None), window=100_000)
    session = talk.session
    session.mail(Page([], 0, False))
    for seq, (how, size) in enumerate(steps, 1):
        if how == "live":
            session.offer(widest(seq, size), session.seen)
        elif how == "transient":
            session.transient(b"{" + b"1" * (size + 400) + b"}", 256 * 1024 - 1)
        else:
            session.mail(Page([widest(seq, size), widest(seq + 1, size)], seq + 1, False))
        session.behind = False
    mail = [item for item in session.out if not isinstance(item, ProtocolPing)]
    assert sum(len(WebSocketConnection.encode(item)) for item in session.out) + 256 * 1024 <= (1024 - 64) * 1024
    assert sum(len(EventStream.encode(item)) for item in mail) + 256 * 1024 <= (1024 - 64) * 1024


def test_what_of_a_page_does_not_fit_is_read_again() -> None:
    talk = Talk(state=MailboxState(9, None, None), window=10_000)
    talk.session.reading = True
    written = talk.session.mail(Page([mail(seq) for seq in range(1, 5_001)], 5_000, False))
    assert 500 < len(written) < 5_000
    assert talk.session.seen == talk.session.position == len(written)
    assert talk.session.behind
    assert talk.said() == [notification.seq for notification in written]
    assert talk.session.wants == 10_000 - len(written)


def test_a_page_that_comes_when_the_line_is_full_is_read_again() -> None:
    talk = Talk(state=MailboxState(2, None, None))
    talk.session.reading = talk.session.paused = True
    assert list(talk.session.mail(page(1, 2))) == []
    assert (talk.said(), talk.session.position, talk.session.wants) == ([], 0, 0)
    talk.session.paused = False
    assert talk.session.wants == 4


def test_a_transient_frame_is_dropped_where_256_kib_are_unsent() -> None:
    talk = Talk()
    assert not talk.session.transient(b"{}", 256 * 1024)
    assert talk.session.transient(b"1" * 200_000, 50_000)
    assert not talk.session.transient(b"1", 70_000), "what waits to be written is unsent, too"
    assert talk.session.transient(b"1", 50_000)


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


def test_acks_leave_no_pings_behind_and_pongs_that_come_late_are_free() -> None:
    talk = Talk("auto", window=10_000)
    for seq in range(1, 1001):
        talk.live(seq)
        talk.ack(seq)
    assert talk.session._proofs is not None
    assert len(talk.session._proofs._pings) == 0
    for seq in range(1, 1001):
        talk.session.receive_pong(seq.to_bytes(8), 0)
    assert talk.session.closing is None
    for _ in range(201):
        talk.session.receive_pong((1).to_bytes(8), 0)
    assert talk.session.closing == (4429, "rate_limited")
