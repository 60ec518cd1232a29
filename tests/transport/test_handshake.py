"""What a handshake says, and who may have a session when it has been decided."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from notifier.auth.tokens import Identity
from notifier.engine.base import MailboxState
from notifier.errors import BadHandshake, Draining, NotifierError, Overloaded, UpgradeRequired
from notifier.transport.admission import Caller, examine
from notifier.transport.handshake import Hello, read
from notifier.transport.origins import Origins
from notifier.transport.request import Head, Request

GOOD = {
    "host": "notify.example:8000",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def said(**headers: str) -> Hello:
    head = Head()
    head.method, head.path = "GET", b"/ws"
    sent = GOOD | {name.replace("_", "-"): value for name, value in headers.items()}
    head.headers = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
    return read(Request(None, 0.0, head), False)  # type: ignore[arg-type]


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, websocket", "websocket ,h2c"])
def test_websocket_is_one_of_what_is_offered(upgrade: str) -> None:
    """RFC 6455 §4.2.1: containing the value "websocket"."""
    assert said(upgrade=upgrade).host == GOOD["host"]


@pytest.mark.parametrize("upgrade", ["", "h2c", "websockets", "h2c websocket", "websocket/13"])
def test_nothing_else_is(upgrade: str) -> None:
    with pytest.raises(UpgradeRequired):
        said(upgrade=upgrade)


@pytest.mark.parametrize("host", ["[::1", "a:b", "a:b:c", "a:99999", "a/b", "a?b", "a#b", "u@a"])
@pytest.mark.parametrize("headers", [{}, {"origin": "http://a"}])
def test_a_host_that_is_none_is_malformed(host: str, headers: dict[str, str]) -> None:
    with pytest.raises(BadHandshake):
        said(host=host, **headers)


@pytest.mark.parametrize("host", ["a", "a:", "a:0", "[::1]:8000", "127.0.0.1", ""])
def test_other_hosts_are_not(host: str) -> None:
    assert said(host=host).host == host


# -- admission --------------------------------------------------------------------------------------------------------


class Waiting:
    """A door whose verifier has to fetch keys first."""

    def __init__(self) -> None:
        self.done: Callable[[Identity | NotifierError], None] | None = None
        self.outcome: list[Any] = []
        self.node = SimpleNamespace(
            draining=False,
            hub=SimpleNamespace(connections=0),
            admit=lambda identity, done: done(MailboxState(0, None, None)),
        )
        self.door: Any = SimpleNamespace(
            node=self.node, max_connections=2, origins=Origins(()), verifier=SimpleNamespace(verify=self._verify)
        )

    def _verify(self, token: str, done: Callable[[Identity | NotifierError], None]) -> None:
        self.done = done

    def examine(self, connecting: bool = True) -> None:
        examine(
            self.door,
            Caller(None, "", "token", ""),
            lambda identity, state: self.outcome.append(identity.client_id),
            lambda error, client_id: self.outcome.append((type(error), client_id)),
            connecting=connecting,
        )

    def fetched(self) -> list[Any]:
        assert self.done is not None
        assert self.outcome == []
        self.done(Identity("alice", 2e9, None, ()))
        return self.outcome


def test_the_limit_of_connections_holds_for_those_who_waited_for_keys() -> None:
    scene = Waiting()
    scene.examine()
    scene.node.hub.connections = 2
    assert scene.fetched() == [(Overloaded, "alice")]


def test_who_waited_for_keys_while_the_node_began_to_drain_is_sent_elsewhere() -> None:
    scene = Waiting()
    scene.examine()
    scene.node.draining = True
    assert scene.fetched() == [(Draining, "alice")]


def test_who_wants_no_session_needs_no_room() -> None:
    scene = Waiting()
    scene.examine(connecting=False)
    scene.node.draining, scene.node.hub.connections = True, 2
    assert scene.fetched() == ["alice"]
