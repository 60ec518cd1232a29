"""API keys: what is refused, by whom a request is, and what the configuration may say."""

from __future__ import annotations

from hashlib import sha256

import pytest

from notifier.auth import apikeys
from notifier.auth.apikeys import ApiKey, ApiKeys, new_key, parse_keys
from notifier.errors import Forbidden, Unauthorized

SHOP = "shop-secret-0123456789abcdef"
METRICS = "metrics-secret-0123456789abc"
ADMIN = "admin-secret-0123456789abcde"
KEYS = ApiKeys(parse_keys(f"shop:{SHOP},prometheus:{METRICS}:metrics,ops:{ADMIN}:admin"))


def bearer(key: str) -> bytes:
    return b"Bearer " + key.encode()


@pytest.mark.parametrize(
    ("x_api_key", "authorization"),
    [
        (None, None),
        (b"", None),
        (b"wrong", None),
        (SHOP[:-1].encode(), None),
        (SHOP.encode() + b"x", None),
        (SHOP.upper().encode(), None),
        (sha256(SHOP.encode()).hexdigest().encode(), None),
        (b"shop", None),
        (b"\xff\x00", None),
        (None, b""),
        (None, b"Bearer"),
        (None, b"Bearer "),
        (None, b"Bearer wrong"),
        (None, SHOP.encode()),
        (None, b"Basic " + SHOP.encode()),
        (b"wrong", bearer(SHOP)),
        (SHOP.encode(), b"Bearer wrong"),
        (SHOP.encode(), b"Bearer"),
        (SHOP.encode(), bearer(ADMIN)),  # both valid, but different
    ],
)
def test_no_valid_key_is_401(x_api_key: bytes | None, authorization: bytes | None) -> None:
    with pytest.raises(Unauthorized) as caught:
        KEYS.check(x_api_key, authorization, "notify")
    assert type(caught.value) is Unauthorized
    assert ("WWW-Authenticate", "Bearer") in caught.value.headers
    assert SHOP not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "scope"), [(SHOP, "metrics"), (SHOP, "admin"), (METRICS, "notify"), (METRICS, "admin")]
)
def test_a_missing_scope_is_403_and_named(key: str, scope: str) -> None:
    with pytest.raises(Forbidden, match=scope):
        KEYS.check(key.encode(), None, scope)


@pytest.mark.parametrize(
    ("x_api_key", "authorization"),
    [
        (SHOP.encode(), None),
        (f" {SHOP} ".encode(), None),
        (None, bearer(SHOP)),
        (None, b"bEARER   " + SHOP.encode() + b" "),
        (SHOP.encode(), bearer(SHOP)),
        (SHOP.encode(), b"Basic dXNlcjpwYXNz"),  # a proxy's own authentication
    ],
)
def test_a_key_in_either_header(x_api_key: bytes | None, authorization: bytes | None) -> None:
    assert KEYS.check(x_api_key, authorization, "notify").name == "shop"


@pytest.mark.parametrize("scope", ["notify", "metrics", "admin"])
def test_admin_may_do_everything(scope: str) -> None:
    assert KEYS.check(ADMIN.encode(), None, scope).name == "ops"


def test_every_key_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr(apikeys, "compare_digest", compare)
    for secret in (SHOP, METRICS, ADMIN):
        compared.clear()
        KEYS.check(secret.encode(), None, "notify" if secret != METRICS else "metrics")
        assert len(compared) == 3
        assert {len(digest) for digest in compared} == {32}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no key"),
        (" , ,\n", "no key"),
        (SHOP, "key 1 is not name:secret"),
        (f"shop:{SHOP},{ADMIN}", "key 2 is not name:secret"),
        ("shop:", "key 1 is not name:secret"),
        (f"shop:{SHOP}:notify:metrics", "key 1 is not name:secret"),
        (f":{SHOP}", "name"),
        (f"my shop:{SHOP}", "name"),
        (f"sh\u00f6p:{SHOP}", "name"),
        (f"{'n' * 65}:{SHOP}", "name"),
        (f"shop:{SHOP}:", "unknown scope"),
        (f"shop:{SHOP}:root", "unknown scope"),
        (f"shop:{SHOP}:notify+", "unknown scope"),
        (f"shop:{SHOP}:notify metrics", "unknown scope"),
        ("shop:" + "s" * 23, "less than 24 characters"),
        ("shop:" + "é" * 24, "visible ASCII"),
        ("shop:twenty four characters at least", "visible ASCII"),
        ("shop:sha256$", "64 hexadecimal"),
        ("shop:sha256", "64 hexadecimal"),
        ("shop:sha256$" + "0" * 63, "64 hexadecimal"),
        ("shop:sha256$" + "g" * 64, "64 hexadecimal"),
        ("shop:sha256" + "0" * 63, r"\$\$ in compose"),
        (f"shop:{SHOP},shop:{ADMIN}", "keys 1 and 2 have the same name"),
        (f"shop:{SHOP},ops:{ADMIN},copy:{SHOP}", "keys 1 and 3 have the same secret"),
    ],
)
def test_a_configuration_that_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        parse_keys(text)
    for secret in (SHOP, ADMIN, "sssss", "shop"):
        assert secret not in str(caught.value)


def test_what_may_be_configured() -> None:
    digest = sha256(SHOP.encode()).hexdigest()
    keys = parse_keys(f" shop:sha256${digest.upper()}:notify+metrics ,\n prometheus:{METRICS}:metrics,\nci:{ADMIN},")
    assert keys == (
        ApiKey("shop", frozenset({"notify", "metrics"}), sha256(SHOP.encode()).digest()),
        ApiKey("prometheus", frozenset({"metrics"}), sha256(METRICS.encode()).digest()),
        ApiKey("ci", frozenset({"notify"}), sha256(ADMIN.encode()).digest()),
    )


@pytest.mark.parametrize("scopes", [("notify",), ("notify", "metrics"), ("admin",)])
def test_a_new_key_works_with_its_line_which_does_not_hold_it(scopes: tuple[str, ...]) -> None:
    secret, line = new_key("ci-2026", scopes)
    assert secret not in line
    (key,) = parse_keys(line)
    assert key.scopes == set(scopes)
    assert ApiKeys([key]).check(secret.encode(), None, scopes[0]) is key


@pytest.mark.parametrize(("name", "scopes"), [("a:b", ("notify",)), ("", ("notify",)), ("a", ("root",)), ("a", ())])
def test_a_new_key_that_could_not_be_configured(name: str, scopes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="key 1"):
        new_key(name, scopes)
