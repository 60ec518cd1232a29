"""What the head of a request must be like before its body is looked at, and who answers it (RFC 9110, RFC 9112)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools

from notifier.errors import NotifierError, TooLarge
from notifier.transport.problems import BadRequest

if TYPE_CHECKING:
    from notifier.transport.door import Door
    from notifier.transport.request import Head


def complete(head: Head, parser: Any, url: bytes, door: Door) -> None:
    """Fill in what the parser knows of a head whose headers have all come.

    Raises: BadRequest, for what two readers could understand differently: nothing behind it can be trusted either.
    """
    head.method = parser.get_method().decode("latin-1")
    version = parser.get_http_version()
    if version != "1.1" and version != "1.0":
        raise BadRequest("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if head.method == "CONNECT":
        raise BadRequest("This is not a proxy.")
    coding = head.header(b"transfer-encoding")
    if coding is not None and (version == "1.0" or coding.strip().lower() != b"chunked"):  # RFC 9112 §6.1
        raise BadRequest("The only transfer coding is chunked, in HTTP/1.1.")
    if sum([name == b"host" for name, _ in head.headers]) > 1:  # RFC 9112 §3.2
        raise BadRequest("There is more than one Host header.")
    head.path, _, head.query = url.partition(b"?")
    if not head.path.startswith(b"/"):  # absolute form (RFC 9112 §3.2.2)
        try:
            head.path = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            raise BadRequest("The request target is not a path.") from None
    head.keep_alive = parser.should_keep_alive()
    head.route = door.find_route(head.path)
    newer = version == "1.1"
    # Upgrade and Expect of HTTP/1.0 are ignored, and any upgrade but that to a WebSocket (RFC 9110 §7.8, §10.1.1).
    head.upgrade = newer and head.route is not None and head.route.name == "ws" and parser.should_upgrade()
    head.expects = newer and not head.upgrade and (head.header(b"expect") or b"").strip().lower() == b"100-continue"


def admit(head: Head, door: Door) -> NotifierError | None:
    """Why it is refused whatever its body says, else None; and how long the body may be."""
    try:
        head.length = int(head.header(b"content-length") or b"-1")
        head.limit = head.route.admit(head) if head.route is not None else door.max_body
        if head.length > head.limit:
            raise TooLarge(f"The body has {head.length} bytes, {head.limit} are allowed here.")
    except NotifierError as error:
        return error.with_traceback(None)
    return None


def without_upgrade(head: Head, parser: Any, url: bytes) -> bytes:
    """The same head, written again without what asks for an upgrade."""
    lines = b"".join([b"%b: %b\r\n" % pair for pair in head.headers if pair[0] != b"upgrade"])
    return b"%b %b HTTP/%b\r\n%b\r\n" % (parser.get_method(), url, parser.get_http_version().encode(), lines)
