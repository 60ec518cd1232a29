"""What verifies a token's signature, and with which algorithms.

A key allows the algorithms of its own kind and no others (RFC 8725 §3.1): what the token's header says only
selects among them, so a public key can never be taken for an HMAC secret. The signatures themselves are
PyJWT's work; each key is prepared for it once, because PyJWT prepares it anew for every token (10 µs).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm

SECRET_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
PUBLIC_ALGORITHMS: Final = (*RSA_ALGORITHMS, "ES256", "ES384", "ES512", "EdDSA")

MIN_SECRET_BYTES: Final = 32
MIN_RSA_BITS: Final = 2048  # RFC 7518 §3.3

type_of_curve: Final[Mapping[type[ec.EllipticCurve], str]] = {
    ec.SECP256R1: "ES256",
    ec.SECP384R1: "ES384",
    ec.SECP521R1: "ES512",
}
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

_JWS: Final = jwt.PyJWS(algorithms=[*SECRET_ALGORITHMS, *PUBLIC_ALGORITHMS])
_PEM: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class VerificationKey:
    """One key, ready for each algorithm that it may be used with."""

    __slots__ = ("_prepared", "kid")

    def __init__(self, material: bytes | PublicKey, algorithms: Iterable[str], kid: str | None = None) -> None:
        """Raises: ValueError, when PyJWT takes the material for something else than a key of this kind."""
        self.kid = kid
        self._prepared: dict[str, tuple[Algorithm, Any]] = {}
        for name in algorithms:
            algorithm = _JWS.get_algorithm_by_name(name)
            try:
                self._prepared[name] = (algorithm, algorithm.prepare_key(material))
            except (jwt.PyJWTError, TypeError):
                raise ValueError("cannot be used as a key for " + name) from None

    @property
    def algorithms(self) -> Collection[str]:
        return self._prepared.keys()

    def fits(self, algorithm: str) -> bool:
        return algorithm in self._prepared

    def verify(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `signed`. The algorithm must fit."""
        verifier, key = self._prepared[algorithm]
        return verifier.verify(signed, key, signature)


def secret_key(secret: str, allowed: Collection[str] = ()) -> VerificationKey:
    """A shared secret. `allowed` narrows the algorithms, empty: all of the kind.

    Raises: ValueError, with words that fit behind a name and hold nothing of the secret.
    """
    material = secret.encode()
    if len(material) < MIN_SECRET_BYTES:
        raise ValueError(f"is shorter than {MIN_SECRET_BYTES} bytes, which can be guessed from a single token")
    try:
        return VerificationKey(material, _narrow(SECRET_ALGORITHMS, allowed))
    except ValueError:
        raise ValueError("is a PEM, certificate or JWK, not a shared secret") from None


def public_keys(pem: str, allowed: Collection[str] = ()) -> tuple[VerificationKey, ...]:
    """Every public key of one or more PEM blocks. Text around the blocks is ignored, `\\n` may be written out.

    Raises: ValueError, with words that fit behind a name.
    """
    blocks = list(_PEM.finditer(pem.replace("\\n", "\n")))
    if not blocks:
        raise ValueError("holds no PEM block (-----BEGIN PUBLIC KEY-----)")
    return tuple(_pem_key(block, number, allowed) for number, block in enumerate(blocks, 1))


def _pem_key(block: re.Match[str], number: int, allowed: Collection[str]) -> VerificationKey:
    label = block[1]
    if "PRIVATE" in label:
        raise ValueError(f"block {number} is a private key, which must not be here; take `openssl pkey -pubout` of it")
    if label == "CERTIFICATE":
        raise ValueError(f"block {number} is a certificate; take `openssl x509 -pubkey -noout` of it")
    try:
        key = load_pem_public_key(block[0].encode())
        return _public_key(key, allowed, None)
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = str(error) if isinstance(error, _UnfitError) else "is not a readable public key"
        raise ValueError(f"block {number} {reason}") from None


class _UnfitError(ValueError):
    """A key that can be read but must not be used; the message fits behind a name."""


def algorithms_of(key: object) -> tuple[str, ...]:
    """The algorithms that a public key is for.

    Raises: ValueError, when it is for none that we accept.
    """
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise _UnfitError(f"is an RSA key of {key.key_size} bits; at least {MIN_RSA_BITS} are required")
        return RSA_ALGORITHMS
    if isinstance(key, ec.EllipticCurvePublicKey):
        if (name := type_of_curve.get(type(key.curve))) is None:
            raise _UnfitError(f"is on the curve {key.curve.name}; P-256, P-384 and P-521 are supported")
        return (name,)
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return ("EdDSA",)
    raise _UnfitError("is not an RSA, EC or Ed25519/Ed448 public key")


def _public_key(key: Any, allowed: Collection[str], kid: str | None) -> VerificationKey:
    fitting = _narrow(algorithms_of(key), allowed)
    if not fitting:
        raise _UnfitError(f"is for {' '.join(algorithms_of(key))}, none of which JWT_ALGORITHMS allows")
    return VerificationKey(key, fitting, kid)


def _narrow(algorithms: Iterable[str], allowed: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in algorithms if not allowed or name in allowed)


def jwk_key(jwk: object, allowed: Collection[str] = ()) -> VerificationKey:
    """The key of one entry of a JWKS (RFC 7517).

    Raises: ValueError, when it is none that may verify tokens here: symmetric, private, for another use, unknown.
    """
    if not isinstance(jwk, dict):
        raise ValueError("is not an object")
    kind = jwk.get("kty")
    if type(kind) is not str or kind not in _READERS:
        raise ValueError("has an unsupported type")  # oct too: a secret that everybody can fetch is none
    if "d" in jwk:
        raise ValueError("is private")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("is not for signatures")
    kid, algorithm = jwk.get("kid"), jwk.get("alg")
    if not isinstance(kid, str | None) or not isinstance(algorithm, str | None):
        raise ValueError("has a kid or alg that is not a string")
    try:
        key: Any = _JWS.get_algorithm_by_name(_READERS[kind]).from_jwk(jwk)
        fitting = _narrow(_narrow(algorithms_of(key), allowed), () if algorithm is None else (algorithm,))
        if not fitting:
            raise _UnfitError("is for no allowed algorithm")
        return VerificationKey(key, fitting, kid)
    except _UnfitError:
        raise
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError, UnsupportedAlgorithm):
        raise ValueError("cannot be read") from None


_READERS: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
"""Which of PyJWT's algorithms reads a key type; EC reads every curve."""
