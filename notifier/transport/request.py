"""A request as our handlers see it: its head, and its body. And the memory of heads that publishers repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from notifier.errors import NotifierError
from notifier.transport.problems import problem

if TYPE_CHECKING:
    from notifier.transport.door import Route
    from notifier.transport.http import HttpProtocol


class Head:
    """Request line and headers. `path` and `query` are as they came, not decoded; header names are lower case."""

    __slots__ = (
        "expects",
        "headers",
        "keep_alive",
        "key",
        "known",
        "length",
        "limit",
        "method",
        "path",
        "query",
        "route",
        "size",
        "upgrade",
    )

    def __init__(self) -> None:
        self.method = ""
        self.path = b""
        self.query = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.size = 0
        self.length = -1
        """Content-Length; -1 where there is none."""
        self.limit = 0
        self.keep_alive = True
        self.upgrade = False
        """It asks to become a WebSocket."""
        self.expects = False
        """The peer waits with the body until it is told to go on."""
        self.known = False
        """It is one of the KnownHeads: nothing in it varies what happens to the request."""
        self.route: Route | None = None
        self.key: Any = None
        """The API key that was accepted, where the route asks for one."""

    def header(self, name: bytes) -> bytes | None:
        """The value of a header; several of one name are joined (RFC 9110 §5.3)."""
        found = [value for key, value in self.headers if key == name]
        return None if not found else found[0] if len(found) == 1 else b", ".join(found)


class Request:
    """One request, whole."""

    __slots__ = ("body", "cut", "head", "keep_alive", "parts", "protocol", "refusal", "size", "started")

    def __init__(self, protocol: HttpProtocol, started: float, head: Head) -> None:
        self.protocol = protocol
        self.started = started
        self.head = head
        self.keep_alive = True
        self.body = b""
        self.size = 0
        self.refusal: NotifierError | None = None
        self.cut = False
        """It did not come whole."""
        self.parts: bytearray | None = None
        """The body while it comes in more than one piece: appending to bytes would copy them each time."""

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> bytes:
        return self.head.path

    @property
    def query(self) -> bytes:
        return self.head.query

    def header(self, name: bytes) -> bytes | None:
        """See Head.header."""
        return self.head.header(name)

    def respond(self, status: int, body: bytes, headers: bytes = b"content-type: application/json\r\n") -> None:
        """Answer. `headers` are whole lines. A peer that has hung up changes nothing."""
        self.protocol.respond(self, status, body, headers)

    def fail(self, error: NotifierError) -> None:
        """Answer with the problem document of an error (RFC 9457)."""
        status, body, headers = problem(error)
        self.refusal = None  # where it was raised it remembers us, and we would never be freed but by the collector
        self.protocol.respond(self, status, body, headers)


class KnownHeads:
    """Publishers repeat their header block byte for byte, so what was parsed and admitted once need not be again.

    Only heads that the parser understood and whose key was accepted come in here, and only of routes that say that
    their answer does not depend on other headers. Keys do not change while the process lives. It buys a third of the
    time of a publish (docs/performance.md); without it everything works the same.
    """

    MAX_HEADS = 1024
    MAX_BYTES = 1024

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self.get = self._heads.get

    def learn(self, raw: bytes, head: Head) -> None:
        """`raw` is a whole header block, with its empty line, that was parsed into `head`."""
        varies = any(name in _VARYING for name, _ in head.headers) or bool(head.query)
        repeats = head.route is not None and head.route.repeats and head.keep_alive and not varies
        if repeats and len(raw) <= self.MAX_BYTES:
            if len(self._heads) >= self.MAX_HEADS:
                self._heads.clear()
            head.known = True
            self._heads[raw] = head


_VARYING: Final = frozenset((b"content-encoding", b"transfer-encoding", b"idempotency-key", b"expect", b"upgrade"))
"""Headers with a say in what happens to this one request."""
