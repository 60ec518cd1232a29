"""The worlds that the conformance suite runs in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.world import World


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "limits(**limits): what the engine of this test is opened with")


KINDS = ("file", "memory", "two", "chaos")


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """An engine that runs; `@pytest.mark.limits(mailbox_limit=2)` sets its limits."""
    marker = request.node.get_closest_marker("limits")
    world = await World(request.param, tmp_path, **(marker.kwargs if marker else {})).start()
    yield world
    await world.stop()


@pytest.fixture(params=[kind for kind in KINDS if kind != "memory"])
async def stored(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """An engine whose mail outlives it."""
    marker = request.node.get_closest_marker("limits")
    world = await World(request.param, tmp_path, **(marker.kwargs if marker else {})).start()
    yield world
    await world.stop()


@pytest.fixture
def a_world(tmp_path: Path) -> Callable[..., World]:
    """A world that the test starts and stops itself."""

    def make(kind: str = "file", **limits: Any) -> World:
        return World(kind, tmp_path, **limits)

    return make
