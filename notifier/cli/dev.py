"""`notifier dev`."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from . import devfiles
from .output import CommandError, Exit, note, report_problems, say

if TYPE_CHECKING:
    from notifier.settings import Settings

CLIENT_ID = "alice"
_TOKEN_SECONDS = 24 * 3600

# What dev decides by itself, so that the keys and tokens it prints are the ones that work. All other settings of the
# environment apply.
_SECRETS = ("API_KEYS", "JWT_SECRET", "JWT_SECRET_PREVIOUS", "JWT_PUBLIC_KEY")
_ITS_OWN = (
    *(f"NOTIFIER_{name}" for name in _SECRETS),
    *(f"NOTIFIER_{name}_FILE" for name in _SECRETS),
    "NOTIFIER_JWT_JWKS_URL",
    "NOTIFIER_JWT_ALGORITHMS",
    "NOTIFIER_JWT_ISSUER",
    "NOTIFIER_JWT_AUDIENCE",
    "NOTIFIER_JWT_CLIENT_ID_CLAIM",
    "NOTIFIER_TLS_CERT",
    "NOTIFIER_TLS_KEY",
)


def dev(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Listen on this port; 0 takes a free one.", show_default="8000")
    ] = None,
) -> None:
    """Run a development server: no configuration, its secrets and data in ./.notifier/.

    Prints a key, a token and commands to paste. Pages of every loopback origin may connect. Delete ./.notifier/ to
    start anew. Not for production: use 'serve' there.
    """
    # Everything that it creates, the database too, is for this user only.
    os.umask(0o077)
    directory = Path.cwd() / devfiles.DIRECTORY
    present = devfiles.running(directory)
    if present is not None:
        raise CommandError(
            f"dev already runs here (process {present.pid}, {present.url}); use that one, or stop it first"
        )
    secrets = devfiles.load_or_create(directory)
    settings = _settings(os.environ, secrets, port)
    _check_port(settings.host, settings.port)

    announcements: list[TextIO] = []

    def ready(url: str) -> None:
        # Who listens on every address is reached on loopback.
        url = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        announcements.append(devfiles.announce(directory, url))
        _print_welcome(url, secrets)

    from notifier.server import serve

    try:
        code = serve(settings, ready)
    finally:
        for announcement in announcements:
            devfiles.withdraw(directory, announcement)
    raise typer.Exit(code)


def _settings(environ: Mapping[str, str], secrets: devfiles.Secrets, port: int | None) -> Settings:
    from notifier.errors import ConfigurationError
    from notifier.settings import load_settings

    ignored = [name for name in _ITS_OWN if name in environ]
    if ignored:
        note(f"dev uses its own secrets and ignores {', '.join(ignored)}")
    merged = {name: value for name, value in environ.items() if name not in ignored}
    merged["NOTIFIER_JWT_SECRET"] = secrets.jwt_secret
    merged["NOTIFIER_API_KEYS"] = f"dev:{secrets.api_key}:notify+metrics+admin"
    merged.setdefault("NOTIFIER_ENGINE", f"sqlite:///{devfiles.DIRECTORY}/notifier.db")
    # A laptop's disk is often nearly full; that should not stop somebody who only tries it.
    merged.setdefault("NOTIFIER_MIN_FREE_DISK_BYTES", "0")
    # Spreading the reconnects of a crowd is nothing to wait for at each Ctrl-C.
    merged.setdefault("NOTIFIER_DRAIN_SECONDS", "0")
    if port is not None:
        merged["NOTIFIER_PORT"] = str(port)
    try:
        return load_settings(merged, dev=True)
    except ConfigurationError as error:
        raise typer.Exit(report_problems(error)) from error


def _check_port(host: str, port: int) -> None:
    """Say it in words, and before anything is opened, when another program has the port."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server does: a port that only lingers in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                from . import invocation

                raise CommandError(
                    f"port {port} is taken by another program; "
                    f"stop that, or take another port: {invocation.command()} dev --port {_free_port(host, family)}"
                ) from error
            raise CommandError(f"cannot listen on {host} port {port}: {error.strerror}", Exit.CONFIGURATION) from error


def _free_port(host: str, family: int) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _print_welcome(url: str, secrets: devfiles.Secrets) -> None:
    from rich.console import Console

    from . import invocation, minting
    from .installed import installed_version

    command = invocation.command_from_anywhere()
    token = minting.with_secret(secrets.jwt_secret)(CLIENT_ID, _TOKEN_SECONDS, ())
    websocket = url.replace("http", "ws", 1) + "/ws"
    console = Console(highlight=False, markup=True, soft_wrap=True)
    # Wrapped lines could not be pasted, and the texts are not ours: no wrapping, no markup in what is pasted.
    console.print(f"\n[bold]Notifier {installed_version()}[/bold], development server. Ctrl-C stops it.\n")
    for name, value in (
        ("HTTP", url),
        ("WebSocket", websocket),
        ("API key", secrets.api_key),
        (f"Token for {CLIENT_ID}", token),
        ("JWT secret", f"in {devfiles.DIRECTORY}/secrets.json, for an application that signs tokens itself"),
        ("Files", f"{devfiles.DIRECTORY}/ (secrets and data; delete it to start anew)"),
    ):
        console.print(f"  [bold]{name:<16}[/bold]", end="")
        console.print(value, markup=False)
    for title, lines in (
        (f"In a second terminal, listen as {CLIENT_ID}:", [f"{command} listen {CLIENT_ID}"]),
        (
            "In a third, send something (the server keeps it until it is acknowledged, so the order does not matter):",
            [
                f"curl -H 'X-API-Key: {secrets.api_key}' "
                f"""-d '{{"client_id": "{CLIENT_ID}", "data": {{"text": "Hello"}}}}' {url}/notify""",
            ],
        ),
        ("or", [f"{command} send {CLIENT_ID} 'Hello'"]),
        (
            "In a browser, in the console of any page of this machine:",
            [
                f'ws = new WebSocket("{websocket}", ["notifier.v1", "bearer.{token}"]);',
                "ws.onmessage = (message) => console.log(JSON.parse(message.data));",
                'ws.onclose = (close) => console.log("closed", close.code, close.reason);',
            ],
        ),
    ):
        console.print(f"\n[bold]{title}[/bold]\n")
        for line in lines:
            console.print(f"    {line}", markup=False)
    say()
