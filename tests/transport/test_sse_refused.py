"""Handshakes of event streams that get none: what a retry may mend is said within a 200, the rest by HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.closing import CASES, Case, Servers
from tests.harness import Server, request
from tests.transport.eventstream import EventStream

LATER = [case for case in CASES if case.reason in ("engine_unavailable", "no_keys")]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("refusing"), "https://app.example", stack)


def refused(server: Server, reason: str) -> float:
    return server.metrics().get(f'notifier_handshakes_refused_total{{reason="{reason}"}}', 0.0)


@pytest.mark.parametrize("case", LATER, ids=lambda case: case.name)
async def test_what_a_retry_may_mend_is_one_control_frame(case: Case, servers: Servers) -> None:
    reason = str(case.reason)
    with servers.of(case) as server, ExitStack() as undo:
        if case.before is not None:
            case.before(server, "alice", undo)
        before = refused(server, reason)
        headers = {"Origin": "https://app.example"}
        async with EventStream(server, "alice", token=case.token(server, "alice"), headers=headers) as stream:
            assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
            assert stream.headers["access-control-allow-origin"] == "https://app.example"
            event = await stream.next()
            assert (event.type, event.frame["type"], event.frame["code"]) == ("notifier", "error", reason)
            assert stream.retry is not None
            assert 2000 <= stream.retry < 4000
            await stream.end()
            assert len(stream.events) == 1
        assert refused(server, reason) == before + 1


REFUSED: dict[str, tuple[Callable[[Server], str], dict[str, str], int]] = {
    "token_missing": (lambda server: "", {}, 401),
    "token_invalid": (lambda server: "x.y.z", {}, 401),
    "token_expired": (lambda server: server.token("sse-no", ttl=-60), {}, 401),
    "revoked": (lambda server: server.token("sse-no", iat=1_700_000_000), {}, 403),
    "forbidden_origin": (lambda server: server.token("sse-no"), {"Origin": "https://evil.example"}, 403),
}


@pytest.mark.parametrize("reason", REFUSED)
async def test_what_no_retry_mends_is_told_by_http(server: Server, reason: str) -> None:
    token, headers, status = REFUSED[reason]
    if reason == "revoked":
        request(server, "POST", "/clients/sse-no/revoke")
    before = refused(server, reason)
    async with EventStream(server, "sse-no", token=token(server), headers=headers) as stream:
        assert (stream.status, stream.problem["code"], stream.problem["status"]) == (status, reason, status)
        assert ("www-authenticate" in stream.headers) == (status == 401)
    assert refused(server, reason) == before + 1


async def test_two_tokens_that_differ_are_a_mistake(server: Server) -> None:
    path = f"/events?access_token={server.token('sse-two', ttl=60)}"
    async with EventStream(server, "sse-two", path=path) as stream:
        assert stream.status == 400


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}])
async def test_a_host_that_is_none_is_a_mistake(server: Server, headers: dict[str, str]) -> None:
    before = refused(server, "bad_handshake")
    async with EventStream(server, "sse-host", headers=headers | {"Host": "[::1"}) as stream:
        assert stream.status == 400
    assert refused(server, "bad_handshake") == before + 1
