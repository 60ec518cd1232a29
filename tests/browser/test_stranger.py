"""Somebody who has just started `notifier dev`, opens the console of a page, and pastes what it printed."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import FOREIGN_HOST
from tests.harness import Server


class Development:
    """`notifier dev`, and what it printed."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.printed = server.log
        self.key = self._value("API key")
        self.token = self._value("Token for alice")
        self.websocket = self._value("WebSocket")

    def _value(self, name: str) -> str:
        found = re.search(rf"^ *{re.escape(name)} +(\S+)", self.printed, re.MULTILINE)
        assert found is not None, self.printed
        return found[1]

    def lines(self, *starts: str) -> list[str]:
        """The lines to paste that begin with one of these."""
        lines = [line.strip() for line in self.printed.splitlines()]
        return [line for line in lines if line.startswith(starts)]

    def curl(self, text: str) -> None:
        """Paste the printed curl line, with another text, into a terminal."""
        (line,) = self.lines("curl")
        subprocess.run(
            ["bash", "-c", line.replace("Hello", text).replace("curl", "curl --fail --silent", 1)],
            check=True,
            timeout=20,
            capture_output=True,
        )


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Development]:
    with Server(tmp_path_factory.mktemp("dev"), argv=("dev",)) as server:
        yield Development(server)


CONVERSE = "([url, protocols]) => { window.talk = converse(url, protocols); }"


def texts(page: Page, count: int) -> list[str]:
    frames = page.evaluate(f"talk.next('notification', {count})")
    return [frame["data"]["text"] for frame in frames]


def test_what_dev_prints_for_a_browser_works_when_pasted(dev: Development, page: Page) -> None:
    pasted = dev.lines("ws")
    assert len(pasted) == 3, dev.printed
    with page.expect_console_message(lambda message: "welcome" in json.dumps(message.args[0].json_value())):
        page.evaluate("\n".join([*pasted, "null"]))
    with page.expect_console_message(lambda message: "pasted" in json.dumps(message.args[0].json_value())):
        dev.curl("pasted")


def test_a_bare_websocket_receives_a_live_and_a_queued_notification(dev: Development, page: Page) -> None:
    hello = [dev.websocket, ["notifier.v1", f"bearer.{dev.token}"]]
    page.evaluate(CONVERSE, hello)
    (welcome,) = page.evaluate("talk.next('welcome')")
    assert welcome["client_id"] == "alice"
    dev.curl("live")  # before it, maybe, what the page before has not proven yet: `pending` is a hint
    page.wait_for_function("talk.frames.some((frame) => frame.type === 'notification' && frame.data.text === 'live')")

    page.evaluate("talk.socket.close()")
    closed = page.evaluate("talk.closed")
    assert (closed["wasClean"], closed["protocol"]) == (True, "notifier.v1")
    dev.curl("queued")
    page.evaluate(CONVERSE, hello)
    assert texts(page, 1) == ["queued"], "what was live is settled by the browser's own pong"


@pytest.mark.parametrize("protocols", [["bearer.wrong"], ["bearer.a.b.c"], []], ids=["wrong", "like a JWT", "none"])
def test_a_wrong_token_shows_4401_in_javascript(dev: Development, page: Page, protocols: list[str]) -> None:
    page.evaluate(CONVERSE, [dev.websocket, ["notifier.v1", *protocols]])
    closed = page.evaluate("talk.closed")
    reason = "token_invalid" if protocols else "token_missing"
    assert (closed["code"], closed["reason"], closed["wasClean"]) == (4401, reason, True)
    assert page.evaluate("talk.frames") == []


def test_a_forbidden_origin_shows_4403_in_javascript(dev: Development, page: Page, site: int) -> None:
    page.goto(f"http://{FOREIGN_HOST}:{site}/")
    assert page.evaluate("origin") == f"http://{FOREIGN_HOST}:{site}"
    page.evaluate(CONVERSE, [dev.websocket, ["notifier.v1", f"bearer.{dev.token}"]])
    closed = page.evaluate("talk.closed")
    assert (closed["code"], closed["reason"], closed["wasClean"]) == (4403, "forbidden_origin", True)
    assert page.evaluate("talk.frames") == []


def test_a_page_without_an_origin_of_its_own_is_forbidden(dev: Development, page: Page) -> None:
    """`Origin: null`: sandboxed frames, files."""
    page.evaluate(
        """() => new Promise((loaded) => {
             const frame = document.createElement("iframe");
             frame.sandbox = "allow-scripts";
             frame.src = "/";
             frame.onload = loaded;
             document.body.append(frame);
           })"""
    )
    frame = page.frames[1]
    assert frame.evaluate("origin") == "null"
    frame.evaluate(CONVERSE, [dev.websocket, ["notifier.v1", f"bearer.{dev.token}"]])
    closed = frame.evaluate("talk.closed")
    assert (closed["code"], closed["reason"]) == (4403, "forbidden_origin")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "app.localhost"])
def test_every_loopback_page_may_connect_to_dev(dev: Development, page: Page, site: int, host: str) -> None:
    page.goto(f"http://{host}:{site}/")
    page.evaluate(CONVERSE, [dev.websocket, ["notifier.v1", f"bearer.{dev.token}"]])
    assert page.evaluate("talk.next('welcome')")


def test_two_tabs_see_the_same_and_a_page_that_goes_away_says_1001(
    dev: Development, browser: Browser, page: Page, site: int
) -> None:
    hello = [dev.websocket, ["notifier.v1", f"bearer.{dev.token}"]]
    other = browser.new_page()
    for tab in (page, other):
        tab.goto(f"http://127.0.0.1:{site}/")
        tab.evaluate(CONVERSE, hello)
        tab.evaluate("talk.next('welcome')")
    dev.curl("both")
    assert texts(page, 1)[-1:] == texts(other, 1)[-1:] == ["both"]
    counter = 'notifier_connections_closed_total{code="1001",transport="websocket"}'
    before = dev.server.metrics().get(counter, 0.0)
    other.goto("about:blank")
    deadline = time.monotonic() + 10
    while dev.server.metrics().get(counter, 0.0) == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    other.close()


def test_nothing_secret_is_in_the_log(dev: Development) -> None:
    after = dev.server.log[len(dev.printed) :]
    assert dev.token not in after
    assert dev.key not in after
