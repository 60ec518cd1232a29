"""Builds and installs what a measurement needs, once, under bench/build."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = HERE / "build"
NPM_INSTALL = ["npm", "ci", "--omit-lockfile-registry-resolved=true", "--ignore-scripts", "--no-audit", "--no-fund"]
PIP_INSTALL = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"]


class NotRunError(Exception):
    """A server or scenario cannot be measured here; the text says why and goes into the table."""


def _run(command: list[str], cwd: Path, what: str) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr + done.stdout, file=sys.stderr)
        raise NotRunError(f"{what} failed (exit {done.returncode})")


def load_generator() -> Path:
    """Compile bench/loadgen when a source is newer than the program."""
    program = BUILD / "loadgen"
    sources = sorted((HERE / "loadgen").glob("*.c"))
    newest = max(path.stat().st_mtime for path in (HERE / "loadgen").iterdir())
    if not program.exists() or program.stat().st_mtime < newest:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise NotRunError("no C compiler (cc or gcc) for the load generator")
        BUILD.mkdir(exist_ok=True)
        options = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", str(program)]
        _run([compiler, *options, *map(str, sources)], BUILD, "compiling the load generator")
    return program


def _installed(directory: Path, lock: Path) -> Path | None:
    """Says whether `directory` was made from this lock file; if not, makes it empty and returns the stamp to write."""
    stamp = directory / ".made-from"
    if stamp.exists() and stamp.read_text() == hashlib.sha256(lock.read_bytes()).hexdigest():
        return None
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return stamp


def node_servers() -> Path:
    """The Node peers beside their node_modules (modules are looked up from a file's own folder upwards)."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NotRunError("node and npm are not installed")
    directory, lock = BUILD / "node", HERE / "servers" / "package-lock.json"
    stamp = _installed(directory, lock)
    for source in [*(HERE / "servers").glob("*.mjs"), lock, lock.with_name("package.json")]:
        shutil.copy(source, directory)
    if stamp:
        _run(NPM_INSTALL, directory, "npm ci")
        stamp.write_text(hashlib.sha256(lock.read_bytes()).hexdigest())
    return directory


def socketio_python() -> Path:
    """An interpreter with python-socketio: a dependency of the measurement, not of the project."""
    directory, lock = BUILD / "venv", HERE / "requirements.lock"
    python = directory / "bin" / "python"
    if stamp := _installed(directory, lock):
        _run([sys.executable, "-m", "venv", str(directory)], HERE, "making a virtual environment")
        _run([str(python), *PIP_INSTALL, str(lock)], HERE, "pip install python-socketio")
        stamp.write_text(hashlib.sha256(lock.read_bytes()).hexdigest())
    return python


def nchan_modules() -> Path:
    """Where nginx's nchan module lies."""
    if shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") is None:
        raise NotRunError("nginx is not installed (Debian: nginx libnginx-mod-nchan)")
    for directory in (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"), Path("/etc/nginx/modules")):
        if (directory / "ngx_nchan_module.so").exists():
            return directory
    raise NotRunError("nginx has no nchan module (Debian: libnginx-mod-nchan)")
