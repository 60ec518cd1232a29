"""Fixtures for all tests: real servers, and their logs when a test fails."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.harness import Server
from tests.harness.server import COMPILED

# No test fails because the machine was slow, and what failed can be repeated.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("tests")

# A shell starts what it puts in the background with SIGINT ignored, and that is inherited: what tests end by it would
# live on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`make_server(max_inflight=4)` starts a server; each has a directory of its own unless it is given."""
    made: list[Server] = []

    def make(directory: Path | None = None, **options: Any) -> Server:
        server = Server(directory or tmp_path / f"server{len(made)}", **options)
        made.append(server)
        return server.start()

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of one's own."""
    with Server(tmp_path / "server") as running:
        yield running


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that need no settings and use client_ids of their own."""
    with Server(tmp_path_factory.mktemp("shared")) as running:
        yield running


def pytest_report_header() -> str:
    return "servers under test: " + ("compiled" if COMPILED else "interpreted (TEST_COMPILED=1 after `make compiled`)")


LONGEST_FIRST = ("test_crash.py", "test_good_citizens.py", "test_documentation.py", "test_limits.py")
"""Files run side by side (`make test`): the long ones begin first, so that none is left over at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.name
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for server in list(Server.live):
            report.sections.append((f"log of the server on port {server.port}", server.tail()))
    return report
