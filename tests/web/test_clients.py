"""Administration: connected clients, mailboxes, erasing, disconnecting, revoking; and the line each call leaves."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness import Client, Refused, Response, Server, publish, request


def admin(server: Server, method: str, path: str, **options: Any) -> Response:
    return request(server, method, path, **options)


def audit(server: Server) -> list[dict[str, Any]]:
    """The audit lines so far."""
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "admin"]


async def gone(server: Server, client_id: str) -> None:
    """Wait until the server has seen the end of its connections."""
    for _ in range(500):
        if not admin(server, "GET", f"/clients/{client_id}").body["connections"]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("still connected")


async def test_an_unknown_client_is_all_zeros(shared_server: Server) -> None:
    answer = admin(shared_server, "GET", "/clients/nobody-ever")
    assert answer.status == 200
    body = answer.body
    assert (body["pending"], body["pending_bytes"], body["cursor"], body["connections"]) == (0, 0, 0, [])
    assert body["oldest_pending_at"] is None
    assert not body["connected"]
    assert answer.headers["cache-control"] == "no-store"


async def test_a_client_as_it_is(shared_server: Server) -> None:
    me = "admin-shown"
    async with Client(shared_server, me, ack="client") as client:
        welcome = await client.welcome
        sent = [publish(shared_server, client_id=me, data=n).body for n in range(3)]
        await client.notifications(3)
        await client.ack(sent[0]["seq"], confirm=True)
        await client.next("settled")
        body = admin(shared_server, "GET", f"/clients/{me}").body
        (connection,) = body["connections"]
        assert connection["id"] == welcome["connection_id"]
        assert connection["transport"] == "websocket"
        assert connection["inflight"] == 2
        assert connection["window_full"] is False
        assert connection["address"] == "127.0.0.1"
        assert connection["node"].endswith(f":{shared_server.port}")
        assert connection["since"] <= sent[0]["accepted_at"]
        assert connection["ack"] == "client"
        assert body["pending"] == 2
        assert body["pending_bytes"] == 2
        assert body["cursor"] == sent[0]["seq"]
        assert body["oldest_pending_at"] == sent[1]["accepted_at"]
        assert body["oldest_pending_s"] >= 0


@pytest.mark.parametrize("client_id", ["a/b", "ä ö", "a%2Fb", "a?b", "..", "a+b", "日本"])
async def test_client_ids_in_paths_are_decoded_once(shared_server: Server, client_id: str) -> None:
    sent = publish(shared_server, client_id=client_id, data=1)
    assert sent.status == 202
    path = quote(client_id, safe="").replace(".", "%2E")
    assert admin(shared_server, "GET", f"/clients/{path}").body["client_id"] == client_id
    (listed,) = admin(shared_server, "GET", f"/clients/{path}/notifications").body["notifications"]
    assert listed["seq"] == sent.body["seq"]
    assert admin(shared_server, "DELETE", f"/clients/{path}/notifications").body == {"purged": 1}


@pytest.mark.parametrize("segment", ["%ff", "%00", "%20x", "x" * 201])
async def test_what_can_be_no_client_id_is_refused(shared_server: Server, segment: str) -> None:
    answer = admin(shared_server, "GET", f"/clients/{segment}")
    assert answer.status == 422
    assert answer.body["code"] == "invalid"


async def test_connected_clients_page_by_page(make_server: Any) -> None:
    server = make_server()
    names = ["b", "a", "c/d", "ä", "Z"]
    async with AsyncExitStack() as connected:
        for name in [*names, "a"]:
            await (await connected.enter_async_context(Client(server, name))).welcome
        seen: list[dict[str, Any]] = []
        after = ""
        for _ in range(10):
            page = admin(server, "GET", f"/clients?limit=2&after={quote(after)}").body
            seen += page["clients"]
            assert len(page["clients"]) <= 2
            if page["next"] is None:
                break
            after = page["next"]
        assert [row["client_id"] for row in seen] == sorted(names)
        assert {row["client_id"]: row["connections"] for row in seen} == dict.fromkeys(names, 1) | {"a": 2}
        assert admin(server, "GET", "/clients").body["next"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit="])
async def test_limits_that_are_none(shared_server: Server, query: str) -> None:
    assert admin(shared_server, "GET", f"/clients?{query}").status == 422
    assert admin(shared_server, "GET", f"/clients/x/notifications?{query}").status == 422


async def test_pending_notifications_page_by_page(shared_server: Server) -> None:
    me = "admin-paged"
    fields = {"event": "e", "collapse_key": "k"}
    sent = [publish(shared_server, client_id=me, data={"n": n}, **(fields if n == 4 else {})).body for n in range(5)]
    seen: list[dict[str, Any]] = []
    after = 0
    for _ in range(5):
        page = admin(shared_server, "GET", f"/clients/{me}/notifications?limit=2&after={after}").body
        seen += page["notifications"]
        if page["next"] is None:
            break
        after = page["next"]
    assert [row["seq"] for row in seen] == [answer["seq"] for answer in sent]
    assert [row["data"] for row in seen] == [{"n": n} for n in range(5)]
    assert [row["id"] for row in seen] == [answer["id"] for answer in sent]
    assert (seen[4]["event"], seen[4]["collapse_key"], seen[0]["event"]) == ("e", "k", None)
    assert seen[0]["expires_at"] == sent[0]["expires_at"]


async def test_poison_is_taken_out_alone_and_the_client_is_told(shared_server: Server) -> None:
    me = "admin-poison"
    sent = [publish(shared_server, client_id=me, data=n).body for n in range(3)]
    path = f"/clients/{me}/notifications/{sent[1]['seq']}"
    assert admin(shared_server, "DELETE", path).body == {"purged": 1}
    assert admin(shared_server, "DELETE", path).body == {"purged": 0}
    async with Client(shared_server, me) as client:
        assert (await client.next("gap")) == {"type": "gap", "reason": "purged", "dropped": 1}
        assert [frame["data"] for frame in await client.notifications(2)] == [0, 2]


def test_the_seq_of_the_path_is_percent_decoded_once_as_every_parameter(shared_server: Server) -> None:
    me = "admin-encoded"
    seq = str(publish(shared_server, client_id=me, data=1).body["seq"])
    path = f"/clients/{me}/notifications/"
    twice = "".join(f"%25{ord(digit):02x}" for digit in seq)
    assert admin(shared_server, "DELETE", path + twice).status == 422
    assert admin(shared_server, "DELETE", path + "%ff").status == 422
    assert admin(shared_server, "DELETE", path + "".join(f"%{ord(digit):02x}" for digit in seq)).body == {"purged": 1}


async def test_what_is_purged_stays_gone_and_its_gap_told(make_server: Any) -> None:
    server = make_server()
    sent = [publish(server, client_id="alice", data=n).body["seq"] for n in range(3)]
    assert admin(server, "DELETE", f"/clients/alice/notifications/{sent[1]}").body == {"purged": 1}
    assert admin(server, "DELETE", "/clients/alice/notifications").body == {"purged": 2}
    server.restart()  # durable
    assert admin(server, "GET", "/clients/alice").body["pending"] == 0
    async with Client(server, "alice", ack="client") as client:
        assert await client.next("gap") == {"type": "gap", "reason": "purged", "dropped": 3}
        assert (await client.welcome)["pending"] == 0


async def test_erased_is_gone_and_a_revocation_stays(make_server: Any) -> None:
    server = make_server()
    sent = publish(server, client_id="alice", data="secret", id="one", receipt=True).body
    async with Client(server, "alice", ack="client") as client:
        await client.next("notification")
        await client.ack(sent["seq"], confirm=True)
        await client.next("settled")
    publish(server, client_id="alice", data="more")
    await gone(server, "alice")
    assert admin(server, "POST", "/clients/alice/revoke").status == 200
    assert admin(server, "DELETE", "/clients/alice").body == {"erased": True}
    for _ in range(2):
        body = admin(server, "GET", "/clients/alice").body
        assert (body["pending"], body["cursor"], body["untold"], body["last_close"]) == (0, 0, {}, None)
        assert body["revoked_at"] is not None
        assert request(server, "GET", "/notifications/one?client_id=alice").status == 404
        server.restart()  # durable
    with pytest.raises(Refused):
        async with Client(server, "alice", token=server.token("alice", iat=1_700_000_000)):
            pass
    assert publish(server, client_id="alice", data="other", id="one").status == 202  # the id is forgotten as well


async def test_a_revocation_is_durable_and_can_be_lifted(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        async with Client(server, "alice") as client, Client(server, "bob") as bob:
            await client.welcome
            answer = admin(server, "POST", "/clients/alice/revoke").body
            assert answer["closed"] == 1
            assert await client.closed() == (4403, "revoked")
            await bob.ping()
        server.restart()
        assert admin(server, "GET", "/clients/alice").body["revoked_at"] == answer["revoked_at"]
        for token in (server.token("alice", iat=None), server.token("alice", iat=1_700_000_000)):
            with pytest.raises(Refused) as refusal:
                async with Client(server, "alice", token=token):
                    pass
            assert (refusal.value.status, refusal.value.body["code"]) == (403, "revoked")
        later = server.token("alice", iat=int(server_time(server)) + 2)
        async with Client(server, "alice", token=later) as client:
            await client.welcome
        assert admin(server, "DELETE", "/clients/alice/revoke").body["revoked_at"] is None
        server.restart()
        async with Client(server, "alice", token=server.token("alice", iat=None)) as client:
            await client.welcome


def server_time(server: Server) -> float:
    """Unix time as the server has it, to the second."""
    return parsedate_to_datetime(request(server, "GET", "/livez").headers["date"]).timestamp()


async def test_a_revocation_holds_for_auth_frames(shared_server: Server) -> None:
    me = "admin-auth"
    old = shared_server.token(me, iat=1_700_000_000)
    admin(shared_server, "POST", f"/clients/{me}/revoke")
    async with Client(shared_server, me, token=shared_server.token(me, iat=int(server_time(shared_server)) + 2)) as c:
        await c.welcome
        await c.send({"type": "auth", "token": old})
        assert await c.closed() == (4403, "revoked")


ROUTES = [
    ("GET", "/clients"),
    ("GET", "/clients/x"),
    ("DELETE", "/clients/x"),
    ("GET", "/clients/x/notifications"),
    ("DELETE", "/clients/x/notifications"),
    ("DELETE", "/clients/x/notifications/17"),
    ("DELETE", "/clients/x/connections"),
    ("POST", "/clients/x/revoke"),
    ("DELETE", "/clients/x/revoke"),
]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    notify, metrics, root = ("n" * 32, "m" * 32, "r" * 32)
    keys = f"app:{notify}:notify,prom:{metrics}:metrics,root:{root}:admin"
    with Server(tmp_path_factory.mktemp("keyed"), api_keys=keys, log_level="error") as server:
        server.key = root
        yield server


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_only_administrators_and_each_call_leaves_a_line(keyed: Server, method: str, path: str) -> None:
    assert request(keyed, method, path, key=None).status == 401
    assert request(keyed, method, path, key="n" * 32).status == 403
    assert request(keyed, method, path, key="m" * 32).status == 403
    assert request(keyed, method, path, key="w" * 32).status == 401
    before = audit(keyed)
    answer = request(keyed, method, path)
    assert answer.status == 200
    assert not {name for name in answer.headers if name.startswith("access-control-")}
    (line,) = audit(keyed)[len(before) :]
    assert line["key"] == "root"
    assert line["client_id"] == ("" if path == "/clients" else "x")
    assert line["outcome"] == "done"
    assert line["call"].startswith(method + " /clients")
    if method == "GET":
        assert request(keyed, "HEAD", path).status == 200


@pytest.mark.parametrize("query", ["recconect=false", "reconnect=no", "reconnect="])
async def test_a_mistake_does_not_pass_for_the_default(shared_server: Server, query: str) -> None:
    answer = admin(shared_server, "DELETE", f"/clients/x/connections?{query}")
    assert answer.status == 422
    assert answer.body["errors"][0]["field"] == query.partition("=")[0]


async def test_who_may_not_ask_is_told_nothing_of_mistakes(keyed: Server) -> None:
    assert request(keyed, "GET", "/clients?limit=0", key=None).status == 401
    assert request(keyed, "GET", "/clients/%ff", key="n" * 32).status == 403


async def test_no_payload_and_no_secret_in_the_audit_log(keyed: Server) -> None:
    publish(keyed, client_id="x", data="payload-of-x", key="n" * 32)
    for method, path in ROUTES:
        request(keyed, method, path, headers={"Origin": "https://app.example"})
    assert "payload-of-x" not in keyed.log
    assert "r" * 32 not in keyed.log


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/clients", "GET, HEAD"),
        ("POST", "/clients", "GET, HEAD"),
        ("POST", "/clients/a%2Fb", "DELETE, GET, HEAD"),
        ("GET", "/clients/a%20b/revoke", "DELETE, POST"),
        ("OPTIONS", "/clients/a/connections", "DELETE"),
        ("POST", "/livez", "GET, HEAD"),
    ],
)
async def test_other_methods(shared_server: Server, method: str, path: str, allowed: str) -> None:
    answer = request(shared_server, method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)


async def test_calls_while_the_mailbox_is_busy(shared_server: Server) -> None:
    """Publishing goes on under every call, and nothing of another client is touched."""
    me, other = "admin-busy", "admin-busy-other"
    kept = publish(shared_server, client_id=other, data="keep").body
    jobs = [asyncio.to_thread(publish, shared_server, client_id=me, data=n) for n in range(30)]
    calls = [asyncio.to_thread(admin, shared_server, method, path.replace("/x", f"/{me}")) for method, path in ROUTES]
    answers = await asyncio.gather(*jobs, *calls)
    assert {answer.status for answer in answers} <= {200, 202}
    listed = admin(shared_server, "GET", f"/clients/{other}/notifications").body["notifications"]
    assert [row["seq"] for row in listed] == [kept["seq"]]
