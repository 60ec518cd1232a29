"""Which pages may connect (docs/protocol.md, Origin)."""

from __future__ import annotations

import pytest

from notifier.transport.origins import Origins

HOST = "notify.example:8000"


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, HOST, True),
        ("http://notify.example:8000", HOST, True),
        ("https://notify.example:8000", HOST, True),  # the scheme may be lost in a proxy
        ("HTTPS://Notify.Example:8000", HOST, True),
        ("https://notify.example", "notify.example", True),
        ("https://notify.example", "notify.example:443", True),
        ("https://notify.example:443", "notify.example", True),
        ("http://notify.example", "notify.example:80", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://notify.example", HOST, False),
        ("http://notify.example:8001", HOST, False),
        ("https://notify.example", "notify.example:80", False),
        ("http://evil.example:8000", HOST, False),
        ("http://notify.example.evil:8000", HOST, False),
        ("http://sub.notify.example:8000", HOST, False),
        ("null", HOST, False),
        ("", HOST, False),
        ("", "", False),
        ("notify.example:8000", HOST, False),
        ("http://notify.example:8000/", HOST, False),
        ("http://notify.example:8000/path", HOST, False),
        ("http://user@notify.example:8000", HOST, False),
        ("http://notify.example:8000?x", HOST, False),
        ("http://notify.example:8000#x", HOST, False),
        ("http://notify.example:x", HOST, False),
        ("http://notify.example:99999", HOST, False),
        ("http://[::1", HOST, False),
        ("http://notify.example:8000", "notify.example:x", False),
        ("http://evil.example", "[::1", False),
        ("http://notify.example:8000", "notify.example:8000/x", False),
        ("http://notify.example:8000", "x@notify.example:8000", False),
        ("http://a:8000, http://notify.example:8000", HOST, False),
    ],
)
def test_the_same_host_and_nothing_else(origin: str | None, host: str, allowed: bool) -> None:
    assert Origins(()).allows(origin, host) is allowed


@pytest.mark.parametrize(
    ("listed", "origin", "allowed"),
    [
        ("https://app.example", "https://app.example", True),
        ("https://app.example", "https://app.example:443", True),
        ("https://app.example:443", "https://app.example", True),
        ("https://App.example", "https://app.EXAMPLE", True),
        ("https://app.example", "http://app.example", False),
        ("https://app.example", "https://app.example:8443", False),
        ("https://app.example", "https://app.example.evil", False),
        ("https://app.example", "https://xapp.example", False),
        ("https://app.example", "https://x.app.example", False),
        ("https://*.example", "https://app.example", True),
        ("https://*.example:8443", "https://app.example:8443", True),
        ("https://*.example", "https://a.b.example", False),  # one label
        ("https://*.example", "https://example", False),
        ("https://*.example", "https://.example", False),
        ("https://*.example", "http://app.example", False),
        ("https://*.example", "https://appexample", False),
        ("null", "null", True),
        ("null", "NULL", False),
        ("https://app.example", "null", False),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("capacitor://localhost", "https://localhost", False),
    ],
)
def test_what_is_listed(listed: str, origin: str, allowed: bool) -> None:
    origins = Origins((listed,))
    assert origins.listed(origin) is allowed
    assert origins.allows(origin, HOST) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:5173", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:3000", True),
        ("http://app.localhost:3000", True),
        ("http://localhost.evil", False),
        ("http://127.0.0.1.evil", False),
        ("http://192.168.0.1", False),
        ("null", False),
    ],
)
def test_every_loopback_origin_where_a_developer_works(origin: str, allowed: bool) -> None:
    assert Origins((), any_loopback=True).allows(origin, HOST) is allowed
    assert not Origins(()).allows(origin, HOST)
