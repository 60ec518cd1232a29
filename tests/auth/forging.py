"""Tokens that no library would make."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from notifier.clock import ManualClock

NOW = 1_800_000_000
SECRET = "the-secret-that-signs-the-tokens"
GOOD: dict[str, Any] = {"sub": "alice", "exp": NOW + 3600, "iat": NOW}
HEADER: dict[str, Any] = {"alg": "HS256", "typ": "JWT"}

_JWS = jwt.PyJWS()


def clock() -> ManualClock:
    return ManualClock(NOW)


def encode(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def as_bytes(value: object) -> bytes:
    """JSON of a value; text and bytes stand for themselves."""
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def sign(header: object, claims: object, key: Any = SECRET, algorithm: str = "HS256") -> str:
    """A properly signed token with any header and any claims whatever."""
    signed = encode(as_bytes(header)) + b"." + encode(as_bytes(claims))
    verifier = _JWS.get_algorithm_by_name(algorithm)
    material = key.encode() if isinstance(key, str) else key
    return (signed + b"." + encode(verifier.sign(signed, material))).decode()


def with_header(**changes: object) -> str:
    return sign(HEADER | changes, GOOD)


def with_claims(**changes: object) -> str:
    return sign(HEADER, GOOD | changes)


def without(claim: str) -> str:
    return sign(HEADER, {name: value for name, value in GOOD.items() if name != claim})


def pem(private_key: Any) -> str:
    public: bytes = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public.decode()
