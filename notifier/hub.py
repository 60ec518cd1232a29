"""Which sessions this process holds, by client_id and by group. It never waits for a client, and knows no engine.

A registration is removed only by the connection that made it: the late close of an old socket must not unregister
its successor.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import ClassVar, Final

from notifier.session import Session

SLICE: Final = 200
"""Connections that a loop over many handles before it lets others go on."""


class Carrier:
    """What carries a session to its client: a WebSocket or an event stream. The only one that does I/O."""

    __slots__ = ()

    kind: ClassVar[str]
    session: Session
    address: str
    opened_at: float
    """The loop's time."""

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken."""
        raise NotImplementedError

    def pump(self) -> None:
        """Write what the session says, and do what it asks for."""
        raise NotImplementedError

    def carry(self, frames: list[bytes], encoded: dict[str, bytes]) -> int:
        """`ttl: 0` frames, for one write; how many can be written now. `encoded` keeps their bytes by kind of carrier,
        so that they are made once for all."""
        raise NotImplementedError

    def abort(self) -> None:
        """Cut it off, without a close frame."""
        raise NotImplementedError


class Hub:
    """The registry. Sets are made only where there is more than one: most clients have one connection."""

    def __init__(self) -> None:
        self._clients: dict[str, Carrier | list[Carrier]] = {}
        self._order: list[str] = []
        """The keys of `_clients`, sorted: with many thousand clients a sort per question would hold up everybody."""
        self._groups: dict[str, set[Carrier]] = {}
        self.connections = 0

    @property
    def clients(self) -> int:
        """Clients with at least one connection."""
        return len(self._clients)

    def of(self, client_id: str) -> list[Carrier]:
        """The client's connections, oldest first. Do not keep or change it."""
        held = self._clients.get(client_id)
        if held is None:
            return []
        return held if isinstance(held, list) else [held]

    def add(self, carrier: Carrier) -> None:
        """Register a connection under its client_id and groups."""
        client_id = carrier.session.client_id
        held = self._clients.get(client_id)
        if held is None:
            self._clients[client_id] = carrier
            insort(self._order, client_id)
        elif isinstance(held, list):
            held.append(carrier)
        else:
            self._clients[client_id] = [held, carrier]
        self.connections += 1
        self.join(carrier)

    def remove(self, carrier: Carrier) -> bool:
        """Unregister this connection and no other. Whether it was registered."""
        client_id = carrier.session.client_id
        held = self._clients.get(client_id)
        if held is carrier:
            del self._clients[client_id]
            del self._order[bisect_left(self._order, client_id)]
        elif isinstance(held, list) and carrier in held:
            held.remove(carrier)
            if len(held) == 1:
                self._clients[client_id] = held[0]
        else:
            return False
        self.connections -= 1
        self.leave(carrier)
        return True

    def join(self, carrier: Carrier) -> None:
        """Enter the groups that its token names."""
        for group in carrier.session.identity.groups:
            self._groups.setdefault(group, set()).add(carrier)

    def leave(self, carrier: Carrier) -> None:
        """Leave the groups that its token names."""
        for group in carrier.session.identity.groups:
            members = self._groups.get(group)
            if members is not None:
                members.discard(carrier)
                if not members:
                    del self._groups[group]

    def members(self, group: str) -> list[Carrier]:
        """The connections in a group, as of now."""
        return list(self._groups.get(group, ()))

    def client_ids(self) -> list[str]:
        """The clients that are connected, as of now, in order."""
        return list(self._order)

    def page(self, after: str, count: int) -> list[str]:
        """At most `count` connected clients behind `after`, in order."""
        at = bisect_right(self._order, after)
        return self._order[at : at + count]

    def __iter__(self) -> Iterator[Carrier]:
        """All connections, as of now."""
        for held in list(self._clients.values()):
            if isinstance(held, list):
                yield from list(held)
            else:
                yield held
