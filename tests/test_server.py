"""What the process asks of the system at its start."""

from __future__ import annotations

import resource

import pytest
from structlog.testing import capture_logs

from notifier import server


@pytest.mark.parametrize("error", [ValueError("not allowed to raise maximum limit"), PermissionError(1, "no")])
def test_a_limit_of_open_files_that_may_not_be_raised_stays_as_it_is(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seccomp filter may refuse it, with the unit of deploy/ or in a container."""
    asked = []

    def refuse(what: int, limits: tuple[int, int]) -> None:
        asked.append((what, limits))
        raise error

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with capture_logs() as logs:
        server._raise_file_limit()
    assert asked == [(resource.RLIMIT_NOFILE, (4096, 4096))]
    assert [(entry["event"], entry["log_level"], entry["open_files"]) for entry in logs] == [
        ("file_limit_not_raised", "warning", 1024)
    ]
