"""From the one URL that a user knows to those that are called."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit, urlunsplit

_HTTP = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_WEBSOCKET = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def http_base(url: str) -> str:
    """The base URL for HTTP calls, without a trailing slash."""
    parts = _parsed(url)
    path = parts.path.rstrip("/").removesuffix("/ws")
    return urlunsplit((_HTTP[parts.scheme], parts.netloc, path, "", ""))


def websocket_url(url: str, ack: str) -> str:
    """The URL of the WebSocket, with the way in which this client acknowledges."""
    parts = _parsed(url)
    path = parts.path.rstrip("/").removesuffix("/ws") + "/ws"
    return urlunsplit((_WEBSOCKET[parts.scheme], parts.netloc, path, f"ack={ack}", ""))


def _parsed(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in _HTTP and bool(parts.hostname) and parts.port != 0 and " " not in parts.netloc
        (parts.hostname or "").encode("idna")  # an empty label or one that is too long is a ValueError here
    except ValueError:
        valid = False
    if not valid or not url.isprintable():
        raise ValueError(f"{url!r} is not a URL like http://127.0.0.1:8000 or wss://example.com")
    return parts


def is_loopback(url: str) -> bool:
    """Whether the URL is on this machine, where a proxy from the environment would only be in the way."""
    host = _parsed(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.") or host.endswith(".localhost")
