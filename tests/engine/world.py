"""One engine under test, its clock, and who listens to it."""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from notifier.clock import ManualClock
from notifier.engine import open_engine
from notifier.engine.base import (
    AckedBy,
    Appended,
    Draft,
    EndReason,
    Handed,
    Losses,
    Notification,
    Target,
)
from notifier.engine.sqlite import SQLiteEngine
from notifier.errors import NotifierError
from tests.harness.chaos import Deaf


class Wake(NamedTuple):
    notification: Notification
    after: int


class Settled(NamedTuple):
    client_id: str
    seq: int
    acked_by: AckedBy
    seqs: tuple[int, ...]
    live: tuple[int, ...]


class Ended(NamedTuple):
    client_id: str
    reason: EndReason
    seqs: tuple[int, ...]
    untold: dict[str, int] | None


class Recorder:
    """A listener that remembers what it heard. `takes`: how many sessions it pretends took a wake."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.takes = 0
        self.failure: NotifierError | None = None
        self.frames: list[tuple[Target, bytes]] = []
        self.commands: list[tuple[str, str]] = []
        self.news = asyncio.Event()
        self._thread = threading.get_ident()

    def _heard(self, event: Any) -> None:
        assert threading.get_ident() == self._thread, "called outside of the event loop"
        self.events.append(event)
        self.news.set()

    def wake(self, notification: Notification, after: int) -> Handed:
        self._heard(Wake(notification, after))
        return Handed(1, self.takes)

    def settled(
        self, client_id: str, seq: int, acked_by: AckedBy, seqs: Sequence[int], live: Sequence[int], at_us: int
    ) -> None:
        self._heard(Settled(client_id, seq, acked_by, tuple(seqs), tuple(live)))

    def ended(self, client_id: str, reason: EndReason, seqs: Sequence[int], losses: Losses | None) -> None:
        self._heard(Ended(client_id, reason, tuple(seqs), None if losses is None else dict(losses.untold())))

    def transient(self, target: Target, frame: bytes) -> Handed:
        self.frames.append((target, frame))
        return Handed(2, self.takes)

    def command(self, client_id: str, action: str) -> int:
        self.commands.append((client_id, action))
        return 1

    def failed(self, error: NotifierError) -> None:
        self.failure = error
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                await self.news.wait()


class Errors:
    """The engine's observer: operation → how often it failed."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.batches: list[int] = []

    def engine_batch(self, size: int) -> None:
        self.batches.append(size)

    def engine_operation(self, operation: str, seconds: float) -> None:
        assert seconds >= 0

    def engine_error(self, operation: str) -> None:
        self.errors.append(operation)


class Failing:
    """The engine's store, with a disk that says no when told to."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.errors: list[Exception | None] = []
        """Of the next commits, one each; None lets one pass."""
        self.held: threading.Event | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, *operations: Any) -> None:
        if self.held is not None:
            assert self.held.wait(10)
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        self._store.commit(*operations)

    def hold(self) -> threading.Event:
        """From now on a commit waits until this event is set."""
        self.held = threading.Event()
        return self.held


class World:
    """`kind`: file, memory, two (listeners on one engine), chaos (a second listener whose wakes go wrong)."""

    def __init__(self, kind: str, directory: Path, **limits: Any) -> None:
        self.kind = kind
        self.path = directory / "notifier.db"
        self.clock = ManualClock()
        self.errors = Errors()
        self.limits = {"durability": "page_cache"} | limits
        self._asked: list[list[Any]] = []
        self._made = 0
        self._running: list[SQLiteEngine] = []

    @property
    def persistent(self) -> bool:
        return self.kind != "memory"

    async def start(self) -> World:
        """A new engine object on the same file (a new, empty one in memory), with new listeners."""
        path = str(self.path) if self.persistent else ":memory:"
        engine = open_engine(f"sqlite:///{path}", self.clock, self.errors, **self.limits)
        assert isinstance(engine, SQLiteEngine)
        self.engine = engine
        await engine.start()
        self._running.append(engine)
        engine._store = self.disk = Failing(engine._store)  # type: ignore[assignment]
        self.listeners = [Recorder()]
        engine.attach(self.listeners[0])
        if self.kind == "two":
            self.listeners.append(Recorder())
            engine.attach(self.listeners[1])
        if self.kind == "chaos":
            self.deaf = Deaf(Recorder(), random.Random(1))
            engine.attach(self.deaf)
        return self

    async def stop(self) -> None:
        running, self._running = self._running, []
        for engine in running:
            await engine.stop()
        self.check()

    async def end(self) -> None:
        """Only the orderly end."""
        self._running.remove(self.engine)
        await self.engine.stop()

    async def reopen(self) -> None:
        """An orderly end and a new start."""
        await self.stop()
        await self.start()

    async def crash(self) -> None:
        """What another process would find if this one got SIGKILL now: the files as they are."""
        self._copy_files()
        await self.start()

    def _copy_files(self) -> None:
        copy = self.path.with_name(f"{self.path.stem}-copy.db")
        for suffix in ("", "-wal"):
            part = Path(f"{self.path}{suffix}")
            if part.exists():
                shutil.copyfile(part, f"{copy}{suffix}")
        self.path = copy

    def check(self) -> None:
        """Every callback ran exactly once, and all listeners have heard the same."""
        assert all(len(answers) == 1 for answers in self._asked), self._asked
        self._asked = []
        for other in self.listeners[1:]:
            assert other.events == self.listeners[0].events

    # -- asking -------------------------------------------------------------------------------------------------------

    def ask(self, method: Callable[..., None], *args: Any, **options: Any) -> asyncio.Future[Any]:
        """Call a method that answers by `done`, and get a future of that answer."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answers: list[Any] = []
        self._asked.append(answers)
        thread = threading.get_ident()

        def done(answer: Any) -> None:
            answers.append(answer if threading.get_ident() == thread else "outside of the event loop")
            if not future.done():
                future.set_result(answer)

        method(*args, done=done, **options)
        return future

    def append(self, client_id: str = "alice", id: str = "", data: bytes = b"1", **fields: Any) -> asyncio.Future[Any]:
        """Without an `id` the server makes one."""
        self._made += 1
        fields = {"ttl": 3600, "fresh_id": not id} | fields
        draft = Draft(client_id, id or f"made-{self._made}", data, **fields)
        return self.ask(self.engine.append, draft, now_us=self.clock.now_us())

    async def put(self, client_id: str = "alice", id: str = "", **fields: Any) -> int:
        """Append what must be accepted; its seq."""
        outcome = await self.append(client_id, id, **fields)
        assert isinstance(outcome, Appended), outcome
        return outcome.seq

    async def acknowledge(self, client_id: str, seq: int, acked_by: AckedBy = "client", **told: Any) -> None:
        assert await self.ask(self.engine.acknowledge, client_id, seq, acked_by, **told) is None

    async def pending(
        self, client_id: str = "alice", after: int = 0, count: int = 1000, size: int = 1 << 30
    ) -> list[int]:
        """The seqs that a session would be given."""
        page = await self.ask(self.engine.read, client_id, after, count, size)
        return [notification.seq for notification in page.notifications]

    async def pass_time(self, seconds: float, *client_ids: str) -> None:
        """Let time pass; the mailboxes of `client_ids` are looked at after it."""
        self.clock.advance(seconds)
        for client_id in client_ids:
            await self.ask(self.engine.open, client_id)
        await self.ask(self.engine.purge, "nobody", None)
        await self.flush()

    async def until_busy(self) -> None:
        """What was asked has been handed to the writer; what is asked from now on goes into the next commit."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def flush(self) -> None:
        """All that was asked before this is on the disk."""
        await self.ask(self.engine.acknowledge, "nobody", 0, "client")

    # -- what was heard -----------------------------------------------------------------------------------------------

    def heard(self, kind: type[Any], client_id: str = "alice") -> list[Any]:
        """What the listeners were told, in order."""
        self.check_listeners()
        events = [event for event in self.listeners[0].events if type(event) is kind]
        return [e for e in events if (e.notification.client_id if isinstance(e, Wake) else e.client_id) == client_id]

    def check_listeners(self) -> None:
        for other in self.listeners[1:]:
            assert other.events == self.listeners[0].events
