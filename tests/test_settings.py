"""Settings: every problem at once with its mend, and never a secret."""

from __future__ import annotations

import resource
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from notifier.errors import ConfigurationError, Problem
from notifier.settings import Settings, default_max_connections, load_settings

SECRET = "jwt-secret-jwt-secret-jwt-secret"
KEY = "api-key-secret-api-key-secret"
VALID = {"NOTIFIER_JWT_SECRET": SECRET, "NOTIFIER_API_KEYS": f"shop:{KEY}"}


def load(**changes: str | None) -> Settings:
    """A valid configuration with these changes; None takes a variable away."""
    environ = VALID | {f"NOTIFIER_{name.upper()}": value for name, value in changes.items()}
    return load_settings({name: value for name, value in environ.items() if value is not None})


def problems_of(**changes: str | None) -> list[Problem]:
    with pytest.raises(ConfigurationError) as caught:
        load(**changes)
    for problem in caught.value.problems:
        assert problem.mend
        for text in (*problem, str(caught.value), repr(caught.value)):
            assert SECRET not in text
            assert KEY not in text
    return list(caught.value.problems)


def pem(key: PrivateKeyTypes) -> str:
    public = key.public_key()  # type: ignore[union-attr]
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "ascii")


RSA = rsa.generate_private_key(65537, 2048)
RSA_WEAK = rsa.generate_private_key(65537, 1024)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
RSA_PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

# One setting each: its value, and words that the problem or its mend must have.
REFUSED: dict[str, list[tuple[str, str]]] = {
    "host": [
        *((wrong, "address") for wrong in (" 0.0.0.0", "http://0.0.0.0", "*", "a..b", "a b", ".", "-", "a_.b-")),
        *((wrong, "address") for wrong in ("256.1.1.1", "10.1", "1.2.3.4:80", "::g", "x" * 64, "x." * 127 + "x")),
        ("caf\udce9", "UTF-8"),
    ],
    "port": [
        ("abc", "whole number from 0 to 65535"),
        ("-1", "range"),
        ("65536", "range"),
        ("80.5", "whole number"),
        *((wrong, "whole number from 0 to 65535") for wrong in ("8000.0", "1_000", "+80", "٣", "0x50", "9" * 5000)),
    ],
    "engine": [
        ("redis://localhost", "not built into this version"),
        ("rediss://user:pw@localhost", "not built into this version"),
        ("postgres://localhost/x", "not the URL"),
        ("notifier.db", "not the URL"),
        ("sqlite://notifier.db", "four slashes"),
        ("sqlite:notifier.db", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:////", "names no file"),
        ("sqlite:///:memory:", "lose everything"),
        ("sqlite:///data/", "name of a file"),
        ("sqlite:///a.db?mode=ro", "name of a file"),
    ],
    "durability": [("none", "'fsync', 'page_cache' or 'replicated'"), ("replicated", "only Redis")],
    "jwt_secret": [
        ("\udcff" * 40, "UTF-8"),
        ("s" * 31, "shorter than 32 bytes"),
        ("é" * 15, "shorter than 32 bytes"),
        (pem(RSA), "PEM"),
        (RSA_PRIVATE, "PEM"),
        ('{"kty":"oct","k":"' + "a" * 43 + '"}', "JWK"),
    ],
    "jwt_secret_previous": [("s" * 31, "shorter than 32 bytes")],
    "jwt_algorithms": [
        ("none", "not supported"),
        ("HS256,none", "not supported"),
        ("hs256", "not supported"),
        ("ES256K", "not supported"),
        ("RS256", "cannot be used with NOTIFIER_JWT_SECRET"),
        ("HS256,RS256", "cannot be used with NOTIFIER_JWT_SECRET"),
    ],
    "jwt_client_id_claim": [
        ("exp", "cannot name"),
        ("aud", "cannot name"),
        ("groups", "cannot name"),
        ("a\tb", "cannot"),
    ],
    "jwt_leeway_seconds": [("-1", "range"), ("301", "range"), ("nan", "range"), ("inf", "range"), ("x", "a number")],
    "api_keys": [
        ("shop", "name:secret"),
        ("shop:short", "24 characters"),
        (f"shop:{KEY}:root", "unknown scope"),
        ("shop:sha256$123", "64 hexadecimal"),
    ],
    "allowed_origins": [
        ("*", "'*'"),
        ("app.example", "'app.example'"),
        ("https://app.example/", "without a path"),
        ("https://app.example/x", "without a path"),
        ("https://a.*.example", "at most one"),
        ("https://*.*.example", "at most one"),
        ("https://*", "not an origin"),
        ("https://app.example:0x1", "not an origin"),
        ("https://app.example:65536", "not an origin"),
        ("https://user@app.example", "not an origin"),
        ("https://äpp.example", "xn--"),
        ("https://ok.example, nope", "'nope'"),
        ("Null,undefined", "'Null'"),
    ],
    "trusted_proxies": [
        ("*", "'*'"),
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("10.0.0.0/33", "network"),
        ("proxy", "'proxy'"),
    ],
    "query_token": [("maybe", "neither true nor false")],
    "metrics_auth": [("2", "neither true nor false")],
    "max_connections": [("0", "range"), ("1e3", "whole number")],
    "max_connections_per_client": [("0", "range")],
    "mailbox_limit": [("0", "range"), ("1000001", "range")],
    "mailbox_bytes": [("0", "range"), ("65535", "NOTIFIER_MAX_BODY_BYTES, 65536"), ("4 parsecs", "whole number")],
    "mailbox_overflow": [("drop", "'reject' or 'drop_oldest'")],
    "min_free_disk_bytes": [("-1", "range")],
    "ttl_default_seconds": [("0", "range"), ("2592001", "over NOTIFIER_TTL_MAX_SECONDS"), ("1.5", "whole number")],
    "ttl_max_seconds": [("0", "range"), ("315360001", "range")],
    "dedup_seconds": [("-1", "range"), ("2592001", "range")],
    "max_body_bytes": [("0", "range"), ("1 MiB", "range"), ("8 MiB", "range")],
    "max_inflight": [("0", "range"), ("-5", "range"), ("x", "whole number")],
    "heartbeat_seconds": [("0", "above 0"), ("-1", "range"), ("nan", "range"), ("3601", "range")],
    "heartbeat_timeout_seconds": [("0", "above 0"), ("inf", "range")],
    "drain_delay_seconds": [("-0.1", "range"), ("3601", "range")],
    "drain_seconds": [("-1", "range"), ("x", "a number")],
    "log_level": [("loud", "'debug', 'info', 'warning', 'error' or 'critical'")],
    "log_format": [("xml", "'auto', 'json' or 'console'")],
    "tls_cert": [("/nowhere", "without NOTIFIER_TLS_KEY")],
    "tls_key": [("/nowhere", "without NOTIFIER_TLS_CERT")],
}


# Named by position: keys are made anew in each test process.
CASES = [
    pytest.param(name, value, words, id=f"{name}-{index}")
    for name, values in REFUSED.items()
    for index, (value, words) in enumerate(values)
]


@pytest.mark.parametrize(("name", "value", "words"), CASES)
def test_a_value_that_is_refused(name: str, value: str, words: str) -> None:
    (problem,) = problems_of(**{name: value})
    assert problem.name == f"NOTIFIER_{name.upper()}"
    assert words in f"{problem.problem}; {problem.mend}"


@pytest.mark.parametrize(
    "host", ["localhost", "::", "[::1]", "fe80::1%eth0", "notify.example.com", "a_b.c-d", "x." * 126]
)
def test_hosts_that_may_be_one(host: str) -> None:
    assert load(host=host).host == host.strip("[]")


def test_white_space_around_a_port_is_nothing() -> None:
    assert load(port=" 18108 ").port == 18108


def test_all_problems_are_told_at_once() -> None:
    many = {name: values[0][0] for name, values in REFUSED.items() if name not in ("tls_cert", "tls_key")}
    found = problems_of(**many, nonsense="1")
    assert {problem.name for problem in found} == {f"NOTIFIER_{name.upper()}" for name in (*many, "nonsense")}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("trusted_proxies", "10.0.0.1/8,::1,bogus,1.2.3", ["'10.0.0.1/8'", "'bogus'", "'1.2.3'", "write 10.0.0.0/8"]),
        ("allowed_origins", "https://a.b/,https://good.example,*", ["'https://a.b/'", "'*'", "without a path"]),
        ("api_keys", f"shop,b:{KEY},c:short,d:{KEY}", ["key 1 is", "key 3 has", "keys 2 and 4", "keys new NAME"]),
    ],
)
def test_every_item_of_a_list_that_is_wrong_is_told(name: str, value: str, words: list[str]) -> None:
    (problem,) = problems_of(**{name: value})
    text = f"{problem.problem}; {problem.mend}"
    assert [word for word in words if word not in text] == []
    assert "good" not in text


def test_kinds_of_keys_are_counted_also_where_they_are_wrong() -> None:
    found = problems_of(jwt_public_key="nonsense", jwt_jwks_url="http://issuer.example/jwks")
    assert [problem.name for problem in found] == [
        "NOTIFIER_JWT_PUBLIC_KEY",
        "NOTIFIER_JWT_JWKS_URL",
        "NOTIFIER_JWT_SECRET",
    ]
    assert found[-1].problem == "is set, and NOTIFIER_JWT_PUBLIC_KEY and NOTIFIER_JWT_JWKS_URL too"


def test_combinations_are_checked_beside_single_values_that_are_wrong() -> None:
    names = [problem.name for problem in problems_of(port="x", api_keys=None, ttl_default_seconds="9999999")]
    assert sorted(names) == ["NOTIFIER_API_KEYS", "NOTIFIER_PORT", "NOTIFIER_TTL_DEFAULT_SECONDS"]


def test_what_is_required() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({})
    assert [problem.name for problem in caught.value.problems] == ["NOTIFIER_JWT_SECRET", "NOTIFIER_API_KEYS"]
    assert "NOTIFIER_JWT_JWKS_URL" in caught.value.problems[0].mend


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"jwt_public_key": pem(RSA)}, "NOTIFIER_JWT_PUBLIC_KEY too"),
        ({"jwt_jwks_url": "https://issuer.example/jwks"}, "NOTIFIER_JWT_JWKS_URL too"),
        ({"jwt_secret": None, "jwt_public_key": pem(RSA), "jwt_jwks_url": "https://i.example/"}, "JWKS_URL too"),
        (
            {"jwt_secret": None, "jwt_public_key": pem(RSA), "jwt_secret_previous": SECRET},
            "without NOTIFIER_JWT_SECRET",
        ),
    ],
    ids=range(4),
)
def test_key_kinds_are_never_mixed(changes: dict[str, str | None], words: str) -> None:
    (problem,) = problems_of(**changes)
    assert words in problem.problem


@pytest.mark.parametrize(
    ("key", "algorithms", "words"),
    [
        ("nonsense", None, "no PEM block"),
        (RSA_PRIVATE, None, "private key"),
        (pem(RSA) + RSA_PRIVATE, None, "block 2 is a private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", None, "openssl x509"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", None, "not a readable public key"),
        (pem(RSA_WEAK), None, "1024 bits"),
        (pem(ec.generate_private_key(ec.SECP256K1())), None, "curve secp256k1"),
        (pem(RSA), "HS256", "cannot be used with NOTIFIER_JWT_PUBLIC_KEY"),
        (pem(RSA), "RS256,HS256", "cannot be used with NOTIFIER_JWT_PUBLIC_KEY"),
        (pem(RSA) + pem(EC), "RS256", "block 2 is for ES256"),
    ],
    ids=range(10),
)
def test_a_public_key_that_is_refused(key: str, algorithms: str | None, words: str) -> None:
    (problem,) = problems_of(jwt_secret=None, jwt_public_key=key, jwt_algorithms=algorithms)
    assert words in f"{problem.problem}; {problem.mend}"
    assert "MII" not in f"{problem.problem}; {problem.mend}"


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/jwks",
        "https://user:password@issuer.example/jwks",
        "https://issuer.example/jwks#x",
        "https://",
        "issuer.example/jwks",
        "file:///etc/passwd",
        "https://issuer.example:99999/",
        "https://issuer.example/a b",
    ],
)
def test_a_jwks_url_that_is_refused(url: str) -> None:
    (problem,) = problems_of(jwt_secret=None, jwt_jwks_url=url)
    assert problem.name == "NOTIFIER_JWT_JWKS_URL"
    assert "https" in problem.mend
    assert "password" not in str(problem)


def test_unknown_variables_are_named_with_what_was_probably_meant() -> None:
    found = {p.name: p.mend for p in problems_of(mailbox_size="1", jwt_secrets="x", dev="true", redis_port="tcp://1")}
    assert "NOTIFIER_JWT_SECRET?" in found["NOTIFIER_JWT_SECRETS"]
    assert found.keys() == {f"NOTIFIER_{name}" for name in ("MAILBOX_SIZE", "JWT_SECRETS", "DEV", "REDIS_PORT")}
    assert "enableServiceLinks" in found["NOTIFIER_REDIS_PORT"]


@pytest.mark.parametrize("name", ["NOTIFIER_JWT_JWKS_URL_FILE", "NOTIFIER_PORTS", "NOTIFIER_", "NOTIFIER_WARNINGS"])
def test_names_that_are_nearly_settings(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({**VALID, name: "1"})
    assert [problem.name for problem in caught.value.problems] == [name]


def test_what_kubernetes_injects_is_ignored_with_one_note() -> None:
    injected = {
        "NOTIFIER_SERVICE_HOST": "10.0.0.1",
        "NOTIFIER_SERVICE_PORT_HTTP": "80",
        "NOTIFIER_PORT": "tcp://10.0.0.1:80",
        "NOTIFIER_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    settings = load_settings(VALID | injected)
    assert settings.port == 8000
    (note,) = settings.notes
    assert all(name in note for name in injected)


def test_other_variables_are_none_of_our_business() -> None:
    clients = {"NOTIFIER_URL": "http://x", "NOTIFIER_API_KEY": "k", "NOTIFIER_TOKEN": "t"}
    assert load_settings({**VALID, **clients, "PATH": "/bin", "notifier_port": "1"}).port == 8000


def test_an_empty_variable_counts_as_not_set() -> None:
    settings = load(port="", jwt_issuer=" ", allowed_origins="", jwt_public_key="")
    assert (settings.port, settings.jwt_issuer, settings.allowed_origins) == (8000, None, ())


# --- secrets from files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_secrets_from_files(tmp_path: Path, end: str) -> None:
    for name, text in {"secret": SECRET, "previous": SECRET[::-1], "keys": f"shop:{KEY},\nops:{KEY}2:admin"}.items():
        (tmp_path / name).write_bytes((text + end).encode())
    settings = load_settings(
        {
            "NOTIFIER_JWT_SECRET_FILE": str(tmp_path / "secret"),
            "NOTIFIER_JWT_SECRET_PREVIOUS_FILE": str(tmp_path / "previous"),
            "NOTIFIER_API_KEYS_FILE": str(tmp_path / "keys"),
        }
    )
    assert (settings.jwt_secret, settings.jwt_secret_previous) == (SECRET, SECRET[::-1])
    assert [key.name for key in settings.api_keys] == ["shop", "ops"]


def test_public_keys_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys.pem").write_text(f"our issuer\n{pem(RSA)}\n{pem(ED)}")
    settings = load(jwt_secret=None, jwt_public_key_file=str(tmp_path / "keys.pem"))
    assert settings.masked()["NOTIFIER_JWT_PUBLIC_KEY"] == "RS256/RS384/RS512/PS256/PS384/PS512, EdDSA"


@pytest.mark.parametrize("name", ["JWT_SECRET", "API_KEYS"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "empty file"),
        (b"\n", "empty file"),
        (b"\xff\xfe", "not a text"),
        (b"x" * (1024 * 1024 + 1), "not a text"),
    ],
)
def test_a_file_that_cannot_be_used_is_the_only_problem(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    (problem,) = problems_of(**{name: None, f"{name}_FILE": str(tmp_path / "file")})
    assert problem.name == f"NOTIFIER_{name}_FILE"
    assert words in problem.problem


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    (problem,) = problems_of(jwt_secret=None, jwt_secret_file=str(tmp_path))
    assert "Is a directory" in problem.problem


def test_a_variable_and_its_file_are_a_contradiction(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (problem,) = problems_of(jwt_secret_file=str(tmp_path / "secret"))
    assert problem.name == "NOTIFIER_JWT_SECRET"
    assert "NOTIFIER_JWT_SECRET_FILE too" in problem.problem


def test_what_a_file_holds_is_checked_like_the_variable(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("short")
    (problem,) = problems_of(jwt_secret=None, jwt_secret_file=str(tmp_path / "secret"))
    assert "shorter than 32 bytes" in problem.problem


# --- TLS ------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    issued = trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def test_tls_takes_a_certificate_and_its_key(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    settings = load(tls_cert=str(cert), tls_key=str(key))
    assert (settings.tls_cert, settings.tls_key) == (str(cert), str(key))


def test_tls_files_that_do_not_fit(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = map(str, certificate)
    (tmp_path / "other.pem").write_text(RSA_PRIVATE)
    (tmp_path / "junk").write_text("junk")
    for pair in ((key, cert), (cert, str(tmp_path / "other.pem")), (str(tmp_path / "junk"), key)):
        (problem,) = problems_of(tls_cert=pair[0], tls_key=pair[1])
        assert problem.name == "NOTIFIER_TLS_CERT"
        assert "belong together" in problem.mend


def test_tls_files_that_are_missing(certificate: tuple[Path, Path]) -> None:
    found = problems_of(tls_cert="/nowhere/cert", tls_key="/nowhere/key")
    assert [problem.name for problem in found] == ["NOTIFIER_TLS_CERT", "NOTIFIER_TLS_KEY"]


# --- what is good ---------------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    settings = load()
    expected = {
        "host": "127.0.0.1", "port": 8000, "engine": "sqlite:///notifier.db", "durability": "fsync",
        "jwt_client_id_claim": "sub", "jwt_leeway_seconds": 10, "max_connections_per_client": 8,
        "mailbox_limit": 1000, "mailbox_bytes": 4 * 1024**2, "mailbox_overflow": "reject",
        "min_free_disk_bytes": 256 * 1024**2, "ttl_default_seconds": 604800, "ttl_max_seconds": 2592000,
        "dedup_seconds": 3600, "max_body_bytes": 65536, "max_inflight": 256, "heartbeat_seconds": 25,
        "heartbeat_timeout_seconds": 20, "drain_delay_seconds": 0, "drain_seconds": 10, "log_level": "info",
        "log_format": "auto", "query_token": False, "metrics_auth": False, "allowed_origins": (),
        "trusted_proxies": (), "jwt_issuer": None, "jwt_audience": (), "jwt_algorithms": (), "dev": False,
        "notes": (), "warnings": (), "max_connections": default_max_connections(),
    }  # fmt: skip
    assert {name: getattr(settings, name) for name in expected} == expected


def test_every_setting_can_be_given() -> None:
    settings = load(
        host="[::]", port="0", engine="sqlite:////data/a b.db", durability="Page_Cache", jwt_algorithms="HS256, HS512",
        jwt_issuer="https://issuer.example", jwt_audience="a, b", jwt_client_id_claim="uid", jwt_leeway_seconds="0",
        jwt_secret=SECRET * 2, allowed_origins="https://APP.example:443, http://*.dev.example:8080,null,app://x,"
        "http://[::1]:3000,chrome-extension://abcdef,http://localhost:080", trusted_proxies="10.0.0.0/8,::1",
        query_token="yes", metrics_auth="TRUE", api_keys=f"a:{KEY}:metrics", max_connections="64",
        mailbox_bytes="64KiB", min_free_disk_bytes="0", max_body_bytes="65536", heartbeat_seconds="0.5",
        drain_seconds="0", log_level="DEBUG", log_format="json", mailbox_overflow="drop_oldest", dedup_seconds="0",
    )  # fmt: skip
    assert (settings.host, settings.port, settings.engine) == ("::", 0, "sqlite:////data/a b.db")
    assert (settings.durability, settings.log_level) == ("page_cache", "debug")
    assert (settings.jwt_algorithms, settings.jwt_audience) == (("HS256", "HS512"), ("a", "b"))
    assert settings.allowed_origins == (
        "https://app.example",
        "http://*.dev.example:8080",
        "null",
        "app://x",
        "http://[::1]:3000",
        "chrome-extension://abcdef",
        "http://localhost",
    )
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert (settings.query_token, settings.metrics_auth) == (True, True)
    assert (settings.mailbox_bytes, settings.heartbeat_seconds, settings.drain_seconds) == (65536, 0.5, 0)
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"jwt_client_id_claim": "client_id"}, "ALL USERS"),
        ({"metrics_auth": "true"}, "nobody can read /metrics"),
        ({"max_connections": "100000000"}, "open-file limit"),
        ({"jwt_algorithms": "HS512"}, "RFC 7518"),
    ],
)
def test_what_is_allowed_and_probably_not_meant_draws_a_warning(changes: dict[str, str], words: str) -> None:
    (warning,) = load(**changes).warnings
    assert words in warning
    assert SECRET not in warning


@pytest.mark.parametrize(
    "url", ["https://issuer.example/.well-known/jwks.json", "https://[::1]:8443/", "https://x/?a=b"]
)
def test_a_jwks_url(url: str) -> None:
    assert load(jwt_secret=None, jwt_jwks_url=url, jwt_algorithms="RS256,ES256").jwt_jwks_url == url


def test_a_public_key_in_a_variable_may_have_its_line_ends_written_out() -> None:
    text = pem(RSA).replace("\n", "\\n")
    assert load(jwt_secret=None, jwt_public_key=text, jwt_algorithms="RS256").jwt_public_key == text


def test_dev_is_not_a_variable() -> None:
    assert load_settings(VALID, dev=True).dev is True


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1  # type: ignore[misc]


def test_constructed_by_hand_it_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFIER_PORT", "1234")
    assert Settings().port == 8000
    assert load_settings({**VALID}).port == 8000
    for name, value in VALID.items():
        monkeypatch.setenv(name, value)
    assert load_settings().port == 1234


def test_no_secret_is_shown() -> None:
    settings = load(jwt_secret_previous=SECRET[::-1], api_keys=f"shop:{KEY}:notify+metrics,ops:{KEY}2:admin")
    shown = settings.masked()
    assert shown["NOTIFIER_API_KEYS"] == "shop:********:metrics+notify, ops:********:admin"
    assert shown["NOTIFIER_PORT"] == "8000"
    assert "NOTIFIER_DEV" not in shown
    for text in (repr(settings), str(settings), repr(shown)):
        for secret in (SECRET, SECRET[::-1], KEY):
            assert secret not in text


def test_the_query_of_a_jwks_url_is_not_shown() -> None:
    settings = load(jwt_secret=None, jwt_jwks_url="https://issuer.example/jwks?key=hidden")
    assert settings.masked()["NOTIFIER_JWT_JWKS_URL"] == "https://issuer.example/jwks"
    assert "hidden" not in repr(settings)


def test_an_error_of_the_model_itself_shows_no_value() -> None:
    with pytest.raises(ValueError, match="shorter than 32 bytes") as caught:
        Settings(jwt_secret="short-secret")
    assert "short-secret" not in str(caught.value)


def test_the_connection_limit_follows_the_hard_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for hard, expected in ((20_000, 19_488), (600, 88), (256, 64), (resource.RLIM_INFINITY, 1024**2)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, hard=hard: (64, hard))
        assert default_max_connections() == expected
