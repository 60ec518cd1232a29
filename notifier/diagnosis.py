"""Why was it not delivered? A bounded memory of how each client's connections ended, which handshakes were refused and
what was dropped, and the conclusions that an operator would draw from it.

The memory is this process's: it begins at its start, and is shorter for a client that was pushed out by others. Where
it ends, the answer says so (`unknown_since_restart`) and does not guess.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from notifier.clock import Clock
from notifier.engine.base import LossReason

CLIENTS: Final = 10_000
"""Clients that are remembered: those to whom something happened last."""
CLAIMS: Final = 1_000
"""Refused handshakes that nothing proves to be of the client they name. They have a memory of their own, so that
whoever makes up names pushes out nothing that is true."""

Drop = Literal["expired", "overflow", "purged", "collapsed", "nobody_connected", "slow_consumer", "mailbox_full"]


class Ending(NamedTuple):
    """How a connection ended. `reason` is empty where the other side, or the network, ended it."""

    at_ms: int
    code: int
    reason: str
    transport: str
    address: str
    lasted_s: float


class Refusal(NamedTuple):
    """A handshake that got no session. `proven`: the token's signature was good, so it was this client."""

    at_ms: int
    reason: str
    transport: str
    address: str
    proven: bool


class Dropped(NamedTuple):
    """How many of a client's notifications were not kept, or not taken, for one reason; the last time at `at_ms`."""

    at_ms: int
    number: int


class Memory:
    """What is remembered of one client since `since_ms`."""

    __slots__ = ("dropped", "ending", "refusal", "since_ms")

    def __init__(self, since_ms: int) -> None:
        self.since_ms = since_ms
        self.ending: Ending | None = None
        self.refusal: Refusal | None = None
        self.dropped: dict[Drop, Dropped] = {}


class Diagnosis:
    """One per process."""

    def __init__(self, clock: Clock, clients: int = CLIENTS, claims: int = CLAIMS) -> None:
        self._clock = clock
        self._limit = clients
        self._claim_limit = claims
        self._memories: OrderedDict[str, Memory] = OrderedDict()
        self._claims: OrderedDict[str, Refusal] = OrderedDict()
        self._since_ms = clock.now_ms()
        """What happened before this may be forgotten of a client that has no memory."""

    def ended(self, client_id: str, code: int, reason: str, transport: str, address: str, seconds: float) -> None:
        """A connection is gone."""
        self._of(client_id).ending = Ending(self._clock.now_ms(), code, reason, transport, address, seconds)

    def refused(self, client_id: str, reason: str, transport: str, address: str, proven: bool) -> None:
        """A handshake in the name of this client got no session."""
        refusal = Refusal(self._clock.now_ms(), reason, transport, address, proven)
        if proven:
            self._of(client_id).refusal = refusal
            return
        self._claims[client_id] = refusal
        self._claims.move_to_end(client_id)
        if len(self._claims) > self._claim_limit:
            self._claims.popitem(last=False)

    def dropped(self, client_id: str, reason: Drop, number: int) -> None:
        """Mail for this client was not kept, or nobody took it."""
        dropped = self._of(client_id).dropped
        before = dropped.get(reason)
        dropped[reason] = Dropped(self._clock.now_ms(), number + (before.number if before else 0))

    def forget(self, client_id: str) -> None:
        """An operator has erased this client."""
        self._memories.pop(client_id, None)
        self._claims.pop(client_id, None)

    def recall(self, client_id: str) -> Memory:
        """What is remembered; of two refusals the later. Do not change it."""
        held = self._memories.get(client_id)
        memory = Memory(self._since_ms if held is None else held.since_ms)
        if held is not None:
            memory.ending, memory.refusal, memory.dropped = held.ending, held.refusal, held.dropped
        claim = self._claims.get(client_id)
        if claim is not None and (memory.refusal is None or memory.refusal.at_ms < claim.at_ms):
            memory.refusal = claim
        return memory

    def _of(self, client_id: str) -> Memory:
        memory = self._memories.get(client_id)
        if memory is None:
            memory = self._memories[client_id] = Memory(self._since_ms)
            if len(self._memories) > self._limit:
                self._memories.popitem(last=False)
                self._since_ms = self._clock.now_ms()  # whoever is not remembered may have been forgotten just now
        else:
            self._memories.move_to_end(client_id)
        return memory


class Reader(NamedTuple):
    """A connection that is open now, as far as a diagnosis asks."""

    inflight: int
    window_full: bool
    stuck: bool
    """It has not taken what was written: nothing more is written until it does."""


class Facts(NamedTuple):
    """All that a diagnosis goes by."""

    memory: Memory
    readers: Sequence[Reader]
    pending: int
    cursor: int
    lost: dict[LossReason, int]
    """Reason → number, of what left the mailbox and the client has not heard of yet. Durable."""
    revoked: bool


class Cause(NamedTuple):
    """Why mail is, or was, not delivered. `cause` is for programs."""

    cause: str
    text: str


def causes(facts: Facts) -> list[Cause]:
    """The answer, the likeliest first; never empty."""
    found = list(_present(facts)) + list(_past(facts))
    if not found:
        found = [_told("delivered" if facts.cursor else "nothing_sent")]
    return found


def _present(facts: Facts) -> Iterator[Cause]:
    """Why pending mail has not come to its end."""
    if not facts.readers:
        if facts.pending or facts.memory.refusal is not None or facts.revoked:
            yield _absent(facts)
    elif facts.pending:
        if all(reader.window_full for reader in facts.readers):
            yield _told("window_full")
        elif any(reader.stuck for reader in facts.readers):
            yield _told("not_reading")
        elif any(reader.inflight for reader in facts.readers):
            yield _told("unacknowledged")
        else:
            yield _told("on_its_way")


def _absent(facts: Facts) -> Cause:
    """Why nobody is connected: what happened last."""
    ending, refusal = facts.memory.ending, facts.memory.refusal
    if refusal is not None and (ending is None or refusal.at_ms >= ending.at_ms):
        return _told(refusal.reason, " Nothing proves that it was this client." if not refusal.proven else "")
    if facts.revoked:
        return _told("revoked")
    if ending is None:
        return _told("unknown_since_restart")
    if ending.reason in TEXTS:
        return _told(ending.reason)
    if ending.reason:
        return Cause(ending.reason, f"The last connection was closed with {ending.code} {ending.reason}.")
    return _told("lost" if ending.code in (1005, 1006) else "left")


def _past(facts: Facts) -> Iterator[Cause]:
    """What will not come any more."""
    numbers: dict[str, int] = {reason: dropped.number for reason, dropped in facts.memory.dropped.items()}
    for lost, number in facts.lost.items():
        numbers[lost] = max(number, numbers.get(lost, 0))
    for reason, number in numbers.items():
        yield _told(DROPS[reason], number=number)


def _told(cause: str, more: str = "", number: int = 0) -> Cause:
    text = TEXTS.get(cause, f"The last handshake was refused: {cause}.")
    return Cause(cause, text.format(number=number) + more)


DROPS: Final = {
    "expired": "expired",
    "overflow": "dropped_oldest",
    "purged": "purged",
    "collapsed": "collapsed",
    "nobody_connected": "nobody_connected",
    "slow_consumer": "ttl_0_not_taken",
    "mailbox_full": "mailbox_full",
}

TEXTS: Final = {
    "delivered": "Nothing is pending: everything up to the cursor was acknowledged.",
    "nothing_sent": "Nothing is pending and nothing was ever acknowledged. Is this client_id byte for byte the "
    "one that the publisher uses, and the one in the token?",
    # connected
    "window_full": "The client does not acknowledge: its window is full, so no more is sent to it. Does its code send "
    "ack frames? (It asked for ack=client, or it is an event stream without POST /events/ack.)",
    "not_reading": "The connection does not take what is written to it: a slow network, or a client that hangs.",
    "unacknowledged": "It was written to an open connection and is not acknowledged yet.",
    "on_its_way": "The client is connected and about to be sent its mail.",
    # not connected, and the last thing was the end of a connection
    "unknown_since_restart": "Not connected, and no connection or refusal is remembered: the memory of this process "
    "begins at known_since.",
    "left": "The client has closed its connection and not come back.",
    "lost": "The connection was lost without a goodbye: network, sleep, a crash of the client.",
    "no_answer": "The connection was cut off: the client did not answer the heartbeat.",
    "slow_consumer": "The connection was cut off: the client did not take what was written to it.",
    "replaced": "The connection was closed for a newer one: over MAX_CONNECTIONS_PER_CLIENT.",
    "banned": "An operator has closed its connections for good (4403).",
    "disconnected": "An operator has closed its connections and asked it to come back (1012); it has not.",
    "draining": "This node was going away and sent the client elsewhere; it has not come back here.",
    "rate_limited": "The connection was closed with 4429: the client sent too many frames.",
    "bad_frame": "The connection was closed with 4400: the client sent a frame that it should not. A defect of it.",
    # not connected, and the last thing was a refused handshake (some words end connections as well)
    "token_expired": "The token has expired, and the client has not come back with a new one.",
    "token_invalid": "The last handshake was refused: its token is not one that is accepted here. Are the secret, the "
    "issuer and the audience those that are configured?",
    "token_missing": "The last handshake was refused: it brought no token.",
    "client_id_mismatch": "The last handshake was refused: the client_id in the path is not the one in the token.",
    "forbidden_origin": "The last handshake was refused: the page's origin is not in ALLOWED_ORIGINS.",
    "revoked": "The client's tokens were revoked. It needs one that was issued later.",
    "overloaded": "The last handshake was refused: MAX_CONNECTIONS were open.",
    "no_keys": "The last handshake was refused: the JWKS has never been loaded.",
    "engine_unavailable": "The last handshake was refused: the engine was not available.",
    # what will not come any more
    "expired": "{number} left the mailbox because their ttl was over.",
    "dropped_oldest": "{number} left the full mailbox to make room (MAILBOX_OVERFLOW is drop_oldest).",
    "purged": "{number} were purged by an operator.",
    "collapsed": "{number} were replaced by later ones with the same collapse_key.",
    "nobody_connected": "{number} were sent with ttl 0 when nobody was connected.",
    "ttl_0_not_taken": "{number} were sent with ttl 0 and a connection that was not reading did not take them.",
    "mailbox_full": "{number} were refused (429): the mailbox was full.",
}
