"""The pages themselves: links lead somewhere, and no code in them escapes the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.recipes.kitchen import RECIPES, SHARED, commands_of, files_of

INDEX = RECIPES / "README.md"
PAGES = sorted(RECIPES.glob("*.md"))
RECIPE_PAGES = [page for page in PAGES if page != INDEX]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_every_recipe_is_in_the_index_and_has_a_test() -> None:
    assert sorted(re.findall(r"^\| \[.*?\]\((.*?)\)", INDEX.read_text(), re.MULTILINE)) == [
        p.name for p in RECIPE_PAGES
    ]
    for page in RECIPE_PAGES:
        test = Path(__file__).with_name(f"test_{page.stem.replace('-', '_')}.py")
        assert page.name in test.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_code_is_a_file_or_a_command(page: Path) -> None:
    assert tuple(files_of(page.name)) == (SHARED if page == INDEX else ("app.py", "index.html"))
    blocks = re.findall(r"^```(\w+)$", page.read_text(), re.MULTILINE)
    assert sum(language != "sh" for language in blocks) == 2
    assert all(command.startswith(("curl", "python")) for command in commands_of(page.name))
