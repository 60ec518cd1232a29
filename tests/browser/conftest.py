"""A real Chromium, and a page in it that comes from another port than the server under test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.harness import need

PAGE = (Path(__file__).with_name("page.html")).read_bytes()
FOREIGN_HOST = "evil.example"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A page of another site, without a name server.
    f"--host-resolver-rules=MAP {FOREIGN_HOST} 127.0.0.1",
]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    chromium = need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="package")
def site() -> Iterator[int]:
    """The port of a web site whose every page is page.html."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="package")
def tab(browser: Browser) -> Page:
    return browser.new_page()


@pytest.fixture
def page(tab: Page, site: int) -> Page:
    """A page of http://127.0.0.1, freshly loaded: what was open in the one before is gone."""
    tab.goto(f"http://127.0.0.1:{site}/")
    return tab
