"""One server for the tests of event streams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A small window, quick heartbeats, tokens in queries."""
    with Server(
        tmp_path_factory.mktemp("sse"),
        max_inflight=4,
        heartbeat_seconds=0.5,
        heartbeat_timeout_seconds=1,
        query_token=True,
        jwt_leeway_seconds=0,
        allowed_origins="https://app.example,https://*.apps.example",
        max_body_bytes=400_000,
        mailbox_bytes=64 * 1024 * 1024,
    ) as running:
        yield running
