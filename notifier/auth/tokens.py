"""A client's token: JWT (RFC 7519, as RFC 8725 advises) to `Identity`.

The signature is PyJWT's work (auth/keys.py). The envelope around it is read here and once: PyJWT's own reading costs
ten times its HMAC, 0.8 ms for 16 KiB that nobody has signed, and loses what we must see, such as a claim that stands
twice. Everything is stricter than there, so whatever we take PyJWT takes too (a test compares them).
"""

from __future__ import annotations

import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

import jwt
import msgspec

from notifier import strictjson
from notifier.auth import keys
from notifier.auth.keys import VerificationKey
from notifier.clock import Clock
from notifier.errors import BadJson, NotifierError, TokenExpired, TokenInvalid
from notifier.fields import check_client_id, check_group

MAX_TOKEN_BYTES: Final = 16 * 1024
MAX_GROUPS: Final = 100
END_OF_TIME: Final = 253_402_300_800
"""The year 10000, which RFC 3339 cannot write. Who gives milliseconds for `exp` ends here, not in the year 56000."""

_TYPES: Final = ("jwt", "at+jwt")


class Identity(msgspec.Struct, frozen=True):
    """Whom a token speaks for, and for how long (unix seconds)."""

    client_id: str
    expires_at: float
    issued_at: float | None
    groups: tuple[str, ...]


class Rules(NamedTuple):
    """What a token must say besides being signed."""

    client_id_claim: str = "sub"
    issuer: str | None = None
    audience: Collection[str] = ()
    leeway_s: float = 10


class KeySource(Protocol):
    """Where the keys come from."""

    algorithms: Collection[str]
    """A token with another is refused unseen."""

    def find(self, algorithm: str, kid: str | None) -> Sequence[VerificationKey]:
        """The keys at hand that may have signed the token.

        Raises: NoKeys, when there never were any.
        """

    def wait(self, algorithm: str, kid: str | None, done: Callable[[], None]) -> bool:
        """False if waiting cannot help. Else `done` is called once, later: new keys came, or it took too long."""

    def ready(self) -> str | None:
        """Why no token can be checked at present; None if tokens can be."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class StaticKeys:
    """Keys from the settings. `kid` is ignored: any key that verifies."""

    def __init__(self, verification_keys: Iterable[VerificationKey]) -> None:
        by_algorithm: dict[str, list[VerificationKey]] = {}
        for key in verification_keys:
            for algorithm in key.algorithms:
                by_algorithm.setdefault(algorithm, []).append(key)
        self._keys = by_algorithm
        self.algorithms: Collection[str] = by_algorithm.keys()

    def find(self, algorithm: str, kid: str | None) -> Sequence[VerificationKey]:
        return self._keys[algorithm]

    def wait(self, algorithm: str, kid: str | None, done: Callable[[], None]) -> bool:
        return False

    def ready(self) -> str | None:
        return None

    async def start(self) -> None:
        """Nothing to fetch."""

    async def stop(self) -> None:
        """Nothing runs."""


class TokenVerifier:
    """Checks tokens. Everything happens on the event loop's thread."""

    def __init__(self, source: KeySource, rules: Rules, clock: Clock) -> None:
        self._source = source
        self._rules = rules
        self._clock = clock

    async def start(self) -> None:
        """Begin to fetch keys, where they are fetched. Does not wait for them."""
        await self._source.start()

    async def stop(self) -> None:
        await self._source.stop()

    def ready(self) -> str | None:
        """Why no token can be checked at present; None if tokens can be."""
        return self._source.ready()

    def verify(self, token: str | bytes, done: Callable[[Identity | NotifierError], None]) -> None:
        """Check `token` and call `done` with the outcome: at once, unless keys must be fetched first."""
        try:
            envelope = _open(token, self._source.algorithms)
        except TokenInvalid as error:
            done(error)
            return
        if not self._source.wait(envelope.algorithm, envelope.kid, lambda: done(self._outcome(envelope))):
            done(self._outcome(envelope))

    def verify_now(self, token: str | bytes) -> Identity:
        """Check `token` with the keys at hand.

        Raises: TokenInvalid, TokenExpired; NoKeys when there never were any keys.
        """
        return self._check(_open(token, self._source.algorithms))

    def claimed_client_id(self, token: str | bytes) -> str | None:
        """The client_id that a refused token claims, for a diagnosis. Nothing of it is proved, unless the refusal was
        TokenExpired: that is only said of tokens with a good signature."""
        try:
            claims = strictjson.parse(_decode(_open(token, self._source.algorithms).payload))
        except NotifierError:
            return None
        client_id = claims.get(self._rules.client_id_claim) if type(claims) is dict else None
        return client_id if type(client_id) is str and check_client_id(client_id) is None else None

    def _outcome(self, envelope: Envelope) -> Identity | NotifierError:
        try:
            return self._check(envelope)
        except NotifierError as error:
            return error

    def _check(self, envelope: Envelope) -> Identity:
        algorithm, kid, signed, payload, signature = envelope
        for key in self._source.find(algorithm, kid):
            if key.verify(algorithm, signed, signature):
                break
        else:
            raise TokenInvalid("No key that this server has verifies the token's signature.")
        try:
            claims = strictjson.parse(_decode(payload))
        except BadJson:
            raise TokenInvalid("The token's claims are not acceptable JSON (twice the same name? too deep?).") from None
        if type(claims) is not dict:
            raise TokenInvalid("The token's claims are not a JSON object.")
        return _identity(claims, self._rules, self._clock.now())


class Envelope(NamedTuple):
    """A token taken apart; nothing of it is proved yet."""

    algorithm: str
    kid: str | None
    signed: bytes
    payload: bytes
    signature: bytes


def _open(token: str | bytes, algorithms: Collection[str]) -> Envelope:
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenInvalid(f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
    try:
        raw = token.encode("ascii") if isinstance(token, str) else token
    except UnicodeEncodeError:
        raise TokenInvalid("The token has characters that no JWT has.") from None
    signed, _, signature = raw.rpartition(b".")
    header, dot, payload = signed.partition(b".")
    if not dot or b"." in payload:
        raise TokenInvalid("The token is not a JWT: it needs three parts with dots between them.")
    algorithm, kid = _read_header(header)
    if algorithm not in algorithms:
        raise TokenInvalid("The token is signed with an algorithm that is not allowed here.")
    return Envelope(algorithm, kid, signed, payload, _decode(signature))


def _decode(segment: bytes) -> bytes:
    """base64url as RFC 7515 §2 has it: no padding, and only one way to write the same bytes."""
    try:
        data = urlsafe_b64decode(segment + b"=="[: -len(segment) % 4])
    except ValueError:
        data = b""
    if urlsafe_b64encode(data).rstrip(b"=") != segment:
        raise TokenInvalid("A part of the token is not base64url.")
    return data


@lru_cache(maxsize=128)  # an issuer writes the same few headers for ever; saves a third of all work
def _read_header(segment: bytes) -> tuple[str, str | None]:
    """Algorithm and kid. Embedded keys and key URLs (jwk, jku, x5u, x5c) are not even looked at."""
    try:
        header = strictjson.parse(_decode(segment))
    except BadJson:
        header = None
    if type(header) is not dict:
        raise TokenInvalid("The token's header is not an acceptable JSON object.")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if "crit" in header or "b64" in header:  # RFC 7515 §4.1.11: what we do not implement must be refused
        raise TokenInvalid("The token's header asks for an extension (crit, b64) that is not supported.")
    if type(algorithm) is not str or ("kid" in header and type(kid) is not str):
        raise TokenInvalid("The token's header has an alg or kid that is not a string.")
    if type(kind) is not str or kind.lower() not in _TYPES:
        raise TokenInvalid("The token is of another type: typ must be JWT or at+jwt.")
    return algorithm, kid


def _identity(claims: Mapping[str, Any], rules: Rules, now: float) -> Identity:
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise TokenInvalid("The token has no claim 'exp'; it must say when it ends.")
    if now >= expires_at + rules.leeway_s:
        raise TokenExpired("The token has expired. Fetch a new one.")
    issued_at, not_before = _time(claims, "iat"), _time(claims, "nbf")
    if max(issued_at or 0, not_before or 0) > now + rules.leeway_s:
        raise TokenInvalid("The token is not valid yet (iat, nbf): do the clocks of issuer and server agree?")
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise TokenInvalid("The token's 'iss' is not the issuer that is configured.")
    if rules.audience and not _is_for(claims.get("aud"), rules.audience):
        raise TokenInvalid("The token's 'aud' is not the audience that is configured.")
    client_id = claims.get(rules.client_id_claim)
    if type(client_id) is not str:
        raise TokenInvalid(f"The token has no claim {rules.client_id_claim!r} that is a string; it names the client.")
    if (problem := check_client_id(client_id)) is not None:
        raise TokenInvalid(f"The token's claim {rules.client_id_claim!r} {problem}.")
    return Identity(client_id, expires_at, issued_at, _groups(claims))


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 §2), None if absent. A boolean is no number, nor is text that looks like one."""
    if name not in claims:
        return None
    value = claims[name]
    if (type(value) is not int and type(value) is not float) or not -END_OF_TIME < value < END_OF_TIME:
        raise TokenInvalid(f"The token's claim {name!r} is not a number of seconds since 1970.")
    return float(value)


def _is_for(aud: Any, audience: Collection[str]) -> bool:
    if type(aud) is str:
        return aud in audience
    return type(aud) is list and all(type(name) is str for name in aud) and any(name in audience for name in aud)


def _groups(claims: Mapping[str, Any]) -> tuple[str, ...]:
    if "groups" not in claims:
        return ()
    groups = claims["groups"]
    if type(groups) is not list or len(groups) > MAX_GROUPS:
        raise TokenInvalid(f"The token's claim 'groups' is not a list of at most {MAX_GROUPS} strings.")
    for group in groups:
        if type(group) is not str or check_group(group) is not None:
            raise TokenInvalid("The token's claim 'groups' has a name that is not 1 to 200 bytes of plain text.")
    return tuple(dict.fromkeys(groups))


def token_verifier(
    clock: Clock,
    *,
    secrets: Iterable[str] = (),
    public_key: str | None = None,
    jwks_url: str | None = None,
    algorithms: Collection[str] = (),
    rules: Rules = Rules(),  # noqa: B008 - it cannot be changed
) -> TokenVerifier:
    """A verifier for exactly one kind of key: shared secrets, PEM text, or the URL of a JWKS.

    Raises: ValueError, when a key cannot be used.
    """
    if jwks_url is not None:
        from notifier.auth.jwks import Jwks  # brings an HTTP client, 0.1 s, which most do not need

        return TokenVerifier(Jwks(jwks_url, clock, algorithms), rules, clock)
    if public_key is not None:
        return TokenVerifier(StaticKeys(keys.public_keys(public_key, algorithms)), rules, clock)
    return TokenVerifier(StaticKeys(keys.secret_key(secret, algorithms) for secret in secrets), rules, clock)


def mint(
    secret: str,
    client_id: str,
    ttl_seconds: float,
    groups: Sequence[str] = (),
    *,
    now: float | None = None,
    algorithm: str = "HS256",
    **claims: object,
) -> str:
    """A token signed with a shared secret, for the command line and for tests. `claims` are added, or replace."""
    issued = time.time() if now is None else now
    payload: dict[str, Any] = {"sub": client_id, "iat": int(issued), "exp": int(issued + ttl_seconds)}
    if groups:
        payload["groups"] = list(groups)
    return jwt.encode(payload | claims, secret, algorithm)
