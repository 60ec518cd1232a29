"""Server-sent events (WHATWG HTML §9.2): the same session behind a response that does not end.

id: the seq            of a notification that is stored
event: its event       or `notifier` for every other frame
data: its frame        in one line

An event stream hears nothing, so nothing proves that it is read but the next request: `Last-Event-ID`, which a browser
sends when it connects again, or `/events/ack` (events.py). When a client that never acknowledges has its window full,
the response is ended with `retry: 0`: the browser comes back at once, and that acknowledges.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

import msgspec

from notifier import codec
from notifier.codec import notification_frame
from notifier.conversation import Out, ProtocolPing
from notifier.engine.base import LossReason, Notification
from notifier.protocol import Close, ErrorFrame
from notifier.session import Session
from notifier.transport.carrier import STALL_S, SessionCarrier

if TYPE_CHECKING:
    import asyncio

    from notifier.transport.door import Door

WINDOW_FULL_S: Final = 1.0
MAX_HEARD: Final = 64 * 1024
"""What a client may send after its request before it is cut off; nothing of it is looked at."""
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
HEAD: Final = b"content-type: text/event-stream\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n"


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
        # One that only does not read is cut off before that, and counted.
        with contextlib.suppress(OSError, AttributeError):
            seconds = max(2 * STALL_S, door.limits.heartbeat_timeout_s)
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
            session.heard_at = self._door.time()
        if session.filled:
            self._full_at = self._door.time()
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
            return b"id: %d\n%b" % (item.seq, event(item.event, notification_frame(item)))
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
            self._write(later + _control(codec.encode(ErrorFrame(reason, text))))
        self._transport.close()


def event(name: str | None, frame: bytes) -> bytes:
    """One event as it is written. A name cannot hold a line break (fields.check_event). In a frame a raw one is white
    space between two tokens of a publisher's `data` (in a string it must be escaped): a space is the same JSON."""
    if b"\n" in frame or b"\r" in frame:
        frame = frame.replace(b"\n", b" ").replace(b"\r", b" ")
    return b"event: %b\ndata: %b\n\n" % (name.encode(), frame) if name else b"data: %b\n\n" % frame


def _control(frame: bytes) -> bytes:
    if frame.startswith(b'{"type":"reconnect"'):
        after_ms = msgspec.json.decode(frame)["after_ms"]
        return b"retry: %d\n" % after_ms + event("notifier", frame)
    return event("notifier", frame)


@lru_cache(maxsize=8)  # a broadcast hands the same frame to every stream
def _transient(frame: bytes) -> bytes:
    return event(codec.event_of(frame), frame)


def retry_ms() -> int:
    """How long a browser should wait before it comes back."""
    return RETRY_MS + random.randrange(RETRY_MS)  # noqa: S311 - jitter, not a secret
