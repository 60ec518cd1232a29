"""The written contract between a node and the engine that stores its mailboxes.

Threads: every method is called, and every callback runs, on the node's event loop. No method blocks.
A callback (`done`) runs exactly once, possibly before the method returns.

Order: the effects of appends to one mailbox are ordered as the calls were. A listener hears of them in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from notifier.errors import NotifierError

AckedBy: TypeAlias = Literal["client", "transport"]
State: TypeAlias = Literal["pending", "delivered", "expired", "collapsed", "purged", "dropped"]
EndReason: TypeAlias = Literal["expired", "collapsed", "purged", "dropped"]
LossReason: TypeAlias = Literal["expired", "overflow", "purged"]

LOSSES: Final[dict[EndReason, LossReason]] = {"expired": "expired", "dropped": "overflow", "purged": "purged"}
"""Which ends the client is told of by `gap`, under which reason. A collapse is no loss."""


class EngineOptions(NamedTuple):
    """What the settings say about an engine (docs/protocol.md, Settings)."""

    durability: str = "fsync"
    dedup_s: int = 3600
    mailbox_limit: int = 1000
    mailbox_bytes: int = 4 * 1024 * 1024
    drop_oldest: bool = False
    min_free_bytes: int = 0


class Draft:
    """What a publisher hands in: valid, but not yet stored. `data` is JSON text, kept byte for byte; `ttl` seconds."""

    __slots__ = ("client_id", "collapse_key", "data", "event", "fresh_id", "id", "receipt", "ttl")

    def __init__(
        self, client_id: str, id: str, data: bytes, ttl: int, event: str | None = None, collapse_key: str | None = None,
        receipt: bool = False, fresh_id: bool = False,
    ) -> None:  # fmt: skip
        self.client_id = client_id
        self.id = id
        self.data = data
        self.ttl = ttl
        self.event = event
        self.collapse_key = collapse_key
        self.receipt = receipt
        self.fresh_id = fresh_id
        """The id was made by this server for this very draft, so it cannot be a repeat."""


class Notification:
    """A stored notification. Times are unix milliseconds."""

    __slots__ = (
        "accepted_ms", "client_id", "collapse_key", "data", "event", "expires_ms", "frame", "id", "receipt", "seq",
    )  # fmt: skip

    def __init__(
        self, client_id: str, seq: int, id: str, data: bytes, accepted_ms: int, expires_ms: int,
        event: str | None = None, collapse_key: str | None = None, receipt: bool = False,
    ) -> None:  # fmt: skip
        self.client_id = client_id
        self.seq = seq
        self.id = id
        self.data = data
        self.accepted_ms = accepted_ms
        self.expires_ms = expires_ms
        self.event = event
        self.collapse_key = collapse_key
        self.receipt = receipt
        self.frame = b""
        """The encoded frame, once a carrier has made it; so it is made once, however many sockets there are."""


class Handed:
    """What listeners did with a wake: sessions of the client that they hold, and how many of them took the mail."""

    __slots__ = ("connections", "taken")

    def __init__(self, connections: int, taken: int) -> None:
        self.connections = connections
        self.taken = taken


class Appended:
    """Durable. `connections` and `taken` sum up what all nodes did with the wake, as far as known."""

    __slots__ = ("accepted_ms", "connections", "expires_ms", "seq", "taken")

    def __init__(self, seq: int, accepted_ms: int, expires_ms: int, connections: int, taken: int) -> None:
        self.seq = seq
        self.accepted_ms = accepted_ms
        self.expires_ms = expires_ms
        self.connections = connections
        self.taken = taken


@dataclass
class Duplicate:
    """The id was accepted before with the same content. Nothing was changed. `state` is that of now."""

    seq: int
    expires_ms: int
    state: State
    acked_by: AckedBy | None


Outcome: TypeAlias = Appended | Duplicate | NotifierError


@dataclass
class Losses:
    """What left a mailbox unacknowledged: per reason a running total and the part that the client was told of.

    Totals only ever grow, so that two sessions that tell the same loss cannot acknowledge it twice.
    """

    totals: dict[LossReason, int]
    told: dict[LossReason, int]

    def untold(self) -> dict[LossReason, int]:
        """Reason → number, only where there is something to tell."""
        return {r: n for r, total in self.totals.items() if (n := total - self.told.get(r, 0)) > 0}


class MailboxState(NamedTuple):
    """What a session needs to start with. `pending` is a hint; `revoked_s` unix seconds or None.

    `through`: everything up to this seq has ended, as far as known without reading.
    """

    pending: int
    losses: Losses | None
    revoked_s: float | None
    through: int = 0


class Page(NamedTuple):
    """Mail of one mailbox in increasing seq, and whether there was more when it was handed over.

    `through`: everything up to this seq is in this page, was in an earlier one, or has ended.
    """

    notifications: Sequence[Notification]
    through: int
    more: bool


@dataclass
class Receipt:
    """What is kept of a notification that was sent with `receipt: true`. Times are unix milliseconds."""

    id: str
    client_id: str
    seq: int
    state: State
    accepted_ms: int
    sent_ms: int | None
    settled_ms: int | None
    acked_by: AckedBy | None
    attempts: int


class Overview(NamedTuple):
    """What an operator asks of one mailbox. `oldest_ms` unix milliseconds or None; `cursor` 0 if none."""

    pending: int
    pending_bytes: int
    oldest_ms: int | None
    cursor: int
    losses: dict[LossReason, int]
    revoked_s: float | None


class Target(NamedTuple):
    """Who a transient (ttl 0) notification is for: a client_id, a group, or everyone (both None)."""

    client_id: str | None = None
    group: str | None = None


class Stats(NamedTuple):
    """Gauges of the whole engine. `oldest_ms` unix milliseconds or None."""

    pending: int
    oldest_ms: int | None
    up: bool


class Listener:
    """A node, as its engine sees it. Calls may be lost, doubled or late without harm to what is stored."""

    def wake(self, notification: Notification, after: int) -> Handed:
        """`notification` is durable. `after` is the seq before it in the mailbox, 0 if it is the only one."""
        raise NotImplementedError

    def settled(
        self, client_id: str, seq: int, acked_by: AckedBy, seqs: Sequence[int], live: list[int], at_us: int
    ) -> None:
        """Everything up to `seq` is settled, durably; `seqs` are those that this acknowledgement settled, and `live`
        those of them that a session took when they were accepted. `at_us`: unix time, microseconds."""
        raise NotImplementedError

    def ended(self, client_id: str, reason: EndReason, seqs: Sequence[int], losses: Losses | None) -> None:
        """`seqs` left the mailbox unacknowledged, durably. `losses` is the state after it, if the reason is a loss."""
        raise NotImplementedError

    def transient(self, target: Target, frame: bytes) -> Handed:
        """A `ttl: 0` frame for whoever can take it now."""
        raise NotImplementedError

    def command(self, client_id: str, action: str) -> int:
        """An operator's word to the sessions of a client: `reconnect`, `ban` or `revoke`. Returns how many heard it."""
        raise NotImplementedError

    def failed(self, error: NotifierError) -> None:
        """The engine has stopped for good (fail-stop): this process must end and be started anew."""
        raise NotImplementedError


class Engine:
    """Stores mailboxes and wakes nodes."""

    async def start(self) -> None:
        """Open. Raises EngineUnavailable (busy, out of reach) or ConfigurationError (not ours, damaged, newer)."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Flush what is queued and close. Everything answered before was durable already."""
        raise NotImplementedError

    def attach(self, listener: Listener) -> None:
        """From now on `listener` hears of everything. Several nodes may share one engine."""
        raise NotImplementedError

    def detach(self, listener: Listener) -> None:
        raise NotImplementedError

    def append(self, draft: Draft, done: Callable[[Outcome], None], now_us: int) -> None:
        """Store, durably; then wake every listener; then `done`. `now_us`: when it was accepted, unix microseconds of
        the engine's clock, asked just now.

        - Atomic: all of it or nothing; when `done` gets an error nothing was delivered, and a retry is safe.
        - Durable when `done` gets Appended, at the declared durability.
        - A repeat of (client_id, id) within the dedup window, or while the first is pending, is a Duplicate, or
          IdConflict if data, event, collapse_key or ttl differ. The second of two
          at once is told when the first is durable.
        - Pending mail with the same collapse_key ends (`collapsed`) in the same commit.
        - A full mailbox: MailboxFull, or the oldest end (`dropped`) in the same commit.
        - Errors: IdConflict, MailboxFull, StorageFull, EngineUnavailable. A refused draft uses up no id.
        """
        raise NotImplementedError

    def begin(self) -> None:
        """All drafts of a request are in, and they are many: a commit may begin without waiting for others."""
        raise NotImplementedError

    def acknowledge(
        self,
        client_id: str,
        seq: int,
        acked_by: AckedBy,
        told: dict[LossReason, int] | None = None,
        done: Callable[[NotifierError | None], None] | None = None,
    ) -> None:
        """Settle everything up to `seq`, cumulatively; forget the losses that were told up to these totals.

        Durable within 1 s, and when `done` runs. Repeats, and seqs below the cursor, change nothing.
        """
        raise NotImplementedError

    def open(self, client_id: str, done: Callable[[MailboxState | NotifierError], None]) -> None:
        """The state that a session starts with. Expired mail has ended before it is counted."""
        raise NotImplementedError

    def read(
        self, client_id: str, after: int, count: int, size: int, done: Callable[[Page | NotifierError], None]
    ) -> None:
        """The pending mail after `after`: at most `count`, and about `size` bytes, but at least one if there is any.

        Only durable mail that is neither settled, ended nor expired when `done` runs. A record whose checksum is
        wrong is set aside, counted, and never handed out.
        """
        raise NotImplementedError

    def heads(self, client_ids: Sequence[str], done: Callable[[dict[str, int]], None]) -> None:
        """The highest pending durable seq of each mailbox that has any: how a node finds a wake that was lost."""
        raise NotImplementedError

    def transient(self, target: Target, frame: bytes) -> Handed:
        """Hand a frame to every listener, store nothing."""
        raise NotImplementedError

    def written(self, notification: Notification) -> bool:
        """A carrier has written it: kept for its receipt, lazily. Whether that was the first time, as far as known."""
        raise NotImplementedError

    def receipts(self, id: str, client_id: str | None, done: Callable[[list[Receipt] | NotifierError], None]) -> None:
        """The receipts with this id; more than one when several clients have one and `client_id` is None. Expired mail
        has ended before it is told."""
        raise NotImplementedError

    def overview(self, client_id: str, done: Callable[[Overview | NotifierError], None]) -> None:
        raise NotImplementedError

    def purge(self, client_id: str, seq: int | None, done: Callable[[int | NotifierError], None]) -> None:
        """End pending mail of the client (all, or the one with `seq`) as `purged`, durably; how many."""
        raise NotImplementedError

    def erase(self, client_id: str, done: Callable[[NotifierError | None], None]) -> None:
        """Forget all that is kept of a client except a revocation, durably."""
        raise NotImplementedError

    def revoke(self, client_id: str, at_s: float | None, done: Callable[[NotifierError | None], None]) -> None:
        """Refuse tokens issued up to `at_s` (unix seconds) from now on, durably; None lifts it."""
        raise NotImplementedError

    def command(self, client_id: str, action: str) -> int:
        """Pass an operator's word to every node's sessions of this client."""
        raise NotImplementedError

    def stats(self) -> Stats:
        raise NotImplementedError

    def backup(self, path: str, done: Callable[[Any], None]) -> None:
        """Write a consistent copy to `path` while running; `done(None)` or `done(error)`."""
        raise NotImplementedError
