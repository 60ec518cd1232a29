"""The shape of the package: who may know whom, which library is used where, and how long a file may be.

    cli → server → app → web → transport → node → hub → session → codec → protocol
    engine/*, auth/* and client/* know nothing of all that

An import the other way round makes a circle that somebody has to think through; this test says so before he has to.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Server

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "notifier"
MAX_LINES = 400

GROUND = {"errors", "fields", "clock", "strictjson"}
VALUES = GROUND | {"engine.base", "auth.tokens"}
CONVERSATION = VALUES | {"protocol", "codec", "conversation", "proofs"}
NODE = CONVERSATION | {"session", "hub", "metrics", "diagnosis", "fanout", "node"}
CARRIED = NODE | {"transport", "logs"}
SETTINGS = {"settings", "settings_checks", "settings_sources"}

MAY_KNOW: dict[str, set[str]] = {
    # What everything stands on.
    "errors": set(),
    "fields": set(),
    "logs": set(),
    "clock": {"errors"},
    "strictjson": {"errors"},
    # Storage and identity, which know nothing of each other, of nodes or of carriers.
    "engine": {"engine", "errors", "clock", "logs"},
    "auth": {"auth", *GROUND},
    # The conversation: values only.
    "protocol": {"engine.base"},
    "codec": {"errors", "strictjson", "engine.base", "protocol"},
    "conversation": {"engine.base"},
    "proofs": {"codec", "conversation", "engine.base", "protocol"},
    "session": CONVERSATION,
    "hub": {"session"},
    "fanout": {"diagnosis", "engine.base", "errors", "hub", "metrics"},
    # Where engine and hub meet. It knows an engine's contract and no engine.
    "metrics": {"engine.base", "errors"},
    "diagnosis": {"engine.base", "clock"},
    "node": NODE,
    # What the network meets, and what is asked over HTTP.
    "transport": CARRIED,
    "web": CARRIED | {"web", "auth.apikeys"},
    # The process.
    "settings": SETTINGS | {"auth.keys", "auth.apikeys", "errors"},
    "app": CARRIED | {"web", "engine", "auth", *SETTINGS},
    "server": CARRIED | {"app", *SETTINGS},
    # A command, and a program that only has our address.
    "cli": {"cli", "client", "server", "errors", "fields", "auth", *SETTINGS},
    "client": {"client"},
}

EXCEPTIONS = {
    ("cli.backup", "engine"): "copies the engine's file beside a server that runs",
}

LIBRARIES: dict[str, set[str]] = {
    "fastapi": {"app", "web"},
    "starlette": {"app", "web"},
    "uvicorn": {"server"},
    "uvloop": {"server"},
    "httptools": {"transport.http", "transport.heads"},
    "apsw": {"engine.writer", "cli.backup"},
    "jwt": {"auth"},
    "cryptography": {"auth"},
    "prometheus_client": {"metrics"},
    "pydantic": SETTINGS,
    "pydantic_settings": SETTINGS,
    "annotated_types": SETTINGS,
    "typer": {"cli"},
    "rich": {"cli"},
    "websockets": {"client", "transport.frames"},
    "httpx2": {"client", "auth.jwks"},
    "structlog": {"logs", "server", "node", "transport", "auth", "engine", "web", "app"},
    "msgspec": {"engine", "auth", "protocol", "codec", "strictjson", "transport", "web", "client", "cli"},
}

NO_IO = ("errors", "fields", "strictjson", "protocol", "codec", "conversation", "session", "hub")
IO = {"asyncio", "socket", "ssl", "select", "selectors", "threading", "queue", "subprocess", "os", "io", "time", "http",
      "signal", "pathlib", "tempfile", "sqlite3", "logging"}  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        yield name, path


def imports(name: str, path: Path) -> Iterator[str]:
    """What a module imports, by full name; also within functions and for types only."""
    here = ["notifier", *name.split(".")] if name else ["notifier"]
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            whole = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                inner = f"{whole}.{alias.name}"
                is_module = (ROOT / Path(*inner.split("."))).with_suffix(".py").exists()
                yield inner if is_module or (ROOT / Path(*inner.split("."))).is_dir() else whole


def within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


ALL = dict(modules())
NAMES = [name for name in ALL if name]


@pytest.mark.parametrize("name", NAMES)
def test_imports_point_one_way(name: str) -> None:
    area = name if name in MAY_KNOW else name.split(".")[0]
    area = "settings" if area in SETTINGS else area
    assert area in MAY_KNOW, f"where does {name} belong? Say so in MAY_KNOW"
    for imported in imports(name, ALL[name]):
        if imported.split(".")[0] != "notifier":
            continue
        known = imported.partition(".")[2]
        excepted = any(name == who and within(known, {what}) for who, what in EXCEPTIONS)
        assert excepted or not known or within(known, MAY_KNOW[area]), f"{name} must not know {known}"


@pytest.mark.parametrize("name", NAMES)
def test_a_library_is_used_where_it_belongs(name: str) -> None:
    for imported in imports(name, ALL[name]):
        library = imported.split(".")[0]
        if library == "notifier" or library in sys.stdlib_module_names:
            continue
        assert library in LIBRARIES, f"{library} is new: say in LIBRARIES where it may be used"
        assert within(name, LIBRARIES[library]), f"{name} must not use {library}"


@pytest.mark.parametrize("name", NO_IO)
def test_values_do_no_io(name: str) -> None:
    used = {imported.split(".")[0] for imported in imports(name, ALL[name])}
    assert not used & IO


@pytest.mark.parametrize(("who", "what"), EXCEPTIONS)
def test_an_exception_is_still_one(who: str, what: str) -> None:
    known = {imported.partition(".")[2] for imported in imports(who, ALL[who])}
    assert any(within(name, {what}) for name in known), "not needed any more"


def compiled() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return list(project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["include"])


@pytest.mark.parametrize("path", compiled())
def test_what_is_compiled_defines_no_msgspec_type(path: str) -> None:
    """mypyc drops the keywords of a class statement without a word, and with them what msgspec is told there."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            assert "Struct" not in bases, node.name
            assert not node.keywords, node.name


@pytest.mark.parametrize("path", compiled())
def test_what_is_compiled_has_no_function_within_a_function(path: str) -> None:
    """Compiled, such a function and what it closes over hold each other: garbage that only the collector finds, with a
    whole batch of mail in it. (A lambda has no name there to be held by.)"""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [
                n for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n is not node
            ]
            assert not inner, f"{node.name}: {[n.name for n in inner]}"


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in ALL.values()])
def test_no_file_is_longer_than_can_be_read_at_once(path: str) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= MAX_LINES


def test_a_start_loads_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    """Loading is most of the start. FastAPI loads pydantic.v1 as soon as a route has a parameter or a model of its own:
    take them from the request, and answer with `views.answer`."""
    with Server(tmp_path, environ={"PYTHONPROFILEIMPORTTIME": "1"}) as server:
        lines = server.log.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert {"fastapi", "pydantic"} <= loaded
    assert not {"typer", "pydantic.v1"} & loaded


def test_what_is_read_here_is_what_is_imported() -> None:
    """The reader of imports itself: relative ones, modules and names."""
    assert "notifier.errors" in set(imports("session", ALL["session"]))
    assert "notifier.protocol" in set(imports("session", ALL["session"]))
    assert "notifier.cli.output" in set(imports("cli.send", ALL["cli.send"]))
    assert "fastapi" in set(imports("app", ALL["app"]))
