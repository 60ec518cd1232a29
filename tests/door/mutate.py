"""Removes one check at a time from a copy of the code and shows that a test fails without it.

    python -m tests.door.mutate [PART OF A NAME]        # not part of pytest: it takes minutes

Prints a table; exit 1 if a check can be removed unnoticed, or is not where this file looks for it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutation(NamedTuple):
    """`old` becomes `new` in `file`; then one of `tests` (files, and -k) must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    pick: str = ""


def run(mutation: Mutation, copy: Path) -> str:
    """The first failing test, or why there is none."""
    path = copy / "notifier" / mutation.file
    source = path.read_text()
    if source.count(mutation.old) < 1:
        return "NOT FOUND"
    path.write_text(source.replace(mutation.old, mutation.new, 1))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation.tests.split()]
    if mutation.pick:
        command += ["-k", mutation.pick]
    environ = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environ, capture_output=True, text=True, check=False)
    path.write_text(source)
    if done.returncode == 0:
        return "SURVIVED"
    found = re.search(r"^(?:FAILED|ERROR) (\S+?::[^\n]+?)(?: - |$)", done.stdout, re.MULTILINE)
    return found[1].partition("::")[2] if found else f"exit {done.returncode}: {done.stdout[-200:]!r}"


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy"
        unused = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", "node_modules")
        shutil.copytree(ROOT, copy, ignore=unused)
        data = tomllib.loads(Path(__file__).with_name("mutations.toml").read_text())
        for mutation in (Mutation(**fields) for fields in data["mutation"]):
            if wanted not in f"{mutation.file} {mutation.name}":
                continue
            result = run(mutation, copy)
            bad += result in ("SURVIVED", "NOT FOUND") or result.startswith("exit")
            print(f"| {mutation.file} | {mutation.name} | {result} |", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
