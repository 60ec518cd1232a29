"""Frontends in every temper: prompt, confirming, lazy, forgetful, transport-acknowledged; all of them drop out."""

from __future__ import annotations

import asyncio
import contextlib
import random

import msgspec

from tests.e2e.oracle.journal import Connection, Entry, Frame, Journal
from tests.e2e.oracle.wire import CLOSE, PING, PONG, TEXT, ConnectionLost, Unexpected, WebSocket

_frames = msgspec.json.Decoder(Frame)
MANNERS = ("confirm", "confirm", "some", "prompt", "lazy", "auto", "auto", "both")
IGNORED = frozenset({"pong", "token_expiring", "error"})
RETRY_CLOSE = frozenset({1012, 1013})


class Subscriber:
    """One device of a client: connects for ever, acknowledges in its manner.

    `confirm`: every ack asks for its confirmation. `some`: half of them. `prompt`: none. `lazy`: rarely, so that a
    good deal is unacknowledged at any moment. `auto`: pongs only. `both`: pongs and acks.
    """

    def __init__(
        self, client: str, manner: str, journal: Journal, port: int, token: str, up: asyncio.Event, seed: str
    ) -> None:
        self.client, self.manner, self.journal = client, manner, journal
        self._port, self._token, self._up = port, token, up
        self._random = random.Random(seed)
        self._eager = self._random.random() < 0.1  # knocks while the server starts
        self._steady = self._random.random() < 0.3  # stays until the server goes
        self._left = False
        self._late: asyncio.TimerHandle | None = None  # of a lazy acknowledgement
        self._last: Entry | None = None
        self._drained = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if not self._eager:
                await self._up.wait()
            await asyncio.sleep(self._random.uniform(0, 0.03))
            try:
                with contextlib.suppress(*ConnectionLost):
                    await self._connect()
            except Unexpected as surprise:
                self.journal.surprised("unexpected", f"{self.client}: {surprise}")
                await asyncio.sleep(0.2)
            if self._left:
                await asyncio.sleep(self._random.choice((0, 0, 0.05, 0.5)) * self._random.random())

    async def drain(self, last: Entry) -> None:
        """Take everything up to `last`, and return when that is told settled."""
        self.manner, self._steady, self._last = "confirm", True, last
        while not self._drained:
            await self._up.wait()
            with contextlib.suppress(*ConnectionLost):
                await self._connect()

    async def _connect(self) -> None:
        self._left = False
        mode = "auto" if self.manner in ("auto", "both") else "client"
        connection = self.journal.connecting(self.client)
        socket = await WebSocket.open(self._port, f"/ws?ack={mode}", self._token)
        loop = asyncio.get_running_loop()
        life = 3600.0 if self._steady else self._random.expovariate(1 / 1.5)
        end = loop.call_later(life, self._leave, socket)
        try:
            while True:
                for opcode, payload in await socket.read():
                    if opcode == TEXT:
                        self._take(connection, _frames.decode(payload))
                    elif opcode == PING and not self._left:
                        if mode == "auto" and connection.last:
                            self.journal.acknowledging(connection, connection.last)
                        socket.send(PONG, payload)
                    elif opcode == CLOSE:
                        self._closed(payload)
                self._acknowledge(connection, socket)
                if self._drained and not self._left:
                    self._leave(socket)
        except asyncio.CancelledError:
            self._left = True
            raise
        finally:
            end.cancel()
            if self._late is not None:
                self._late.cancel()
                self._late = None
            if not self._left:
                self.journal.cut(connection)
            socket.abort()

    def _leave(self, socket: WebSocket) -> None:
        """Go: with a good-bye or, as phones do, without."""
        self._left = True
        if self._random.random() < 0.5:
            socket.close()
        else:
            socket.abort()

    def _closed(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big")
        if not self._left and code not in RETRY_CLOSE:
            self.journal.surprised("closed", f"{self.client} was closed with {code} {payload[2:]!r}")

    def _take(self, connection: Connection, frame: Frame) -> None:
        if frame.type == "notification":
            self.journal.received(connection, frame)
        elif frame.type == "settled":
            self.journal.settled(connection, frame.seq or 0)
            if self._last is not None and self._last.received and (self._last.seq or 0) <= connection.mailbox.told:
                self._drained = True
        elif frame.type == "gap":
            self.journal.gap(connection, frame.reason, frame.dropped)
        elif frame.type == "welcome":
            if frame.client_id != self.client:
                self.journal.surprised("crossed", f"{self.client} was welcomed as {frame.client_id}")
        elif frame.type not in IGNORED:
            raise Unexpected(f"{self.client} got {frame}")

    def _acknowledge(self, connection: Connection, socket: WebSocket) -> None:
        """After a read. Never acknowledges what the journal has not seen."""
        if connection.last <= connection.acked or self.manner == "auto" or self._left:
            return
        if self.manner == "lazy":
            if self._late is None:
                loop = asyncio.get_running_loop()
                self._late = loop.call_later(self._random.uniform(0, 0.4), self._send_late, connection, socket)
            return
        self._send_ack(connection, socket)

    def _send_late(self, connection: Connection, socket: WebSocket) -> None:
        self._late = None
        if not self._left:
            self._send_ack(connection, socket)

    def _send_ack(self, connection: Connection, socket: WebSocket) -> None:
        confirm = self.manner == "confirm" or (self.manner in ("some", "lazy") and self._random.random() < 0.5)
        self.journal.acknowledging(connection, connection.last, confirm)
        socket.send(TEXT, b'{"type":"ack","seq":%d%s}' % (connection.last, b',"confirm":true' if confirm else b""))
