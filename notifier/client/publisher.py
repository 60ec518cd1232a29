"""Publish notifications from a service.

    publisher = Publisher("https://notify.example.com", api_key)
    answer = publisher.notify("alice", {"text": "Invoice paid"}, id="invoice-17-paid")
    answer["status"]        # "sent" or "queued": stored either way

A publish whose outcome is not known (a lost connection, a 503) is tried again with the same id. The server stores an id
once, so a retry never makes a second notification; therefore an id is made here where the caller gives none.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, cast
from urllib.parse import quote

import httpx2
import msgspec

from . import credentials
from .addresses import http_base, is_loopback
from .backoff import Backoff
from .errors import Refused, Unreachable

Body = dict[str, Any]

# Retried: the server or what stands before it says "not now". A 503 is answered before anything is stored or with the
# outcome unknown; both are safe under the same id.
_NOT_NOW = frozenset({502, 503, 504})
_RETRY_AFTER_MAX = 30.0


class _Call(NamedTuple):
    """One HTTP request to make."""

    method: str
    path: str
    params: dict[str, str]
    content: bytes | None
    content_type: str
    timeout: float
    repeatable: bool


class _Sleep(NamedTuple):
    seconds: float


_Conversation = Generator[_Call | _Sleep, httpx2.Response | httpx2.TransportError | None, httpx2.Response]


class _Calls:
    """What is asked of the server and when it is asked again; no I/O, so that both publishers share it."""

    def __init__(self, url: str, api_key: str, timeout: float, attempts: int) -> None:
        self.base = http_base(url)
        key = credentials.checked(api_key, "the API key")
        self.headers = {"X-API-Key": key, "User-Agent": "notifier-python", "Accept": "application/json"}
        try:
            httpx2.URL(self.base)  # it is stricter with names than Python is
        except httpx2.InvalidURL as error:
            raise ValueError(f"{url!r} is not a URL: {error}") from None
        self.trust_env = not is_loopback(self.base)
        self.timeout = timeout
        self.attempts = max(1, attempts)

    def notify(self, recipient: Body, data: Any, options: Body, wait: int | None) -> _Call:
        body = _without_none({**recipient, "data": data, **options})
        stored = body.get("ttl") != 0 and "group" not in body
        if stored:
            body.setdefault("id", new_id())
        return self._post("/notify", body, stored, {} if wait is None else {"wait": str(wait)}, wait or 0)

    def batch(self, items: Iterable[Mapping[str, Any]]) -> _Call:
        listed = [dict(item) for item in items]
        for item in listed:
            if item.get("ttl") != 0 and "group" not in item:
                item.setdefault("id", new_id())
        repeatable = all("id" in item for item in listed)
        content = b"\n".join(msgspec.json.encode(item) for item in listed) + b"\n"
        return _Call("POST", "/batch", {}, content, "application/x-ndjson", self.timeout, repeatable)

    def broadcast(self, data: Any, event: str | None) -> _Call:
        return self._post("/broadcast", _without_none({"data": data, "event": event}), False)

    def receipt(self, id: str, client_id: str | None) -> _Call:
        params = {} if client_id is None else {"client_id": client_id}
        return _Call("GET", f"/notifications/{quote(id, safe='')}", params, None, "", self.timeout, True)

    def _post(
        self, path: str, body: Body, repeatable: bool, params: dict[str, str] | None = None, wait: int = 0
    ) -> _Call:
        content = msgspec.json.encode(body)
        return _Call("POST", path, params or {}, content, "application/json", self.timeout + wait, repeatable)

    def conversation(self, call: _Call) -> _Conversation:
        """Yields what to do next (a request, a pause) and is sent what came of it; returns the last response."""
        backoff = Backoff(base=0.2, cap=5.0)
        for attempt in range(1, self.attempts + 1):
            outcome = yield call
            assert outcome is not None
            last = attempt == self.attempts
            if isinstance(outcome, httpx2.Response):
                if outcome.status_code not in _NOT_NOW or last or not call.repeatable:
                    return outcome
                pause = _retry_after(outcome) + backoff.next_delay()
            else:
                # Nothing was sent when the connection was refused: then even what is not repeatable may be.
                if last or not (call.repeatable or isinstance(outcome, httpx2.ConnectError)):
                    raise Unreachable(f"{self.base} does not answer: {outcome or type(outcome).__name__}") from outcome
                pause = backoff.next_delay()
            yield _Sleep(pause)
        raise AssertionError("the loop returns or raises in its last turn")

    def client_options(self) -> dict[str, Any]:
        return {"base_url": self.base, "headers": self.headers, "trust_env": self.trust_env}


class Publisher:
    """Publishes with an API key. Safe to share between threads; close it, or use it with `with`.

    Raises: ValueError, where `url` is no URL or `api_key` cannot be a key.
    """

    def __init__(self, url: str, api_key: str, *, timeout: float = 10.0, attempts: int = 4) -> None:
        self._calls = _Calls(url, api_key, timeout, attempts)
        self._http = httpx2.Client(**self._calls.client_options())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that were kept for the next publish."""
        self._http.close()

    def notify(self, client_id: str, data: Any, *, wait: int | None = None, **options: Any) -> Body:
        """Publish to one client. Options: `id`, `event`, `ttl`, `collapse_key`, `receipt`."""
        return self._answer(self._calls.notify({"client_id": client_id}, data, options, wait))

    def notify_many(self, client_ids: Iterable[str], data: Any, **options: Any) -> Body:
        """Publish the same to several clients; `results` holds an answer or an `error` for each."""
        return self._answer(self._calls.notify({"client_ids": list(client_ids)}, data, options, None))

    def notify_group(self, group: str, data: Any, **options: Any) -> Body:
        """Publish to the connections whose token names the group, now; nothing is stored."""
        return self._answer(self._calls.notify({"group": group}, data, options, None))

    def batch(self, items: Iterable[Mapping[str, Any]]) -> list[Body]:
        """Publish up to 1,000 in one request; an answer or an `error` for each, in the order given."""
        return _lines(self._send(self._calls.batch(items)))

    def broadcast(self, data: Any, event: str | None = None) -> Body:
        """Publish to every connection, now; nothing is stored."""
        return self._answer(self._calls.broadcast(data, event))

    def receipt(self, id: str, client_id: str | None = None) -> Body:
        """What became of a notification that was published with `receipt=True`."""
        return self._answer(self._calls.receipt(id, client_id))

    def _answer(self, call: _Call) -> Body:
        return _object(self._send(call))

    def _send(self, call: _Call) -> httpx2.Response:
        conversation = self._calls.conversation(call)
        outcome: httpx2.Response | httpx2.TransportError | None = None
        while True:
            try:
                step = conversation.send(outcome)
            except StopIteration as done:
                return cast(httpx2.Response, done.value)
            outcome = None
            if isinstance(step, _Sleep):
                time.sleep(step.seconds)
                continue
            try:
                outcome = self._http.request(**_arguments(step))
            except httpx2.TransportError as failure:
                outcome = failure


class AsyncPublisher:
    """`Publisher` for asyncio; every method is awaited. Close it with `aclose`, or use it with `async with`."""

    def __init__(self, url: str, api_key: str, *, timeout: float = 10.0, attempts: int = 4) -> None:
        self._calls = _Calls(url, api_key, timeout, attempts)
        self._http = httpx2.AsyncClient(**self._calls.client_options())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def notify(self, client_id: str, data: Any, *, wait: int | None = None, **options: Any) -> Body:
        return await self._answer(self._calls.notify({"client_id": client_id}, data, options, wait))

    async def notify_many(self, client_ids: Iterable[str], data: Any, **options: Any) -> Body:
        return await self._answer(self._calls.notify({"client_ids": list(client_ids)}, data, options, None))

    async def notify_group(self, group: str, data: Any, **options: Any) -> Body:
        return await self._answer(self._calls.notify({"group": group}, data, options, None))

    async def batch(self, items: Iterable[Mapping[str, Any]]) -> list[Body]:
        return _lines(await self._send(self._calls.batch(items)))

    async def broadcast(self, data: Any, event: str | None = None) -> Body:
        return await self._answer(self._calls.broadcast(data, event))

    async def receipt(self, id: str, client_id: str | None = None) -> Body:
        return await self._answer(self._calls.receipt(id, client_id))

    async def _answer(self, call: _Call) -> Body:
        return _object(await self._send(call))

    async def _send(self, call: _Call) -> httpx2.Response:
        conversation = self._calls.conversation(call)
        outcome: httpx2.Response | httpx2.TransportError | None = None
        while True:
            try:
                step = conversation.send(outcome)
            except StopIteration as done:
                return cast(httpx2.Response, done.value)
            outcome = None
            if isinstance(step, _Sleep):
                await asyncio.sleep(step.seconds)
                continue
            try:
                outcome = await self._http.request(**_arguments(step))
            except httpx2.TransportError as failure:
                outcome = failure


def new_id() -> str:
    """An id for one notification: unique, and all that a retry needs."""
    return uuid.uuid4().hex


def _without_none(body: Body) -> Body:
    return {key: value for key, value in body.items() if value is not None or key == "data"}


def _arguments(call: _Call) -> dict[str, Any]:
    arguments: dict[str, Any] = {"method": call.method, "url": call.path, "timeout": call.timeout}
    if call.params:
        arguments["params"] = call.params
    if call.content is not None:
        arguments["content"] = call.content
        arguments["headers"] = {"Content-Type": call.content_type}
    return arguments


def _answers(response: httpx2.Response, texts: list[bytes]) -> list[Body]:
    if not 200 <= response.status_code < 300:
        raise Refused.from_body(response.status_code, response.content)
    try:
        return [msgspec.json.decode(text, type=dict[str, Any]) for text in texts]
    except msgspec.DecodeError as failure:
        problem = {"detail": "the answer is not what a Notifier server would say: check the URL"}
        raise Refused(response.status_code, problem) from failure


def _object(response: httpx2.Response) -> Body:
    return _answers(response, [response.content])[0]


def _lines(response: httpx2.Response) -> list[Body]:
    """NDJSON: a batch is answered in the form in which it was sent."""
    return _answers(response, [line for line in response.content.split(b"\n") if line])


def _retry_after(response: httpx2.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), _RETRY_AFTER_MAX) if value.isascii() and value.isdigit() else 0.0
