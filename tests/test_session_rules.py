"""The rules of a conversation about itself: frames, rate, tokens, silence, and how it ends."""

from __future__ import annotations

import pytest

from notifier.auth.tokens import Identity
from notifier.engine.base import MailboxState
from notifier.errors import Revoked, TokenInvalid
from tests.talking import NOW, Talk, losses, page

# -- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"", b"x", b"1", b"[]", b'"ack"', b"null", b'{"type":"ack"}', b'{"type":"ack","seq":"1"}',
        b'{"type":"ack","seq":-1}', b'{"type":"ack","seq":1.5}', b'{"type":"ack","seq":null}',
        b'{"type":"ack","seq":1,"confirm":1}', b'{"type":"auth"}', b'{"type":"auth","token":1}', b'{"type":"ack",}',
        b'{"type":"ack","seq":1,"seq":2}', b'{"type":"ping","type":"ping"}', b'{"type":"ping","x":NaN}',
    ],
)  # fmt: skip
def test_a_bad_frame_is_explained_and_closes(frame: bytes) -> None:
    talk = Talk()
    talk.hear(frame)
    (error,) = talk.said()
    assert (error["type"], error["code"]) == ("error", "bad_frame")
    assert error["message"]
    assert talk.session.closing == (4400, "bad_frame")


@pytest.mark.parametrize(
    "frame", [b"{}", b'{"type":"new"}', b'{"type":1}', b'{"type":"welcome"}', b'{"type":["ack"]}', b'{"seq":1}']
)
def test_an_unknown_type_is_ignored(frame: bytes) -> None:
    talk = Talk()
    talk.hear(frame)
    assert talk.said() == []
    assert talk.session.closing is None


def test_unknown_fields_of_a_known_type_are_ignored() -> None:
    talk = Talk()
    talk.live(1)
    talk.hear({"type": "ack", "seq": 1, "later": {"version": 2}})
    assert talk.acknowledged() == (1, "client", False, None)


def test_ping_is_answered_pong() -> None:
    talk = Talk()
    talk.hear({"type": "ping"})
    assert talk.said() == [{"type": "pong"}]


# -- rate -------------------------------------------------------------------------------------------------------------


def test_the_bucket_holds_200_and_is_refilled_at_100_a_second() -> None:
    talk = Talk()
    for _ in range(200):
        talk.hear({"type": "ping"}, 10.0)
    for _ in range(50):
        talk.hear({"type": "ping"}, 10.5)
    assert talk.session.closing is None
    talk.hear({"type": "ping"}, 10.5)
    assert talk.session.closing == (4429, "rate_limited")
    assert len(talk.said()) == 250


@pytest.mark.parametrize("what", ["unknown", "ignored ack", "repeated ack", "unasked pong", "auth"])
def test_every_other_frame_takes_a_token(what: str) -> None:
    talk = Talk()
    talk.live(1)
    talk.ack(1)
    talk.acknowledged()
    for _ in range(201):
        match what:
            case "unknown":
                talk.hear({"type": "later"}, 0.0)
            case "ignored ack":
                talk.ack(9)
            case "repeated ack":
                talk.ack(1)
            case "unasked pong":
                talk.session.receive_pong(b"", 0.0)
            case "auth":
                talk.hear({"type": "auth", "token": "x"}, 0.0)
    assert talk.session.closing == (4429, "rate_limited")


def test_an_ack_that_advances_and_a_pong_that_we_asked_for_are_free() -> None:
    talk = Talk("auto", window=10_000)
    for seq in range(1, 1001):
        talk.live(seq)
        if seq % 2:
            talk.ack(seq)
        else:
            talk.session.receive_pong(seq.to_bytes(8), 0.0)
    assert talk.session.closing is None
    assert talk.session.inflight == 0


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_the_end_of_the_token_is_told_30_seconds_before_once() -> None:
    talk = Talk(expires_s=NOW + 100)
    assert talk.session.tick(0, NOW, 0) <= 70
    talk.session.tick(0, NOW + 69.9, 0)
    assert talk.said() == []
    talk.session.tick(0, NOW + 70, 0)
    talk.session.tick(0, NOW + 71, 0)
    assert talk.said() == [{"type": "token_expiring", "in_s": 30}]


def test_it_is_told_at_once_if_less_is_left() -> None:
    talk = Talk(expires_s=NOW + 12)
    talk.session.tick(0, NOW, 0)
    assert talk.said() == [{"type": "token_expiring", "in_s": 12}]


def test_the_session_ends_with_the_token_and_the_leeway() -> None:
    talk = Talk(expires_s=NOW)
    assert talk.session.tick(0, NOW + 9.9, 0) <= 0.1 + 1e-6
    assert talk.session.closing is None
    talk.session.tick(0, NOW + 10, 0)
    assert talk.session.closing == (4401, "token_expired")


def test_auth_asks_for_a_token_to_be_verified_and_restarts_the_timer() -> None:
    talk = Talk(expires_s=NOW + 10)
    talk.session.tick(0, NOW, 0)
    talk.said()
    talk.hear({"type": "auth", "token": "new"})
    assert talk.session.verify == ["new"]
    talk.session.reauthenticated(Identity("alice", NOW + 500, NOW, ("h",)))
    assert talk.said() == [{"type": "authenticated", "token_expires_at": "2027-01-15T08:08:20.000Z"}]
    assert talk.session.identity.groups == ("h",)
    talk.session.tick(0, NOW + 20, 0)
    assert talk.session.closing is None
    assert talk.said() == []
    talk.session.tick(0, NOW + 480, 0)
    assert talk.said() == [{"type": "token_expiring", "in_s": 20}]


def test_tokens_wait_in_their_order_and_not_without_end() -> None:
    talk = Talk()
    for n in range(16):
        talk.hear({"type": "auth", "token": str(n)})
    assert talk.session.verify == [str(n) for n in range(16)]
    assert talk.session.closing is None
    talk.hear({"type": "auth", "token": "one more"})
    assert talk.session.closing == (4429, "rate_limited")


def test_a_token_of_another_client_ends_the_session() -> None:
    talk = Talk()
    talk.session.reauthenticated(Identity("bob", NOW + 500, NOW, ()))
    assert talk.session.closing == (4403, "client_id_mismatch")
    assert talk.session.client_id == "alice"


def test_an_invalid_token_is_told_and_the_session_goes_on() -> None:
    talk = Talk()
    talk.session.auth_failed(TokenInvalid("The signature is wrong."))
    (error,) = talk.said()
    assert (error["type"], error["code"], error["message"]) == ("error", "token_invalid", "The signature is wrong.")
    assert talk.session.closing is None


def test_a_revoked_client_is_closed() -> None:
    talk = Talk()
    talk.session.auth_failed(Revoked("Revoked."))
    assert talk.session.closing == (4403, "revoked")


# -- liveness ---------------------------------------------------------------------------------------------------------


def test_silence_is_ended_by_a_ping_and_by_nothing_but_silence() -> None:
    talk = Talk()
    assert talk.session.tick(10, NOW, 0) == 15
    assert talk.said() == []
    assert talk.session.tick(25, NOW, 0) == 20
    assert talk.said() == [b"heartbeat"]
    talk.session.tick(44.9, NOW, 0)
    assert talk.session.closing is None
    talk.session.tick(45, NOW, 0)
    assert talk.session.closing is not None
    assert talk.session.closing[0] == 0, "nobody is there to read a close frame"


@pytest.mark.parametrize("timeout", [5, 20, 90])
def test_pings_come_after_every_silence_however_long_the_timeout_is(timeout: float) -> None:
    """Answered at once: the next is due HEARTBEAT_SECONDS after that, and few looks are needed for it."""
    talk = Talk()
    talk.limits.heartbeat_timeout_s = timeout
    now, looks, pinged = 0.0, 0, []
    while now < 1000:
        again = talk.session.tick(now, NOW, 0)
        looks += 1
        if b"heartbeat" in talk.said():
            pinged.append(now)
            talk.session.heard_at = now + 0.05
            talk.session.receive_pong(b"heartbeat", now)
        now += max(again, 0.25)  # the grain of the wheel
    assert len(pinged) >= 38
    assert looks <= 3 * len(pinged)


def test_with_a_long_timeout_silence_is_ended_only_after_it() -> None:
    talk = Talk()
    talk.limits.heartbeat_timeout_s = 90
    now = 25.0
    while talk.session.closing is None:
        now += talk.session.tick(now, NOW, 0)
    assert talk.said() == [b"heartbeat"], "one that is outstanding is enough"
    assert 115 <= now <= 116


def test_whatever_is_heard_is_a_sign_of_life() -> None:
    talk = Talk()
    talk.session.tick(25, NOW, 0)
    talk.session.heard_at = 30
    assert talk.session.tick(46, NOW, 0) == 9
    assert talk.session.closing is None
    talk.said()
    talk.session.tick(55, NOW, 0)
    assert talk.said() == [b"heartbeat"]


def test_the_answer_to_a_heartbeat_is_free() -> None:
    talk = Talk()
    for n in range(300):
        talk.session.tick(25 * (n + 1), NOW, 0)
        talk.session.receive_pong(b"heartbeat", 0.0)
        talk.session.heard_at = 25 * (n + 1)
    assert talk.session.closing is None


def test_a_slow_line_is_not_taken_for_a_dead_one() -> None:
    """Closed if for HEARTBEAT_TIMEOUT_SECONDS nothing was received and no unsent byte left."""
    talk = Talk()
    talk.session.tick(25, NOW, 1000)
    talk.session.tick(45, NOW, 1000)
    assert talk.session.closing is None
    talk.session.tick(46, NOW, 0)
    assert talk.session.closing is not None


# -- the end ----------------------------------------------------------------------------------------------------------


def test_a_drain_says_when_to_come_back() -> None:
    talk = Talk()
    talk.session.drain(750)
    assert talk.said() == [{"type": "reconnect", "after_ms": 750}]
    assert talk.session.closing == (1012, "draining")
    talk.session.drain(1)
    assert talk.said() == []


def test_the_first_reason_to_close_counts() -> None:
    talk = Talk()
    talk.session.close(4409, "replaced")
    talk.session.close(1012, "draining")
    assert talk.session.closing == (4409, "replaced")


def test_a_closing_session_takes_and_says_nothing_more() -> None:
    talk = Talk(state=MailboxState(1, None, None))
    talk.session.reading = True
    talk.session.close(4403, "banned")
    talk.session.mail(page(1))
    assert talk.live(2) == [False]
    assert not talk.session.transient(b"{}")
    talk.session.confirm(1)
    talk.session.settled(1)
    talk.session.ended([1], "purged", losses(purged=1))
    assert talk.said() == []
    assert talk.session.wants == 0


def test_a_resumed_session_goes_on_after_what_was_settled() -> None:
    talk = Talk(started=False)
    talk.session.resume(5)
    talk.session.start(MailboxState(2, None, None))
    talk.said()
    talk.session.mail(page(5, 6, 7))
    assert talk.said() == [6, 7]
    assert not talk.session.settled(5)
