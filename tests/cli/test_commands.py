"""Commands that need no server, as processes: what they print and how they end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest

from notifier.auth.apikeys import ApiKeys, parse_keys
from tests.cli.command import NOTIFIER, environment, notifier

SECRET = "0123456789abcdef0123456789abcdef"
GOOD = {"NOTIFIER_JWT_SECRET": SECRET, "NOTIFIER_API_KEYS": f"shop:{SECRET}"}


def test_version(tmp_path: Path) -> None:
    assert notifier("version", cwd=tmp_path) == (0, "notifier 0.1.0\n", "")
    assert notifier("version", "--json", cwd=tmp_path).json["version"] == "0.1.0"


def test_version_loads_neither_the_server_nor_a_client() -> None:
    """What makes a start slow is what is imported; this is the part of it that does not depend on the machine."""
    code = (
        "import sys; sys.argv = ['notifier', 'version']\n"
        "from notifier.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "heavy = {'fastapi', 'uvicorn', 'apsw', 'websockets', 'httpx2', 'cryptography', 'asyncio', 'rich', 'typer'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "notifier 0.1.0\n[]\n"


def test_help_lists_every_command_and_each_has_help(tmp_path: Path) -> None:
    shown = notifier("--help", cwd=tmp_path)
    assert shown.code == 0
    for command in ("dev", "serve", "token", "send", "listen", "keys", "config", "version"):
        assert f" {command} " in shown.out
        assert notifier(command, "--help", cwd=tmp_path).code == 0
    assert "NOTIFIER_API_KEYS" in notifier("serve", "--help", cwd=tmp_path).out


@pytest.mark.parametrize(("host", "words"), [("bogus.invalid", "bogus.invalid is"), ("203.0.113.9", "203.0.113.9 is")])
def test_a_host_that_is_not_of_this_machine_is_named_and_not_the_port(host: str, words: str, tmp_path: Path) -> None:
    done = notifier("serve", cwd=tmp_path, **GOOD, NOTIFIER_HOST=host, NOTIFIER_PORT="0")
    assert done.code == 69
    assert words in done.err + done.out
    assert "Correct NOTIFIER_HOST." in done.err + done.out
    assert "NOTIFIER_PORT" not in done.err + done.out


def test_certificates_that_cannot_be_read_are_a_configuration_to_mend_and_leave_the_database_alone(
    tmp_path: Path,
) -> None:
    """To fetch a JWKS the machine's trusted certificates are needed; no start after it speaks of a log that is gone."""
    keys = {"NOTIFIER_JWT_JWKS_URL": "https://127.0.0.1:1/keys", "NOTIFIER_API_KEYS": f"shop:{SECRET}"}
    bundle = {"SSL_CERT_FILE": str(tmp_path / "missing.pem"), "NOTIFIER_PORT": "0"}
    done = notifier("serve", cwd=tmp_path, **keys, **bundle)
    assert done.code == 78
    assert "SSL_CERT_FILE names certificates that cannot be read: correct or remove it" in done.out + done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["serv"],
        ["--nonsense"],
        ["token"],
        ["token", "alice", "--ttl", "1y"],
        ["token", "alice", "--ttl", "0"],
        ["token", "alice", "--ttl", "-1"],
        ["token", "alice", "--ttl", "999999999w"],
        ["token", "alice", "--ttl", "420000w"],
        ["token", " alice"],
        ["token", "a\nb"],
        ["token", "x" * 201],
        ["token", "alice", "--group", ""],
        ["send", "alice"],
        ["send", "alice", "-", "--id", "x"],
        ["send", "alice", "-", "--wait", "3"],
        ["send", "alice", "hi", "--wait", "31"],
        ["send", "alice", "hi", "--ttl", "soon"],
        ["send", "alice", "hi", "--url", "example.com"],
        ["send", "alice", "hi", "--url", "http://127.0.0.1:1"],
        ["send", "alice", "{oops", "--url", "http://127.0.0.1:1", "--api-key", "k"],
        ["listen", "alice", "--count", "0"],
        ["listen", "alice", "--once", "--count", "2"],
        ["listen", "alice", "--url", "http://127.0.0.1:1"],
        ["keys", "new"],
        ["keys", "new", "a b"],
        ["keys", "new", "shop", "--scope", "root"],
        ["config"],
        ["dev", "--port", "65536"],
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(arguments: list[str], tmp_path: Path) -> None:
    result = notifier(*arguments, cwd=tmp_path)
    assert result.code == 2, result
    assert result.err or "Usage" in result.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["send", "alice", "hi"], ["listen", "alice"]])
def test_without_a_server_it_says_how_to_get_one(command: list[str], tmp_path: Path) -> None:
    result = notifier(*command, cwd=tmp_path)
    assert result.code == 69
    assert result.err == (
        "notifier: no server: start 'notifier dev' in this directory, or give --url (or NOTIFIER_URL)\n"
    )


def test_a_token_is_signed_as_the_server_of_this_environment_would_accept_it(tmp_path: Path) -> None:
    before = int(time.time())
    result = notifier("token", "alice", "--ttl", "15m", "--group", "a", "--group", "b", cwd=tmp_path, **GOOD)
    assert result.code == 0
    claims = jwt.decode(result.out.strip(), SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["groups"]) == ("alice", ["a", "b"])
    assert claims["exp"] - claims["iat"] == 900
    assert before <= claims["iat"] <= time.time()


def test_a_token_follows_the_settings_about_tokens(tmp_path: Path) -> None:
    result = notifier(
        *("token", "alice", "--json"),
        cwd=tmp_path,
        NOTIFIER_JWT_SECRET=SECRET * 2,
        NOTIFIER_JWT_ALGORITHMS="HS512",
        NOTIFIER_JWT_ISSUER="https://issuer.example",
        NOTIFIER_JWT_AUDIENCE="one,two",
        NOTIFIER_JWT_CLIENT_ID_CLAIM="uid",
    )
    claims = jwt.decode(
        result.json["token"], SECRET * 2, algorithms=["HS512"], issuer="https://issuer.example", audience="one"
    )
    assert claims["uid"] == result.json["client_id"] == "alice"


def test_the_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    result = notifier("token", "alice", cwd=tmp_path, NOTIFIER_JWT_SECRET_FILE=str(tmp_path / "secret"))
    assert jwt.decode(result.out.strip(), SECRET, algorithms=["HS256"])["sub"] == "alice"


def test_without_a_secret_or_with_a_weak_one_no_token_is_signed(tmp_path: Path) -> None:
    missing = notifier("token", "alice", cwd=tmp_path)
    assert missing.code == 78
    assert "NOTIFIER_JWT_SECRET" in missing.err
    weak = notifier("token", "alice", cwd=tmp_path, NOTIFIER_JWT_SECRET="short")
    assert weak.code == 78
    assert "shorter than 32 bytes" in weak.err
    assert "short\n" not in weak.err


def test_a_new_key_is_accepted_as_configured_and_only_its_hash_is_in_the_line(tmp_path: Path) -> None:
    made = notifier("keys", "new", "billing", "--scope", "notify", "--scope", "metrics", "--json", cwd=tmp_path).json
    (key,) = parse_keys(made["configured"])
    assert (key.name, key.scopes) == ("billing", {"notify", "metrics"})
    assert made["secret"] not in made["configured"]
    assert ApiKeys([key]).check(made["secret"].encode(), None, "metrics") == key


def test_the_line_of_a_new_key_survives_a_shell(tmp_path: Path) -> None:
    shown = notifier("keys", "new", "billing", cwd=tmp_path).out
    line = next(line.strip() for line in shown.splitlines() if "NOTIFIER_API_KEYS" in line)
    script = f"export {line}; {NOTIFIER} config check"
    done = subprocess.run(
        ["bash", "-c", script],
        env=environment(NOTIFIER_JWT_SECRET=SECRET),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "The configuration is valid.\n"), done.stderr


def test_config_check_tells_every_problem_with_its_mend(tmp_path: Path) -> None:
    bad = {"NOTIFIER_PRT": "1", "NOTIFIER_HEARTBEAT_SECONDS": "often", "NOTIFIER_API_KEYS": "shop:short"}
    for command in (["config", "check"], ["config", "show"], ["serve"]):
        result = notifier(*command, cwd=tmp_path, **bad)
        assert (result.code, result.out) == (78, "")
        assert result.err.startswith("notifier: the configuration has 4 problems:\n")
        for name in ("NOTIFIER_PRT", "NOTIFIER_HEARTBEAT_SECONDS", "NOTIFIER_API_KEYS", "NOTIFIER_JWT_SECRET"):
            assert f"  {name} " in result.err
        assert "did you mean NOTIFIER_PORT?" in result.err
    told = notifier("config", "check", "--json", cwd=tmp_path, **bad)
    assert told.code == 78
    assert told.json["valid"] is False
    assert {problem["name"] for problem in told.json["problems"]} >= {"NOTIFIER_PRT", "NOTIFIER_API_KEYS"}
    assert all(problem["mend"] for problem in told.json["problems"])


def test_config_check_passes_and_warns(tmp_path: Path) -> None:
    assert notifier("config", "check", cwd=tmp_path, **GOOD) == (0, "The configuration is valid.\n", "")
    odd = notifier("config", "check", cwd=tmp_path, NOTIFIER_JWT_CLIENT_ID_CLAIM="client_id", **GOOD)
    assert odd.code == 0
    assert "share ONE mailbox" in odd.err
    told = notifier("config", "check", "--json", cwd=tmp_path, NOTIFIER_JWT_CLIENT_ID_CLAIM="client_id", **GOOD)
    assert (told.json["valid"], len(told.json["warnings"])) == (True, 1)


def test_config_show_masks_secrets(tmp_path: Path) -> None:
    plain = notifier("config", "show", cwd=tmp_path, **GOOD)
    coded = notifier("config", "show", "--json", cwd=tmp_path, **GOOD)
    assert (plain.code, coded.code) == (0, 0)
    assert SECRET not in plain.out + coded.out
    assert coded.json["NOTIFIER_PORT"] == "8000"
    assert coded.json["NOTIFIER_API_KEYS"] == "shop:********:notify"
    assert len(plain.out.splitlines()) == len(coded.json)


def test_a_client_that_goes_away_while_it_prints_ends_quietly(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{NOTIFIER} config show --json | true; echo ${{PIPESTATUS[0]}}"],
        env=environment(**GOOD),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout in {"0\n", "1\n"}
