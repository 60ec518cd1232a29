"""Clients: they connect, take their mail, acknowledge in one manner or another, and leave in one manner or another."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from bench.soaking.journal import Journal
from bench.soaking.target import Caller, Target

OPTIONS: dict[str, Any] = {
    "compression": None,
    "ping_interval": None,  # the server's heartbeat is part of the load
    "max_queue": None,  # a pong may not overtake the frames before it for long
    "open_timeout": 30,
    "close_timeout": 5,
    "proxy": None,
}
EXPECTED = {1000, 1005, 1006, 1012, 4403, 4409}
"""Closes that this load brings about: our own, `disconnected`, `revoked`, `replaced`."""


class Readers:
    """Everything that connects."""

    def __init__(self, target: Target, caller: Caller, journal: Journal, rng: random.Random, longest_s: float) -> None:
        self._target = target
        self._caller = caller
        self._journal = journal
        self._rng = rng
        self._longest_s = longest_s

    def _stay_s(self) -> float:
        return min(self._longest_s, self._rng.expovariate(1 / 4))

    async def _open(self, query: str, **options: Any) -> ClientConnection:
        url = f"ws://127.0.0.1:{self._target.port}/ws{query}"
        socket = await connect(url, **(OPTIONS | options))
        self._journal.counts["connections"] += 1
        return socket

    # -- WebSocket ----------------------------------------------------------------------------------------------------

    async def websocket(self, client_id: str, ack: str = "client", groups: tuple[str, ...] = ()) -> None:
        """A visit of some seconds."""
        token = self._target.token(client_id, groups)
        query = "?ack=client" if ack == "client" else self._rng.choice(("", "?ack=auto"))
        if self._rng.random() < 0.5:
            offered = [Subprotocol("notifier.v1"), Subprotocol(f"bearer.{token}")]
            own = Origin(f"http://127.0.0.1:{self._target.port}")
            socket = await self._open(query, subprotocols=offered, origin=own)
        else:
            socket = await self._open(query, additional_headers={"Authorization": f"Bearer {token}"})
        manner = self._rng.choice(("each", "each", "each", "some", "confirm", "never")) if ack == "client" else "never"
        last = 0
        with contextlib.suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(self._stay_s()):
                if self._rng.random() < 0.3:
                    await self._chat(socket, client_id)
                while True:
                    last = await self._take(socket, client_id, manner, last)
        await self._leave(socket)
        # What was parsed may have been answered by a pong: it counts as received, so it must be looked at.
        with contextlib.suppress(ConnectionClosed):
            while True:
                last = await self._take(socket, client_id, "never", last)
        self._closed(socket)

    def _closed(self, socket: ClientConnection) -> None:
        code = socket.close_code or 1006
        self._journal.closes[code] += 1
        if code not in EXPECTED:
            self._journal.blame(f"closed with {code} {socket.close_reason}")

    async def _take(self, socket: ClientConnection, client_id: str, manner: str, last: int) -> int:
        frame = json.loads(await socket.recv())
        if frame["type"] != "notification":
            return last
        last = self._journal.receive(client_id, frame, last)
        if "seq" in frame and (manner in ("each", "confirm") or (manner == "some" and self._rng.random() < 0.3)):
            ack: dict[str, Any] = {"type": "ack", "seq": frame["seq"]}
            if manner == "confirm":
                ack["confirm"] = True
            await socket.send(json.dumps(ack))
        return last

    async def _chat(self, socket: ClientConnection, client_id: str) -> None:
        await socket.send('{"type":"ping"}')
        await socket.send('{"type":"of a later version"}')
        token = self._target.token(client_id) if self._rng.random() < 0.7 else "worthless"
        await socket.send(json.dumps({"type": "auth", "token": token}))
        await socket.send('{"type":"ack","seq":9007199254740991}')

    async def _leave(self, socket: ClientConnection) -> None:
        if self._rng.random() < 0.5:
            await socket.close()
        else:
            socket.transport.abort()
            await socket.wait_closed()

    async def tabs(self, client_id: str) -> None:
        """More connections than one client may have: the oldest is replaced."""
        await asyncio.gather(*(self.websocket(client_id) for _ in range(10)))

    async def empty(self, client_id: str) -> None:
        """Take everything and acknowledge it."""
        headers = {"Authorization": f"Bearer {self._target.token(client_id)}"}
        socket = await self._open("?ack=client", additional_headers=headers)
        count = last = 0
        async with asyncio.timeout(60):
            pending = json.loads(await socket.recv())["pending"]
        with contextlib.suppress(TimeoutError):  # less comes than was pending: some has expired
            while count < pending:
                async with asyncio.timeout(2):
                    frame = json.loads(await socket.recv())
                if frame["type"] == "notification":
                    count += "seq" in frame
                    last = self._journal.receive(client_id, frame, last)
                    if count % 16 == 0 or count == pending:
                        await socket.send(json.dumps({"type": "ack", "seq": last}))
        if last:
            async with asyncio.timeout(10):
                await socket.send(json.dumps({"type": "ack", "seq": last, "confirm": True}))
                while json.loads(await socket.recv())["type"] != "settled":
                    pass
        await socket.close()
        self._closed(socket)

    # -- Server-Sent Events -------------------------------------------------------------------------------------------

    async def events(self, client_id: str) -> None:
        """Some responses one after another; what was received is acknowledged by the next one, or by a request."""
        authorization = {"Authorization": f"Bearer {self._target.token(client_id)}"}
        last = 0
        for _ in range(self._rng.randint(1, 3)):
            headers = authorization | ({"Last-Event-ID": str(last)} if last else {})
            reader, writer = await asyncio.open_connection("127.0.0.1", self._target.port)
            self._journal.counts["connections"] += 1
            try:
                writer.write(self._caller.request("GET", "/events", b"", headers, key=None))
                with contextlib.suppress(TimeoutError, ConnectionError):
                    async with asyncio.timeout(self._stay_s()):
                        async for seq in self._heard(reader, client_id):
                            last = seq
            finally:
                if self._rng.random() < 0.5:
                    writer.transport.abort()
                else:
                    writer.close()
            if last and self._rng.random() < 0.5:
                answer = await self._caller.call("POST", "/events/ack", {"seq": last}, headers=authorization, key=None)
                if answer.status >= 500:
                    self._journal.blame(f"/events/ack: {answer}")

    async def _heard(self, reader: asyncio.StreamReader, client_id: str) -> AsyncIterator[int]:
        """The highest seq so far, with every notification."""
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            self._journal.blame(f"/events: {head[:60]!r}")
            return
        last, name = 0, ""
        while line := await reader.readline():
            if line.startswith(b"event: "):
                name = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                frame = json.loads(line[6:])
                if name != "notifier" and frame["type"] == "notification":
                    last = self._journal.receive(client_id, frame, last)
                    yield last
            elif line == b"\n":
                name = ""

    # -- the others ---------------------------------------------------------------------------------------------------

    async def half_open(self) -> None:
        """A part of a handshake."""
        token = self._target.token("half-open")
        whole = self._caller.request("GET", "/ws", b"", _upgrade(token), key=None)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target.port)
        writer.write(whole[: self._rng.randrange(len(whole) - 1)])
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(self._stay_s()):
                await reader.read()
        writer.transport.abort()

    async def deaf(self, client_id: str, seconds: float) -> None:
        """A good handshake, and then not a byte is read: the server cuts it off."""
        headers = _upgrade(self._target.token(client_id))
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target.port, limit=4096)
        writer.write(self._caller.request("GET", "/ws", b"", headers, key=None))
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(seconds)
        writer.transport.abort()

    async def bad(self) -> None:
        """A handshake or a conversation that is refused."""
        client_id = f"bad-{self._rng.randrange(50)}"
        token = self._target.token(client_id)
        good = {"additional_headers": {"Authorization": f"Bearer {token}"}}
        match self._rng.randrange(9):
            case 0:
                await self._refused(401, "", additional_headers={"Authorization": f"Bearer {token[:-6]}AAAAAA"})
            case 1:
                await self._refused(401, "")
            case 2:
                await self._refused(400, "?ack=perhaps", **good)
            case 3:
                await self._refused(403, "/notifications/somebody-else", **good)
            case 4:
                expired = self._target.token(client_id, ttl_s=-60)
                offered = [Subprotocol("notifier.v1"), Subprotocol(f"bearer.{expired}")]
                own = Origin(f"http://127.0.0.1:{self._target.port}")
                await self._ends(4401, None, subprotocols=offered, origin=own)
            case 5:
                await self._ends(4403, None, origin=Origin("https://elsewhere.example"), **good)
            case 6:
                await self._ends(1003, b"binary", **good)
            case 7:
                await self._ends(4400, "no JSON", **good)
            case 8:
                await self._ends(1009, "x" * 40_000, **good)

    async def barred(self, token: str) -> None:
        """A token that an operator has revoked."""
        await self._refused(403, "", additional_headers={"Authorization": f"Bearer {token}"})

    async def _refused(self, status: int, path: str, **options: Any) -> None:
        try:
            socket = await self._open(path, **options)
        except InvalidStatus as refusal:
            if refusal.response.status_code == status:
                return
            self._journal.blame(f"a bad handshake was answered {refusal.response.status_code}, not {status}")
        else:
            self._journal.blame(f"a bad handshake was not answered {status}")
            await socket.close()

    async def _ends(self, code: int, say: str | bytes | None, **options: Any) -> None:
        socket = await self._open("", **options)
        with contextlib.suppress(ConnectionClosed):
            if say is not None:
                await socket.send(say)
            async with asyncio.timeout(10):
                while True:
                    await socket.recv()
        if socket.close_code != code:
            self._journal.blame(f"closed with {socket.close_code}, not {code}")


def _upgrade(token: str) -> dict[str, str]:
    return {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Authorization": f"Bearer {token}",
    }
