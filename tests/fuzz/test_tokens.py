"""The token verifier: any text, and tokens that are nearly right. Only TokenInvalid and TokenExpired come out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier.auth.tokens import Identity, token_verifier
from notifier.errors import TokenExpired, TokenInvalid
from notifier.fields import check_client_id
from tests.auth.forging import NOW, SECRET, clock, sign

pytestmark = pytest.mark.timeout(0)
fuzz = settings.get_profile("fuzz")
VERIFIER = token_verifier(clock(), secrets=[SECRET])

odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
headers = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256"] * 6 + ["none", "HS512", "RS256"])},
    optional=dict.fromkeys(("typ", "kid", "crit", "jwk", "jku", "x5c", "b64", "cty"), odd),
)
claims = st.fixed_dictionaries(
    {"sub": st.text(max_size=12) | odd, "exp": st.integers(NOW - 100, NOW + 100) | odd},
    optional=dict.fromkeys(("iat", "nbf", "iss", "aud", "groups", "jti"), odd),
)


def verify(token: str | bytes) -> Identity | None:
    try:
        identity = VERIFIER.verify_now(token)
    except (TokenInvalid, TokenExpired):
        return None
    assert check_client_id(identity.client_id) is None
    assert identity.expires_at > NOW - 11
    return identity


@settings(fuzz)
@given(st.binary(max_size=300) | st.text(max_size=200))
def test_any_text(token: bytes | str) -> None:
    assert verify(token) is None


@settings(fuzz)
@given(headers, claims)
def test_signed_tokens_with_odd_headers_and_claims(header: dict[str, Any], claim: dict[str, Any]) -> None:
    try:
        token = sign(json.dumps(header), json.dumps(claim))
    except UnicodeEncodeError:
        return
    identity = verify(token)
    if identity is not None:
        assert header["alg"] == "HS256"
        assert identity.client_id == claim["sub"]
        assert isinstance(claim["exp"], (int, float))
        assert not isinstance(claim["exp"], bool)


@settings(fuzz)
@given(st.data())
def test_a_good_token_that_is_changed_anywhere(data: st.DataObject) -> None:
    token = sign('{"alg":"HS256","typ":"JWT"}', json.dumps({"sub": "alice", "exp": NOW + 60}))
    at = data.draw(st.integers(0, len(token) - 1))
    new = data.draw(st.characters(max_codepoint=0x2FF))
    changed = data.draw(st.sampled_from([token[:at] + new + token[at + 1 :], token[:at] + token[at + 1 :], token[:at]]))
    if changed != token:
        assert verify(changed) is None
