"""The registry of sessions: by client, by group, removed only by their owners."""

from __future__ import annotations

from notifier.auth.tokens import Identity
from notifier.conversation import Limits
from notifier.hub import Hub
from notifier.session import Session


class Registered:
    """As much of a carrier as the hub sees."""

    def __init__(self, client_id: str, *groups: str) -> None:
        self.session = Session("c", Identity(client_id, 2e9, 0.0, groups), "auto", Limits(1, 1, 1, 1), 0.0)


def hub_of(*carriers: Registered) -> Hub:
    hub = Hub()
    for carrier in carriers:
        hub.add(carrier)  # type: ignore[arg-type]
    return hub


def test_connections_of_a_client_oldest_first() -> None:
    first, second, third, other = Registered("alice"), Registered("alice"), Registered("alice"), Registered("bob")
    hub = hub_of(first, other, second, third)
    assert list(hub.of("alice")) == [first, second, third]
    assert list(hub.of("bob")) == [other]
    assert list(hub.of("nobody")) == []
    assert (hub.connections, hub.clients) == (4, 2)
    assert set(hub.client_ids()) == {"alice", "bob"}
    assert list(hub) == [first, second, third, other]


def test_a_late_close_does_not_unregister_the_successor() -> None:
    old, new = Registered("alice"), Registered("alice")
    hub = hub_of(old)
    assert hub.remove(old)  # type: ignore[arg-type]
    hub.add(new)  # type: ignore[arg-type]
    assert not hub.remove(old)  # type: ignore[arg-type]
    assert list(hub.of("alice")) == [new]
    assert hub.connections == 1


def test_removal_from_among_several() -> None:
    carriers = [Registered("alice", "g") for _ in range(3)]
    hub = hub_of(*carriers)
    for gone in (1, 0, 2):
        assert hub.remove(carriers[gone])  # type: ignore[arg-type]
        assert not hub.remove(carriers[gone])  # type: ignore[arg-type]
    assert (hub.connections, hub.clients, hub.client_ids(), hub.members("g")) == (0, 0, [], [])
    assert list(hub) == []


def test_pages_are_in_order_whoever_comes_and_goes() -> None:
    held = {name: Registered(name) for name in (f"client-{n * 7919 % 1009}" for n in range(1009))}
    hub = hub_of(*held.values(), Registered("client-5"))
    for name in list(held)[::3]:
        assert hub.remove(held.pop(name))  # type: ignore[arg-type]
    expected = sorted({*held, "client-5"})
    pages, after = [], ""
    while page := hub.page(after, 100):
        pages.append(page)
        after = page[-1]
    assert [name for page in pages for name in page] == expected == hub.client_ids()
    assert {len(page) for page in pages[:-1]} == {100}
    assert hub.page("client-5", 1) == [expected[expected.index("client-5") + 1]]
    assert hub.page("client-5\0", 1) == hub.page("client-5", 1), "a name that nobody has is a place, too"


def test_groups() -> None:
    both, one, none = Registered("alice", "a", "b"), Registered("bob", "a"), Registered("carol")
    hub = hub_of(both, one, none)
    assert set(hub.members("a")) == {both, one}
    assert hub.members("b") == [both]
    assert hub.members("c") == []
    hub.leave(both)  # type: ignore[arg-type]
    assert hub.members("a") == [one]
    hub.join(both)  # type: ignore[arg-type]
    assert set(hub.members("a")) == {both, one}


def test_what_is_iterated_may_be_changed_meanwhile() -> None:
    hub = hub_of(*(Registered("alice", "g") for _ in range(5)), *(Registered(f"c{n}", "g") for n in range(5)))
    for carrier in hub:
        hub.remove(carrier)
    assert hub.connections == 0
