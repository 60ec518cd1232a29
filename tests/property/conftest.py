"""Assertions in the world tell their values, like those of a test."""

import pytest

pytest.register_assert_rewrite("tests.property.world")
