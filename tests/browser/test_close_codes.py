"""The close-code table of docs/protocol.md §4, as Chromium's WebSocket tells it to a script."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import FOREIGN_HOST
from tests.e2e.closing import BY_PAGES, Case, Servers


@pytest.fixture(scope="module")
def servers(site: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("closing"), f"http://127.0.0.1:{site}", stack)


SAY = """(frames) => {
  for (const { text, bytes } of frames) {
    if (talk.socket.readyState === WebSocket.OPEN) talk.socket.send(bytes ? new Uint8Array(bytes) : text);
  }
}"""


@pytest.mark.parametrize("case", BY_PAGES, ids=lambda case: case.name)
def test_close(case: Case, servers: Servers, page: Page, site: int, request: pytest.FixtureRequest) -> None:
    client_id = f"alice {abs(hash(request.node.name))}"
    with servers.of(case) as server, ExitStack() as undo:
        if case.before is not None:
            case.before(server, client_id, undo)
        if case.foreign:
            page.goto(f"http://{FOREIGN_HOST}:{site}/")
        token = case.token(server, client_id)
        url = server.ws_url.removesuffix("/ws") + case.path
        protocols = ["notifier.v1", *([f"bearer.{token}"] if token else [])]
        page.evaluate("([url, protocols]) => { window.talk = converse(url, protocols); }", [url, protocols])
        if not case.status:
            page.evaluate("talk.next('welcome').then(() => null)")
            frames = [
                {"bytes": list(frame)} if isinstance(frame, bytes) else {"text": frame}
                for frame in case.says(server, client_id)
            ]
            page.evaluate(SAY, frames)
            if case.then is not None:
                case.then(server, client_id, undo)
        closed = page.evaluate("talk.closed")
        assert (closed["code"], closed["reason"]) == (case.code, case.reason)
        assert closed["opened"], "a page that sees no `open` sees 1006"
        assert closed["wasClean"]
        assert closed["protocol"] == "notifier.v1"
        kinds = page.evaluate("talk.frames.map((frame) => frame.type)")
        if case.status:
            assert kinds == []
        elif case.reason == "bad_frame":
            assert kinds[-1] == "error"
        elif case.where == "gone":
            assert kinds == ["welcome", "reconnect"]
