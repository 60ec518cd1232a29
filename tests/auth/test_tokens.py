"""Tokens: first everything that must be refused, each case by the sentence that it defends."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.auth.tokens import Identity, Rules, TokenVerifier, mint, token_verifier
from notifier.errors import NotifierError, TokenExpired, TokenInvalid
from tests.auth.forging import GOOD, HEADER, NOW, SECRET, clock, encode, sign, with_claims, with_header, without

OTHER_SECRET = "another-secret-of-somebody-else!"


def verifier(*secrets: str, **rules: Any) -> TokenVerifier:
    return token_verifier(clock(), secrets=secrets or (SECRET,), rules=Rules(**rules))


def refused(token: str | bytes, **rules: Any) -> TokenInvalid:
    with pytest.raises(TokenInvalid) as caught:
        verifier(**rules).verify_now(token)
    assert type(caught.value) is TokenInvalid
    text = token if isinstance(token, str) else token.decode("latin-1")
    for part in text.split("."):
        assert len(part) < 8 or part not in str(caught.value)
    return caught.value


def valid() -> str:
    return sign(HEADER, GOOD)


def hmac_with(key: str, header: dict[str, Any]) -> str:
    signed = encode(json.dumps(header).encode()) + b"." + encode(json.dumps(GOOD).encode())
    return (signed + b"." + encode(hmac.digest(key.encode(), signed, "sha256"))).decode()


def unsigned(algorithm: object) -> str:
    header = json.dumps({"alg": algorithm, "typ": "JWT"}).encode()
    return f"{encode(header).decode()}.{encode(json.dumps(GOOD).encode()).decode()}."


def tampered(position: int) -> str:
    parts = valid().split(".")
    old = parts[position][5]
    parts[position] = parts[position][:5] + ("A" if old != "A" else "B") + parts[position][6:]
    return ".".join(parts)


STRUCTURE: dict[str, Callable[[], str | bytes]] = {
    "empty": lambda: "",
    "one part": lambda: "abc",
    "two parts": lambda: valid().rsplit(".", 1)[0],
    "four parts": lambda: valid() + ".",
    "five parts, as encrypted ones have": lambda: valid() + "..",
    "only dots": lambda: "..",
    "no header": lambda: "." + valid().split(".", 1)[1],
    "no claims": lambda: sign(HEADER, b""),
    "white space before": lambda: " " + valid(),
    "line end behind": lambda: valid() + "\n",
    "padding": lambda: valid() + "=",
    "standard base64": lambda: sign(HEADER, GOOD | {"x": "???>>>~~~"}).replace("-", "+").replace("_", "/") + "+",
    "junk that lenient decoders skip": lambda: valid()[:-3] + "!" + valid()[-3:],
    "another way to write the same signature": lambda: valid()[:-1] + chr(ord(valid()[-1]) + 1),
    "not ASCII": lambda: valid() + "é",
    "bytes that are not ASCII": lambda: valid().encode() + b"\xff",
    "lone surrogate": lambda: "\ud800" + valid(),
    "NUL": lambda: valid() + "\x00",
    "over 16 KiB": lambda: with_claims(x="y" * 16 * 1024),
    "over 16 KiB of nothing": lambda: "." * (16 * 1024 + 1),
    "tampered header": lambda: tampered(0),
    "tampered claims": lambda: tampered(1),
    "tampered signature": lambda: tampered(2),
    "no signature": lambda: valid().rsplit(".", 1)[0] + ".",
    "another secret": lambda: sign(HEADER, GOOD, OTHER_SECRET),
    "the signature of another token": lambda: valid().rsplit(".", 1)[0] + "." + with_claims(sub="x").split(".")[2],
    "header is a list": lambda: sign("[]", GOOD),
    "header is a string": lambda: sign('"alg"', GOOD),
    "header is null": lambda: sign("null", GOOD),
    "header is no JSON": lambda: sign("{alg}", GOOD),
    "header is UTF-16": lambda: sign(json.dumps(HEADER).encode("utf-16"), GOOD),
    "header with a BOM": lambda: sign(b"\xef\xbb\xbf" + json.dumps(HEADER).encode(), GOOD),
    "header nested 1,000 deep": lambda: sign('{"alg":"HS256","x":' + "[" * 1000 + "]" * 1000 + "}", GOOD),
    "claims are a list": lambda: sign(HEADER, "[]"),
    "claims are a string": lambda: sign(HEADER, '"alice"'),
    "claims are a number": lambda: sign(HEADER, "1"),
    "claims are no JSON": lambda: sign(HEADER, "sub=alice"),
    "claims are a token": lambda: sign(HEADER | {"cty": "JWT"}, valid()),
    "claims are not UTF-8": lambda: sign(HEADER, b'{"sub":"\xff","exp":1900000000}'),
    "claims are UTF-16": lambda: sign(HEADER, json.dumps(GOOD).encode("utf-16")),
    "claims with a BOM": lambda: sign(HEADER, b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
    "claims nested 1,000 deep": lambda: sign(
        HEADER, '{"exp":1900000000,"sub":"a","x":' + "[" * 1000 + "]" * 1000 + "}"
    ),
    "claims with text behind": lambda: sign(HEADER, json.dumps(GOOD) + "{}"),
    "sub twice": lambda: sign(HEADER, '{"sub":"alice","sub":"bob","exp":1900000000}'),
    "sub twice, once escaped": lambda: sign(HEADER, '{"sub":"alice","\\u0073ub":"bob","exp":1900000000}'),
    "exp twice": lambda: sign(HEADER, '{"exp":1,"sub":"alice","exp":1900000000}'),
    "alg twice": lambda: sign('{"alg":"none","typ":"JWT","alg":"HS256"}', GOOD),
    "alg twice the same": lambda: sign('{"alg":"HS256","alg":"HS256"}', GOOD),
}

HEADERS: dict[str, Callable[[], str]] = {
    "none": lambda: unsigned("none"),
    "None": lambda: unsigned("None"),
    "NONE": lambda: unsigned("NONE"),
    "none with our signature": lambda: with_header(alg="none"),
    "alg empty": lambda: with_header(alg=""),
    "alg absent": lambda: sign({"typ": "JWT"}, GOOD),
    "alg null": lambda: with_header(alg=None),
    "alg a list": lambda: with_header(alg=["HS256"]),
    "alg a number": lambda: with_header(alg=256),
    "alg a boolean": lambda: with_header(alg=True),
    "alg an object": lambda: with_header(alg={"HS256": 1}),
    "alg in lower case": lambda: with_header(alg="hs256"),
    "alg unknown": lambda: with_header(alg="HS1"),
    "alg of another kind": lambda: with_header(alg="RS256"),
    "alg EdDSA": lambda: with_header(alg="EdDSA"),
    "alg of encryption": lambda: with_header(alg="dir", enc="A256GCM"),
    "alg with more behind": lambda: with_header(alg="HS256\x00"),
    "alg longer than the signature": lambda: with_header(alg="HS512"),
    "crit": lambda: with_header(crit=["exp"]),
    "crit empty": lambda: with_header(crit=[]),
    "crit null": lambda: with_header(crit=None),
    "crit with b64": lambda: with_header(crit=["b64"], b64=True),
    "b64 false": lambda: with_header(b64=False),
    "b64 true": lambda: with_header(b64=True),
    "typ of another kind": lambda: with_header(typ="dpop+jwt"),
    "typ JWE": lambda: with_header(typ="JWE"),
    "typ of an ID token event": lambda: with_header(typ="logout+jwt"),
    "typ empty": lambda: with_header(typ=""),
    "typ null": lambda: with_header(typ=None),
    "typ a number": lambda: with_header(typ=1),
    "typ a list": lambda: with_header(typ=["JWT"]),
    "kid a number": lambda: with_header(kid=1),
    "kid null": lambda: with_header(kid=None),
    "kid an object": lambda: with_header(kid={"a": 1}),
    "signed with an embedded key": lambda: hmac_with(
        "attacker-attacker-attacker-attacker",
        HEADER | {"jwk": {"kty": "oct", "k": urlsafe_b64encode(b"attacker-attacker-attacker-attacker").decode()}},
    ),
    "signed with the empty key": lambda: hmac_with("", HEADER | {"kid": "/dev/null"}),
}

NO_NUMBERS = [None, True, False, "", "1900000000", [], [1900000000], {}, {"a": 1}]
NO_STRINGS = [None, True, False, 0, 1, 1.5, [], ["alice"], {}, {"sub": "alice"}]

CLAIMS: dict[str, Callable[[], str]] = {
    "exp absent": lambda: without("exp"),
    **{f"exp {value!r}": lambda value=value: with_claims(exp=value) for value in NO_NUMBERS},
    **{f"iat {value!r}": lambda value=value: with_claims(iat=value) for value in NO_NUMBERS},
    **{f"nbf {value!r}": lambda value=value: with_claims(nbf=value) for value in NO_NUMBERS},
    "exp NaN": lambda: sign(HEADER, '{"sub":"alice","exp":NaN}'),
    "exp Infinity": lambda: sign(HEADER, '{"sub":"alice","exp":Infinity}'),
    "exp 1e400": lambda: sign(HEADER, '{"sub":"alice","exp":1e400}'),
    "exp 1e300": lambda: sign(HEADER, '{"sub":"alice","exp":1e300}'),
    "exp 10^400": lambda: with_claims(exp=10**400),
    "exp of 5,000 digits": lambda: sign(HEADER, '{"sub":"alice","exp":' + "9" * 5000 + "}"),
    "exp in milliseconds": lambda: with_claims(exp=(NOW + 3600) * 1000),
    "exp in the year 10000": lambda: with_claims(exp=253_402_300_800),
    "exp in hexadecimal": lambda: sign(HEADER, '{"sub":"alice","exp":0x7fffffff}'),
    "iat 10^400": lambda: with_claims(iat=10**400),
    "iat -10^400": lambda: with_claims(iat=-(10**400)),
    "iat in the future": lambda: with_claims(iat=NOW + 11),
    "nbf 1e400": lambda: sign(HEADER, '{"sub":"alice","exp":1900000000,"nbf":1e400}'),
    "nbf in the future": lambda: with_claims(nbf=NOW + 11),
    "sub absent": lambda: without("sub"),
    **{f"sub {value!r}": lambda value=value: with_claims(sub=value) for value in NO_STRINGS},
    "sub empty": lambda: with_claims(sub=""),
    "sub of 201 bytes": lambda: with_claims(sub="a" * 201),
    "sub of 101 letters, 202 bytes": lambda: with_claims(sub="é" * 101),
    "sub with a leading space": lambda: with_claims(sub=" alice"),
    "sub with a line end": lambda: with_claims(sub="alice\n"),
    "sub with NUL": lambda: with_claims(sub="alice\x00"),
    "sub with DEL": lambda: with_claims(sub="al\x7fice"),
    "sub with NEL": lambda: with_claims(sub="al\x85ice"),
    "sub with a lone surrogate": lambda: sign(HEADER, '{"sub":"a\\ud800","exp":1900000000}'),
    **{
        f"groups {value!r}": lambda value=value: with_claims(groups=value)
        for value in [None, True, 0, "", "staff", {}, {"staff": 1}, [1], [None], [["staff"]], ["staff", True]]
    },
    "groups: 101": lambda: with_claims(groups=[f"g{index}" for index in range(101)]),
    "groups: an empty name": lambda: with_claims(groups=["staff", ""]),
    "groups: a name of 201 bytes": lambda: with_claims(groups=["g" * 201]),
    "groups: a control character": lambda: with_claims(groups=["a\nb"]),
}


@pytest.mark.parametrize("forge", STRUCTURE.values(), ids=STRUCTURE)
def test_malformed_tokens_are_refused(forge: Callable[[], str | bytes]) -> None:
    refused(forge())


@pytest.mark.parametrize("forge", HEADERS.values(), ids=HEADERS)
def test_headers_that_are_refused(forge: Callable[[], str]) -> None:
    refused(forge())


@pytest.mark.parametrize("forge", CLAIMS.values(), ids=CLAIMS)
def test_claims_that_are_refused(forge: Callable[[], str]) -> None:
    refused(forge())


@pytest.mark.parametrize(
    "iss", [None, "", "https://other.example", "https://issuer.example/", 1, True, ["https://issuer.example"], {}]
)
def test_another_issuer_is_refused(iss: object) -> None:
    refused(with_claims(iss=iss), issuer="https://issuer.example")
    refused(without("iss"), issuer="https://issuer.example")


@pytest.mark.parametrize("aud", [None, "", "other", "notifier ", 1, True, [], ["other"], {}, {"notifier": 1}, [["a"]]])
def test_another_audience_is_refused(aud: object) -> None:
    refused(with_claims(aud=aud), audience=("notifier", "push"))
    refused(without("aud"), audience=("notifier",))


def test_an_audience_list_with_something_else_than_strings_is_refused() -> None:
    refused(with_claims(aud=["notifier", 1]), audience=("notifier",))


def test_a_configured_claim_is_the_only_one_that_counts() -> None:
    refused(valid(), client_id_claim="uid")
    assert verifier(client_id_claim="uid").verify_now(with_claims(uid="bob", sub=None)).client_id == "bob"


def test_size_is_checked_before_anything_else() -> None:
    assert "longer than 16384" in refused("." * (16 * 1024 + 1)).detail


# --- time -----------------------------------------------------------------------------------------------------


def test_a_token_ends_at_exp_plus_leeway_by_our_clock() -> None:
    time = clock()
    checks = token_verifier(time, secrets=[SECRET])
    token = with_claims(exp=NOW + 60)
    time.advance(69.999)
    assert checks.verify_now(token).expires_at == NOW + 60
    time.advance(0.001)
    with pytest.raises(TokenExpired, match="expired"):
        checks.verify_now(token)


@pytest.mark.parametrize("exp", [NOW - 10, NOW - 1e9, 0, -1, -1.5])
def test_expired_tokens_say_so(exp: float) -> None:
    with pytest.raises(TokenExpired):
        verifier().verify_now(with_claims(exp=exp))


def test_a_forged_token_is_invalid_rather_than_expired() -> None:
    refused(sign(HEADER, GOOD | {"exp": 0}, OTHER_SECRET))


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_from_the_near_future_is_within_the_leeway(claim: str) -> None:
    assert verifier().verify_now(with_claims(**{claim: NOW + 10})).client_id == "alice"
    refused(with_claims(**{claim: NOW + 1}), leeway_s=0)


# --- what is accepted -----------------------------------------------------------------------------------------


def test_an_identity_holds_what_the_token_says() -> None:
    token = with_claims(exp=NOW + 0.5, iat=NOW - 1.25, groups=["staff", "a b", "é" * 100, "staff"])
    assert verifier().verify_now(token) == Identity("alice", NOW + 0.5, NOW - 1.25, ("staff", "a b", "é" * 100))


def test_optional_claims_may_be_absent() -> None:
    token = sign({"alg": "HS256"}, {"sub": "alice", "exp": 9_999_999_999})
    assert verifier().verify_now(token) == Identity("alice", 9_999_999_999, None, ())


@pytest.mark.parametrize("sub", ["a", "a" * 200, "é" * 100, "a b", "google-oauth2|1", "😀", "sub", '"', "\u200b"])
def test_client_ids_are_taken_as_they_are(sub: str) -> None:
    assert verifier().verify_now(with_claims(sub=sub)).client_id == sub
    assert verifier().verify_now(sign(HEADER, json.dumps(GOOD | {"sub": sub}, ensure_ascii=False))).client_id == sub


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT"])
def test_types(typ: str) -> None:
    assert verifier().verify_now(with_header(typ=typ)).client_id == "alice"


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "whatever"},
        {"kid": "../../../../dev/null"},
        {"kid": "' OR 1=1 --"},
        {"jku": "https://attacker.example/jwks"},
        {"x5u": "https://attacker.example/cert"},
        {"x5c": ["MIIB"]},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"cty": "JWT"},
        {"unknown": [1, {"a": None}]},
    ],
    ids=str,
)
def test_what_the_header_offers_is_ignored(header: dict[str, Any]) -> None:
    assert verifier().verify_now(with_header(**header)).client_id == "alice"
    refused(sign(HEADER | header, GOOD, OTHER_SECRET))


@pytest.mark.parametrize("aud", ["notifier", "push", ["other", "push"]])
def test_an_audience_matches_text_or_list(aud: object) -> None:
    assert verifier(audience=("notifier", "push")).verify_now(with_claims(aud=aud)).client_id == "alice"


@pytest.mark.parametrize("claims", [{"iss": 1}, {"aud": ["x"]}, {"aud": 1}, {"jti": 1}, {"scope": {}}])
def test_what_is_not_configured_is_not_looked_at(claims: dict[str, Any]) -> None:
    assert verifier().verify_now(with_claims(**claims)).client_id == "alice"


def test_a_token_of_exactly_16_kib() -> None:
    filler = 16 * 1024 - len(with_claims(x=""))
    token = max((with_claims(x="y" * length) for length in range(filler * 3 // 4 - 4, filler * 3 // 4 + 4)), key=len)
    while len(token) > 16 * 1024:
        filler -= 1
        token = with_claims(x="y" * (filler * 3 // 4))
    assert len(token) > 16 * 1024 - 4
    assert verifier().verify_now(token).client_id == "alice"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_every_hmac_algorithm(algorithm: str) -> None:
    token = sign({"alg": algorithm}, GOOD, algorithm=algorithm)
    assert verifier().verify_now(token).client_id == "alice"
    narrowed = token_verifier(clock(), secrets=[SECRET], algorithms=("HS384",))
    if algorithm == "HS384":
        assert narrowed.verify_now(token).client_id == "alice"
    else:
        with pytest.raises(TokenInvalid, match="algorithm"):
            narrowed.verify_now(token)


def test_any_of_several_secrets_verifies() -> None:
    both = verifier(SECRET, OTHER_SECRET)
    for secret in (SECRET, OTHER_SECRET):
        assert both.verify_now(sign(HEADER, GOOD, secret)).client_id == "alice"
    with pytest.raises(TokenInvalid):
        both.verify_now(sign(HEADER, GOOD, "a third secret, which nobody set up"))


def test_the_outcome_is_told_at_once() -> None:
    told: list[Identity | NotifierError] = []
    checks = verifier()
    for token in (valid(), valid().encode(), "x", with_claims(exp=0), with_claims(sub="")):
        checks.verify(token, told.append)
    assert [type(outcome) for outcome in told] == [Identity, Identity, TokenInvalid, TokenExpired, TokenInvalid]
    assert checks.ready() is None


async def test_static_keys_need_no_start() -> None:
    checks = verifier()
    await checks.start()
    await checks.stop()
    assert checks.verify_now(valid()).client_id == "alice"


def test_minted_tokens_are_good() -> None:
    assert "groups" not in jwt.decode(mint(SECRET, "bob", 60), SECRET, ["HS256"])
    token = mint(SECRET, "bob", 60, ["staff"], now=NOW, aud="notifier")
    assert verifier(audience=("notifier",)).verify_now(token) == Identity("bob", NOW + 60, NOW, ("staff",))


# --- against PyJWT, and against chance ------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["alg", "typ", "kid", "crit", "b64", "sub", "exp", "iat", "nbf", "groups", "aud"])
good_values = st.sampled_from(["HS256", "HS384", "JWT", "alice", NOW + 60, NOW, 1e12, ["staff"], "none"])
changes = st.dictionaries(names, json_values | good_values, max_size=4)


def judge(token: str | bytes) -> Identity | None:
    """What we say; anything but an identity or an error of ours fails the test."""
    try:
        return verifier().verify_now(token)
    except (TokenInvalid, TokenExpired):
        return None


def pyjwt(token: str | bytes) -> Any:
    times = dict.fromkeys(("verify_exp", "verify_iat", "verify_nbf", "verify_aud", "verify_jti", "verify_sub"), False)
    return jwt.decode(token, SECRET, ["HS256", "HS384", "HS512"], options=times)  # type: ignore[arg-type]


@given(changes, changes, st.sampled_from(["HS256", "HS384", "HS512"]))
@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_what_we_accept_pyjwt_accepts_alike(header: dict[str, Any], claims: dict[str, Any], algorithm: str) -> None:
    token = sign({"alg": algorithm} | header, GOOD | claims, algorithm=algorithm)
    if (identity := judge(token)) is not None:
        theirs = pyjwt(token)
        assert theirs["sub"] == identity.client_id
        assert theirs["exp"] == identity.expires_at
        assert tuple(dict.fromkeys(theirs.get("groups", ()))) == identity.groups


@given(st.data())
def test_no_change_of_a_signed_token_is_accepted(data: st.DataObject) -> None:
    token = bytearray(valid().encode())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(token) - 1))
        edit = data.draw(st.sampled_from(["replace", "insert", "delete"]))
        byte = data.draw(st.sampled_from(b"ABab019-_.=+/ \n\x00\xff"))
        token[position : position + (edit != "insert")] = b"" if edit == "delete" else bytes([byte])
        if not token:
            break
    if bytes(token) != valid().encode():
        assert judge(bytes(token)) is None


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_rubbish_is_accepted_or_breaks_anything(token: bytes | str) -> None:
    assert judge(token) is None


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_no_signed_rubbish_is_accepted_or_breaks_anything(header: bytes, claims: bytes) -> None:
    assert judge(sign(header, claims)) is None
    assert judge(sign(HEADER, claims)) is None
