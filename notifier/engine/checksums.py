"""What tells that content is the same, and that a record is whole. Stored in files: another formula is another
`database.VERSION`.

CRC-32 finds every difference that fits into 32 neighbouring bits, and all but one in 2^32 of the others: what mistakes
and disks do. It does not keep anybody from making two contents alike on purpose, and need not: whoever can has a key to
publish with, and all that it gets is the answer "duplicate" for what is none.

A number goes in by exclusive-or with the checksum so far, which is how a CRC takes 32 bits: as good as its digits,
which need not be made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from zlib import crc32

_crc32: Final[Callable[[bytes, int], int]] = crc32
_MASK: Final = 0xFFFFFFFF


def digest(data: bytes, lifetime_ms: int, event: str | None, collapse_key: str | None) -> int:
    """Fingerprint of the content that makes a repeat the same: its CRC-32, with the length of the data above that."""
    content = _crc32(data, _folded(lifetime_ms))
    if event is not None or collapse_key is not None:  # neither can be empty
        content = _crc32(f"\0{event or ''}\0{collapse_key or ''}".encode(), content)
    return len(data) << 32 | content


def checksum(content: int, seq: int, client_id: str, id: str, accepted_ms: int) -> int:
    """Of everything that is delivered, and to whom: a record with a flipped bit must not be. `content`: its digest."""
    place = _crc32(client_id.encode(), content & _MASK ^ _folded(seq))
    return _crc32(id.encode(), place ^ _folded(accepted_ms))


def _folded(number: int) -> int:
    """Into 32 bits, of which every bit of it turns one."""
    return (number ^ number >> 32) & _MASK
