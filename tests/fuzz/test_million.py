"""A hundredth of million.py."""

from __future__ import annotations

import pytest

from tests.fuzz.million import TARGETS, run


@pytest.mark.parametrize("name", TARGETS)
def test_random_changes_to_good_input(name: str) -> None:
    run(name, 10_000, seed=1)
