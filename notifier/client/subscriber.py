"""One client's subscription, over WebSocket, for as long as it is wanted.

    async with Subscriber("https://notify.example.com", fetch_token) as subscriber:
        async for notification in subscriber:
            show(notification.data)
            await subscriber.acknowledge(notification)

It reconnects by itself (full jitter, started anew at `welcome`), fetches a new token when the old one ends, and stops
where the server says that reconnecting would not help (`Ended`). Nothing is kept on disk: what was not acknowledged,
the server sends again. What was acknowledged here is not given out a second time by the same `Subscriber`, even when
the acknowledgement itself was lost with its connection.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import ssl as tls
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from . import credentials
from .addresses import is_loopback, websocket_url
from .backoff import Backoff
from .closing import Action, Verdict, after_close, after_refusal
from .errors import ClientError, Ended, decoded_object
from .events import Connected, Disconnected, Event, Gap, Notification, Settled

TokenSource = Callable[[], str | Awaitable[str]]

_log = logging.getLogger("notifier.client")

# Reading stops while this many events wait for the caller; TCP then holds the server back.
_INBOX = 512
_MAX_FRAME = 16 * 1024 * 1024


class _End(NamedTuple):
    """How one connection ended."""

    code: int
    reason: str
    verdict: Verdict
    earliest: float = 0.0


class Subscriber:
    """Gives out the notifications of the client that the token names.

    `token` is a token, or a function (plain or async) that returns one and is asked before each connection and before
    the present one expires. If it raises OSError, TimeoutError or ClientError, it is asked again later; any other
    exception ends the subscription. Raises: ValueError, where `url` is no URL or `token` cannot be a token.

    `ack="client"`: only `acknowledge` settles. `ack="auto"`: the connection itself does; then a crash between arrival
    and use loses what had arrived.
    """

    def __init__(
        self,
        url: str,
        token: str | TokenSource,
        *,
        ack: Literal["client", "auto"] = "client",
        backoff: Backoff | None = None,
        ssl: tls.SSLContext | None = None,
        open_timeout: float = 10.0,
    ) -> None:
        self._url = websocket_url(url, ack)
        self._token = credentials.checked(token, "the token") if isinstance(token, str) else token
        self._ack = ack
        self._backoff = backoff or Backoff()
        self._tls: dict[str, Any] = {} if ssl is None else {"ssl": ssl}
        self._open_timeout = open_timeout
        self._inbox: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._done = 0  # highest seq that need not be given out again
        self._first_seq: int | None = None  # lowest seq that came on this connection
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._after_ms = 0
        self._refused_tokens = 0
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="notifier-subscriber")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def __aiter__(self) -> AsyncIterator[Notification]:
        async for event in self.events():
            if isinstance(event, Notification):
                yield event

    async def events(self) -> AsyncIterator[Event]:
        """Notifications and everything else that happens, in order; raises `Ended` when it is over for good."""
        while True:
            yield await self.next_event()

    async def next_event(self) -> Event:
        """The next event; waits for it."""
        if self._task is None:
            raise RuntimeError("use the Subscriber with 'async with'")
        while True:
            while not self._inbox:
                if self._failure is not None:
                    raise self._failure
                self._arrived.clear()
                await self._arrived.wait()
            event = self._inbox.popleft()
            self._room.set()
            # Acknowledged meanwhile (a cumulative acknowledgement of a later one): not to be handled twice.
            if (
                self._ack == "client"
                and isinstance(event, Notification)
                and (event.seq or self._done + 1) <= self._done
            ):
                continue
            return event

    async def acknowledge(self, notification: Notification, *, confirm: bool = False) -> None:
        """Settle this notification and all before it. With `confirm`, return when the server has said it is final."""
        seq = notification.seq
        if seq is None:
            return
        self._done = max(self._done, seq)
        waiter: asyncio.Future[None] | None = None
        if confirm:
            if self._failure is not None:
                raise self._failure
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((seq, waiter))
            self._room.set()
        await self._send_ack(seq, confirm)
        if waiter is not None:
            await waiter

    async def _send_ack(self, seq: int, confirm: bool) -> None:
        frame: dict[str, Any] = {"type": "ack", "seq": seq}
        if confirm:
            frame["confirm"] = True
        await self._send(frame)

    async def _send(self, frame: dict[str, Any]) -> None:
        if self._socket is None:
            return
        try:
            await self._socket.send(json.dumps(frame))
        except ConnectionClosed:
            return  # what it would have settled comes again on the next connection, and is acknowledged there

    def _put(self, event: Event) -> None:
        self._inbox.append(event)
        self._arrived.set()

    # One connection after the other.

    async def _run(self) -> None:
        try:
            while True:
                end = await self._converse()
                self._socket = None
                if self._ack == "client":
                    # Not given out yet, so not acknowledged: the server sends them again.
                    kept = [e for e in self._inbox if not (isinstance(e, Notification) and e.seq is not None)]
                    self._inbox = deque(kept)
                delay = self._delay(end)
                self._put(Disconnected(end.code, end.reason, delay))
                await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self._fail(Ended(1000, "", "the subscription was closed here"))
            raise
        except Exception as failure:
            self._fail(failure)

    def _fail(self, failure: BaseException) -> None:
        self._failure = failure
        self._arrived.set()
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(failure)
        self._waiters.clear()

    def _delay(self, end: _End) -> float:
        if end.verdict.action is Action.STOP:
            raise Ended(end.code, end.reason, end.verdict.advice)
        if end.verdict.action is Action.RENEW:
            self._refused_tokens += 1
            if isinstance(self._token, str) or self._refused_tokens > 1:
                raise Ended(end.code, end.reason, end.verdict.advice)
        return end.earliest + self._backoff.next_delay()

    async def _converse(self) -> _End:
        self._after_ms = 0
        self._first_seq = None
        try:
            socket = await self._open()
        except InvalidStatus as refusal:
            response = refusal.response
            problem = decoded_object(response.body or b"") or {}
            code, verdict = after_refusal(response.status_code, str(problem.get("code", "")))
            return _End(code, str(problem.get("code", "")), verdict, _retry_after(response.headers.get("Retry-After")))
        except (OSError, TimeoutError, InvalidHandshake, ClientError) as failure:
            return _End(0, str(failure) or type(failure).__name__, Verdict(Action.RECONNECT, ""))
        renewals: set[asyncio.Task[None]] = set()
        async with socket:
            self._socket = socket
            try:
                async for text in socket:
                    await self._receive(decoded_object(text) or {}, renewals)
            except ConnectionClosed:
                pass
            finally:
                for renewal in renewals:
                    renewal.cancel()
                await asyncio.gather(*renewals, return_exceptions=True)
                await socket.close()  # with 1000, also where the caller leaves: __aexit__ would say 1011 then
        code, reason = socket.close_code or 1006, socket.close_reason or ""
        return _End(code, reason, after_close(code, reason), self._after_ms / 1000)

    async def _open(self) -> ClientConnection:
        token = await self._fetch_token()
        return await connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {token}"},
            user_agent_header="notifier-python",
            compression=None,
            max_size=_MAX_FRAME,
            open_timeout=self._open_timeout,
            close_timeout=2,
            proxy=None if is_loopback(self._url) else True,
            **self._tls,
        )

    async def _fetch_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        token = self._token()
        return credentials.checked(await token if inspect.isawaitable(token) else token, "the token")

    # What the server says.

    async def _receive(self, frame: dict[str, Any], renewals: set[asyncio.Task[None]]) -> None:
        match frame.get("type"):
            case "notification":
                await self._receive_notification(Notification.from_frame(frame))
            case "welcome":
                self._backoff.reset()
                self._refused_tokens = 0
                pending = int(frame.get("pending", 0))
                if pending == 0:
                    self._settled_before(None)
                self._put(Connected(str(frame.get("client_id")), str(frame.get("connection_id")), pending))
            case "settled":
                seq = int(frame.get("seq", 0))
                self._settled_before(seq + 1)
                self._put(Settled(seq))
            case "gap":
                self._put(Gap(str(frame.get("reason")), int(frame.get("dropped", 0))))
            case "reconnect":
                self._after_ms = int(frame.get("after_ms", 0))
            case "token_expiring" if not isinstance(self._token, str):
                # A task, because the reading must go on while the token is fetched.
                renewals.add(asyncio.create_task(self._renew()))
            case "error":
                _log.warning("the server reports %s: %s", frame.get("code"), frame.get("message"))

    async def _receive_notification(self, notification: Notification) -> None:
        seq = notification.seq
        if seq is None:
            if len(self._inbox) < _INBOX:  # "only to connections that can take it now"
                self._put(notification)
            return
        if self._first_seq is None:
            # In order and complete: what lies below the first that comes again is settled, or gone otherwise.
            self._first_seq = seq
            self._settled_before(seq)
        if seq <= self._done:
            await self._send_ack(seq, bool(self._waiters))
            return
        while len(self._inbox) >= _INBOX and not self._waiters:
            self._room.clear()
            await self._room.wait()
        if self._ack == "auto":
            self._done = seq
        self._put(notification)

    def _settled_before(self, seq: int | None) -> None:
        """Wake those that wait for an acknowledgement below `seq` (None: of any)."""
        waiting = []
        for entry in self._waiters:
            if seq is None or entry[0] < seq:
                if not entry[1].done():
                    entry[1].set_result(None)
            else:
                waiting.append(entry)
        self._waiters = waiting

    async def _renew(self) -> None:
        try:
            token = await self._fetch_token()
        except (OSError, TimeoutError, ClientError) as failure:
            _log.warning("no new token (%s); the connection ends with the present one", failure)
            return
        await self._send({"type": "auth", "token": token})


def _retry_after(value: str | None) -> float:
    """Seconds from a Retry-After header. Dates are not used by the server, and are ignored."""
    return min(float(value), 300.0) if value is not None and value.isascii() and value.isdigit() else 0.0
