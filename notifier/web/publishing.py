"""Running a publish and telling honestly what became of it: shared by every way to publish."""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from notifier.clock import Clock
from notifier.codec import Instant, rfc3339, transient_frame
from notifier.engine.base import AckedBy, Appended, Draft, Duplicate, Outcome, State, Target
from notifier.errors import Busy, MailboxFull, NotifierError
from notifier.node import Node
from notifier.transport.problems import document, problem_headers
from notifier.web.bodies import Answer, Answers, Status
from notifier.web.publication import Publication, new_id

_JSON: Final = b"content-type: application/json\r\n"
_REPLAYED: Final = b"content-type: application/json\r\nidempotent-replayed: true\r\n"


class Reply:
    """An answer and how HTTP tells it; `error` where it was refused."""

    __slots__ = ("body", "error", "headers", "rejected", "status")

    def __init__(
        self, status: int, body: Any, headers: bytes = _JSON, error: NotifierError | None = None, rejected: int = 0
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        """Whole lines; those of an error are made of it when it is told by itself."""
        self.error = error
        self.rejected = rejected
        """How many of its recipients were refused."""


class ReplyTo:
    """Who is told what became of a publish: a class of ours and not a callable, because that costs a batch less."""

    __slots__ = ()

    def take(self, reply: Reply, at: int) -> None:
        """Called once for each place: `at` is 0 where there is but one."""
        raise NotImplementedError

    def left(self) -> bool:
        """Whether nobody seems to be there any more to be told."""
        return False


class Gathering(ReplyTo):
    """Replies that come one by one, in any order. `done` gets all of them, in theirs."""

    __slots__ = ("_done", "_left", "_replies")

    def __init__(self, count: int, done: Callable[[list[Reply]], None]) -> None:
        self._replies: list[Reply | None] = [None] * count
        self._left = count
        self._done = done

    def take(self, reply: Reply, at: int) -> None:
        """See ReplyTo."""
        self._replies[at] = reply
        self._left -= 1
        if not self._left:
            self._done([reply for reply in self._replies if reply is not None])


class Arrival:
    """When a request came. The clock is asked once for all its notifications."""

    __slots__ = ("now_ms", "now_us", "started")

    def __init__(self, started: float, now_us: int) -> None:
        self.started = started
        """When its head came, the loop's time."""
        self.now_us = now_us
        self.now_ms = now_us // 1000


encode: Final[Callable[[Any], bytes]] = msgspec.json.Encoder().encode
encode_lines: Final[Callable[[list[Any]], bytes]] = msgspec.json.Encoder().encode_lines


class Publishing:
    """Runs publications on a node."""

    def __init__(self, node: Node, clock: Clock, loop: AbstractEventLoop) -> None:
        self._node = node
        self._clock = clock
        self._loop = loop
        self._time: Callable[[], float] = loop.time
        self._waits: set[_Wait] = set()
        self._draining = False
        self._accepted = Instant()
        self._expires = Instant()

    def arrived(self, started: float) -> Arrival:
        """A request is complete. `started`: when its head came, the loop's time."""
        return Arrival(started, self._clock.now_us())

    def run(self, publication: Publication, came: Arrival, wait_s: int, to: ReplyTo, at: int = 0) -> None:
        """Publish to every recipient; answer when all of it is durable, or settled where `wait_s` asks for that."""
        if not publication.many:
            client_id = publication.client_ids[0] if publication.client_ids else None
            return self._one(publication, client_id, came, wait_s, to, at)
        gathering = Gathering(len(publication.client_ids), partial(_tell_together, publication, to, at))
        for place, client_id in enumerate(publication.client_ids):
            self._one(publication, client_id, came, 0, gathering, place)
        return None

    def refuse(self, error: NotifierError, to: ReplyTo, at: int) -> None:
        """One of many that is no publish at all."""
        self._node.metrics.published(error.code)
        to.take(refusal(error), at)

    def begin(self) -> None:
        """All of a request with many notifications is in: it goes into one commit, so not before."""
        self._node.engine.begin()

    def _one(self, p: Publication, client_id: str | None, came: Arrival, wait_s: int, to: ReplyTo, at: int) -> None:
        if not p.ttl:
            return to.take(self._transient(p, client_id, p.id or new_id(came.now_ms), came.now_ms), at)
        assert client_id is not None
        draft = Draft(client_id, p.id or "", p.data, p.ttl, p.event, p.collapse_key, p.receipt, p.id is None)
        return self.store(draft, came, wait_s, to, at)

    def store(self, draft: Draft, came: Arrival, wait_s: int, to: ReplyTo, at: int) -> None:
        """Publish one that is to be kept, to one client. A fresh id is made here."""
        if draft.fresh_id:
            draft.id = new_id(came.now_ms)
        self._node.publish(draft, _Order(self, draft, came, wait_s, to, at).stored, came.now_us)

    def stored(self, draft: Draft, came: Arrival, wait_s: int, to: ReplyTo, at: int, outcome: Outcome) -> None:
        """The engine has answered."""
        if type(outcome) is Appended:
            reply = self._appended(draft, outcome)
            metrics = self._node.metrics
            metrics.published(reply.body.status)
            metrics.stored(self._time() - came.started)
        elif type(outcome) is Duplicate:
            self._node.metrics.published("duplicate")
            reply = self._duplicate(draft, outcome)
        else:
            assert isinstance(outcome, NotifierError)
            self._node.metrics.published(outcome.code)
            if isinstance(outcome, MailboxFull):
                self._node.diagnosis.dropped(draft.client_id, "mailbox_full", 1)
            return to.take(refusal(outcome, draft.id), at)
        if wait_s and reply.body.status in ("sent", "queued"):
            return self._wait(draft, reply, wait_s, to, at)
        return to.take(reply, at)

    def _appended(self, draft: Draft, outcome: Appended) -> Reply:
        return Reply(
            202,
            Answer(
                draft.id,
                "sent" if outcome.taken else "queued",
                draft.client_id,
                outcome.seq,
                outcome.connections,
                self._accepted.text(outcome.accepted_ms),
                self._expires.text(outcome.expires_ms),
            ),
        )

    def _duplicate(self, draft: Draft, outcome: Duplicate) -> Reply:
        status: Status
        if outcome.state == "pending":
            status = "sent" if self._node.in_flight(draft.client_id, outcome.seq) else "queued"
        else:
            status = outcome.state
        answer = Answer(
            draft.id,
            status,
            draft.client_id,
            outcome.seq,
            expires_at=rfc3339(outcome.expires_ms),
            acked_by=outcome.acked_by,
            duplicate=True,
        )
        return Reply(200, answer, _REPLAYED)

    def _transient(self, p: Publication, client_id: str | None, id: str, now_ms: int) -> Reply:
        target = Target(client_id=client_id, group=p.group)
        try:
            handed = self._node.send_transient(target, transient_frame(id, p.event, p.data, now_ms))
        except Busy as error:
            self._node.metrics.published(error.code)
            return refusal(error, id)
        status: Status = "sent" if handed.taken else "dropped"
        self._node.metrics.published(status)
        if client_id is not None and not handed.connections:
            self._node.diagnosis.dropped(client_id, "nobody_connected", 1)
        answer = Answer(id, status, client_id, None, handed.connections, rfc3339(now_ms), group=p.group)
        return Reply(202, answer)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _wait(self, draft: Draft, reply: Reply, wait_s: int, to: ReplyTo, at: int) -> None:
        if self._draining:
            reply.status = 202  # it was on its way to the disk when the others were told
            return to.take(reply, at)
        wait = _Wait(self, draft, reply, to, at)
        forget = self._node.wait(draft.client_id, reply.body.seq, wait.resolved)
        if forget is None and self._make_room():
            forget = self._node.wait(draft.client_id, reply.body.seq, wait.resolved)
        if forget is None:
            reply.status, reply.body.waited = 202, False
            return to.take(reply, at)
        self._waits.add(wait)
        wait.begin(forget, self._loop.call_later(wait_s, wait.over))
        return None

    def _make_room(self) -> bool:
        """Too many wait. Those who seem to have left go first: they are told as who comes one too many is."""
        left = [wait for wait in self._waits if wait.left()]
        for wait in left:
            wait.give_up()
        return bool(left)

    def forget(self, wait: _Wait) -> None:
        """It was answered."""
        self._waits.discard(wait)

    def present_status(self, draft: Draft, seq: int) -> Status:
        """Of mail that is still pending."""
        return "sent" if self._node.in_flight(draft.client_id, seq) else "queued"

    def answer_waiting(self) -> None:
        """The node drains: everybody who waits is told how it stands, and nobody waits any more."""
        self._draining = True
        for wait in list(self._waits):
            wait.over()


class _Order:
    """A publish that is on its way to the disk."""

    __slots__ = ("_at", "_came", "_draft", "_publishing", "_to", "_wait_s")

    def __init__(
        self, publishing: Publishing, draft: Draft, came: Arrival, wait_s: int, to: ReplyTo, at: int
    ) -> None:  # fmt: skip
        self._publishing = publishing
        self._draft = draft
        self._came = came
        self._wait_s = wait_s
        self._to = to
        self._at = at

    def stored(self, outcome: Outcome) -> None:
        """The engine has answered."""
        self._publishing.stored(self._draft, self._came, self._wait_s, self._to, self._at, outcome)


class _Wait:
    """A publisher that waits for its notification to be settled."""

    def __init__(self, publishing: Publishing, draft: Draft, reply: Reply, to: ReplyTo, at: int) -> None:
        self._publishing = publishing
        self._draft = draft
        self._reply = reply
        self._to = to
        self._at = at

    def begin(self, forget: Callable[[], None], timer: TimerHandle) -> None:
        self._forget = forget
        self._timer = timer

    def resolved(self, state: State, acked_by: AckedBy | None) -> None:
        """It has come to an end."""
        assert state != "pending"
        self._timer.cancel()
        self._reply.status = 200
        self._reply.body.status = state
        self._reply.body.acked_by = acked_by
        self._finish()

    def left(self) -> bool:
        """See ReplyTo."""
        return self._to.left()

    def give_up(self) -> None:
        """Somebody else is to have its place."""
        self._reply.body.waited = False
        self.over()

    def over(self) -> None:
        """The time is over, or the node drains."""
        self._timer.cancel()
        self._forget()
        self._reply.body.status = self._publishing.present_status(self._draft, self._reply.body.seq)
        self._reply.status = 202
        self._finish()

    def _finish(self) -> None:
        self._publishing.forget(self)
        self._forget = _forgotten  # it knows us, as we know it
        self._to.take(self._reply, self._at)


def _forgotten() -> None:
    """Nothing is left to forget."""


def refusal(error: NotifierError, id: str | None = None) -> Reply:
    """A publish that was refused; with the id to retry with, where one was made."""
    body = document(error)
    if id is not None:
        body["id"] = id
    return Reply(error.status, body, error=error, rejected=1)


def _tell_together(publication: Publication, to: ReplyTo, at: int, replies: list[Reply]) -> None:
    results = []
    first_error = None
    for client_id, reply in zip(publication.client_ids, replies, strict=True):
        if reply.error is None:
            results.append(reply.body)
        else:
            first_error = first_error or reply.error
            results.append({"client_id": client_id, "error": reply.body})
    rejected = sum(reply.rejected for reply in replies)
    accepted = len(replies) - rejected
    status, headers = 202, _JSON
    if first_error is not None and not accepted:
        status, headers = first_error.status, problem_headers(first_error, "application/json")
    to.take(Reply(status, Answers(accepted, rejected, results), headers, rejected=rejected), at)
