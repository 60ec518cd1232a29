"""A bare EventSource in Chromium, without a line of code that acknowledges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.harness import Server, publish, request

LISTEN = """([url, names]) => {
  window.seqs = [];
  window.times = {};
  window.frames_ = [];
  window.source = new EventSource(url);
  const note = (event) => {
    const frame = JSON.parse(event.data);
    window.frames_.push(event.type + ":" + frame.type);
    if (frame.type !== "notification") return;
    if (event.lastEventId !== String(frame.seq)) throw new Error("another id");
    seqs.push(frame.seq);
    times[frame.seq] = (times[frame.seq] || 0) + 1;
  };
  for (const name of ["message", "notifier", ...names]) source.addEventListener(name, note);
}"""


@pytest.fixture
def server(site: int, tmp_path: Path) -> Iterator[Server]:
    origin = f"http://127.0.0.1:{site}"
    settings = {"query_token": True, "allowed_origins": origin, "mailbox_limit": 20_000, "max_inflight": 2_000}
    with Server(tmp_path, **settings, mailbox_bytes=64 * 1024 * 1024, drain_seconds=0.5) as running:
        yield running


def listen(page: Page, server: Server, client_id: str, *names: str) -> None:
    url = f"{server.url}/events?access_token={server.token(client_id)}"
    page.evaluate(LISTEN, [url, list(names)])


def batch(server: Server, client_id: str, count: int) -> list[int]:
    items = [{"client_id": client_id, "data": {"n": n}} for n in range(count)]
    answer = request(server, "POST", "/batch", items)
    assert answer.headers["notifier-rejected"] == "0"
    return [item["seq"] for item in answer.body]


def test_ten_thousand_and_none_lost(server: Server, page: Page) -> None:
    sent: list[int] = []
    for _ in range(3):
        sent += batch(server, "alice", 1000)
    listen(page, server, "alice")
    for _ in range(7):
        sent += batch(server, "alice", 1000)
    page.wait_for_function("seqs.length >= 10000", timeout=60_000)
    assert page.evaluate("seqs") == sent, "each once, in order"
    page.wait_for_function("source.readyState === 1")  # its last request may still be on its way


def test_named_events_and_control_frames(server: Server, page: Page) -> None:
    publish(server, client_id="alice", data=1)
    listen(page, server, "alice", "invoice.paid")
    publish(server, client_id="alice", data=2, event="invoice.paid")
    page.wait_for_function("seqs.length === 2")
    told = page.evaluate("frames_")
    assert told == ["notifier:welcome", "message:notification", "invoice.paid:notification"]


def test_a_server_that_is_killed_loses_nothing(server: Server, page: Page) -> None:
    listen(page, server, "alice")
    sent = batch(server, "alice", 100)
    page.wait_for_function("seqs.length === 100")
    server.kill()
    page.wait_for_function("source.readyState === 0")
    server.start()
    sent += batch(server, "alice", 100)
    page.wait_for_function("seqs.length >= 200", timeout=30_000)
    assert page.evaluate("seqs") == sent, "its last id has settled what it had"


def test_a_refused_one_gives_up(server: Server, page: Page) -> None:
    page.evaluate(LISTEN, [f"{server.url}/events?access_token={server.token('alice', ttl=-60)}", []])
    page.wait_for_function("source.readyState === 2")


def test_drained_it_comes_back(server: Server, page: Page) -> None:
    listen(page, server, "alice")
    sent = batch(server, "alice", 1)
    page.wait_for_function("seqs.length === 1")
    assert server.terminate() == 0
    assert page.evaluate("frames_").count("notifier:reconnect") >= 1
    server.start()
    sent += batch(server, "alice", 1)
    page.wait_for_function("seqs.length === 2", timeout=30_000)
    assert page.evaluate("seqs") == sent
