"""Which pages may open a connection (RFC 6455 §10.2, RFC 6454)."""

from __future__ import annotations

from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


class Origins:
    """`allowed`: `scheme://host[:port]`, one leading `*.` label, or `null`. `any_loopback` is for `notifier dev`."""

    def __init__(self, allowed: tuple[str, ...], any_loopback: bool = False) -> None:
        self._exact = {normal for entry in allowed if "*" not in entry and (normal := _normal(entry))}
        self._below = [_split(entry.replace("*.", "", 1)) for entry in allowed if "*." in entry]
        self._any_loopback = any_loopback

    def listed(self, origin: str) -> bool:
        """Whether the operator has listed it: what CORS answers go by."""
        if _normal(origin) in self._exact:
            return True
        scheme, host, port = _split(origin)
        if self._any_loopback and (host in _LOOPBACK or host.endswith(".localhost")):
            return True
        for s, suffix, p in self._below:
            label, dot, rest = host.partition(".")
            if s == scheme and p == port and dot and label and rest == suffix:
                return True
        return False

    def allows(self, origin: str | None, host: str) -> bool:
        """Whether a handshake with these `Origin` and `Host` headers may go on. Without an Origin it is no browser.

        The scheme is not compared with our own: behind a proxy it may have got lost.
        """
        if origin is None:
            return True
        if self.listed(origin):
            return True
        scheme, name, port = _split(origin)
        if not name:
            return False
        try:
            own, own_port = split_host(host)
        except ValueError:
            return False
        return own == name and (own_port or _DEFAULT_PORTS.get(scheme, 0)) == port


def split_host(host: str) -> tuple[str, int]:
    """Name and port of a Host header (RFC 9110 §7.2), in lower case; 0 where it names no port.

    Raises: ValueError, if it is none.
    """
    parts = urlsplit(f"//{host}")
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("more than a host and a port")
    return parts.hostname or "", parts.port or 0


def _split(origin: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(origin)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError:
        return "", "", 0
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return "", "", 0
    return parts.scheme.lower(), (parts.hostname or "").lower(), port


def _normal(origin: str) -> tuple[str, str, int] | str:
    return "null" if origin == "null" else _split(origin)
