"""What the kernel, the disk and the libraries ask for each part of the work by itself, beside what the server takes for
the same part: `python -m bench.limits`. µs of CPU time, the least of several rounds; the fsync is waited for.

`PYTHONPATH=build/compiled:. python -P -m bench.limits` (after `make compiled`) measures the package as the container
image has it.
"""

from __future__ import annotations

import argparse
import hmac
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import httptools
import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.machine import fsync_ms
from bench.path import request
from notifier.auth.tokens import mint, token_verifier
from notifier.clock import SystemClock
from notifier.transport.request import Head, KnownHeads

SECRET = "bench" * 8
FRAME_BYTES = 160
"""About a notification as it is written to a WebSocket."""
HANDSHAKE = (
    b"GET /ws?ack=client HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer %b\r\n\r\n"
)


class Line(NamedTuple):
    part: str
    alone: float
    ours: float | None
    note: str


def least(call: Callable[[], object], count: int, rounds: int) -> float:
    """µs of CPU that one call takes, in the round that was disturbed least."""
    best = float("inf")
    for _ in range(rounds):
        started = time.thread_time_ns()
        for _ in range(count):
            call()
        best = min(best, (time.thread_time_ns() - started) / count / 1000)
    return best


class Parsed:
    """What a parser tells at least: the headers, one by one."""

    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...


def parse(data: bytes) -> None:
    """A request by itself through llhttp, as httptools binds it."""
    with suppress(httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(Parsed()).feed_data(data)


def system_calls(rounds: int) -> list[Line]:
    """One write and one read over loopback. Nobody waits at the other end, so nobody is woken."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            data = b"x" * FRAME_BYTES

            def there() -> None:
                near.send(data)
                far.recv(4096)

            return [Line("one write(2) and the read(2) of it, loopback", least(there, 2_000, rounds), None, "")]


def http(rounds: int) -> list[Line]:
    """The head of a publish, which publishers repeat, and that of a handshake, which nobody does."""
    raw = request(1, 1)
    known, length = KnownHeads(), raw.find(b"\r\n\r\n") + 4
    known._heads[raw[:length]] = Head()
    if known.get(raw[:length]) is None:
        raise RuntimeError("the head of a publish is not known")

    def find() -> None:
        known.get(raw[: raw.find(b"\r\n\r\n") + 4])

    handshake = HANDSHAKE % mint(SECRET, "alice", 60).encode()
    parsed, found = least(partial(parse, raw), 2_000, rounds), least(find, 5_000, rounds)
    return [
        Line("head of a publish, llhttp", parsed, found, "found among those that are known"),
        Line("head of a handshake, llhttp", least(partial(parse, handshake), 2_000, rounds), None, ""),
    ]


def tokens(rounds: int) -> list[Line]:
    """The mathematics of a signature, and the whole check of a token with it; PyJWT's `decode` for comparison."""
    rsa_key = rsa.generate_private_key(65537, 2048)
    ec_key = ec.generate_private_key(ec.SECP256R1())
    lines = []
    for algorithm, key in (("HS256", None), ("RS256", rsa_key), ("ES256", ec_key)):
        claims = {"sub": "alice", "iat": int(time.time()), "exp": int(time.time()) + 3600}
        token = jwt.encode(claims, SECRET if key is None else key, algorithm)
        verifying: Any = SECRET if key is None else key.public_key()
        pem = None if key is None else verifying.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        verifier = token_verifier(SystemClock(), secrets=() if key else (SECRET,), public_key=pem)
        count = 2_000 if key is None else 300
        alone = least(mathematics(token, verifying, algorithm), count, rounds)
        ours = least(partial(verifier.verify_now, token), count, rounds)
        pyjwt = least(partial(jwt.decode, token, verifying, [algorithm]), count, rounds)
        lines.append(
            Line(f"signature of a token, {algorithm}", alone, ours, f"whole check; PyJWT's decode: {pyjwt:.1f}")
        )
    return lines


def mathematics(token: str, key: Any, algorithm: str) -> Callable[[], object]:
    """Only the signature of a token, by OpenSSL."""
    signed, _, encoded = token.rpartition(".")
    data, signature = signed.encode(), jwt.utils.base64url_decode(encoded)
    if algorithm == "HS256":
        secret = key.encode()
        return lambda: hmac.compare_digest(hmac.digest(secret, data, "sha256"), signature)
    if algorithm == "RS256":
        return lambda: key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    return lambda: key.verify(der, data, ec.ECDSA(hashes.SHA256()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.limits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="the least of how many rounds (default 15)")
    rounds = parser.parse_args().rounds
    print(f"{'':48}{'alone':>9}{'ours':>9}")
    for part, alone, ours, note in system_calls(rounds) + http(rounds) + tokens(rounds):
        print(f"{part:48}{alone:9.2f}{'' if ours is None else f'{ours:.2f}':>9}  {note}")
    disk = fsync_ms()
    print(
        f"once per commit: fdatasync(2) of 4 KiB, µs waited: p50 {disk['p50'] * 1000:.0f}, p99 {disk['p99'] * 1000:.0f}"
    )


if __name__ == "__main__":
    main()
