"""The pump between one WebSocket and its session: bytes in, bytes out, and nothing of the conversation itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from notifier.codec import notification_frame
from notifier.conversation import Out, ProtocolPing
from notifier.engine.base import Notification
from notifier.protocol import Close
from notifier.session import Session
from notifier.transport import frames
from notifier.transport.carrier import SessionCarrier
from notifier.transport.frames import FrameError, FrameReader

if TYPE_CHECKING:
    import asyncio

    from notifier.transport.door import Door


FRAGMENTS_PER_TOKEN: Final = 16
"""A message may have 1,024 fragments and the bucket holds 200, so that each costs a part of a token."""


class WebSocketConnection(SessionCarrier):
    """One connection, from its 101 on."""

    kind = "websocket"

    __slots__ = ("_reader",)

    def __init__(self, door: Door, transport: asyncio.Transport, session: Session, address: str) -> None:
        super().__init__(door, transport, session, address)
        self._reader = FrameReader()

    def data_received(self, data: bytes) -> None:
        session = self.session
        if self._closed_code:
            return self._discard(data)
        now = session.heard_at = self._door.time()
        try:
            if (text := self._reader.single_text(data)) is not None:
                session.receive(text, now)
                return self.pump()
            if (pong := self._reader.single_pong(data)) is not None:
                session.receive_pong(pong, now)
                return self.pump()
            reader = self._reader
            for opcode, payload in reader.feed(data):
                if reader.fragments:
                    cost, reader.fragments = reader.fragments // FRAGMENTS_PER_TOKEN, 0
                    if not session.spend(now, cost):
                        break
                if opcode == frames.TEXT:
                    session.receive(payload, now)
                elif opcode == frames.PONG:
                    session.receive_pong(payload, now)
                elif opcode == frames.PING:
                    if session.spend(now):
                        self._write(frames.encode(frames.PONG, payload))
                elif opcode == frames.CLOSE:
                    return self._peer_closes(payload)
                else:
                    session.close(Close.UNSUPPORTED, "binary")
                if session.closing is not None:
                    break
        except FrameError as error:
            session.close(error.code, error.reason)
        except Exception as error:  # a defect of ours costs this connection, and no other
            return self._broken(error)
        return self.pump()

    def _peer_closes(self, payload: bytes) -> None:
        code = frames.parse_close(payload)
        self.pump()  # an acknowledgement that came just before counts
        if not self._closed_code:
            self._closed_code = code
            self.session.close(code, "")
            self._write(frames.encode(frames.CLOSE, payload[:2]))
            self._transport.close()
            self._linger()

    def _discard(self, data: bytes) -> None:
        """After our close frame only the peer's matters. Closing with unread input would send RST, which can eat
        what we wrote last; so does a frame whose rest still comes after its head was too much."""
        try:
            if any(opcode == frames.CLOSE for opcode, _ in self._reader.feed(data)):
                self._transport.close()
        except FrameError:
            return  # no frames any more; the second that it has will end

    @staticmethod
    def encode(item: Out) -> bytes:
        """See SessionCarrier."""
        if type(item) is Notification:
            return frames.encode(frames.TEXT, notification_frame(item))
        if type(item) is ProtocolPing:
            return frames.encode(frames.PING, item.payload)
        return frames.encode(frames.TEXT, cast(bytes, item))

    def farewell(self, code: int, reason: str) -> None:
        """See SessionCarrier: the close frame."""
        self._write(frames.encode_close(code, reason))
