"""Keys: each verifies with the algorithms of its own kind, and with no other."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from notifier.auth.keys import PUBLIC_ALGORITHMS, RSA_ALGORITHMS, SECRET_ALGORITHMS, jwk_key, public_keys, secret_key
from notifier.auth.tokens import token_verifier
from notifier.errors import TokenInvalid
from tests.auth.forging import GOOD, SECRET, clock, encode, pem, sign


def one_of_each() -> dict[str, Any]:
    return {
        "RSA": rsa.generate_private_key(65537, 2048),
        "P-256": ec.generate_private_key(ec.SECP256R1()),
        "P-384": ec.generate_private_key(ec.SECP384R1()),
        "P-521": ec.generate_private_key(ec.SECP521R1()),
        "Ed25519": ed25519.Ed25519PrivateKey.generate(),
        "Ed448": ed448.Ed448PrivateKey.generate(),
    }


PRIVATE, OF_STRANGERS = one_of_each(), one_of_each()
ALGORITHMS = {
    "RSA": RSA_ALGORITHMS,
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
    "Ed448": ("EdDSA",),
}
PAIRS = [(kind, algorithm) for kind, algorithms in ALGORITHMS.items() for algorithm in algorithms]


def jwk(kind: str, **changes: Any) -> dict[str, Any]:
    writer = {"RSA": RSAAlgorithm, "P-": ECAlgorithm, "Ed": OKPAlgorithm}[kind if kind == "RSA" else kind[:2]]
    written: dict[str, Any] = writer.to_jwk(PRIVATE[kind].public_key(), as_dict=True)
    written.pop("key_ops", None)
    return {name: value for name, value in (written | changes).items() if value is not ...}


def refuse(token: str, public: str, algorithms: tuple[str, ...] = ()) -> None:
    with pytest.raises(TokenInvalid):
        token_verifier(clock(), public_key=public, algorithms=algorithms).verify_now(token)


# --- confusion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", SECRET_ALGORITHMS)
@pytest.mark.parametrize("kind", PRIVATE)
def test_a_public_key_is_never_an_hmac_secret(kind: str, algorithm: str) -> None:
    public = PRIVATE[kind].public_key()
    formats = [pem(PRIVATE[kind]).encode(), pem(PRIVATE[kind]).strip().encode()]
    formats.append(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    for material in formats:
        refuse(sign({"alg": algorithm}, GOOD, material, algorithm), pem(PRIVATE[kind]))


@pytest.mark.parametrize("kind", PRIVATE)
def test_the_header_cannot_choose_another_algorithm_than_the_keys_own(kind: str) -> None:
    signed_with = ALGORITHMS[kind][0]
    for algorithm in {*PUBLIC_ALGORITHMS, *SECRET_ALGORITHMS, "none", "ES256K"} - {signed_with}:
        refuse(sign({"alg": algorithm}, GOOD, PRIVATE[kind], signed_with), pem(PRIVATE[kind]))


@pytest.mark.parametrize(("kind", "algorithm"), PAIRS)
def test_a_key_of_somebody_else_does_not_verify(kind: str, algorithm: str) -> None:
    refuse(sign({"alg": algorithm}, GOOD, OF_STRANGERS[kind], algorithm), pem(PRIVATE[kind]))


@pytest.mark.parametrize(
    "signature", [b"", b"\x00", b"\x00" * 64, b"\xff" * 64, b"\x00" * 132, b"\x01" * 256, b"x" * 9000]
)
@pytest.mark.parametrize(("kind", "algorithm"), PAIRS)
def test_signatures_of_any_shape_are_only_wrong(kind: str, algorithm: str, signature: bytes) -> None:
    token = sign({"alg": algorithm}, GOOD, PRIVATE[kind], algorithm).rsplit(".", 1)[0]
    refuse(f"{token}.{encode(signature).decode()}", pem(PRIVATE[kind]))


def test_settings_can_narrow_the_algorithms_but_not_widen_them() -> None:
    key = PRIVATE["RSA"]
    only = token_verifier(clock(), public_key=pem(key), algorithms=("PS256",))
    assert only.verify_now(sign({"alg": "PS256"}, GOOD, key, "PS256")).client_id == "alice"
    refuse(sign({"alg": "RS256"}, GOOD, key, "RS256"), pem(key), ("PS256",))
    with pytest.raises(ValueError, match="JWT_ALGORITHMS"):
        public_keys(pem(key), ("ES256",))


# --- what verifies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "algorithm"), PAIRS)
def test_every_public_algorithm(kind: str, algorithm: str) -> None:
    token = sign({"alg": algorithm, "kid": "ignored"}, GOOD, PRIVATE[kind], algorithm)
    assert token_verifier(clock(), public_key=pem(PRIVATE[kind])).verify_now(token).client_id == "alice"


def test_several_public_keys_of_any_kind_at_once() -> None:
    everything = "".join(pem(key) for key in [OF_STRANGERS["RSA"], *PRIVATE.values()])
    verifier = token_verifier(clock(), public_key=everything)
    for kind, algorithm in PAIRS:
        token = sign({"alg": algorithm}, GOOD, PRIVATE[kind], algorithm)
        assert verifier.verify_now(token).client_id == "alice"


def test_an_old_style_rsa_block() -> None:
    block = PRIVATE["RSA"].public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()
    assert set(public_keys(block)[0].algorithms) == set(RSA_ALGORITHMS)


def test_secrets_that_are_none() -> None:
    for secret in (pem(PRIVATE["RSA"]), "ssh-rsa " + "A" * 40, '{"kty": "oct", "k": "' + "A" * 43 + '"}', "s" * 31):
        with pytest.raises(ValueError, match=r"^is ") as caught:
            secret_key(secret)
        assert "AAAA" not in str(caught.value)


# --- JWK ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PRIVATE)
def test_a_jwk_of_every_kind(kind: str) -> None:
    for entry in (jwk(kind, kid="one"), jwk(kind, kid="one", use="sig", key_ops=["verify"])):
        key = jwk_key(entry)
        assert (set(key.algorithms), key.kid) == (set(ALGORITHMS[kind]), "one")
    assert set(jwk_key(jwk(kind, alg=ALGORITHMS[kind][-1])).algorithms) == {ALGORITHMS[kind][-1]}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("text", "not an object"),
        (None, "not an object"),
        ([], "not an object"),
        ({}, "type"),
        ({"kty": "oct", "k": encode(SECRET.encode()).decode(), "alg": "HS256"}, "type"),
        ({"kty": "oct", "k": encode(SECRET.encode()).decode(), "kid": "one", "use": "sig"}, "type"),
        ({"kty": ["RSA"]}, "type"),
        ({"kty": {"RSA": 1}}, "type"),
        (jwk("RSA", kty="EC"), "cannot be read"),
        (jwk("RSA", kty="rsa"), "type"),
        (jwk("RSA", use="enc"), "not for signatures"),
        (jwk("RSA", use=None), "not for signatures"),
        (jwk("RSA", key_ops=["encrypt"]), "not for signatures"),
        (jwk("RSA", key_ops="verify"), "not for signatures"),
        (jwk("RSA", kid=1), "not a string"),
        (jwk("RSA", alg=["RS256"]), "not a string"),
        (jwk("RSA", alg="HS256"), "no allowed algorithm"),
        (jwk("RSA", alg="none"), "no allowed algorithm"),
        (jwk("RSA", alg="ES256"), "no allowed algorithm"),
        (jwk("P-256", alg="ES384"), "no allowed algorithm"),
        (jwk("RSA", d="AAAA"), "private"),
        (jwk("RSA", n=...), "cannot be read"),
        (jwk("RSA", n="!"), "cannot be read"),
        (jwk("RSA", n=5), "cannot be read"),
        (jwk("RSA", n=None), "cannot be read"),
        (jwk("RSA", n=""), "cannot be read"),
        (jwk("RSA", e="AA"), "cannot be read"),
        (jwk("P-256", crv="P-384"), "cannot be read"),
        (jwk("P-256", crv="secp256k1"), "cannot be read"),
        (jwk("P-256", crv=["P-256"]), "cannot be read"),
        (jwk("P-256", x="AAAA"), "cannot be read"),
        (jwk("P-256", y=encode(b"\x01" * 32).decode()), "cannot be read"),
        (jwk("P-256", x=None), "cannot be read"),
        (jwk("Ed25519", crv="X25519"), "cannot be read"),
        (jwk("Ed25519", x="AAAA"), "cannot be read"),
        (jwk("Ed25519", x=[1]), "cannot be read"),
    ],
    ids=range(36),
)
def test_a_jwk_that_is_ignored(entry: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        jwk_key(entry)


def test_weak_and_foreign_jwks_are_ignored() -> None:
    weak = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
    with pytest.raises(ValueError, match="1024 bits"):
        jwk_key(weak)
    koblitz = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256K1()).public_key(), as_dict=True)
    with pytest.raises(ValueError, match="secp256k1"):
        jwk_key(koblitz)
    with pytest.raises(ValueError, match="no allowed algorithm"):
        jwk_key(jwk("RSA"), allowed=("ES256",))


def test_a_pem_of_a_key_that_signs_nothing() -> None:
    with pytest.raises(ValueError, match="not an RSA, EC or Ed"):
        public_keys(pem(x25519.X25519PrivateKey.generate()))


def test_pyjwt_signs_as_we_verify() -> None:
    token = jwt.encode(GOOD, PRIVATE["P-256"], "ES256", headers={"kid": "one"})
    assert token_verifier(clock(), public_key=pem(PRIVATE["P-256"])).verify_now(token).client_id == "alice"
