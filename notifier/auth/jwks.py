"""The issuer's keys, fetched from a URL (JWKS, RFC 7517 §5) without ever blocking the loop.

One task fetches: so there is never more than one fetch in flight. It does so at the start, every few minutes, and
when a token names a key that is not known, the last at most once per `FLOOR_S`, because anybody can invent a name.
Tokens that came meanwhile wait for the fetch, so many and so long as the limits say. A fetch that fails changes
nothing: the keys that were good stay good.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import Final

import httpx2
import structlog

from notifier import strictjson
from notifier.auth.keys import PUBLIC_ALGORITHMS, VerificationKey, jwk_key
from notifier.clock import Clock
from notifier.errors import BadJson, ConfigurationError, NoKeys, Problem

REFRESH_S: Final = 300.0
FLOOR_S: Final = 30.0
RETRY_S: Final = 1.0
"""After a failure, doubled with each one more up to `FLOOR_S`."""
WAIT_S: Final = 5.0
FETCH_S: Final = 10.0
MAX_WAITING: Final = 1000
MAX_BODY_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 256

_NEVER_LOADED: Final = "the JWKS was never loaded"
_log = structlog.get_logger("notifier.auth")


class Jwks:
    """Keys of one URL. The times are parameters for tests; everybody else leaves them."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        algorithms: Collection[str] = (),
        *,
        refresh_s: float = REFRESH_S,
        retry_s: float = RETRY_S,
        wait_s: float = WAIT_S,
        fetch_s: float = FETCH_S,
    ) -> None:
        if not url.startswith("https://"):
            raise ValueError("is not https")
        self.algorithms: Collection[str] = frozenset(algorithms or PUBLIC_ALGORITHMS)
        self._url = url
        self._clock = clock
        self.refresh_s, self.retry_s, self.wait_s, self.fetch_s = refresh_s, retry_s, wait_s, fetch_s
        self._keys: tuple[VerificationKey, ...] | None = None
        self._body = b""
        self._fetching = False
        self._wanted = asyncio.Event()
        self._next_demand = clock.monotonic()
        self._waiting: dict[object, tuple[Callable[[], None], asyncio.TimerHandle]] = {}
        self._task: asyncio.Task[None] | None = None

    # --- what tokens ask ---------------------------------------------------------------------------------------

    def find(self, algorithm: str, kid: str | None) -> Sequence[VerificationKey]:
        """The keys of that name; for a token that names none, the key that fits if it is the only one.

        Raises: NoKeys, when none was ever loaded.
        """
        if self._keys is None:
            raise NoKeys("The keys of the token's issuer could not be loaded yet. Try again soon.")
        fitting = [key for key in self._keys if key.fits(algorithm)]
        if kid is None:
            return fitting if len(fitting) == 1 else ()
        return [key for key in fitting if key.kid == kid]

    def wait(self, algorithm: str, kid: str | None, done: Callable[[], None]) -> bool:
        """False if waiting cannot help. Else `done` is called once, later: new keys came, or it took too long."""
        if self._keys is not None and (kid is None or self.find(algorithm, kid)):
            return False
        if self._task is None or len(self._waiting) >= MAX_WAITING:
            return False
        if not self._fetching and not self._wanted.is_set():
            if self._keys is None or self._clock.monotonic() < self._next_demand:
                return False
            self._next_demand = self._clock.monotonic() + FLOOR_S
            self._wanted.set()
        ticket = object()
        timer = asyncio.get_running_loop().call_later(self.wait_s, self._give_up, ticket)
        self._waiting[ticket] = (done, timer)
        return True

    def ready(self) -> str | None:
        """Why no token can be checked at present; None if tokens can be."""
        return _NEVER_LOADED if self._keys is None else None

    # --- fetching ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to fetch; does not wait for the first answer, so that an issuer that is down stops no start.

        Raises: ConfigurationError, when the machine's trusted certificates cannot be read.
        """
        try:
            client = httpx2.AsyncClient(
                follow_redirects=False,
                timeout=self.fetch_s,
                limits=httpx2.Limits(max_keepalive_connections=0),
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            )
        except (OSError, ssl.SSLError):
            problem = Problem("SSL_CERT_FILE", "names certificates that cannot be read", "correct or remove it")
            raise ConfigurationError(problems=[problem]) from None
        self._fetching = True
        self._task = asyncio.create_task(self._run(client), name="jwks")

    async def stop(self) -> None:
        """End the fetching; who still waits is told at once, by the keys at hand."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._tell_all()

    async def _run(self, client: httpx2.AsyncClient) -> None:
        failures = 0
        async with client:
            while True:
                self._fetching = True
                loaded = await self._fetch(client)
                self._fetching = False
                self._tell_all()
                failures = 0 if loaded else failures + 1
                pause = self.refresh_s if loaded else min(FLOOR_S, self.retry_s * 2 ** min(failures - 1, 10))
                try:
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()
                except TimeoutError:
                    continue
                finally:
                    self._wanted.clear()

    async def _fetch(self, client: httpx2.AsyncClient) -> bool:
        """Whether the keys are now those of the URL. Whatever comes back, only cancellation gets out of here."""
        try:
            async with asyncio.timeout(self.fetch_s):
                body = await self._download(client)
            if body != self._body:
                self._keys = _read(body, self.algorithms)
                self._body = body
                _log.info("jwks_loaded", url=_shown(self._url), keys=len(self._keys))
        except TimeoutError:
            reason = "no answer in time"
        except Exception as error:  # whatever it is: if the task died, the keys would never be renewed
            reason = f"{type(error).__name__}: {error}"
        else:
            return True
        _log.warning("jwks_failed", url=_shown(self._url), reason=reason, have_keys=self._keys is not None)
        return False

    async def _download(self, client: httpx2.AsyncClient) -> bytes:
        async with client.stream("GET", self._url) as response:
            if response.status_code != httpx2.codes.OK:
                raise ValueError(f"HTTP status {response.status_code}")  # a redirect too: it could lead anywhere
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise ValueError("an encoded body, which was not asked for")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise ValueError(f"a body of more than {MAX_BODY_BYTES} bytes")
            return bytes(body)

    # --- who waits ---------------------------------------------------------------------------------------------

    def _tell_all(self) -> None:
        waiting, self._waiting = self._waiting, {}
        loop = asyncio.get_running_loop()
        for done, timer in waiting.values():
            timer.cancel()
            loop.call_soon(done)  # each by itself: what one raises is not the others' business

    def _give_up(self, ticket: object) -> None:
        done, _ = self._waiting.pop(ticket)
        done()


def _read(body: bytes, algorithms: Collection[str]) -> tuple[VerificationKey, ...]:
    try:
        document = strictjson.parse(body)
    except BadJson as error:
        raise ValueError(f"no JSON: {error.detail}") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError(f"no JWKS: it needs a list 'keys' of at most {MAX_KEYS}")
    found = []
    for position, entry in enumerate(entries):
        try:
            found.append(jwk_key(entry, algorithms))
        except ValueError as error:
            _log.info("jwks_key_ignored", position=position, reason=f"the key {error}")
    if not found:
        raise ValueError("no key that can be used here")
    return tuple(found)


def _shown(url: str) -> str:
    return url.partition("?")[0]
