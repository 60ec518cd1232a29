"""The process: sockets, signals, and the order in which things end. uvicorn runs the loop and the listener; it would
close every WebSocket in one tick before the lifespan hears of it, so draining is ours.

    SIGTERM  /readyz 503; DRAIN_DELAY_SECONDS pass in which everything goes on (load balancers lag)
             new sockets are refused; reconnect frames and closes are spread over DRAIN_SECONDS; HTTP connections that
             are kept end with their next answer (closed while idle, they may cost the peer the request after it)
             the listener closes; requests that have begun get 5 s
             the engine is flushed; exit 0
    again    exit at once: everything answered is durable anyway

When the engine has failed for good the listener closes at once, and the process ends with 1, after 15 s at the latest.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import structlog
import uvicorn
import uvloop

from notifier.app import Parts, create_app
from notifier.errors import ConfigurationError, Unavailable
from notifier.logs import configure, defect
from notifier.protocol import Close
from notifier.settings import Settings
from notifier.transport.http import REQUEST_DEADLINE_S, HttpProtocol

_log = structlog.get_logger("notifier.server")

SEND_BUFFER = 128 * 1024
"""SO_SNDBUF of the listener, inherited by its connections: the kernel would swallow megabytes for a client that does
not read, where neither the pacing nor the operator can see them."""
LISTENERS = 8
"""Each has a queue of its own in the kernel, so eight times as many find a place (docs/performance.md)."""
BACKLOG = 65_535
"""Connections that the kernel keeps for each listener until we take them; it allows net.core.somaxconn of them, 4,096
by default. Whoever finds no place tries again after 1 s, then 2, 4 and 8; after a restart everybody comes at once."""
SWITCH_INTERVAL_S = 0.000005
"""How long a thread may keep Python's lock while another wants it. uvloop gives it back after every callback, but takes
it again at once: only a request that has run out makes it wait for the writer thread, whose turns are short."""
COLLECT_AFTER = 20_000
"""Net allocations before the youngest generation is collected: what a notification allocates is freed by counting."""
GRACE_S = 5.0
"""What requests that have begun get once the listener is closed."""
HARD_S = 10.0
"""What the end may take beyond what it is given, before the process ends without it."""
EX_UNAVAILABLE, EX_CONFIG = 69, 78


class Server(uvicorn.Server):
    """uvicorn's server with our ending."""

    def __init__(self, config: uvicorn.Config, parts: Parts) -> None:
        self._exit = asyncio.Event()
        super().__init__(config)
        self._parts = parts
        self.failed = False
        self.on_ready: Callable[[], None] = lambda: None
        self._signalled = False
        self._stopping: asyncio.Task[None] | None = None
        parts.node.on_failure = self._fail

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn. What is there by now lives for ever (of 83,000 objects 800 are garbage): the collector need not
        look at it, now or later."""
        await super().startup(sockets=sockets)
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, 20, 50)
        gc.enable()
        self.on_ready()

    @property
    def should_exit(self) -> bool:
        """See uvicorn. It would look ten times a second, which is a third of what an idle process costs."""
        return self._exit.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        if value:
            self._exit.set()

    async def main_loop(self) -> None:
        """See uvicorn."""
        await self._exit.wait()

    def _fail(self) -> None:
        # A disk that hangs keeps the engine's thread for ever, and a process that serves nobody must make room.
        asyncio.get_running_loop().call_later(GRACE_S + HARD_S, self._give_up)
        self.failed = True
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, the second is the end."""
        if self._signalled or self.should_exit:
            os._exit(1 if self.failed else 0)
        self._signalled = True  # here, not on the loop: the second may come before the loop's next turn
        asyncio.get_running_loop().call_soon_threadsafe(self._begin_to_stop)

    def _begin_to_stop(self) -> None:
        self._stopping = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        parts, settings = self._parts, self._parts.settings
        limit = settings.drain_delay_seconds + settings.drain_seconds + HARD_S
        asyncio.get_running_loop().call_later(limit, self._give_up)
        parts.door.leaving = True
        _log.info("draining", delay_s=settings.drain_delay_seconds, over_s=settings.drain_seconds)
        await asyncio.sleep(settings.drain_delay_seconds)
        parts.publishing.answer_waiting()
        await parts.node.drain(settings.drain_seconds)
        await asyncio.sleep(0)
        self.should_exit = True

    def _give_up(self) -> None:
        _log.error("end_took_too_long")
        os._exit(1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._parts.door.closing = True
        for carrier in list(self._parts.node.hub):
            carrier.session.close(Close.RESTART, "draining")
            carrier.pump()
        self._parts.publishing.answer_waiting()
        await super().shutdown(sockets=sockets)

    def _log_started_message(self, listeners: Any) -> None:
        """Ours is logged by `serve`."""


class _Loop(uvloop.Loop):
    """uvloop's, but a TLS handshake has the deadline of a request, not a minute, and what nobody catches is told as any
    other defect of ours."""

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """See asyncio."""
        error = context.get("exception")
        if error is None:
            super().default_exception_handler(context)
        else:
            defect(_log, "defect", error)

    async def create_server(self, *args: Any, **options: Any) -> Any:
        """See asyncio."""
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = REQUEST_DEADLINE_S
        return await super().create_server(*args, **options)


def listen(settings: Settings) -> list[socket.socket]:
    """The listeners, of which each has a queue of its own in the kernel. Raises: OSError, if the address is taken."""
    first = _listener(settings.host, settings.port, shares=False)
    # Only now that it is ours may sockets share it, and they must say so: another server will not.
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    port = first.getsockname()[1]
    return [first, *(_listener(settings.host, port, shares=True) for _ in range(LISTENERS - 1))]


def _listener(host: str, port: int, *, shares: bool) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _why_not(host: str, port: int, error: OSError) -> str:
    """Why nothing can listen there, and which setting is to be mended."""
    if isinstance(error, socket.gaierror):
        return f"{host} is not the name of an address of this machine ({error.strerror}). Correct NOTIFIER_HOST."
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL, errno.ENODEV):
        return f"{host} is not an address of this machine ({error.strerror}). Correct NOTIFIER_HOST."
    text = "is taken by another process" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
    return f"{host}:{port} {text}. Choose another NOTIFIER_PORT."


def serve(settings: Settings, on_ready: Callable[[str], None] | None = None) -> int:
    """Run until a signal ends it; the exit code. `on_ready` gets the URL once requests are answered.

    Returns 0; 1 after a failure; 69 when the engine or the address is taken; 78 when the engine's file cannot be used.
    """
    configure(settings.log_level, settings.log_format)
    for text in (*settings.warnings, *settings.notes):
        _log.warning("settings", note=text)
    _raise_file_limit()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        listeners = listen(settings)
    except OSError as error:
        _log.error("cannot_listen", detail=_why_not(settings.host, settings.port, error))
        return EX_UNAVAILABLE
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(_serve(settings, listeners, on_ready))


async def _serve(settings: Settings, listeners: list[socket.socket], on_ready: Callable[[str], None] | None) -> int:
    try:
        parts = Parts(settings)
        await parts.verifier.start()  # before the engine, which would have to be closed again
        await parts.node.start()
    except (ConfigurationError, Unavailable) as error:
        _log.error("cannot_start", detail=error.detail)
        for listener in listeners:
            listener.close()
        return EX_CONFIG if isinstance(error, ConfigurationError) else EX_UNAVAILABLE
    config = uvicorn.Config(
        create_app(parts),
        http=cast(type[asyncio.Protocol], HttpProtocol),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        backlog=BACKLOG,  # it listens once more, by default for 2,048
        timeout_graceful_shutdown=int(GRACE_S),
        workers=1,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    server = Server(config, parts)
    server.on_ready = lambda: _ready(settings, listeners[0], on_ready)
    await server.serve(sockets=listeners)
    return 1 if server.failed else 0


def _ready(settings: Settings, listener: socket.socket, on_ready: Callable[[str], None] | None) -> None:
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    url = f"{'https' if settings.tls_cert else 'http'}://{name}:{port}"
    _log.info("listening", url=url, engine=settings.engine.partition(":")[0], durability=settings.durability)
    if on_ready is not None:
        on_ready(url)


def _raise_file_limit() -> None:
    """As many connections as the system lets us have. A filter of system calls may refuse: then as it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # Python makes a ValueError of EPERM
            _log.warning("file_limit_not_raised", open_files=soft, reason=str(error))
