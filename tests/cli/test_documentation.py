"""What the documentation says is what happens: its commands run, its client works in a browser, its tables are true."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

from notifier.settings import NAMES, Settings
from tests.cli.command import ROOT, notifier
from tests.cli.development import Development
from tests.harness import need

README = (ROOT / "README.md").read_text()
FRONTEND = (ROOT / "docs" / "frontend.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines_of(text: str) -> list[str]:
    return [line for block in blocks(text, "sh") for line in block.splitlines()]


# --- commands -----------------------------------------------------------------------------------------------------


def test_the_commands_of_the_readme_work_as_they_stand(tmp_path: Path) -> None:
    with Development(tmp_path) as dev:
        (listen,) = [line for line in lines_of(README) if "notifier listen" in line]
        rest = [line for line in lines_of(README) if line != listen and not line.startswith("make ")]
        assert sum("curl" in line for line in rest) == 1
        here = f"cd {tmp_path} && "
        with dev.paste_and_leave(here + listen) as listener:
            assert listener.stdout is not None
            assert listener.stderr is not None
            assert "connected as alice" in listener.stderr.readline()
            received = []
            for line in rest:
                command = line.replace("http://127.0.0.1:8000", dev.url)
                done = dev.paste(f"KEY={dev.value('API key')}; {here}{command}")
                assert (done.returncode, done.stdout == "") == (0, False), f"{line}\n{done.stdout}{done.stderr}"
                if "curl" in line or "send" in line:
                    received.append(listener.stdout.readline().split("  ", 1)[1])
            assert received == ['{"text":"Hello"}\n', '"Backup done"\n', 'invoice.paid  {"text":"Invoice paid"}\n']
            listener.send_signal(2)
            assert listener.wait(30) == 0


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [line.split()[1] for line in lines_of(README) if line.startswith("make ")]
    assert targets == ["run", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert "notifier dev" in makefile


def test_the_commands_of_the_publishing_page_work(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "publishing.md").read_text()
    (tmp_path / "events.ndjson").write_text('{"n": 1}\n{"n": 2}\n')
    with Development(tmp_path) as dev:
        for line in lines_of(page):
            command = line.replace("http://127.0.0.1:8000", dev.url).replace("tail -f", "cat")
            path = f"PATH={tmp_path}/.venv/bin:$PATH; KEY={dev.value('API key')}"
            done = dev.paste(f"cd {tmp_path}; {path}; {command}")
            assert (done.returncode, done.stderr if "curl" not in line else "") == (0, ""), f"{line}\n{done.stderr}"
        got = notifier("listen", "alice", "--count", "5", cwd=tmp_path)
        assert [line.split("  ")[-1] for line in got.out.splitlines()] == [
            '{"text":"Invoice paid"}',
            '"Backup done"',
            '{"text":"Invoice paid"}',
            '{"n":1}',
            '{"n":2}',
        ]


def test_the_question_of_the_operations_page_is_answered(tmp_path: Path) -> None:
    (line,) = [line for line in lines_of(OPERATIONS) if "/clients/alice" in line]
    with Development(tmp_path) as dev:
        done = dev.paste(f"KEY={dev.value('API key')}; {line.replace('http://127.0.0.1:8000', dev.url)}")
        assert json.loads(done.stdout)["why"][0]["cause"] == "nothing_sent"


def test_ci_runs_the_commands_of_the_readme_and_nothing_is_skipped_there() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script
    assert "export CI=true" in script
    assert re.findall(r"^make (\w+)", script, re.MULTILINE) == ["lint", "compiled", "test"]
    for tool in ("chromium", "strace", "nginx", "haproxy", "redis-server", "promtool"):
        assert f"[{tool}]" in script


# --- tables and links -----------------------------------------------------------------------------------------------


def test_the_settings_table_is_complete_and_its_defaults_are_true() -> None:
    section = OPERATIONS.split("## Settings", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", section, re.MULTILINE)
    assert tuple(name for name, _ in rows) == NAMES
    shown = Settings().masked()
    for name, default in rows:
        if default.startswith("`"):
            assert default.strip("`") == shown[f"NOTIFIER_{name}"], name
        elif name != "MAX_CONNECTIONS":
            assert shown[f"NOTIFIER_{name}"] == "", name


def test_the_readmes_table_repeats_true_defaults() -> None:
    table = README.split("| variable | default |", 1)[1].split("\n\n", 1)[0]
    shown = Settings().masked()
    checked = 0
    for line in table.splitlines()[2:]:
        cells = line.split(" | ")
        names, defaults = re.findall(r"`(NOTIFIER_\w+)`", cells[0]), re.findall(r"`(.*?)`", cells[1])
        for name, default in zip(names, defaults, strict=False):
            assert shown[name] == default, name
            checked += 1
    assert checked >= 7


def test_the_frontend_page_explains_every_close_code_of_the_protocol() -> None:
    protocol = (ROOT / "docs" / "protocol.md").read_text().split("| close | reason", 1)[1].split("\n\n", 1)[0]
    explained = FRONTEND.split("## What to do at each close code", 1)[1].split("\n## ", 1)[0]
    table = "\n".join(line for line in protocol.splitlines() if line.startswith("|"))
    for code in re.findall(r"\b\d{4}\b", table):
        assert code in explained, code
    for reason in re.findall(r"`([a-z_]{6,})`", table):
        assert reason in explained, reason


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_page_or_heading_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_the_changelog_knows_this_version(tmp_path: Path) -> None:
    version = notifier("version", "--json", cwd=tmp_path).json["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


# --- the browser client ---------------------------------------------------------------------------------------------


@contextmanager
def pages_on_another_port() -> Iterator[str]:
    """An empty page from another loopback origin, as an application's development server would be."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>page</title>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def in_a_browser(dev: Development, script: str, restart: bool) -> None:
    """Run the script in Chromium; it calls seen(data) for each: one queued, one live, one after a kill."""
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync"),
    ]
    with pages_on_another_port() as url:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=need("chromium"), args=options)
            try:
                page = await browser.new_page()
                await page.goto(url)
                await page.evaluate("() => { window.received = []; window.seen = (data) => received.push(data); }")
                send(dev, "queued")
                await page.add_script_tag(content=script)
                await until_received(page, ["queued"])
                send(dev, "live")
                await until_received(page, ["queued", "live"])
                if restart:
                    dev.kill()
                    dev.start()
                    send(dev, "after a restart")
                    await until_received(page, ["queued", "live", "after a restart"])
            finally:
                await browser.close()
    # Acknowledged: whoever connects next is told that nothing waits.
    send(dev, "last")
    assert notifier("listen", "alice", "--once", cwd=dev.directory).out.endswith('"last"\n')


def send(dev: Development, text: str) -> None:
    assert notifier("send", "alice", text, cwd=dev.directory).code == 0


async def until_received(page: Page, expected: list[str]) -> None:
    await page.wait_for_function("(n) => received.length >= n", arg=len(expected), timeout=40_000)
    assert await page.evaluate("received") == expected


def prepared(snippet: str, dev: Development) -> str:
    snippet = snippet.replace("ws://127.0.0.1:8000", f"ws://127.0.0.1:{dev.port}")
    return f"""const token = "{dev.value("Token for alice")}";
    const fetchToken = async () => token;
    const show = (data) => seen(data);
    {snippet}"""


async def test_the_ten_lines_of_the_readme_work_in_a_browser(tmp_path: Path) -> None:
    (snippet,) = blocks(README, "js")
    assert len(snippet.splitlines()) <= 13
    with Development(tmp_path) as dev:
        await in_a_browser(dev, prepared(snippet.replace("console.log(", "seen("), dev), restart=True)


async def test_the_ten_lines_of_the_frontend_page_work_in_a_browser(tmp_path: Path) -> None:
    with Development(tmp_path) as dev:
        await in_a_browser(dev, prepared(blocks(FRONTEND, "js")[0], dev), restart=False)


async def test_the_whole_client_of_the_frontend_page_works_in_a_browser(tmp_path: Path) -> None:
    client, call = blocks(FRONTEND, "js")[1:3]
    with Development(tmp_path) as dev:
        here = call.replace("wss://notify.example.com", f"ws://127.0.0.1:{dev.port}")
        await in_a_browser(dev, prepared(client + here, dev), restart=True)


async def test_the_event_source_of_the_frontend_page_works_in_a_browser(tmp_path: Path) -> None:
    (snippet,) = blocks(FRONTEND, "js")[3:]
    with Development(tmp_path, NOTIFIER_QUERY_TOKEN="true") as dev:
        await in_a_browser(dev, prepared(snippet.replace("http://127.0.0.1:8000", dev.url), dev), restart=True)


async def test_the_lines_that_dev_prints_for_a_browser_work_there(tmp_path: Path) -> None:
    with Development(tmp_path) as dev:
        script = "\n".join(line.strip() for line in dev.printed.splitlines() if line.startswith("    ws"))
        report = script.replace("console.log(JSON.parse(message.data))", "report(JSON.parse(message.data))")
        assert report != script
        report += '\nfunction report(frame) { if (frame.type === "notification") seen(frame.data); }'
        await in_a_browser(dev, report, restart=False)
