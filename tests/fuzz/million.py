"""Random changes to good input, as many as asked for: `python -m tests.fuzz.million 1000000`.

Exit 1 and the input in hexadecimal if anything comes out that is not ours.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable

from notifier import codec
from notifier.auth.tokens import token_verifier
from notifier.errors import BadJson, Invalid, TokenExpired, TokenInvalid
from notifier.transport.frames import FrameError, FrameReader, parse_close
from notifier.web.publication import TtlLimits, decode_notify
from tests.auth.forging import GOOD, HEADER, NOW, SECRET, clock, sign
from tests.door.raw import masked

VERIFIER = token_verifier(clock(), secrets=[SECRET])
LIMITS = TtlLimits(60, 600)
FRAMES = [
    masked(1, b'{"type":"ping"}', mask=b"\0\0\0\0") + masked(9, b"x", mask=b"abcd"),
    masked(1, "é".encode() * 70, fin=False, mask=b"abcd")
    + masked(10, mask=b"\0\0\0\0")
    + masked(0, b"x", mask=b"abcd"),
    masked(8, (1000).to_bytes(2) + b"bye", mask=b"abcd") + masked(2, b"y" * 300, mask=b"wxyz"),
]
TOKENS = [sign(HEADER, GOOD).encode(), sign(HEADER | {"kid": "k"}, GOOD | {"groups": ["g"], "nbf": NOW}).encode()]
MESSAGES = [
    b'{"type":"ack","seq":12,"confirm":true}', b'{"type":"auth","token":"a.b.c"}', b'{"type":"ping","x":[{"y":1e3}]}',
    b'{"client_id":"a","data":{"x":[1,2.5,"\\u00e9"]},"id":"i","ttl":60,"event":"e","collapse_key":"k","receipt":true}',
]  # fmt: skip


def frames(data: bytes) -> None:
    reader, cut = FrameReader(), len(data) // 2
    try:
        for piece in (data[:cut], data[cut:]):
            for opcode, payload in reader.feed(piece):
                if opcode == 8:
                    parse_close(payload)
    except FrameError:
        pass


def tokens(data: bytes) -> None:
    try:
        identity = VERIFIER.verify_now(data)
    except (TokenInvalid, TokenExpired):
        return
    assert identity.client_id == "alice"
    assert data in TOKENS


def messages(data: bytes) -> None:
    try:
        data.decode()
        glance = codec.plain_ack(data)
        assert glance in (0, getattr(codec.decode(data), "seq", 0))
    except (BadJson, UnicodeDecodeError):
        pass
    with contextlib.suppress(BadJson, Invalid):
        decode_notify(data, LIMITS, None, False)


def change(data: bytes, pick: random.Random) -> bytes:
    """One to three of: a bit, a byte, a cut, a copy, a number at its bounds."""
    out = bytearray(data)
    for _ in range(pick.randrange(1, 4)):
        at = pick.randrange(len(out) + 1)
        match pick.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << pick.randrange(8)
            case 1 if at < len(out):
                out[at] = pick.choice(b'\x00\x7f\x80\xff"\\{}[],:.-09aA=')
            case 2:
                del out[at : at + pick.randrange(1, 9)]
            case 3:
                out[at:at] = out[pick.randrange(len(out) + 1) :][: pick.randrange(1, 40)]
            case 4:
                out[at:at] = pick.randbytes(pick.randrange(1, 6))
            case _:
                out[at:at] = pick.choice(
                    (b"1e400", b"9" * 400, b"\\ud800", b"[" * 65, b"\xef\xbb\xbf", b"null", b"\xff" * 8)
                )
    return bytes(out)


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "frames": (frames, FRAMES),
    "tokens": (tokens, TOKENS),
    "messages": (messages, MESSAGES),
}


def run(name: str, count: int, seed: int) -> None:
    """Raises whatever came out, with the input in a note."""
    target, corpus = TARGETS[name]
    pick = random.Random(seed)
    for _ in range(count):
        data = change(pick.choice(corpus), pick)
        try:
            target(data)
        except BaseException as error:
            error.add_note(f"{name}: {data.hex()}")
            raise


if __name__ == "__main__":
    for name in TARGETS:
        began = time.monotonic()
        run(name, int(sys.argv[1]), seed=int(began))
        print(
            f"{name}: {sys.argv[1]} executions, {time.monotonic() - began:.0f} s, nothing that is not ours", flush=True
        )
