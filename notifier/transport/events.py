"""`GET /events`, which begins an event stream (sse.py), and `POST /events/ack`, which is what an `ack` frame is on a
WebSocket. Both answer pages of listed origins (cors.py).
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from notifier import codec, strictjson
from notifier.auth.tokens import Identity
from notifier.engine.base import LossReason, MailboxState, Overview
from notifier.errors import (
    BadHandshake,
    BadJson,
    Draining,
    FieldError,
    Invalid,
    MethodNotAllowed,
    NotifierError,
    TooLarge,
    UnsupportedEncoding,
)
from notifier.protocol import ErrorFrame, Reconnect
from notifier.session import Session
from notifier.transport import cors
from notifier.transport.admission import Caller, address_of, examine, host_of, no_room, tokens_of
from notifier.transport.problems import problem
from notifier.transport.sse import HEAD, EventStream, Told, event, retry_ms

if TYPE_CHECKING:
    from notifier.transport.door import Door
    from notifier.transport.request import Head, Request

MAX_ACK_BODY: Final = 1024


class GetOnly(MethodNotAllowed):
    """An event stream asked for with another method."""

    headers = (("Allow", "GET, HEAD, OPTIONS"),)


class PostOnly(MethodNotAllowed):
    """An acknowledgement sent with another method."""

    headers = (("Allow", "POST, OPTIONS"),)


class EventRoute:
    """What both routes have in common. `door` is asked for when a request comes: it is made after its routes."""

    name = "events"
    repeats = False
    methods = b""
    refusal: type[MethodNotAllowed]
    """Of other methods than these."""

    def __init__(self, door: Callable[[], Door]) -> None:
        self._door = door

    def admit(self, head: Head) -> int:
        """See Route. What is too large for this route is refused when the token has been looked at."""
        door = self._door()
        method = self.methods.decode()
        if head.method not in (method, "OPTIONS") and (head.method, method) != ("HEAD", "GET"):
            raise cors.shared(door.origins, head, self.refusal(f"Use {method}."))
        if head.length > door.max_body:
            raise cors.shared(door.origins, head, TooLarge("The body is too large for this path."))
        return door.max_body

    def handle(self, request: Request) -> None:
        """See Route."""
        door = self._door()
        if request.method == "OPTIONS":
            request.respond(200, b"", cors.preflight(door.origins, request, self.methods))
        else:
            self._handle(door, request)

    def _handle(self, door: Door, request: Request) -> None:
        raise NotImplementedError

    @staticmethod
    def _caller(door: Door, request: Request) -> Caller:
        tokens = tokens_of(request, door.query_token)
        if len(tokens) > 1:
            raise BadHandshake("Two tokens came that differ. Bring one.")
        origin = request.header(b"origin")
        return Caller(
            None if origin is None else origin.decode("latin-1"),
            host_of(request),
            tokens.pop() if tokens else None,
            address_of(door, request),
        )

    @staticmethod
    def _fail(door: Door, request: Request, error: NotifierError) -> None:
        status, body, headers = problem(error)
        request.respond(status, body, headers + cors.headers(door.origins, request))


class Events(EventRoute):
    """`GET /events`."""

    methods = b"GET"
    refusal = GetOnly

    def __init__(self, door: Callable[[], Door], told: Told) -> None:
        super().__init__(door)
        self._told = told

    def _handle(self, door: Door, request: Request) -> None:
        request.keep_alive = False
        try:
            caller = self._caller(door, request)
        except NotifierError as error:
            door.node.metrics.handshake_refused(error.reason)
            return self._fail(door, request, error)

        def refuse(error: NotifierError, client_id: str | None) -> None:
            door.refused(error, EventStream.kind, caller.address, client_id, caller.token)
            self._refuse(door, request, error)

        def accept(identity: Identity, state: MailboxState) -> None:
            if request.body:
                return refuse(TooLarge("A GET of an event stream has no body."), identity.client_id)
            return self._resume(door, request, identity, state, caller.address, refuse)

        return examine(door, caller, accept, refuse)

    def _refuse(self, door: Door, request: Request, error: NotifierError) -> None:
        """An EventSource gives up for ever unless it gets a 200, so what may pass is told inside of one."""
        if error.status < 500:
            return self._fail(door, request, error)
        after_ms = retry_ms()
        if isinstance(error, Draining):
            frame = codec.encode(Reconnect(after_ms))
        else:
            frame = codec.encode(ErrorFrame(error.code, error.detail))
        body = b"retry: %d\n" % after_ms + event("notifier", frame)
        return request.respond(200, body, HEAD + cors.headers(door.origins, request))

    def _resume(
        self,
        door: Door,
        request: Request,
        identity: Identity,
        state: MailboxState,
        address: str,
        refuse: Callable[[NotifierError, str | None], None],
    ) -> None:
        """Acknowledge what the last stream has delivered, then begin this one after it."""
        last = _last_event_id(request)
        if request.method == "HEAD":
            return request.respond(200, b"", HEAD + cors.headers(door.origins, request))
        client_id = identity.client_id

        def found(heads: dict[str, int]) -> None:
            # No further than the mailbox: a seq of the future would settle what nobody has sent yet.
            seq = min(last, heads.get(client_id, 0))
            told = self._told.heard(client_id, last)
            if not seq and told is None:
                return self._begin(door, request, identity, state, address, 0)

            def acknowledged(error: NotifierError | None) -> None:
                if error is not None:
                    return refuse(error, client_id)
                return door.node.admit(identity, lambda state: opened(seq, state))

            return door.node.engine.acknowledge(client_id, seq, "transport", told, acknowledged)

        def opened(seq: int, state: MailboxState | NotifierError) -> None:
            if isinstance(state, NotifierError):
                return refuse(state, client_id)
            if (full := no_room(door)) is not None:
                return refuse(full, client_id)
            return self._begin(door, request, identity, state, address, seq)

        if last:
            return door.node.engine.heads([client_id], found)
        return self._begin(door, request, identity, state, address, 0)

    def _begin(
        self, door: Door, request: Request, identity: Identity, state: MailboxState, address: str, after: int
    ) -> None:
        http = request.protocol
        if http.gone or http.transport.is_closing():
            return
        session = Session(door.connection_id(), identity, "client", door.limits, door.time())
        session.resume(after)
        date = formatdate(door.clock.now(), usegmt=True).encode()
        head = b"HTTP/1.1 200 OK\r\ndate: %b\r\n%b%bconnection: close\r\n\r\nretry: %d\n\n"
        answer = head % (date, HEAD, cors.headers(door.origins, request), retry_ms())
        stream = EventStream(door, http.transport, session, address, self._told)
        http.take_over(stream, answer)
        session.start(state)
        door.node.register(stream)
        stream.pump()


class AckRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /events/ack`: everything up to `seq` is processed."""

    seq: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Acknowledged(msgspec.Struct):
    """Everything up to `seq` is settled and durable; or, with `settled` false, that was not written on any connection
    that this node has, and is ignored."""

    seq: int
    settled: bool


class Acks(EventRoute):
    """`POST /events/ack`."""

    methods = b"POST"
    refusal = PostOnly

    def _handle(self, door: Door, request: Request) -> None:
        try:
            caller = self._caller(door, request)
        except NotifierError as error:
            return self._fail(door, request, error)

        def accept(identity: Identity, state: MailboxState) -> None:
            try:
                seq = _decode_ack(request)
            except NotifierError as error:
                return self._fail(door, request, error)
            return self._acknowledge(door, request, identity.client_id, seq)

        def refuse(error: NotifierError, client_id: str | None) -> None:
            door.turned_away(error, request)
            self._fail(door, request, error)

        return examine(door, caller, accept, refuse, connecting=False)

    def _acknowledge(self, door: Door, request: Request, client_id: str, seq: int) -> None:
        """Settle up to `seq`. Which connection has brought it is not said, so it must have been written on one of this
        node's. Where none is here, nobody knows what was written: it is ignored, and the mail comes again."""
        sessions = [carrier.session for carrier in door.node.hub.of(client_id)]

        def answer(seq: int, settled: bool) -> None:
            body = msgspec.json.encode(Acknowledged(seq, settled))
            headers = b"content-type: application/json\r\ncache-control: no-store\r\n"
            request.respond(200, body, headers + cors.headers(door.origins, request))

        def settle(seq: int) -> None:
            told: dict[LossReason, int] = {}
            for session in sessions:
                if session.told is not None and seq > session.told[0]:  # else it may have been sent before that
                    told |= session.told[1]

            def done(error: NotifierError | None) -> None:
                if error is not None:
                    return self._fail(door, request, error)
                return answer(seq, True)

            door.node.engine.acknowledge(client_id, seq, "client", told or None, done)

        def found(overview: Overview | NotifierError) -> None:
            if isinstance(overview, NotifierError):
                return self._fail(door, request, overview)
            if seq > overview.cursor:
                door.node.metrics.acks_were_ignored(1)
            return answer(seq, seq <= overview.cursor)

        if not sessions:
            return door.node.engine.overview(client_id, found)
        if seq > max(session.position for session in sessions):
            door.node.metrics.acks_were_ignored(1)
            return answer(seq, False)
        return settle(seq)


_ack = msgspec.json.Decoder(AckRequest)


def _decode_ack(request: Request) -> int:
    """The seq of an acknowledgement. Raises: TooLarge, UnsupportedEncoding, BadJson, Invalid."""
    body = request.body
    if len(body) > MAX_ACK_BODY:
        raise TooLarge(f"An acknowledgement has {MAX_ACK_BODY} bytes at most.")
    if request.header(b"content-encoding") is not None:
        raise UnsupportedEncoding("Send the body as it is, without Content-Encoding.")
    try:
        ack = _ack.decode(body)
    except msgspec.ValidationError:
        fields = [FieldError("seq", 'Send {"seq": N}, no more.')]
        raise Invalid("The acknowledgement is not valid.", errors=fields) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadJson(f"The body does not parse: {error}.") from None
    strictjson.check_keys(body, ["seq"])
    return ack.seq


def _last_event_id(request: Request) -> int:
    value = (request.header(b"last-event-id") or b"").strip()
    return int(value) if value.isdigit() and len(value) <= 16 else 0


def routes(door: Callable[[], Door]) -> dict[bytes, Any]:
    """Both routes by their paths."""
    return {b"/events": Events(door, Told()), b"/events/ack": Acks(door)}
