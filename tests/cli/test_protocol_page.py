"""docs/protocol.md against a real server: what it promises is there, and what it says is missing is missing."""

from __future__ import annotations

import re

import pytest

from tests.cli.command import ROOT
from tests.harness import Server, request

PAGE = (ROOT / "docs" / "protocol.md").read_text()
HEADING = "## 10. Not in this version"
MISSING = PAGE.split(HEADING, 1)[1] if HEADING in PAGE else ""

PATHS = [
    ("POST", "/notify"),
    ("POST", "/notify/alice"),
    ("POST", "/batch"),
    ("POST", "/broadcast"),
    ("GET", "/notifications/x"),
    ("GET", "/ws"),
    ("GET", "/ws/notifications/alice"),
    ("GET", "/events"),
    ("POST", "/events/ack"),
    ("GET", "/metrics"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/healthz"),
    ("GET", "/docs"),
    ("GET", "/docs/errors"),
    ("GET", "/openapi.json"),
    ("GET", "/asyncapi.json"),
    ("GET", "/clients"),
    ("GET", "/clients/alice"),
    ("GET", "/clients/alice/notifications"),
    ("DELETE", "/clients/alice/notifications"),
    ("DELETE", "/clients/alice/notifications/1"),
    ("DELETE", "/clients/alice"),
    ("DELETE", "/clients/alice/connections"),
    ("POST", "/clients/alice/revoke"),
    ("DELETE", "/clients/alice/revoke"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_every_path_of_the_page_is_there_or_said_to_be_missing(method: str, path: str, shared_server: Server) -> None:
    answer = request(shared_server, method, path)
    first = "/" + path.split("/")[1]
    assert answer.status < 500, f"{method} {path}: {answer.status} {answer.body}"
    no_such_path = answer.status == 404 and answer.body.get("detail", "").startswith("Nothing is here")
    told_missing = f"`{first}`" in MISSING
    assert no_such_path == told_missing, (
        f"{method} {path} is answered {answer.status}; docs/protocol.md, section 10, "
        + ("still says that it is missing" if told_missing else "does not say that it is missing")
    )


def test_the_page_has_no_words_of_its_makers() -> None:
    for word in ("issue", "§", "contract", "closing note", "prototype"):
        assert word not in PAGE.lower().replace("issuer", ""), word


def test_every_metric_of_the_page_is_a_metric_of_the_server_and_the_other_way_round(shared_server: Server) -> None:
    _, text = shared_server.get("/metrics")
    known = set(re.findall(r"^# TYPE (notifier_\w+)", text, re.MULTILINE))
    told = set(re.findall(r"`(notifier_\w+?)(?:\{[a-z_,]+\})?`", PAGE.split("Names and labels", 1)[1]))
    assert told == known


def test_tokens_and_words_that_clients_switch_on_are_spelt_as_the_server_spells_them() -> None:
    from notifier import errors

    codes = {
        error.code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.NotifierError) and 400 <= error.status < 600
    }
    told = set(re.findall(r"`([a-z_]+)`", PAGE))
    internal = {"internal", "configuration", "unavailable", "bad_handshake", "upgrade_required", "timeout"}
    assert codes - internal <= told, codes - internal - told
