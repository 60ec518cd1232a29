"""Whose connection it is: the peer, or what a proxy that is trusted says of it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from notifier.app import Parts
from notifier.settings import load_settings
from tests.door.raw import Raw, handshake
from tests.harness import Server

SECRET = "0123456789abcdef0123456789abcdef"


async def address(directory: Path, trusted: str, peer: str, forwarded: str) -> str:
    environ = {
        "NOTIFIER_JWT_SECRET": SECRET,
        "NOTIFIER_API_KEYS": f"shop:{SECRET}",
        "NOTIFIER_ENGINE": f"sqlite:///{directory}/notifier.db",
        "NOTIFIER_TRUSTED_PROXIES": trusted,
    }
    return Parts(load_settings(environ)).door.address(peer, forwarded)


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "expected"),
    [
        ("", "192.0.2.7", "198.51.100.1", "192.0.2.7"),
        ("10.0.0.0/8", "192.0.2.7", "198.51.100.1", "192.0.2.7"),
        ("10.0.0.0/8", "10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.0/8", "10.1.2.3", "203.0.113.5, 198.51.100.1, 10.9.9.9", "198.51.100.1"),
        ("10.0.0.0/8", "10.1.2.3", "nonsense", "10.1.2.3"),
        ("10.0.0.0/8", "10.1.2.3", "", "10.1.2.3"),
        ("2001:db8::/32", "2001:db8::1", "2001:db9::7", "2001:db9::7"),
        ("", "::ffff:192.0.2.7", "", "192.0.2.7"),
        ("10.0.0.0/8", "::ffff:10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:198.51.100.1, ::ffff:10.9.9.9", "198.51.100.1"),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("::ffff:10.1.2.3", "10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("::/0", "::ffff:10.1.2.3", "198.51.100.1", "10.1.2.3"),
    ],
)
async def test_whose_request_it_is(tmp_path: Path, trusted: str, peer: str, forwarded: str, expected: str) -> None:
    """A listener for both families sees IPv4 peers as ::ffff:…: they are the addresses that an operator lists."""
    assert await address(tmp_path, trusted, peer, forwarded) == expected


def test_behind_a_listener_for_both_families(make_server: Callable[..., Server]) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    server = make_server(host="::", trusted_proxies="127.0.0.1")
    with Raw(server) as client:
        client.ask(handshake(server, "x", X_Forwarded_For="198.51.100.1"))
    assert '"address": "198.51.100.1"' in server.log
