"""HTTP/1.1 as we serve it (RFC 9112): a uvicorn protocol class that reads whole requests within limits and deadlines,
then hands them on (dispatch.py); `/ws` becomes a WebSocket.

Why not uvicorn's own class: it reads bodies and headers of any size, waits for ever for the rest of a request, and an
upgrade costs it a second parse (docs/security.md lists what was probed). Parsing itself is httptools' (llhttp).
"""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import Any, Final, cast

import httptools

from notifier.errors import HeadersTooLarge, NotifierError, RequestTimeout, TooLarge, UriTooLong
from notifier.transport import heads
from notifier.transport.dispatch import dispatch
from notifier.transport.door import Door
from notifier.transport.problems import BadRequest
from notifier.transport.request import Head, Request

MAX_HEAD: Final = 64 * 1024
MAX_HEADERS: Final = 128
MAX_URL: Final = 16 * 1024
REQUEST_DEADLINE_S: Final = 10.0
IDLE_S: Final = 75.0
"""How long a connection is kept between requests: longer than the pools of common HTTP clients keep theirs."""
DRAIN_BYTES: Final = 1024 * 1024
"""How much of a refused body is read, and thrown away, so that the peer gets to see the answer."""
LINGER_S: Final = 2.0
STALL_S: Final = 30.0
"""How long a peer may leave the last answer where it is; as long as a session's (docs/protocol.md, Pacing)."""
SLICE: Final = 16 * 1024
"""How many bytes are parsed before the requests in them are answered: pipelined ones are kept as the bytes they are."""

_STATUS: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class HttpProtocol:
    """One connection. Requests on it are answered one after another, in the order they came (RFC 9112 §9.3).
    An asyncio.Protocol by its methods, not by its base, so that it can be compiled (docs/performance.md)."""

    __slots__ = (
        "_busy", "_choked", "_current", "_deadline", "_door", "_extra", "_head_done", "_head_size", "_lingering",
        "_parser", "_queue", "_raw", "_stashed", "_state", "_unparsed", "_unsent", "_url", "ended", "peer", "transport",
    )  # fmt: skip

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        self._door: Door = app_state["door"]
        self._state = server_state
        self._parser: Any = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._current: Request | None = None
        """The request whose bytes are arriving."""
        self._busy: Request | None = None
        """The request that is being answered."""
        self._head_done, self._head_size = True, 0
        self._url = b""
        self._raw: bytes | None = None
        """What came in one piece and may be a whole request: its head may be worth remembering."""
        self._lingering = -1
        self._stashed: bytes | None = None
        """Bytes behind a handshake that is being decided."""
        self._unparsed = b""
        """Bytes behind a request that is being answered."""
        self._choked = False
        """The peer does not take its answers: no more are made."""
        self.ended = False
        self._unsent = 0
        """What the peer had not taken of the last answer when we looked."""
        self._extra = 0
        """Bytes of a chunked body that are not body: sizes, extensions, trailers."""

    # -- the connection -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self._deadline = self._door.time() + REQUEST_DEADLINE_S
        self._state.connections.add(self)
        if self._door.closing:
            transport.abort()
            return
        self._door.wheel.add(self, REQUEST_DEADLINE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._deadline = 0.0
        self._queue.clear()
        self._current = self._parser = None  # the parser holds us as we hold it, and the wheel keeps us for a while

    def _forget(self) -> None:
        self._state.connections.discard(self)

    def eof_received(self) -> bool:
        """The peer has said all. If an answer is under way it may still want it (RFC 9112 §9.6)."""
        self.ended = True
        return self._busy is not None or bool(self._queue) or bool(self._unparsed)

    def pause_writing(self) -> None:
        self._choked = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._choked = False
        if self._busy is None:
            self._go_on()

    def shutdown(self) -> None:
        """uvicorn asks to end: at once if idle, else after the answer."""
        if self._busy is None and self._current is None and not self._queue:
            self.transport.close()
        elif self._busy is not None:
            self._busy.keep_alive = False

    def on_timer(self, now: float) -> float | None:
        """See Timed: deadlines of this connection."""
        if not self._deadline or self.transport.is_closing():
            return None
        if self._busy is not None:
            self._deadline = now + REQUEST_DEADLINE_S
            return REQUEST_DEADLINE_S
        if self._lingering >= 0:
            return self._wait_for_peer(now)
        if now < self._deadline:
            return min(self._deadline - now, REQUEST_DEADLINE_S)  # a request may begin while it is idle
        if self._current is not None or self._head_size:
            self._refuse_now(RequestTimeout("The request did not arrive whole within 10 s."))
            return None if self.transport.is_closing() else LINGER_S
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()
        return None

    # -- bytes in -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._busy is None and self._current is None and self._idle():
            end = data.find(b"\r\n\r\n") + 4
            head = self._door.known_heads.get(data[:end])
            if head is not None and len(data) == end + head.length:
                now = self._door.time()
                self._deadline = now + REQUEST_DEADLINE_S
                request = self._busy = Request(self, now, head)
                request.body = data[end:]
                return dispatch(self._door, self._state, request)
            self._raw = data
        self._receive(data)
        self._raw = None
        return None

    def _idle(self) -> bool:
        """Nothing else is under way: a request that comes now is the only one."""
        return self._lingering < 0 and self._stashed is None and not (self._queue or self._unparsed or self._choked)

    def _receive(self, data: bytes) -> None:
        if self._lingering >= 0:
            self._lingering += len(data)
            if self._lingering > DRAIN_BYTES:
                self.transport.abort()
            return
        if self._stashed is not None:
            self._stashed += data
            if len(self._stashed) > MAX_HEAD:
                self.transport.abort()
            return
        if self._unparsed:
            self._unparsed += data
            return
        for at in range(0, len(data), SLICE):
            if not self._parse(data, at):
                return
            if self._busy is not None and len(data) > at + SLICE:
                self._unparsed = data[at + SLICE :]
                self.transport.pause_reading()
                return

    def _parse(self, data: bytes, at: int) -> bool:
        """One slice. False if nothing behind it is to be parsed."""
        part = data[at : at + SLICE]
        request, in_body = self._current, self._head_done
        had = request.size if request is not None else 0
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[at + upgrade.args[0] :])
            if self._busy is None and self._queue:
                self._next()
            return False
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, NotifierError):
                self._refuse_now(cause)
            else:
                self._refuse_now(BadRequest("This is not HTTP/1.1 that can be understood."))
            return False
        if not self._head_done:
            self._head_size += len(part)
            if self._head_size > MAX_HEAD:
                self._refuse_now(HeadersTooLarge("Request line and headers may have 64 KiB together."))
                return False
        elif in_body and request is not None and request is self._current:
            self._extra += len(part) - (request.size - had)
            if self._extra > MAX_HEAD + request.size:
                self._refuse_now(HeadersTooLarge("The chunked body has more around it than in it."))
                return False
        if self._busy is None and self._queue:
            self._next()
        return not self.transport.is_closing() and self._lingering < 0

    def on_message_begin(self) -> None:
        now = self._door.time()
        self._deadline = now + REQUEST_DEADLINE_S
        self._current = Request(self, now, Head())
        self._head_done, self._head_size = False, 0
        self._url, self._extra = b"", 0

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > MAX_URL:
            raise UriTooLong("The URL may have 16 KiB. Put data into the body.")

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._current
        assert request is not None
        if self._head_done:
            return  # a trailer: it must not pass for a header (RFC 9110 §6.5.1)
        head = request.head
        head.headers.append((name.lower(), value))
        head.size += len(name) + len(value) + 4
        if len(head.headers) > MAX_HEADERS or head.size + len(self._url) > MAX_HEAD:
            raise HeadersTooLarge("A request may have 128 headers, 64 KiB together with its first line.")

    def on_headers_complete(self) -> None:
        request = self._current
        assert request is not None
        self._head_done, self._head_size, head = True, 0, request.head
        heads.complete(head, self._parser, self._url, self._door)
        if self._parser.should_upgrade() and not head.upgrade:
            return  # it comes again, see _upgraded
        request.keep_alive = head.keep_alive
        request.refusal = heads.admit(head, self._door)
        if request.refusal is not None and not head.upgrade and (head.length > DRAIN_BYTES or head.expects):
            raise request.refusal  # more than would be drained, or it waits for our word: there is nothing to wait for
        if head.expects and self._busy is None and not self._queue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        request = self._current
        assert request is not None
        request.size += len(body)
        if request.refusal is None and request.size > request.head.limit:
            request.refusal = TooLarge(f"The body is over {request.head.limit} bytes, the most that is allowed here.")
        if request.refusal is None:
            if not request.body:
                request.body = body
            elif request.parts is None:
                request.parts = bytearray(request.body + body)
            else:
                request.parts += body
        else:
            request.body, request.parts = b"", None
            if request.size > DRAIN_BYTES:
                raise request.refusal

    def on_message_complete(self) -> None:
        request = self._current
        if request is None or self._parser.should_upgrade():
            return  # feed_data raises HttpParserUpgrade after this
        self._current = None
        if request.parts is not None:
            request.body, request.parts = bytes(request.parts), None
        if self._raw is not None and request.refusal is None and 0 <= request.head.length == request.size:
            end = len(self._raw) - request.size  # so it was one request, and no more
            if self._raw.find(b"\r\n\r\n") + 4 == end:
                self._door.known_heads.learn(self._raw[:end], request.head)
        self._queue.append(request)
        if self._busy is not None:
            self.transport.pause_reading()

    # -- requests out -------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        while self._queue and self._busy is None and not self._choked and not self.transport.is_closing():
            request = self._busy = self._queue.popleft()
            dispatch(self._door, self._state, request)

    def _upgraded(self, rest: bytes) -> None:
        """The parser has stopped: what follows the head is not HTTP, if we agree."""
        request, self._current = self._current, None
        if request is None:
            return
        if not request.head.upgrade:  # ignored (RFC 9110 §7.8). Read it again, as llhttp would leave its body
            self._unparsed = heads.without_upgrade(request.head, self._parser, self._url) + rest
            self._parser = httptools.HttpRequestParser(self)
            self.transport.pause_reading()
            self._door.loop.call_soon(self._go_on)
        elif self._busy is not None or self._queue:
            self._refuse_now(BadRequest("An upgrade cannot follow a request that is still being answered."))
        else:
            from notifier.transport.handshake import shake_hands

            self._busy = request
            self._stashed = rest
            shake_hands(self._door, request)

    def take_over(self, protocol: Any, answer: bytes) -> bytes:
        """The handshake is good: this object is done, `protocol` goes on. Returns the bytes that came meanwhile."""
        self.transport.write(answer)
        self.transport.set_protocol(protocol)
        self._forget()
        self._deadline = 0.0
        self._busy = None
        self._queue.clear()  # what was pipelined behind it gets no answer: that one does not end
        self._unparsed = b""
        self._lingering = 0  # no byte is HTTP any more
        rest, self._stashed = self._stashed or b"", None
        self._parser = None  # the two hold each other
        return rest

    @property
    def gone(self) -> bool:
        """Whether the peer has hung up."""
        return not self._deadline

    def respond(self, request: Request, status: int, body: bytes, headers: bytes) -> None:
        """Write the answer of the request that is being answered, then go on to the next one."""
        if request is not self._busy:
            return
        self._busy = None
        if self.transport.is_closing():
            return
        last = (self.ended or self._door.node.draining) and not self._queue and not self._unparsed
        end = b"" if request.keep_alive and not last and not self._door.closing else b"connection: close\r\n"
        size = len(body)
        if request.head.method == "HEAD":
            body = b""
        self.transport.write(
            b"%b%b%b%bcontent-length: %d\r\n\r\n%b" % (_STATUS[status], self._door.date(), headers, end, size, body)
        )
        if end:
            self._linger()
            return
        self._deadline = self._door.time() + (IDLE_S if self._current is None else REQUEST_DEADLINE_S)
        if self._queue or self._unparsed:
            self._door.loop.call_soon(self._go_on)
        elif not self._choked:
            self.transport.resume_reading()

    def _is_busy(self) -> bool:  # apart: mypyc takes what was looked at once for what it is after a call, too
        return self._busy is not None

    def _go_on(self) -> None:
        """An answer is written, or was taken: the next request, the bytes behind it, and then new ones."""
        if self._busy is not None or self._choked or self.transport.is_closing() or not self._deadline:
            return None
        if self._queue:
            return self._next()
        if self._unparsed:
            data, self._unparsed = self._unparsed, b""
            self.data_received(data)
            if self._is_busy() or self._unparsed or self._lingering >= 0:
                return None
        return self.transport.resume_reading()

    def _refuse_now(self, error: NotifierError) -> None:
        """Answer, after those before it, a request that has not come whole; and end it: what follows is not trusted."""
        request = self._current or Request(self, self._door.time(), Head())
        self._current = None
        request.keep_alive = False
        request.refusal, request.cut = error, True
        self._unparsed = b""
        self._lingering = 0
        self._queue.append(request)
        self._next()
        if self._queue:
            self.transport.pause_reading()

    def _linger(self) -> None:
        """The last answer is written. Closing with unread input would send RST, which can eat that answer."""
        self._lingering = 0
        self._deadline = self._door.time() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        self._door.wheel.add(self, LINGER_S)

    def _wait_for_peer(self, now: float) -> float | None:
        """It has LINGER_S to hang up after the last byte of the answer, and STALL_S for each part of it."""
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if self._unsent != before:
            self._deadline = now + (STALL_S if self._unsent else LINGER_S)
        if now < self._deadline:
            return min(self._deadline - now, LINGER_S)
        self.transport.abort()
        return None
