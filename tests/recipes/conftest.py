"""A real Chromium, and a kitchen for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import FLAGS
from tests.harness import need
from tests.recipes.kitchen import Kitchen


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    path = need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def cook(chromium: Browser, tmp_path: Path) -> Iterator[Callable[..., Kitchen]]:
    """`cook("notification-bell.md")`: its application and a development server, running."""
    with ExitStack() as stack:
        yield lambda recipe, **variables: stack.enter_context(Kitchen(tmp_path, recipe, chromium, **variables))
