"""What the publish suites share: a calm server, and one whose wakes go wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Response, Server, request

LIMIT = 12
MAX_BODY = 2_000
_numbers = count(1)


def name(prefix: str = "client") -> str:
    """A client_id of the test's own."""
    return f"{prefix}-{next(_numbers)}"


class Publisher:
    """A server, and whether what its answers say of live connections can be relied on."""

    def __init__(self, server: Server, calm: bool) -> None:
        self.server = server
        self.calm = calm

    def post(self, path: str, body: object = None, **options: Any) -> Response:
        return request(self.server, "POST", path, body, **options)

    def get(self, path: str, **options: Any) -> Response:
        return request(self.server, "GET", path, **options)

    def notify(self, client_id: str, data: object = 1, *, wait: int | None = None, **fields: Any) -> Response:
        body = {"client_id": client_id, "data": data} | fields
        return self.post("/notify" if wait is None else f"/notify?wait={wait}", body)

    def purge(self, client_id: str) -> None:
        assert request(self.server, "DELETE", f"/clients/{client_id}/notifications").status == 200

    def is_live(self, answer: Response, connections: int, status: str = "sent") -> bool:
        """What is said of live connections; a wake that goes wrong leaves them out."""
        said = (answer.body["status"], answer.body["connections"])
        return said == (status, connections) or (not self.calm and answer.body["status"] in ("sent", "queued"))


METRICS_KEY = "metrics-secret-0123456789abc"


def make_publisher(directory: Path, calm: bool, **settings: Any) -> Iterator[Publisher]:
    command = None if calm else [sys.executable, "-m", "tests.harness.chaos_server"]
    limits = {"mailbox_limit": LIMIT, "max_body_bytes": MAX_BODY, "durability": "page_cache"}
    server = Server(directory, command=command, **(limits | settings))
    server.set(api_keys=f"test:{server.key}:notify+metrics+admin,metrics:{METRICS_KEY}:metrics")
    with server:
        yield Publisher(server, calm and not os.environ.get("WAKE_CHAOS"))


@pytest.fixture(scope="module", params=["calm", "wakes that go wrong"])
def publisher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    """For what has to do with delivery: everything holds with wakes that are lost, doubled and late."""
    yield from make_publisher(tmp_path_factory.mktemp("publish"), request.param == "calm")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    """For what is decided before anything is stored."""
    yield from make_publisher(tmp_path_factory.mktemp("door"), calm=True)


def problem(answer: Response, status: int, code: str) -> list[str]:
    """It is this problem, told as RFC 9457 wants it; the fields that it names."""
    assert (answer.status, answer.body.get("code")) == (status, code), answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body["type"] == f"/docs/errors#{code}"
    assert answer.body["status"] == status
    assert answer.body["title"]
    assert answer.body["detail"]
    for error in answer.body.get("errors", ()):
        assert error["message"]
    return [error["field"] for error in answer.body.get("errors", ())]


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
