"""Servers for hostile tests, and what every one of them must show afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.door.health import unharmed
from tests.door.watching import Observed


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """One server for a file of hostile tests: it has to survive them all."""
    settings = {"heartbeat_seconds": 1, "heartbeat_timeout_seconds": 5, "mailbox_bytes": "64MiB"}
    with Observed(tmp_path_factory.mktemp("door"), **settings) as server:
        before = server.held
        yield server
        unharmed(server)
        server.comes_back_to(before, 15, objects=True)
