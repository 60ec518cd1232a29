"""Cuts the code of a recipe out of its page, and runs it beside a `notifier dev`, as the page tells its reader to."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from urllib.request import Request, urlopen

from playwright.sync_api import Browser, Page

from tests.cli.command import ROOT
from tests.cli.development import Development

RECIPES = ROOT / "docs" / "recipes"
SHARED = ("application.py", "page.js")


def files_of(page: str) -> dict[str, str]:
    """The files of a page: each a name in backquotes on a line of its own, followed by a block of code."""
    text = (RECIPES / page).read_text()
    return dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def commands_of(page: str) -> list[str]:
    """The lines that a reader pastes into a terminal."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (RECIPES / page).read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


class Kitchen:
    """A directory with `notifier dev` and the application of one recipe; both run."""

    def __init__(self, directory: Path, recipe: str, browser: Browser, **variables: str) -> None:
        self.dev = Development(directory)
        self.recipe = recipe
        self._browser = browser
        self._variables = variables
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.dev)
        for name, text in (files_of("README.md") | files_of(self.recipe)).items():
            (self.dev.directory / name).write_text(text)
        self._start_application()
        # Tabs of one context are tabs of one browser window.
        self._context = self._browser.new_context()
        self._stack.callback(self._context.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_application(self) -> None:
        (command,) = commands_of("README.md")
        self.log = self._stack.enter_context((self.dev.directory / "app.log").open("w+"))
        app = subprocess.Popen(
            f".venv/bin/{command}".split(),
            cwd=self.dev.directory,
            env=self.dev.environment | {"PORT": "0"} | self._variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self._stack.enter_context(app)
        self._stack.callback(app.kill)
        assert app.stdout is not None
        address = app.stdout.readline().strip()
        assert address.endswith("/?user=alice"), self.app_log()
        self.url = address.removesuffix("/?user=alice")

    def app_log(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def open(self, user: str, before: Callable[[Page], None] | None = None) -> Page:
        """A new tab with the page of this user. An error in its script fails the test at once."""
        tab = self._context.new_page()
        tab.set_default_timeout(30_000)
        errors: list[str] = []
        self._stack.callback(self._no_errors, errors)
        tab.add_init_script("Math.random = () => 0.05;")  # the luckiest jitter: tests need not wait for the others
        tab.on("pageerror", lambda error: errors.append(str(error)))
        if before is not None:
            before(tab)
        tab.goto(f"{self.url}/?user={quote(user)}")
        return tab

    @staticmethod
    def _no_errors(errors: list[str]) -> None:
        assert errors == []

    def paste(self, command: str) -> Any:
        """A command of the page, in a terminal; its output as JSON."""
        command = command.replace("http://127.0.0.1:8080", self.url).replace("http://127.0.0.1:8000", self.dev.url)
        done = self.dev.paste(f"KEY={self.dev.value('API key')}; {command}")
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def post(self, path: str, user: str, **body: object) -> tuple[int, Any]:
        """What a page's `ask` does."""
        request = Request(f"{self.url}{path}?user={quote(user)}", json.dumps(body).encode())
        with urlopen(request, timeout=40) as answer:
            return answer.status, json.load(answer)

    def server(self, path: str) -> Any:
        """A question to Notifier itself."""
        request = Request(f"{self.dev.url}{path}", headers={"X-API-Key": self.dev.value("API key")})
        with urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def until(self, condition: Callable[[], bool], within_s: float = 30.0) -> None:
        """Wait for something in another process that tells no event."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, self.app_log()
            time.sleep(0.02)


def wait_for_text(tab: Page, id: str, text: str) -> None:
    """Until the element shows exactly this."""
    tab.wait_for_function("([id, text]) => document.getElementById(id).innerText.trim() === text", arg=[id, text])


def items(tab: Page, id: str) -> list[str]:
    return tab.locator(f"#{id} li").all_inner_texts()


def wait_for_items(tab: Page, id: str, texts: list[str]) -> None:
    """Until the list shows exactly these."""
    condition = (
        "([id, texts]) => JSON.stringify([...document.getElementById(id).children].map((e) => e.innerText)) === texts"
    )
    tab.wait_for_function(condition, arg=[id, json.dumps(texts, ensure_ascii=False, separators=(",", ":"))])
