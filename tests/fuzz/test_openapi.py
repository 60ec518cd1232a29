"""schemathesis on /openapi.json, with and without a key: no answer of 500 or above, every answer as it is described."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.door.health import unharmed
from tests.harness import Server, need

pytestmark = pytest.mark.timeout(600)
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
EXAMPLES = os.environ.get("FUZZ", "3")


@pytest.mark.parametrize("key", [False, True], ids=["without a key", "with a key"])
def test_the_api_is_as_it_is_described(server: Server, key: bool) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    command = [str(program) if program.exists() else need("schemathesis"), "run", f"{server.url}/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--phases", "examples,fuzzing", "--max-examples", EXAMPLES]
    command += [
        "--request-timeout",
        "40",
        "--workers",
        "8",
        "--no-color",
        *(["-H", f"X-API-Key: {server.key}"] if key else []),
    ]
    done = subprocess.run(command, cwd=server.directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    unharmed(server)
