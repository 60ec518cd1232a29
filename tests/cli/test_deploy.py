"""What is in deploy/ and the image: checked with the real programs, in front of a real server."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
import yaml

from notifier.client import Connected, Subscriber
from notifier.settings import NAMES
from notifier.settings_sources import SECRETS
from tests.cli.command import ROOT, environment, notifier
from tests.harness import Server, need, publish
from tests.harness.server import free_port

DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def run(*command: str, cwd: Path = DEPLOY) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- Prometheus -------------------------------------------------------------------------------------------------


def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    promtool = need("promtool")
    run(promtool, "check", "config", "prometheus.yml")
    run(promtool, "check", "rules", "prometheus-rules.yml")


def test_each_alert_fires_on_what_it_is_for_and_none_on_a_healthy_node(tmp_path: Path) -> None:
    promtool = need("promtool")
    tests = (ROOT / "tests" / "cli" / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(tests.replace("RULES", str(DEPLOY / "prometheus-rules.yml")))
    assert "SUCCESS" in run(promtool, "test", "rules", "alerts.yml", cwd=tmp_path)


def test_every_alert_is_tested_and_explained() -> None:
    rules = re.findall(r"alert: (\w+)", (DEPLOY / "prometheus-rules.yml").read_text())
    tests = (ROOT / "tests" / "cli" / "alerts.yml").read_text()
    page = (ROOT / "docs" / "operations.md").read_text().split("## Alerts", 1)[1].split("\n## ", 1)[0]
    assert rules
    for alert in rules:
        assert tests.count(alert) == 2, alert
        assert f"`{alert}`" in page, alert


def test_the_rules_use_only_metrics_that_a_server_has(shared_server: Server) -> None:
    _, text = shared_server.get("/metrics")
    known = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    used = set(re.findall(r"\bnotifier_\w+", (DEPLOY / "prometheus-rules.yml").read_text()))
    assert used
    for name in used:
        assert name.removesuffix("_bucket") in known, name


# --- the image ----------------------------------------------------------------------------------------------------


def health(**variables: str) -> int:
    """The image's health check, with the `python` of this environment."""
    command = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert command is not None
    program, *arguments = json.loads(command[1])
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments], env=environment(**variables), capture_output=True, check=False, timeout=30
    )
    assert done.stderr == b""
    return done.returncode


def test_the_health_check_tells_a_living_server_from_a_dead_one(make_server: Callable[..., Server]) -> None:
    server = make_server()
    assert health(NOTIFIER_PORT=str(server.port)) == 0
    # As in the container: the server listens on every address.
    assert health(NOTIFIER_PORT=str(server.port), NOTIFIER_HOST="0.0.0.0") == 0
    # What the server strips or takes for not set.
    assert health(NOTIFIER_PORT=f" {server.port} ", NOTIFIER_HOST=" ", NOTIFIER_TLS_CERT=" ") == 0
    assert health(NOTIFIER_PORT=str(server.port), NOTIFIER_HOST="[::ffff:127.0.0.1]") == 0
    server.kill()
    assert health(NOTIFIER_PORT=str(server.port)) == 1


def test_the_health_check_speaks_tls_where_the_server_does(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("notify.example.com")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    tls = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    server = Server(tmp_path / "server", **tls)
    server.spawn()
    try:
        await_listening(server.port)
        assert health(NOTIFIER_PORT=str(server.port), NOTIFIER_TLS_CERT=str(tmp_path / "cert.pem")) == 0
        assert health(NOTIFIER_PORT=str(server.port)) == 1
    finally:
        server.close()


def test_the_health_check_is_not_led_astray(make_server: Callable[..., Server]) -> None:
    """By a proxy in the environment, or by what Kubernetes sets for a Service named notifier."""
    server = make_server()
    assert health(NOTIFIER_PORT=str(server.port), http_proxy="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1") == 0
    assert health(NOTIFIER_PORT="tcp://10.0.0.1:8000", NOTIFIER_HOST="127.0.0.2") == 1


def test_the_image_is_pinned_hashed_unprivileged_and_needs_no_shell_at_run_time() -> None:
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", image)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2
    for install in re.findall(r"pip .*install.*", DOCKERFILE):
        assert "--require-hashes" in install or "--no-index" in install, install
    run_time = DOCKERFILE.split("FROM ${PYTHON_IMAGE}\n", 1)[1]
    assert "USER 10001:10001" in run_time
    assert "VOLUME /data" in run_time
    for instruction in ("ENTRYPOINT", "CMD"):
        (value,) = re.findall(rf"^{instruction} (.*)$", run_time, re.MULTILINE)
        assert isinstance(json.loads(value), list)


def test_what_builds_the_package_is_taken_from_the_development_lock() -> None:
    (pattern,) = re.findall(r"\^\(([a-z|-]+)\)==", DOCKERFILE)
    lock = (ROOT / "requirements-dev.lock").read_text()
    assert "hatchling" in pattern
    for name in pattern.split("|"):
        assert re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE), name


def test_only_what_the_image_is_built_from_is_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]
    }
    assert sent == copied
    assert all((ROOT / name).exists() for name in copied)


def test_compose_runs_it_without_rights_and_with_its_secrets_in_files() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    service = compose["services"]["notifier"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] == "10001:10001"
    assert all(published.startswith("127.0.0.1:") for published in service["ports"])
    for name in ("NOTIFIER_JWT_SECRET_FILE", "NOTIFIER_API_KEYS_FILE"):
        assert service["environment"][name].removeprefix("/run/secrets/") in compose["secrets"]
    for mount in compose["services"]["prometheus"]["volumes"]:
        source = mount.split(":")[0]
        assert not source.startswith(".") or (DEPLOY / source).exists()


def test_the_documented_secrets_are_a_valid_configuration(tmp_path: Path) -> None:
    """The steps of compose.yaml and notifier.service: a random secret, and the hashed line of a new key, in files."""
    secret = run("openssl", "rand", "-hex", "32")
    key = notifier("keys", "new", "billing", "--json", cwd=tmp_path).json["configured"]
    (tmp_path / "jwt_secret").write_text(secret)
    (tmp_path / "api_keys").write_text(key + "\n")
    files = {
        "NOTIFIER_JWT_SECRET_FILE": str(tmp_path / "jwt_secret"),
        "NOTIFIER_API_KEYS_FILE": str(tmp_path / "api_keys"),
        "NOTIFIER_ENGINE": "sqlite:////data/notifier.db",
    }
    assert notifier("config", "check", cwd=tmp_path, **files).code == 0


def test_every_setting_that_is_named_anywhere_exists() -> None:
    known = {f"NOTIFIER_{name}" for name in (*NAMES, *(f"{secret}_FILE" for secret in SECRETS))}
    known |= {"NOTIFIER_URL", "NOTIFIER_API_KEY", "NOTIFIER_TOKEN"}
    # Of these the documentation says that Kubernetes sets them and that they are ignored.
    known |= {"NOTIFIER_SERVICE_", "NOTIFIER_PORT_"}
    pages = [
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        ROOT / "Dockerfile",
        *DEPLOY.iterdir(),
        *(ROOT / "docs").iterdir(),
    ]
    for page in pages:
        if page.is_file():
            named = set(re.findall(r"NOTIFIER_[A-Z_]*[A-Z_]", page.read_text())) - {"NOTIFIER_"}
            assert named <= known, f"{page.name}: {named - known}"


# --- proxies ------------------------------------------------------------------------------------------------------


def await_listening(port: int) -> None:
    for _ in range(2000):
        with socket.socket() as probe:
            probe.settimeout(5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)  # another process: there is no event
    raise AssertionError(f"nothing listens on port {port}")


class Proxy:
    """A proxy that ends TLS before a server."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.url = f"https://localhost:{port}"
        self.context = context

    def status(self, path: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> int:
        request = urllib.request.Request(self.url + path, data=body, headers=headers or {})
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return refusal.code


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            await_listening(port)
            yield
        finally:
            process.terminate()


@contextmanager
def nginx(server: Server, directory: Path) -> Iterator[Proxy]:
    program, port, context = need("nginx"), free_port(), tls(directory)
    snippet = (DEPLOY / "nginx.conf").read_text()
    for there, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "notify.example.com;": "localhost;",
        "/etc/ssl/notify.example.com.pem": str(directory / "chain.pem"),
        "/etc/ssl/private/notify.example.com.key": str(directory / "key.pem"),
        "127.0.0.1:8000": f"127.0.0.1:{server.port}",
        "allow 10.0.0.0/8": "allow 127.0.0.0/8",
    }.items():
        assert there in snippet
        snippet = snippet.replace(there, here)
    (directory / "notifier.conf").write_text(snippet)
    temporary = "\n".join(
        f"{kind}_temp_path {directory};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
        events {{}}
        http {{ access_log {directory}/access.log; {temporary} include {directory}/notifier.conf; }}"""
    )
    with running([program, "-c", str(directory / "nginx.conf")], port, directory / "nginx.out"):
        yield Proxy(port, context)


@contextmanager
def haproxy(server: Server, directory: Path) -> Iterator[Proxy]:
    program, port, context = need("haproxy"), free_port(), tls(directory)
    configuration = (DEPLOY / "haproxy.cfg").read_text()
    for there, here in {
        "bind :443 ssl": f"bind 127.0.0.1:{port} ssl",
        "/etc/ssl/notify.example.com.pem": str(directory / "both.pem"),
        "127.0.0.1:8000": f"127.0.0.1:{server.port}",
        "maxconn 200000": "maxconn 100",  # the limit of open files of a test machine
    }.items():
        assert there in configuration
        configuration = configuration.replace(there, here)
    (directory / "haproxy.cfg").write_text(configuration)
    run(program, "-c", "-f", str(directory / "haproxy.cfg"))
    with running([program, "-db", "-f", str(directory / "haproxy.cfg")], port, directory / "haproxy.out"):
        yield Proxy(port, context)


def tls(directory: Path) -> ssl.SSLContext:
    directory.mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(directory / "chain.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("proxy", [nginx, haproxy])
async def test_clients_and_publishers_get_through_a_proxy_and_others_do_not(
    proxy: Callable[[Server, Path], object], make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = make_server(trusted_proxies="127.0.0.1")
    # 14 KB: more than the 8 KB that proxies take by default, less than the 16 KB that the server takes.
    token = server.token("alice", groups=[f"group-{n:03}-" + "x" * 90 for n in range(100)])
    assert 12_000 < len(token) < 16_000
    with proxy(server, tmp_path / "proxy") as front:  # type: ignore[attr-defined]
        async with Subscriber(front.url, token, ssl=front.context) as subscriber:
            assert isinstance(await subscriber.next_event(), Connected)
            body = b'{"client_id": "alice", "data": "through"}'
            assert front.status("/notify", {"X-API-Key": server.key}, body) == 202
            notification = await anext(aiter(subscriber))
            assert notification.data == "through"
            await subscriber.acknowledge(notification, confirm=True)
        assert front.status("/metrics") == 404
        assert front.status("/clients", {"X-API-Key": server.key}) == 404
        assert front.status("/notify", {"X-API-Key": "wrong"}, b"{}") == 401
    publish(server, client_id="alice", data="still well")
    assert "Traceback" not in server.log
