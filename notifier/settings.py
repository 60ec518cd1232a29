"""The only reader of the environment.

`load_settings` gives settings that work, or tells every problem with its mend at once. The values themselves are
plain: whoever gets a `Settings` need not check again.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Final, Literal, TypeVar

import annotated_types
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from notifier import settings_checks as checks
from notifier.auth import keys
from notifier.auth.apikeys import ApiKey
from notifier.errors import ConfigurationError, Problem
from notifier.settings_sources import PREFIX, SECRETS, EnvironmentSource

_SPARE_FILES: Final = 512  # for the database, logs, publishers' requests and what the libraries open
_MIB: Final = 1024 * 1024

_T = TypeVar("_T")
Size = Annotated[int, BeforeValidator(checks.parse_size)]
List = Annotated[tuple[_T, ...], BeforeValidator(checks.split)]
Lower = BeforeValidator(lambda value: value.strip().lower() if isinstance(value, str) else value)


def open_file_limit() -> int:
    """How many connections this process could hold with its hard limit of open files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _MIB if hard == resource.RLIM_INFINITY else hard - _SPARE_FILES


def default_max_connections() -> int:
    """What the open-file limit allows (the server raises the soft limit to the hard one), at least 64."""
    return max(64, open_file_limit())


class Settings(BaseSettings):
    """Every setting of docs/operations.md, in lower case; seconds and bytes are numbers."""

    # `extra` and `hide_input_in_errors`: a wrong name is an error, and no error shows a value.
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    host: Annotated[str, AfterValidator(checks.parse_host)] = "127.0.0.1"
    port: Annotated[int, BeforeValidator(checks.parse_port), Field(ge=0, le=65535)] = 8000
    engine: Annotated[str, AfterValidator(checks.parse_engine)] = "sqlite:///notifier.db"
    durability: Annotated[Literal["fsync", "page_cache", "replicated"], Lower] = "fsync"

    jwt_secret: Annotated[str, AfterValidator(checks.parse_secret)] | None = Field(None, repr=False)
    jwt_secret_previous: Annotated[str, AfterValidator(checks.parse_secret)] | None = Field(None, repr=False)
    jwt_public_key: Annotated[str, AfterValidator(checks.parse_public_key)] | None = Field(None, repr=False)
    jwt_jwks_url: Annotated[str, AfterValidator(checks.parse_jwks_url)] | None = Field(None, repr=False)
    jwt_algorithms: Annotated[List[str], AfterValidator(checks.parse_algorithms)] = ()
    jwt_issuer: str | None = None
    jwt_audience: List[str] = ()
    jwt_client_id_claim: Annotated[str, AfterValidator(checks.parse_claim)] = "sub"
    jwt_leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 10

    api_keys: Annotated[tuple[ApiKey, ...], BeforeValidator(checks.parse_api_keys)] = Field((), repr=False)
    allowed_origins: Annotated[List[str], AfterValidator(checks.parse_origins)] = ()
    trusted_proxies: Annotated[
        tuple[IPv4Network | IPv6Network, ...], BeforeValidator(checks.parse_networks), BeforeValidator(checks.split)
    ] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    query_token: bool = False
    metrics_auth: bool = False

    max_connections: Annotated[int, Field(ge=1)] = Field(default_factory=default_max_connections)
    max_connections_per_client: Annotated[int, Field(ge=1)] = 8
    mailbox_limit: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    mailbox_bytes: Annotated[Size, Field(ge=1)] = 4 * _MIB
    mailbox_overflow: Annotated[Literal["reject", "drop_oldest"], Lower] = "reject"
    min_free_disk_bytes: Annotated[Size, Field(ge=0)] = 256 * _MIB
    ttl_default_seconds: Annotated[int, Field(ge=1)] = 604_800
    ttl_max_seconds: Annotated[int, Field(ge=1, le=315_360_000)] = 2_592_000
    dedup_seconds: Annotated[int, Field(ge=0, le=2_592_000)] = 3600
    # A frame must fit between the pacing mark (256 KiB unsent) and the limit of unsent bytes (1 MiB).
    max_body_bytes: Annotated[Size, Field(ge=1, le=_MIB // 2)] = 65_536
    max_inflight: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    heartbeat_seconds: Annotated[float, Field(gt=0, le=3600)] = 25
    heartbeat_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 20
    drain_delay_seconds: Annotated[float, Field(ge=0, le=3600)] = 0
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 10

    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], Lower] = "info"
    log_format: Annotated[Literal["auto", "json", "console"], Lower] = "auto"

    dev: bool = False
    """`notifier dev`: every loopback origin is allowed. Not to be had from the environment."""
    notes: tuple[str, ...] = ()
    """For the log at the start: what was ignored."""
    warnings: tuple[str, ...] = ()
    """For the log at the start: what is allowed and probably not meant."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Constructed by hand, it reads nothing: `load_settings` is the door."""
        return (init_settings,)

    def masked(self) -> dict[str, str]:
        """Every setting by its variable's name, for people to read; no secrets."""
        return {PREFIX + name: self._shown(name.lower()) for name in NAMES}

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        if value is None or value == ():
            return ""
        if name in ("jwt_secret", "jwt_secret_previous"):
            return "********"
        if name == "jwt_jwks_url":
            return str(value).partition("?")[0]  # some issuers want a key of theirs in the query
        if name == "jwt_public_key":
            return ", ".join("/".join(key.algorithms) for key in keys.public_keys(value))
        if name == "api_keys":
            return ", ".join(f"{key.name}:********:{'+'.join(sorted(key.scopes))}" for key in value)
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        return (
            str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
        )


NAMES: Final = tuple(name.upper() for name in Settings.model_fields if name not in ("dev", "notes", "warnings"))
"""The settings that the environment may give, without the prefix."""


def load_settings(environ: Mapping[str, str] | None = None, *, dev: bool = False) -> Settings:
    """The settings of `environ` (the process's environment by default).

    Raises: ConfigurationError with all problems.
    """
    source = EnvironmentSource(Settings, NAMES, os.environ if environ is None else environ)
    values = source()
    problems = list(source.problems)
    failed = {problem.name.removeprefix(PREFIX).removesuffix("_FILE").lower() for problem in problems}
    given = values.keys() | {name for name in failed if name.upper() in SECRETS}  # also by a file that is unreadable
    try:
        settings = Settings(**values, dev=dev, notes=tuple(source.notes))
    except ValidationError as error:
        wrong = {str(detail["loc"][0]): detail for detail in error.errors()}
        problems += [_problem(name, detail) for name, detail in wrong.items()]
        failed |= wrong.keys()
        # The rest, so that combinations of what is right are looked at too.
        settings = Settings(**{name: value for name, value in values.items() if name not in wrong})
    together = checks.check_together(settings, given)
    problems += [problem for names, problem in together if failed.isdisjoint(names)]
    if problems:
        raise ConfigurationError(problems=problems)
    return settings.model_copy(update={"warnings": tuple(checks.warnings_of(settings, open_file_limit()))})


def _problem(name: str, detail: Any) -> Problem:
    """A finding of pydantic's in our words; its own would be about Python."""
    variable = PREFIX + name.upper()
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, checks.UnusableError):
        return Problem(variable, cause.problem, cause.mend)
    if detail["type"] == "literal_error":
        return Problem(variable, "is none of the possible values", f"choose {detail['ctx']['expected']}")
    if detail["type"].startswith("bool"):
        return Problem(variable, "is neither true nor false", "write true or false")
    field = Settings.model_fields[name]
    kind = "a whole number" if detail["type"].startswith("int") or field.annotation is int else "a number"
    default = field.get_default(call_default_factory=True)
    out = detail["type"].startswith(("greater", "less"))
    problem = "is out of range" if out else f"is not {kind}"
    return Problem(variable, problem, f"write {kind} {_range(field.metadata)}(the default is {default})")


def _range(metadata: Iterable[object]) -> str:
    words = ""
    for bound in metadata:
        if isinstance(bound, annotated_types.Ge):
            words += f"from {bound.ge} "
        elif isinstance(bound, annotated_types.Gt):
            words += f"above {bound.gt} "
        elif isinstance(bound, annotated_types.Le):
            words += f"to {bound.le} "
    return words
