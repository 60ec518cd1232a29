"""What publishers and frontends saw, and which of it contradicts the promises of docs/protocol.md.

The journal lives outside the server. It knows the server's words only: an answer counts from the moment it was read,
and anything not read is unknown. `tick` orders what the journal has seen; a rule of the form "not any more" is applied
only to connections and requests that began after the word was read, so no race between sockets can accuse the innocent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

PENDING = frozenset({"queued", "sent", "pending"})
CLOCK_MARGIN = 0.05
"""Seconds between the server's and our reading of the same clock (times are told in whole milliseconds)."""


class Violation(NamedTuple):
    kind: str
    text: str


class Asked(NamedTuple):
    """What was known when a request began: the tick, and the highest seq told settled in the mailbox it is about."""

    tick: int
    told: int


class Frame(msgspec.Struct):
    """Any frame of the server. `data` stays the text that came, for it must be the text that was published."""

    type: str
    id: str = ""
    seq: int | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    event: str | None = None
    client_id: str = ""
    reason: str = ""
    dropped: int = 0
    code: str = ""


@dataclass(slots=True)
class Entry:
    """One id."""

    client: str
    id: str
    data: bytes
    event: str | None = None
    key: str | None = None
    ttl: int | None = None
    receipt: bool = False
    wait: int | None = None
    attempts: int = 0
    first_tick: int = 0
    floor: int = 0  # the highest seq answered in this mailbox when it was first sent
    answered_tick: int = 0
    refused: bool = False
    seq: int | None = None
    expires: float = float("inf")
    received: int = 0
    end: str | None = None  # the first end state that was told
    end_tick: int = 0


@dataclass(slots=True)
class Mailbox:
    """What is known of one client_id."""

    client: str
    ids: dict[int, str] = field(default_factory=dict)  # seq → id
    answered_top: int = 0
    acked: int = 0  # the highest seq that any of its connections acknowledged or answered a ping after
    told: int = 0  # the highest seq told settled
    newest: dict[str, int] = field(default_factory=dict)  # collapse_key → the highest seq answered
    purge_began: int = 0  # tick of the latest purge that was answered
    purge_ended: int = 0  # tick of the end of the latest purge, whatever its outcome
    purges: int = 0


@dataclass(slots=True)
class Connection:
    """One connection of a client, from before its first byte."""

    mailbox: Mailbox
    tick: int
    began: float
    floor: int  # told settled before it began
    newest: dict[str, int]  # durable collapse keys before it began
    purge_began: int
    epoch: int
    last: int = 0  # the highest seq received
    acked: int = 0  # the highest seq acknowledged
    confirming: list[int] = field(default_factory=list)


class Journal:
    """Everything that was said. One per run."""

    def __init__(self, features: frozenset[str] = frozenset()) -> None:
        self.features = features
        self.entries: dict[str, Entry] = {}
        self.mailboxes: dict[str, Mailbox] = {}
        self.found: list[Violation] = []
        self.counts: Counter[str] = Counter()
        self.tick = 0
        self.epoch = 0  # the life of the server, counted
        self.alive = False
        self._news = asyncio.Event()
        self.lost_publishes: Counter[int] = Counter()  # epoch → publishes that were in flight at its end
        self.lost_acks: Counter[int] = Counter()  # epoch → acknowledgements to be confirmed that were in flight

    def mailbox(self, client: str) -> Mailbox:
        return self.mailboxes.setdefault(client, Mailbox(client))

    def _accuse(self, kind: str, text: str) -> None:
        self.found.append(Violation(kind, f"{text} (life {self.epoch})"))

    def started(self) -> None:
        """The server is being started."""
        self.epoch += 1
        self.alive = True

    def killed(self) -> None:
        """The server is about to be killed."""
        self.alive = False

    async def wait_accepted(self, count: int, longest: float) -> None:
        """Until so many ids are accepted, or `longest` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest):
                while self.counts["accepted"] < count:
                    self._news.clear()
                    await self._news.wait()

    # --- publishers -------------------------------------------------------------------------------------------

    def asking(self, client: str) -> Asked:
        """Before the first byte of a request about this client's mail."""
        self.tick += 1
        return Asked(self.tick, self.mailbox(client).told)

    def sending(self, entry: Entry) -> Asked:
        """Before the first byte of a publish."""
        asked = self.asking(entry.client)
        if entry.attempts == 0:
            self.entries[entry.id] = entry
            entry.first_tick, entry.floor = self.tick, self.mailbox(entry.client).answered_top
        entry.attempts += 1
        entry.refused = False
        return asked

    def unknown(self, entry: Entry, epoch: int) -> None:
        """The connection was lost before the answer to a publish."""
        self.lost_publishes[epoch] += 1
        if epoch == self.epoch and self.alive:
            self._accuse("cut", f"{entry.id}: the connection was lost though the server lived")

    def answered(self, entry: Entry, asked: Asked, status: int, replayed: bool, body: dict[str, Any]) -> None:
        """A 2xx was read."""
        self.tick += 1
        box = self.mailbox(entry.client)
        state, seq = body["status"], body["seq"]
        self.counts[f"repeat {state}" if replayed else state] += 1
        if (body["id"], body["client_id"]) != (entry.id, entry.client):
            self._accuse("crossed", f"{entry.id}: the answer is another's: {body}")
        if replayed and entry.attempts == 1:
            self._accuse("invented", f"{entry.id}: called a repeat at its first attempt")
        wrong = entry.wait is None and status != (200 if replayed else 202)
        if wrong or replayed != bool(body.get("duplicate")):
            self._accuse("answer", f"{entry.id}: {status}, Idempotent-Replayed {replayed}, body {body}")
        if entry.answered_tick and not replayed:
            self._accuse("renumbered", f"{entry.id}: accepted a second time, seq {entry.seq} and {seq}")
        if not entry.answered_tick:
            self.counts["accepted"] += 1
            self._news.set()
            if seq <= entry.floor:
                self._accuse("order", f"{entry.id}: seq {seq}, but {entry.floor} was answered before it was sent")
            entry.answered_tick = self.tick
            entry.expires = datetime.fromisoformat(body["expires_at"]).timestamp()
        self._number(box, entry, seq)
        box.answered_top = max(box.answered_top, seq)
        if entry.key is not None:
            box.newest[entry.key] = max(box.newest.get(entry.key, 0), seq)
        self._state(entry, state, asked)

    def refused(self, entry: Entry) -> None:
        """A 429: it is not stored, and no earlier attempt was."""
        self.tick += 1
        self.counts["refused"] += 1
        if entry.answered_tick:
            self._accuse("answer", f"{entry.id}: refused, though it was accepted before")
        entry.refused = True

    def receipt(self, entry: Entry, asked: Asked, status: int, body: dict[str, Any]) -> None:
        """`GET /notifications/{id}` of an id that was answered before the request."""
        self.tick += 1
        self.counts["receipts"] += 1
        if status != 200:
            self._accuse("receipt", f"{entry.id}: {status} {body}")
            return
        if (body["client_id"], body["seq"]) != (entry.client, entry.seq):
            self._accuse(
                "renumbered", f"{entry.id}: seq {entry.seq}, its receipt says {body['client_id']} {body['seq']}"
            )
        self._state(entry, body["state"], asked)

    def purging(self, client: str) -> Asked:
        """Before a purge."""
        self.mailbox(client).purges += 1
        return self.asking(client)

    def purged(self, client: str, asked: Asked, known: bool) -> None:
        """After a purge. `known`: it was answered, so what was answered before it began has left the mailbox."""
        self.tick += 1
        self.counts["purges"] += known
        box = self.mailbox(client)
        box.purge_ended = self.tick
        if known:
            box.purge_began = max(box.purge_began, asked.tick)

    def _state(self, entry: Entry, state: str, asked: Asked) -> None:
        """The server told a state. The first end stays; what was told before the request began must be known to it."""
        box = self.mailbox(entry.client)
        if state in PENDING:
            if entry.end is not None and entry.end_tick < asked.tick:
                self._accuse("returned", f"{entry.id}: told {entry.end} before, now {state}")
            elif (entry.seq or 0) <= asked.told:
                self._accuse("returned", f"{entry.id}: {state}, after everything up to {asked.told} was told settled")
            return
        explained = {
            "delivered": (entry.seq or 0) <= box.acked,
            "expired": entry.expires <= time.time() + CLOCK_MARGIN,
            "collapsed": entry.key is not None,
            "purged": box.purges > 0,
        }
        if not explained.get(state):
            self._accuse("settled", f"{entry.id}: told {state}, which nothing explains")
        if entry.end is None:
            entry.end, entry.end_tick = state, self.tick
        elif entry.end != state:
            self._accuse("returned", f"{entry.id}: told {entry.end} before, now {state}")

    def _number(self, box: Mailbox, entry: Entry, seq: int) -> None:
        if entry.seq is None:
            entry.seq = seq
            other = box.ids.setdefault(seq, entry.id)
            if other != entry.id:
                self._accuse("renumbered", f"{box.client}: seq {seq} is both {other} and {entry.id}")
        elif entry.seq != seq:
            self._accuse("renumbered", f"{entry.id}: seq {entry.seq} before, {seq} now")
            entry.seq = seq  # one finding, not one more for all that follows

    # --- frontends --------------------------------------------------------------------------------------------

    def connecting(self, client: str) -> Connection:
        """Before the first byte of a handshake."""
        self.tick += 1
        box = self.mailbox(client)
        return Connection(box, self.tick, time.time(), box.told, dict(box.newest), box.purge_began, self.epoch)

    def received(self, connection: Connection, frame: Frame) -> None:
        """A notification was read; before it is acknowledged in any manner."""
        self.tick += 1
        self.counts["received"] += 1
        box, seq = connection.mailbox, frame.seq
        entry = self.entries.get(frame.id)
        if entry is None or seq is None or entry.refused:
            self._accuse("invented", f"{box.client} got {frame.id!r}, seq {seq}, which was never accepted")
            return
        if entry.client != box.client:
            self._accuse("crossed", f"{box.client} got {entry.id}, published for {entry.client}")
            return
        if bytes(frame.data) != entry.data or frame.event != entry.event:
            self._accuse("altered", f"{entry.id}: {bytes(frame.data)!r}, published was {entry.data!r}")
        if seq <= connection.last:
            self._accuse("order", f"{box.client} got seq {seq} ({entry.id}) after {connection.last} on one connection")
        connection.last = max(seq, connection.last)
        self._number(box, entry, seq)
        if why := self._gone(connection, entry, seq):
            self._accuse("returned", f"{box.client} got {entry.id}, seq {seq}, on a connection that began after {why}")
        entry.received += 1
        self.counts["again"] += entry.received > 1

    def _gone(self, connection: Connection, entry: Entry, seq: int) -> str | None:
        """Why a connection that began so late cannot be sent this any more."""
        if seq <= connection.floor:
            return f"everything up to {connection.floor} was told settled"
        if entry.end is not None and entry.end_tick < connection.tick:
            return f"it was told {entry.end}"
        if entry.expires + CLOCK_MARGIN < connection.began:
            return "its expiry"
        if entry.key is not None and seq < connection.newest.get(entry.key, 0):
            return f"seq {connection.newest[entry.key]} had collapsed it"
        if 0 < entry.answered_tick < connection.purge_began:
            return "a purge"
        return None

    def acknowledging(self, connection: Connection, seq: int, confirm: bool = False) -> None:
        """Before an `ack`, or the pong of a ping that followed `seq`."""
        connection.acked = max(connection.acked, seq)
        connection.mailbox.acked = max(connection.mailbox.acked, seq)
        self.counts["acks"] += 1
        if confirm:
            connection.confirming.append(seq)

    def settled(self, connection: Connection, seq: int) -> None:
        """A `settled` frame was read: from now on nothing up to `seq` may come on a new connection."""
        self.tick += 1
        self.counts["settled"] += 1
        box = connection.mailbox
        if seq > box.acked:
            self._accuse("settled", f"{box.client}: told settled up to {seq}, acknowledged was {box.acked}")
        box.told = max(box.told, seq)
        connection.confirming = [waiting for waiting in connection.confirming if waiting > seq]

    def gap(self, connection: Connection, reason: str, dropped: int) -> None:
        self.counts["gaps"] += 1
        explained = {"expired": "ttl", "purged": "purge"}.get(reason)
        if explained not in self.features or dropped < 1:
            self._accuse("gap", f"{connection.mailbox.client}: {dropped} {reason}, which nothing explains")

    def cut(self, connection: Connection) -> None:
        """The connection went away without our doing."""
        if connection.confirming:
            self.lost_acks[connection.epoch] += 1
        if connection.epoch == self.epoch and self.alive:
            self._accuse("cut", f"{connection.mailbox.client}: the connection was lost though the server lived")

    def surprised(self, kind: str, text: str) -> None:
        """Something that no rule foresees: a close code, a status, a frame."""
        self._accuse(kind, text)

    # --- the verdict ------------------------------------------------------------------------------------------

    def violations(self) -> list[Violation]:
        """All of them; to be called when every mailbox has been drained."""
        found = list(self.found)
        for entry in self.entries.values():
            if entry.refused:
                continue
            if not entry.answered_tick:
                found.append(Violation("unresolved", f"{entry.id}: no answer after {entry.attempts} attempts"))
            elif not entry.received and not self._may_be_missing(entry):
                told = f"{entry.id} for {entry.client}, seq {entry.seq}, was told {entry.end or 'accepted'}"
                found.append(Violation("lost", f"{told}, and never received"))
            if entry.end == "collapsed" and not self._superseded(entry):
                found.append(Violation("settled", f"{entry.id} was told collapsed, but none came after it"))
        return found

    def _superseded(self, entry: Entry) -> bool:
        newest = self.mailbox(entry.client).newest.get(entry.key or "", 0)
        return entry.seq is not None and entry.seq < newest

    def _may_be_missing(self, entry: Entry) -> bool:
        if entry.end == "delivered":  # an acknowledgement proves that somebody got it
            return False
        expired = entry.expires <= time.time()
        purged = entry.first_tick < self.mailbox(entry.client).purge_ended
        return expired or purged or self._superseded(entry)
