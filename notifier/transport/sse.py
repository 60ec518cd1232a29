"""Server-sent events (WHATWG HTML §9.2): the same session behind a response that does not end.

`GET /events`        id: the seq; event: the notification's event; data: its frame, in one line
                     event: notifier for every other frame
`POST /events/ack`   what an `ack` frame is on a WebSocket

An event stream hears nothing, so nothing proves that it is read but the next request: `Last-Event-ID`, which a browser
sends when it connects again, or `/events/ack`. When a client that never acknowledges has its window full, the response
is ended with `retry: 0`: the browser comes back at once, and that acknowledges.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections import OrderedDict
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import msgspec

from notifier import protocol, strictjson
from notifier.auth.tokens import Identity
from notifier.conversation import Out, ProtocolPing
from notifier.engine.base import LossReason, MailboxState, Notification
from notifier.errors import BadHandshake, BadJson, Draining, FieldError, Invalid, MethodNotAllowed, NotifierError
from notifier.protocol import Close, ErrorFrame, Reconnect, notification_frame
from notifier.session import Session
from notifier.transport import cors
from notifier.transport.admission import Caller, address_of, examine, tokens_of
from notifier.transport.carrier import STALL_S, SessionCarrier
from notifier.transport.problems import problem

if TYPE_CHECKING:
    import asyncio

    from notifier.transport.door import Door
    from notifier.transport.request import Head, Request

WINDOW_FULL_S: Final = 1.0
MAX_HEARD: Final = 64 * 1024
"""What a client may send after its request before it is cut off; nothing of it is looked at."""
MAX_ACK_BODY: Final = 1024
RETRY_MS: Final = 2_000
"""How long a browser waits before it comes back to a server that is gone, plus up to as much again."""
RETRY_LATER_MS: Final = 3_600_000
"""The same for one that should stay away, which nothing can tell an EventSource for good."""
REMEMBERED: Final = 10_000

_CODES: Final = {
    Close.INTERNAL: "A defect of the server ended this stream.",
    Close.RESTART: "An operator has ended this stream. Connect again.",
    Close.TRY_LATER: "The server cannot go on now. Connect again later.",
    Close.UNAUTHORIZED: "The token has ended. Connect again with a new one.",
    Close.FORBIDDEN: "This client may not connect any more.",
    Close.REPLACED: "A newer connection of this client has taken over.",
}
_HEAD: Final = b"content-type: text/event-stream\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n"


class Told:
    """Which losses a stream that is gone has told before which mail: the `Last-Event-ID` of the next one says whether
    they were heard. Where this forgets, the client is told again."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, tuple[int, dict[LossReason, int]]] = OrderedDict()

    def keep(self, client_id: str, after: int, totals: dict[LossReason, int]) -> None:
        """`totals` were told when everything up to `after` had been written."""
        self._clients[client_id] = (after, totals)
        self._clients.move_to_end(client_id)
        if len(self._clients) > REMEMBERED:
            self._clients.popitem(last=False)

    def heard(self, client_id: str, seq: int) -> dict[LossReason, int] | None:
        """What a client that has seen `seq` has heard."""
        after, totals = self._clients.get(client_id, (seq, None))
        return totals if seq > after else None


class EventStream(SessionCarrier):
    """One response, from its head on."""

    kind = "sse"
    window_full_s = WINDOW_FULL_S

    __slots__ = ("_full_at", "_heard", "_told")

    def __init__(self, door: Door, transport: asyncio.Transport, session: Session, address: str, told: Told) -> None:
        super().__init__(door, transport, session, address)
        self._told = told
        self._heard = 0
        self._full_at = 0.0
        # A peer that has vanished acknowledges no heartbeat to the kernel, and there is nothing else to notice it by.
        with contextlib.suppress(OSError, AttributeError):
            seconds = max(STALL_S, door.limits.heartbeat_timeout_s)
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000)
            )
        transport.resume_reading()  # requests behind this one had it paused; now only its end matters

    def data_received(self, data: bytes) -> None:
        """A client has nothing to say here."""
        self._heard += len(data)
        if self._heard > MAX_HEARD:
            self.abort()

    def eof_received(self) -> bool:
        if not self._closed_code:
            self._closed_code = 1001
            self.session.close(1001, "")
        self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        session = self.session
        if (told := session.told) is not None and session.position > told[0]:
            self._told.keep(session.client_id, *told)
        super().connection_lost(exc)

    def pump(self) -> None:
        """See SessionCarrier. What we write is the sign of life, for nothing comes back."""
        session = self.session
        if session.out:
            session.heard_at = self._door.loop.time()
        if session.filled:
            self._full_at = self._door.loop.time()
        super().pump()

    def check_window(self, now: float) -> float | None:
        """The window was full a second ago. What the client has not been able to read yet, it cannot acknowledge."""
        if self._closed_code or not self.session.window_full or now - self._full_at < WINDOW_FULL_S:
            return None
        if self.unsent:
            return WINDOW_FULL_S
        self.session.close(1000, "window_full")
        self.pump()
        return None

    @staticmethod
    def encode(item: Out) -> bytes:
        """See SessionCarrier."""
        if type(item) is Notification:
            return b"id: %d\n%b" % (item.seq, _event(item.event, notification_frame(item)))
        if type(item) is ProtocolPing:
            return b":\n\n"
        frame = cast(bytes, item)
        return _transient(frame) if frame.startswith(b'{"type":"notification"') else _control(frame)

    def farewell(self, code: int, reason: str) -> None:
        """See SessionCarrier: what a close code says, as far as an EventSource can be told."""
        if reason == "window_full":
            self._write(b"retry: 0\n\n")
        elif reason != "draining":  # a `reconnect` frame has said it
            later = b"retry: %d\n" % RETRY_LATER_MS if code in (Close.FORBIDDEN, Close.REPLACED) else b""
            text = _CODES.get(cast(Close, code), "This stream has ended.")
            self._write(later + _control(protocol.encode(ErrorFrame(reason, text))))
        self._transport.close()


def _event(name: str | None, frame: bytes) -> bytes:
    """One event. A name cannot hold a line break (fields.check_event). In a frame a raw one is white space between two
    tokens of a publisher's `data` (inside of a string it must be escaped): a space is the same JSON."""
    if b"\n" in frame or b"\r" in frame:
        frame = frame.replace(b"\n", b" ").replace(b"\r", b" ")
    return b"event: %b\ndata: %b\n\n" % (name.encode(), frame) if name else b"data: %b\n\n" % frame


def _control(frame: bytes) -> bytes:
    if frame.startswith(b'{"type":"reconnect"'):
        after_ms = msgspec.json.decode(frame)["after_ms"]
        return b"retry: %d\n" % after_ms + _event("notifier", frame)
    return _event("notifier", frame)


class _Named(msgspec.Struct):
    event: str | None = None


@lru_cache(maxsize=8)  # a broadcast hands the same frame to every stream
def _transient(frame: bytes) -> bytes:
    return _event(msgspec.json.decode(frame, type=_Named).event, frame)


# -- the routes --------------------------------------------------------------------------------------------------------


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

    def __init__(self, door: Callable[[], Door]) -> None:
        self._door = door

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
            (request.header(b"host") or b"").decode("latin-1"),
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

    def __init__(self, door: Callable[[], Door], told: Told) -> None:
        super().__init__(door)
        self._told = told

    def admit(self, head: Head) -> int:
        """See Route."""
        if head.method not in ("GET", "HEAD", "OPTIONS"):
            raise GetOnly("Use GET.")
        return 0

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
            self._resume(door, request, identity, state, caller.address, refuse)

        return examine(door, caller, accept, refuse)

    def _refuse(self, door: Door, request: Request, error: NotifierError) -> None:
        """An EventSource gives up for ever unless it gets a 200, so what may pass is told inside of one."""
        if error.status < 500:
            return self._fail(door, request, error)
        after_ms = _retry_ms()
        if isinstance(error, Draining):
            frame = protocol.encode(Reconnect(after_ms))
        else:
            frame = protocol.encode(ErrorFrame(error.code, error.detail))
        body = b"retry: %d\n" % after_ms + _event("notifier", frame)
        return request.respond(200, body, _HEAD + cors.headers(door.origins, request))

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
            return request.respond(200, b"", _HEAD + cors.headers(door.origins, request))
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
        session = Session(door.connection_id(), identity, "client", door.limits, door.loop.time())
        session.resume(after)
        date = formatdate(door.clock.now(), usegmt=True).encode()
        head = b"HTTP/1.1 200 OK\r\ndate: %b\r\n%b%bconnection: close\r\n\r\nretry: %d\n\n"
        answer = head % (date, _HEAD, cors.headers(door.origins, request), _retry_ms())
        stream = EventStream(door, http.transport, session, address, self._told)
        http.take_over(stream, answer)
        session.start(state)
        door.node.register(stream)
        stream.pump()


class AckRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /events/ack`: everything up to `seq` is processed."""

    seq: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Acknowledged(msgspec.Struct):
    """Everything up to `seq` is settled and durable; or, with `settled` false, that was never sent and is ignored."""

    seq: int
    settled: bool


class Acks(EventRoute):
    """`POST /events/ack`."""

    methods = b"POST"

    def admit(self, head: Head) -> int:
        """See Route."""
        if head.method not in ("POST", "OPTIONS"):
            raise PostOnly("Use POST.")
        return MAX_ACK_BODY

    def _handle(self, door: Door, request: Request) -> None:
        try:
            caller = self._caller(door, request)
        except NotifierError as error:
            return self._fail(door, request, error)

        def accept(identity: Identity, state: MailboxState) -> None:
            try:
                seq = _decode_ack(request.body)
            except NotifierError as error:
                return self._fail(door, request, error)
            return self._acknowledge(door, request, identity.client_id, seq)

        def refuse(error: NotifierError, client_id: str | None) -> None:
            door.turned_away(error, request)
            self._fail(door, request, error)

        return examine(door, caller, accept, refuse, connecting=False)

    def _acknowledge(self, door: Door, request: Request, client_id: str, seq: int) -> None:
        """Settle up to `seq`. Which connection has brought it is not said, so it must have been written on one of this
        node's; where none is here (it is another's, or was just lost) no more than the mailbox holds."""
        sessions = [carrier.session for carrier in door.node.hub.of(client_id)]

        def answer(seq: int, settled: bool) -> None:
            body = msgspec.json.encode(Acknowledged(seq, settled))
            headers = b"content-type: application/json\r\ncache-control: no-store\r\n"
            request.respond(200, body, headers + cors.headers(door.origins, request))

        def settle(seq: int) -> None:
            told: dict[LossReason, int] = {}
            for session in sessions:
                if session.told is not None and (seq > session.told[0] or seq <= session.acked):
                    told |= session.told[1]

            def done(error: NotifierError | None) -> None:
                if error is not None:
                    return self._fail(door, request, error)
                return answer(seq, True)

            door.node.engine.acknowledge(client_id, seq, "client", told or None, done)

        if not sessions:
            return door.node.engine.heads([client_id], lambda heads: settle(min(seq, heads.get(client_id, 0))))
        if seq > max(session.position for session in sessions):
            door.node.metrics.acks_were_ignored(1)
            return answer(seq, False)
        return settle(seq)


_ack = msgspec.json.Decoder(AckRequest)


def _decode_ack(body: bytes) -> int:
    """The seq of an acknowledgement. Raises: BadJson, Invalid."""
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


def _retry_ms() -> int:
    return RETRY_MS + random.randrange(RETRY_MS)  # noqa: S311 - jitter, not a secret


def routes(door: Callable[[], Door]) -> dict[bytes, Any]:
    """Both routes by their paths."""
    return {b"/events": Events(door, Told()), b"/events/ack": Acks(door)}
