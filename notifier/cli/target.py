"""Which server a command talks to, and with what: options, then the environment, then a running `notifier dev`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from . import devfiles
from .output import CommandError, Exit

UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="NOTIFIER_URL", help="The server, for example https://notify.example.com."),
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="NOTIFIER_API_KEY", show_envvar=True, help="A key with scope notify."),
]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", envvar="NOTIFIER_TOKEN", show_envvar=True, help="The client's JWT."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class Dev:
    """The development server of this directory, or of one above."""

    secrets: devfiles.Secrets
    url: str | None


def find_dev() -> Dev | None:
    """The dev files that apply here; `url` is None while the server does not run."""
    directory = devfiles.find(Path.cwd())
    if directory is None:
        return None
    kept = devfiles.load(directory)
    if kept is None:
        return None
    found = devfiles.running(directory)
    return Dev(kept, found.url if found else None)


def check_id(client_id: str) -> None:
    """Raises: BadParameter, where it cannot be a CLIENT_ID."""
    from notifier.fields import check_client_id

    if (problem := check_client_id(client_id)) is not None:
        raise typer.BadParameter(f"CLIENT_ID {problem}")


def server_url(option: str | None) -> str:
    """Where the server is."""
    if option:
        from notifier.client.addresses import http_base

        try:
            return http_base(option)
        except ValueError as error:
            raise CommandError(str(error), Exit.USAGE) from error
    dev = find_dev()
    if dev is None or dev.url is None:
        raise CommandError(
            "no server: start 'notifier dev' in this directory, or give --url (or NOTIFIER_URL)", Exit.UNREACHABLE
        )
    return dev.url


def api_key(option: str | None, url: str) -> str:
    """The key to publish with. A dev server's key goes to that server only."""
    if option:
        return _checked(option, "the API key (--api-key or NOTIFIER_API_KEY)")
    dev = find_dev()
    if dev is not None and dev.url == url:
        return dev.secrets.api_key
    raise CommandError(f"no API key for {url}: give --api-key (or NOTIFIER_API_KEY)", Exit.USAGE)


def _checked(secret: str, what: str) -> str:
    from notifier.client.credentials import checked

    try:
        return checked(secret, what)
    except ValueError as error:
        raise CommandError(str(error), Exit.USAGE) from error


def token_source(option: str | None, url: str, client_id: str) -> str | Callable[[], str]:
    """The token to connect with, or what makes a new one each time one is needed."""
    if option:
        return _checked(option, "the token (--token or NOTIFIER_TOKEN)")
    from . import minting

    dev = find_dev()
    if dev is not None and dev.url == url:
        mint = minting.with_secret(dev.secrets.jwt_secret)
    elif minting.is_configured():
        mint = minting.from_environment()
    else:
        raise CommandError(
            f"no token for {url}: give --token (or NOTIFIER_TOKEN), or set NOTIFIER_JWT_SECRET to sign one", Exit.USAGE
        )
    return lambda: mint(client_id, 3600, ())
