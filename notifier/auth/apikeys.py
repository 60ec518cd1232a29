"""API keys of publishers and operators (docs/protocol.md, Publish)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from hashlib import sha256
from hmac import compare_digest
from typing import Final, NamedTuple

from notifier.errors import Forbidden, Unauthorized

SCOPES: Final = ("notify", "metrics", "admin")
MIN_SECRET_CHARACTERS: Final = 24

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECRET: Final = re.compile(r"[!-~]+")
_DIGEST: Final = re.compile(r"sha256\$([0-9A-Fa-f]{64})")
_HOW: Final = "Send the key as X-API-Key: KEY, or as Authorization: Bearer KEY."


class ApiKey(NamedTuple):
    """A key as it is configured. The secret itself is not kept."""

    name: str
    scopes: frozenset[str]
    digest: bytes

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


class ApiKeys:
    """All keys that are valid at present."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = tuple(keys)

    def check(self, x_api_key: bytes | None, authorization: bytes | None, scope: str) -> ApiKey:
        """The key that came with a request, if it allows `scope`.

        Raises: Unauthorized without a valid key; Forbidden when the key lacks the scope.
        """
        bearer = _bearer(authorization)
        if x_api_key is not None and bearer is not None and x_api_key.strip() != bearer:
            raise Unauthorized("X-API-Key and Authorization carry different keys. Send one of them.")
        presented = bearer if x_api_key is None else x_api_key.strip()
        if presented is None:
            raise Unauthorized(f"No API key. {_HOW}")
        # Digests of equal length, each compared in full, none skipped: the time tells neither a prefix nor an index.
        digest = sha256(presented).digest()
        found = None
        for key in self._keys:
            if compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise Unauthorized(f"The API key is not valid. {_HOW}")
        if not found.allows(scope):
            raise Forbidden(f"This API key lacks the scope {scope!r}. Use a key that has it.")
        return found


def _bearer(authorization: bytes | None) -> bytes | None:
    """The credentials of the Bearer scheme; another scheme is for somebody else (a proxy), not for us."""
    if authorization is None:
        return None
    scheme, _, credentials = authorization.strip().partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" else None


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """`name:secret[:scope+scope]`, separated by commas or lines; secret plain or `sha256$HEX`.

    Raises: ValueError, with words that fit behind a name: all that is wrong, a semicolon, and the mends. They tell a
    key's position and nothing of its text: a secret may stand where a name belongs.
    """
    keys: dict[int, ApiKey] = {}
    wrong: list[str] = []
    entries = [entry.strip() for entry in text.replace("\n", ",").split(",")]
    for position, entry in enumerate(filter(None, entries), 1):
        try:
            key = _parse_key(entry, position)
            _check_unlike(key, position, keys)
        except ValueError as error:
            wrong.append(str(error))
        else:
            keys[position] = key
    if wrong:
        parts = [each.partition("; ") for each in wrong]
        mends = dict.fromkeys(mend for _, _, mend in parts if mend)
        raise ValueError("; ".join([", ".join(problem for problem, _, _ in parts), *mends]))
    if not keys:
        raise ValueError("holds no key; give name:secret")
    return tuple(keys.values())


def _check_unlike(key: ApiKey, position: int, keys: Mapping[int, ApiKey]) -> None:
    for earlier, other in keys.items():
        if key.name == other.name:
            raise ValueError(f"keys {earlier} and {position} have the same name; give each its own")
        if key.digest == other.digest:
            raise ValueError(f"keys {earlier} and {position} have the same secret; remove one of them")


def _parse_key(entry: str, position: int) -> ApiKey:
    name, *parts = entry.split(":")
    if not 1 <= len(parts) <= 2 or not parts[0]:
        raise ValueError(f"key {position} is not name:secret or name:secret:scope+scope")
    if not _NAME.fullmatch(name):
        raise ValueError(f"key {position} has a name that is not 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    granted = parts[1].split("+") if len(parts) == 2 else ["notify"]
    if not set(granted) <= set(SCOPES):
        raise ValueError(f"key {position} has an unknown scope; the scopes are {', '.join(SCOPES)}, joined by +")
    return ApiKey(name, frozenset(granted), _digest(parts[0], position))


def _digest(secret: str, position: int) -> bytes:
    if (match := _DIGEST.fullmatch(secret)) is not None:
        return bytes.fromhex(match[1])
    if secret.startswith("sha256"):
        raise ValueError(
            f"key {position} is not sha256$ and 64 hexadecimal digits; "
            "a shell or a compose file may have eaten the $: quote it, or write $$ in compose"
        )
    if len(secret) < MIN_SECRET_CHARACTERS:
        raise ValueError(
            f"key {position} has a secret of less than {MIN_SECRET_CHARACTERS} characters; "
            "make one with `notifier keys new NAME`"
        )
    if not _SECRET.fullmatch(secret):
        raise ValueError(
            f"key {position} has a secret with characters that cannot stand in a header; use visible ASCII"
        )
    return sha256(secret.encode()).digest()


def new_key(name: str, scopes: Iterable[str] = ("notify",)) -> tuple[str, str]:
    """A new secret, to be shown once, and the line to configure it by, which holds only its hash.

    Raises: ValueError, with words that fit behind a name.
    """
    secret = "nk_" + secrets.token_urlsafe(32)
    line = f"{name}:sha256${sha256(secret.encode()).hexdigest()}:{'+'.join(scopes)}"
    parse_keys(line)
    return secret, line
