"""TLS served directly (`TLS_CERT`): the same service, the same deadlines."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator

import httpx2
import pytest
import trustme
from websockets.sync.client import connect

from tests.cli.test_deploy import await_listening
from tests.harness import Server

DEADLINE_S = 10.0
LATE_S = 5.0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    for block in certificate.cert_chain_pems:
        block.write_to_path(directory / "cert.pem", append=True)
    server = Server(directory / "server", tls_cert=directory / "cert.pem", tls_key=directory / "key.pem")
    server.spawn()
    try:
        await_listening(server.port)
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def silent(server: Server, data: bytes) -> float:
    """Seconds until the server ends a connection on which only `data` comes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as stranger:
        started = time.monotonic()
        stranger.sendall(data)
        try:
            while stranger.recv(4096):
                pass
        except ConnectionResetError:
            pass
        return time.monotonic() - started


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="the beginning of a hello"),
    ],
)
def test_a_handshake_that_does_not_come_whole_is_ended_after_10_s(secure: Server, data: bytes) -> None:
    assert DEADLINE_S - 0.5 <= silent(secure, data) <= DEADLINE_S + LATE_S


def test_plain_http_on_a_tls_port_is_ended_at_once(secure: Server) -> None:
    assert silent(secure, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n") < DEADLINE_S - 1


def test_notifications_are_published_and_delivered_over_tls(secure: Server, trusting: ssl.SSLContext) -> None:
    protocols = ["notifier.v1", f"bearer.{secure.token('alice')}"]
    with connect(f"wss://localhost:{secure.port}/ws?ack=client", ssl=trusting, subprotocols=protocols) as client:
        assert json.loads(client.recv(timeout=10))["type"] == "welcome"
        answer = httpx2.post(
            f"https://localhost:{secure.port}/notify",
            verify=trusting,
            headers={"X-API-Key": secure.key},
            json={"client_id": "alice", "data": {"text": "x" * 50_000}},
        )
        assert answer.json()["status"] == "sent"
        frame = json.loads(client.recv(timeout=10))
        assert (frame["seq"], len(frame["data"]["text"])) == (answer.json()["seq"], 50_000)
