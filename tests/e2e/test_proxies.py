"""`ack=auto` behind real proxies, run with the very snippets of deploy/."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.harness import Client, Response, Server, apublish, arequest, need
from tests.harness.server import ROOT, free_port

OUTSIDE = "127.0.0.2"
"""Where clients come from; the proxies themselves are at 127.0.0.1."""


class Proxy(NamedTuple):
    name: str
    port: int
    trust: ssl.SSLContext

    def connect(self, server: Server, client_id: str, **options: object) -> Client:
        url = f"wss://127.0.0.1:{self.port}/ws"
        return Client(server, client_id, url=url, ssl=self.trust, local_addr=(OUTSIDE, 0), **options)

    def get(self, path: str) -> str:
        """The status line of the answer to a request from outside."""
        with (
            socket.create_connection(("127.0.0.1", self.port), 10, (OUTSIDE, 0)) as plain,
            self.trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
            return connection.recv(4096).split(b"\r\n")[0].decode()


def adapted(snippet: str, **replacements: str) -> str:
    """A snippet of deploy/ with the test's own names in it, and nothing else changed."""
    text = (ROOT / "deploy" / snippet).read_text()
    for old, new in replacements.items():
        assert re.search(old, text), f"{snippet} has no {old!r} any more"
        text = re.sub(old, new, text)
    return text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("behind"), trusted_proxies="127.0.0.1/32") as running:
        yield running


@pytest.fixture(scope="module", params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    program = need(request.param)
    directory = tmp_path_factory.mktemp(request.param)
    port = free_port()
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    pem = directory / "site.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(pem))
    configuration = directory / f"{request.param}.conf"
    if request.param == "nginx":
        snippet = adapted(
            "nginx.conf",
            **{
                "server 127.0.0.1:8000;": f"server 127.0.0.1:{server.port};",
                "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
                r"/etc/ssl/notify\.example\.com\.pem": str(pem),
                r"/etc/ssl/private/notify\.example\.com\.key": str(pem),
            },
        )
        places = "".join(f"{name}_temp_path {directory};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi"))
        (directory / "notifier.conf").write_text(snippet)
        configuration.write_text(
            f"daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log stderr;\nevents {{}}\n"
            f"http {{\naccess_log {directory}/access.log;\n{places}include {directory}/notifier.conf;\n}}\n"
        )
        command = [program, "-e", "stderr", "-p", str(directory), "-c", str(configuration)]
    else:
        configuration.write_text(
            adapted(
                "haproxy.cfg",
                **{
                    "maxconn 200000": "maxconn 1000",
                    r"bind :443 ssl crt \S+": f"bind 127.0.0.1:{port} ssl crt {pem}",
                    r"server node1 127\.0\.0\.1:8000": f"server node1 127.0.0.1:{server.port}",
                    # Everything is on loopback here; the clients' address shall count as outside.
                    r"src 10\.0\.0\.0/8 127\.0\.0\.0/8": "src 10.0.0.0/8 127.0.0.1/32",
                },
            )
        )
        command = [program, "-db", "-f", str(configuration)]
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            await_ready(process, Proxy(request.param, port, trust), directory / "log")
            yield Proxy(request.param, port, trust)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def await_ready(process: subprocess.Popen[bytes], proxy: Proxy, log: Path) -> None:
    """Until it reaches the server: a handshake without a token is refused by the server itself."""
    deadline = time.monotonic() + 20
    while True:
        try:
            if " 426 " in proxy.get("/ws"):
                return
        except OSError:
            pass
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


async def test_auto_live_and_queued_mail_is_settled_by_the_clients_own_pong(server: Server, proxy: Proxy) -> None:
    client_id = f"auto {proxy.name}"
    queued = await apublish(server, client_id=client_id, data="queued")
    async with proxy.connect(server, client_id) as alice:
        assert (await alice.welcome)["ack"] == "auto"
        assert (await alice.next("notification"))["id"] == queued.body["id"]
        live = await apublish(server, client_id=client_id, data="live", wait=10)
        assert (live.status, live.body["status"], live.body["acked_by"]) == (200, "delivered", "transport")
        assert alice.close_code is None
    async with proxy.connect(server, client_id) as alice:
        assert (await alice.welcome)["pending"] == 0


async def test_auto_a_long_backlog_comes_whole_and_in_order(server: Server, proxy: Proxy) -> None:
    client_id = f"backlog {proxy.name}"
    ids = [f"{proxy.name}-{n}" for n in range(1000)]
    items = [{"client_id": client_id, "id": id, "data": "x" * 2000} for id in ids]
    assert (await arequest(server, "POST", "/batch", items)).headers["notifier-rejected"] == "0"
    async with proxy.connect(server, client_id) as alice:
        assert [frame["id"] for frame in await alice.notifications(1000)] == ids
        repeat = await apublish(server, client_id=client_id, id=ids[-1], data="x" * 2000, wait=10)
        assert (repeat.body["status"], repeat.body["acked_by"]) == ("delivered", "transport")
        assert alice.close_code is None


async def test_a_page_of_the_proxys_own_host_needs_no_list_of_origins(server: Server, proxy: Proxy) -> None:
    origin = f"https://127.0.0.1:{proxy.port}"
    async with proxy.connect(server, "alice", browser=True, origin=origin) as alice:
        await alice.welcome
    async with proxy.connect(server, "alice", browser=True, origin="https://127.0.0.1") as stranger:
        assert await stranger.closed() == (4403, "forbidden_origin")


async def test_close_codes_pass(server: Server, proxy: Proxy) -> None:
    origin = f"https://127.0.0.1:{proxy.port}"
    async with proxy.connect(server, "alice", token="wrong", browser=True, origin=origin) as alice:
        assert await alice.closed() == (4401, "token_invalid")
    async with proxy.connect(server, "alice") as alice:
        await alice.send("no object")
        assert await alice.closed() == (4400, "bad_frame")


async def test_a_token_of_15_kib_passes(server: Server, proxy: Proxy) -> None:
    groups = tuple(f"{n:03d}-{os.urandom(58).hex()}" for n in range(95))
    assert 15_000 < len(server.token("alice", groups=groups)) <= 16 * 1024
    async with proxy.connect(server, "alice", groups=groups) as alice:
        await alice.welcome
        assert (await apublish(server, group=groups[-1], data=1)).body["status"] == "sent"
        await alice.next("notification")


async def test_the_server_knows_where_the_client_is(server: Server, proxy: Proxy) -> None:
    client_id = f"where-{proxy.name}"
    async with proxy.connect(server, client_id) as alice:
        await alice.welcome
        answer: Response = await arequest(server, "GET", f"/clients/{client_id}")
        assert [connection["address"] for connection in answer.body["connections"]] == [OUTSIDE]


@pytest.mark.parametrize("path", ["/metrics", "/clients", "/readyz", "/docs"])
def test_what_is_for_operators_is_not_for_the_outside(proxy: Proxy, path: str) -> None:
    assert " 404 " in proxy.get(path)


@pytest.mark.parametrize("path", ["/notify", "/notify/alice", "/batch", "/broadcast", "/notifications/1"])
def test_publishing_is_not_for_the_outside(proxy: Proxy, path: str) -> None:
    assert " 403 " in proxy.get(path)
