"""Signing tokens with the secret that a server is configured with."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from .output import CommandError, Exit

# (client_id, seconds, groups) -> token
Mint = Callable[[str, int, Sequence[str]], str]


def for_this_directory() -> Mint:
    """With a dev server's secret where there is one, else with NOTIFIER_JWT_SECRET."""
    from . import target

    dev = target.find_dev()
    if dev is not None and (dev.url is not None or not is_configured()):
        return with_secret(dev.secrets.jwt_secret)
    if is_configured():
        return from_environment()
    raise CommandError(
        "no secret to sign with: start 'notifier dev' in this directory, or set NOTIFIER_JWT_SECRET",
        Exit.CONFIGURATION,
    )


def from_environment() -> Mint:
    """As `serve` would accept it in this environment: secret, algorithm, issuer, audience, claim."""
    from notifier.errors import ConfigurationError
    from notifier.settings import load_settings

    # Only what tokens depend on: an API key need not be at hand to sign one.
    environ = {name: value for name, value in os.environ.items() if name.startswith("NOTIFIER_JWT_")}
    environ["NOTIFIER_API_KEYS"] = "unused:" + "0123456789abcdef" * 2
    try:
        settings = load_settings(environ)
    except ConfigurationError as error:
        listed = "; ".join(f"{problem.name} {problem.problem} ({problem.mend})" for problem in error.problems)
        raise CommandError(f"cannot sign a token: {listed}", Exit.CONFIGURATION) from error
    return with_secret(
        str(settings.jwt_secret),
        algorithm=settings.jwt_algorithms[0] if settings.jwt_algorithms else "HS256",
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience[0] if settings.jwt_audience else None,
        claim=settings.jwt_client_id_claim,
    )


def with_secret(
    secret: str,
    *,
    algorithm: str = "HS256",
    issuer: str | None = None,
    audience: str | None = None,
    claim: str = "sub",
) -> Mint:
    """A function that signs tokens."""

    claims: dict[str, Any] = {}
    if issuer is not None:
        claims["iss"] = issuer
    if audience is not None:
        claims["aud"] = audience

    def mint(client_id: str, seconds: int, groups: Sequence[str]) -> str:
        from notifier.auth import tokens

        with warnings.catch_warnings():
            # Of secrets that are short for their algorithm the server warns at its start, in words for operators.
            warnings.simplefilter("ignore")
            return tokens.mint(secret, client_id, seconds, groups, algorithm=algorithm, **(claims | {claim: client_id}))

    return mint


def is_configured() -> bool:
    """Whether the environment has a secret."""
    return bool(os.environ.get("NOTIFIER_JWT_SECRET") or os.environ.get("NOTIFIER_JWT_SECRET_FILE"))
