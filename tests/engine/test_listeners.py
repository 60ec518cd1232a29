"""What a listener does wrong is no harm to what is stored, nor to whoever else waits for the same commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from notifier.engine.base import AckedBy, Appended, EndReason, Handed, Listener, Losses, Notification
from tests.engine.world import Ended, Settled, Wake, World


class Defective(Listener):
    """Cannot stand alice."""

    def wake(self, notification: Notification, after: int) -> Handed:
        return Handed(1, self._stand(notification.client_id))

    def settled(
        self, client_id: str, seq: int, acked_by: AckedBy, seqs: Sequence[int], live: list[int], at_us: int
    ) -> None:
        self._stand(client_id)

    def ended(self, client_id: str, reason: EndReason, seqs: Sequence[int], losses: Losses | None) -> None:
        self._stand(client_id)

    def _stand(self, client_id: str) -> int:
        if client_id == "alice":
            raise ValueError("what a client sent")
        return 1


@pytest.fixture
def defective(world: World) -> World:
    """Its first listener is."""
    world.engine._listeners.insert(0, Defective())
    return world


async def test_everybody_is_told_though_a_listener_fails(defective: World, capsys: pytest.CaptureFixture[str]) -> None:
    world = defective
    drafts: list[Any] = [world.append("alice", collapse_key="k"), world.append("alice", collapse_key="k")]
    drafts += [world.append("bob"), world.append("alice", "a"), world.append("carol")]
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*drafts)
    assert all(isinstance(outcome, Appended) for outcome in outcomes)
    assert outcomes[2].taken == 1
    told = capsys.readouterr().out
    assert "listener_failed" in told
    assert "ValueError" in told
    assert "what a client sent" not in told
    settled = [world.ask(world.engine.acknowledge, name, outcomes[2].seq, "client") for name in ("alice", "bob")]
    purged = [world.ask(world.engine.purge, name, None) for name in ("alice", "carol")]
    assert await asyncio.gather(*settled, *purged) == [None, None, 1, 1]
    for name in ("alice", "bob", "carol"):
        assert world.heard(Wake, name)
    assert world.heard(Settled)
    assert world.heard(Ended)
    assert world.heard(Ended, "carol")
    assert world.engine.stats().pending == 0
    assert isinstance(await world.append(), Appended)
