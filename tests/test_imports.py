"""Imports point one way, and files stay small: what docs/architecture.md says about the layout, kept true."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "notifier"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

LAYERS = (
    ("cli",),
    ("server",),
    ("app",),
    ("web", "transport"),
    ("node",),
    ("hub", "diagnosis", "metrics"),
    ("session",),
    ("conversation", "protocol"),
    ("engine", "auth", "settings", "settings_checks", "settings_sources"),
    ("clock", "fields", "logs", "strictjson"),
    ("errors",),
)
"""From the top down: a module imports only what stands beside or below it."""
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

PURE = ("session", "conversation", "protocol", "errors", "strictjson", "fields", "hub")
"""No I/O in these, so nothing that does any."""
IO = {"asyncio", "socket", "threading", "apsw", "uvicorn", "httptools", "fastapi", "starlette", "httpx2", "os"}


def layer(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> Iterator[str]:
    """Every module that `path` imports, also within functions; those for type checking only are left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and isinstance(test.test, ast.Name) and test.test.id == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "notifier":
                yield from (f"notifier.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    own = layer(path)
    if own in ("__init__", "client"):
        return  # the client is a program of its own, tested below
    for name in imports(path):
        if name.startswith("notifier."):
            other = name.split(".")[1]
            if other == "client":
                assert own == "cli", f"{own} imports the client"
            else:
                assert RANK[own] <= RANK[other], f"{own} imports {other}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "client").glob("*.py")), ids=lambda path: path.name)
def test_the_client_knows_nothing_of_the_server(path: Path) -> None:
    for name in imports(path):
        assert not name.startswith("notifier.") or name.startswith("notifier.client"), name


@pytest.mark.parametrize("module", PURE)
def test_what_is_pure_imports_nothing_that_does_io(module: str) -> None:
    assert not IO & {name.split(".")[0] for name in imports(PACKAGE / f"{module}.py")}


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("apsw", {"engine", "cli"}),  # `notifier backup` is a second process on the same file
        ("fastapi", {"app", "web"}),
        ("starlette", {"app", "web"}),
        ("uvicorn", {"server"}),
        ("httptools", {"transport"}),
        ("jwt", {"auth"}),
        ("pydantic_settings", {"settings", "settings_sources"}),
        ("prometheus_client", {"metrics"}),
        ("typer", {"cli"}),
        ("rich", {"cli"}),
    ],
)
def test_a_library_has_its_places(library: str, homes: set[str]) -> None:
    users = {layer(path) for path in MODULES if any(name.split(".")[0] == library for name in imports(path))}
    assert users, f"nothing uses {library}: drop it"
    assert users <= homes


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_has_more_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
