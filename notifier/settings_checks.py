"""What a setting may be: each by itself, and together with the others (docs/operations.md lists them).

The parsers take what stands in the environment. They refuse with `UnusableError`, which carries the problem and
its mend and nothing of a secret. The combinations are refused only after every single setting has been looked at,
so that one start shows all problems.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from notifier.auth import keys
from notifier.auth.apikeys import ApiKey, parse_keys
from notifier.errors import Problem

if TYPE_CHECKING:
    from notifier.settings import Settings

_T = TypeVar("_T")
_R = TypeVar("_R")
_DEFAULT_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*({_LABEL})\.?")
_ORIGIN: Final = re.compile(
    rf"([a-z][a-z0-9+.-]*)://((?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::([0-9]{{1,5}}))?"
)
_SIZE: Final = re.compile(r"(\d+)\s*(?:([KMG])i?B)?", re.IGNORECASE | re.ASCII)
_WHOLE: Final = re.compile(r"-?[0-9]{1,9}")
_UNITS: Final = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_NEVER_AN_ID: Final = ("exp", "nbf", "iat", "iss", "aud", "groups")
_ONE_KIND: Final = "set exactly one of NOTIFIER_JWT_SECRET, NOTIFIER_JWT_PUBLIC_KEY and NOTIFIER_JWT_JWKS_URL"


class UnusableError(ValueError):
    """A value that cannot be used."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}; {mend}")
        self.problem = problem
        self.mend = mend


def split(value: object) -> object:
    """A list in one variable: items between commas, white space around them ignored."""
    if not isinstance(value, str):
        return value
    return tuple(item.strip() for item in value.split(",") if item.strip())


def parse_size(value: object) -> object:
    """Bytes, or KiB, MiB, GiB."""
    if not isinstance(value, str) or (match := _SIZE.fullmatch(value.strip())) is None:
        return value
    return int(match[1]) * _UNITS[(match[2] or "").upper()]


def parse_port(value: object) -> object:
    """Plain digits: what else Python takes for a whole number (1_000, 8000.0), cli/health.py and people do not."""
    if not isinstance(value, str):
        return value
    if _WHOLE.fullmatch(text := value.strip()) is None:
        raise UnusableError("is not a whole number", "write a whole number from 0 to 65535 (the default is 8000)")
    return int(text)


def parse_host(value: str) -> str:
    """Whether the name is known, and the address this machine's, only the start can tell."""
    host = value.removeprefix("[").removesuffix("]")
    if not _is_address(host) and not _is_name(host):
        raise UnusableError("is not an address or host name", "give for example 127.0.0.1, 0.0.0.0 or ::")
    return host


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_name(host: str) -> bool:
    try:
        name = host.encode("idna").decode().lower()  # refuses labels that are empty or over 63 bytes (RFC 1035 §2.3.4)
    except UnicodeError:
        return False
    match = _NAME.fullmatch(name)
    return match is not None and len(name) <= 253 and not match[1].isdigit()  # digits: an IPv4 address misspelt


def parse_engine(value: str) -> str:
    """Never echoed: a Redis URL may hold a password."""
    if value.startswith(("redis://", "rediss://")):
        raise UnusableError("names Redis, which is not built into this version", "use sqlite:///notifier.db")
    if not value.startswith("sqlite:"):
        raise UnusableError("is not the URL of an engine", "use sqlite:///notifier.db")
    path = value.removeprefix("sqlite:///")
    if path == value or not path.strip("/"):
        raise UnusableError("names no file", "use sqlite:///relative.db or, with four slashes, sqlite:////absolute.db")
    if path.startswith(":memory:"):
        raise UnusableError("would lose everything when the process ends", "name a file: sqlite:///notifier.db")
    if path.endswith("/") or "?" in path or "#" in path:
        raise UnusableError("does not end with the name of a file", "use sqlite:///notifier.db")
    return value


def parse_secret(value: str) -> str:
    try:
        keys.secret_key(value)
    except ValueError as error:
        raise UnusableError(str(error), "take a random one: openssl rand -hex 32") from None
    return value


def parse_public_key(value: str) -> str:
    try:
        keys.public_keys(value)
    except ValueError as error:
        raise UnusableError(str(error), "give one or more PEM blocks with the public keys of the issuer") from None
    return value


def parse_jwks_url(value: str) -> str:
    """Never echoed: it may hold credentials."""
    mend = "give the issuer's https:// URL, often https://ISSUER/.well-known/jwks.json"
    try:
        parts = urlsplit(value)
        usable = bool(parts.hostname) and parts.port != 0 and value.isprintable() and " " not in value
    except ValueError:
        usable = False
    if not usable:
        raise UnusableError("is not a URL", mend)
    if parts.scheme != "https":
        raise UnusableError("is not https: whoever is on the way could give his own keys", mend)
    if parts.username is not None or parts.fragment:
        raise UnusableError("has credentials or a fragment", mend)
    return value


def parse_algorithms(value: tuple[str, ...]) -> tuple[str, ...]:
    known = (*keys.SECRET_ALGORITHMS, *keys.PUBLIC_ALGORITHMS)
    if unknown := [name[:20] for name in value if name not in known]:
        raise UnusableError(f"has {', '.join(map(repr, unknown))}, not supported", f"choose from {' '.join(known)}")
    return tuple(dict.fromkeys(value))


def parse_claim(value: str) -> str:
    if value in _NEVER_AN_ID or not value.isprintable():
        raise UnusableError("cannot name a client", "use sub, or a claim of your own that holds the user's id")
    return value


def parse_api_keys(value: object) -> tuple[ApiKey, ...]:
    if isinstance(value, tuple) and all(isinstance(key, ApiKey) for key in value):
        return value
    try:
        return parse_keys(str(value))
    except ValueError as error:
        problem, _, mend = str(error).partition("; ")
        raise UnusableError(problem, mend or "make one with `notifier keys new NAME`") from None


def _each(parse: Callable[[_T], _R], items: Iterable[_T]) -> tuple[_R, ...]:
    """Every item parsed. Raises: UnusableError, about all that cannot be used."""
    parsed: list[_R] = []
    wrong: list[UnusableError] = []
    for item in items:
        try:
            parsed.append(parse(item))
        except UnusableError as error:
            wrong.append(error)
    if wrong:
        problems = ", and ".join(dict.fromkeys(error.problem for error in wrong))
        raise UnusableError(problems, "; ".join(dict.fromkeys(error.mend for error in wrong)))
    return tuple(parsed)


def parse_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    """As browsers send them: lower case, without a default port."""
    return tuple(dict.fromkeys(_each(_parse_origin, value)))


def _parse_origin(text: str) -> str:
    if text == "null":
        return text
    match = _ORIGIN.fullmatch(text.lower())
    if match is None or int(match[3] or 0) > 65535:
        mend = "write scheme://host[:port] without a path, at most one *. before the host (IDN as xn--), or null"
        raise UnusableError(f"has {text[:80]!r}, which is not an origin", mend)
    scheme, host, digits = match.groups()
    port = int(digits or 0) or _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{host}" if port == _DEFAULT_PORTS.get(scheme) else f"{scheme}://{host}:{port}"


def parse_networks(value: tuple[object, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return _each(_parse_network, value)


def _parse_network(item: object) -> IPv4Network | IPv6Network:
    if isinstance(item, IPv4Network | IPv6Network):
        return item
    mend = "write an address or a network, for example 10.0.0.0/8"
    try:
        return _plain(ip_network(str(item)))
    except ValueError:
        with contextlib.suppress(ValueError):
            mend = f"write {ip_network(str(item), strict=False)}"
        raise UnusableError(f"has {str(item)[:60]!r}, which is not a network", mend) from None


def _plain(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Peers with an IPv4 address are compared as such, also where they are seen as ::ffff:192.0.2.1."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None or network.prefixlen < 96 else IPv4Network((mapped, network.prefixlen - 96))


Found = tuple[tuple[str, ...], Problem]
"""The settings that a problem is about, and the problem."""


def _found(problem: str, mend: str, *names: str) -> Found:
    return names, Problem(" ".join(f"NOTIFIER_{name.upper()}" for name in names[:1]), problem, mend)


def check_together(settings: Settings, given: Collection[str]) -> Iterator[Found]:
    """What is wrong between settings that are each right. `given`: those that are set, also to what cannot be used."""
    yield from _check_keys(settings, given)
    yield from _check_tls(settings)
    if not settings.api_keys:
        yield _found("is required", "make a key with `notifier keys new NAME`", "api_keys")
    if settings.ttl_default_seconds > settings.ttl_max_seconds:
        yield _found(
            f"is over NOTIFIER_TTL_MAX_SECONDS ({settings.ttl_max_seconds})",
            "lower it or raise the maximum",
            *("ttl_default_seconds", "ttl_max_seconds"),
        )
    if settings.mailbox_bytes < settings.max_body_bytes:
        yield _found(
            f"is less than one notification may have (NOTIFIER_MAX_BODY_BYTES, {settings.max_body_bytes})",
            "raise it or lower the other",
            *("mailbox_bytes", "max_body_bytes"),
        )
    if settings.durability == "replicated":
        yield _found("is replicated, which only Redis can be", "use fsync", "durability", "engine")


def _check_keys(settings: Settings, names: Collection[str]) -> Iterator[Found]:
    kinds = ("jwt_secret", "jwt_public_key", "jwt_jwks_url")
    given = [kind for kind in kinds if kind in names]
    if not given:
        yield _found("or another key to check tokens with is required", _ONE_KIND, *kinds)
    if len(given) > 1:
        also = " and ".join(f"NOTIFIER_{kind.upper()}" for kind in given[1:])
        # About no setting: it holds whatever else is wrong with them.
        yield (), _found(f"is set, and {also} too", _ONE_KIND, given[0])[1]
    if settings.jwt_secret_previous and not settings.jwt_secret:
        yield _found(
            "is set without NOTIFIER_JWT_SECRET", "set that one, or neither", "jwt_secret_previous", "jwt_secret"
        )
    if not settings.jwt_algorithms or len(given) != 1:
        return
    fitting = keys.SECRET_ALGORITHMS if given == ["jwt_secret"] else keys.PUBLIC_ALGORITHMS
    if other := [name for name in settings.jwt_algorithms if name not in fitting]:
        yield _found(
            f"has {' '.join(other)}, which cannot be used with NOTIFIER_{given[0].upper()}",
            f"choose from {' '.join(fitting)}, or leave it out",
            *("jwt_algorithms", given[0]),
        )
    elif settings.jwt_public_key:
        try:
            keys.public_keys(settings.jwt_public_key, settings.jwt_algorithms)
        except ValueError as error:
            yield _found(str(error), "add the algorithm or remove the key", "jwt_public_key", "jwt_algorithms")


def _check_tls(settings: Settings) -> Iterator[Found]:
    names = ("tls_cert", "tls_key")
    given = [name for name in names if getattr(settings, name)]
    if len(given) == 1:
        other = "TLS_KEY" if given == ["tls_cert"] else "TLS_CERT"
        yield _found(f"is set without NOTIFIER_{other}", "set both, or neither", *given, *names)
    if len(given) < 2:
        return
    unreadable = [name for name in names if not _readable(getattr(settings, name))]
    for name in unreadable:
        yield _found("names a file that cannot be read", "check path and permissions", name)
    if unreadable:
        return
    try:
        # A password would be asked for on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(str(settings.tls_cert), settings.tls_key, lambda: "")
    except (OSError, ValueError):
        problem = "and NOTIFIER_TLS_KEY are not a PEM certificate (chain) and its private key without a password"
        yield _found(problem, "check that they belong together, and which is which", *names)


def _readable(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError:
        return False
    return True


def warnings_of(settings: Settings, open_file_limit: int) -> Iterator[str]:
    """What is allowed, and probably not meant."""
    if settings.jwt_client_id_claim == "client_id":
        yield (
            "NOTIFIER_JWT_CLIENT_ID_CLAIM is client_id: in OAuth that names the application, so that ALL USERS of an "
            "application would share ONE mailbox and read each other's notifications. Use sub unless your issuer "
            "puts the user there."
        )
    if settings.metrics_auth and not any(key.allows("metrics") for key in settings.api_keys):
        yield "NOTIFIER_METRICS_AUTH is on, but no key has the scope metrics: nobody can read /metrics."
    if settings.max_connections > open_file_limit:
        yield (
            f"NOTIFIER_MAX_CONNECTIONS is {settings.max_connections}, but this process may open about "
            f"{open_file_limit} connections: raise its open-file limit (LimitNOFILE, ulimit -n)."
        )
    secrets = [secret for secret in (settings.jwt_secret, settings.jwt_secret_previous) if secret]
    if secrets and settings.jwt_algorithms:
        size = 64 if "HS512" in settings.jwt_algorithms else 48 if "HS384" in settings.jwt_algorithms else 0
        if any(len(secret.encode()) < size for secret in secrets):
            yield f"A JWT secret is shorter than the {size} bytes that RFC 7518 asks for with NOTIFIER_JWT_ALGORITHMS."
