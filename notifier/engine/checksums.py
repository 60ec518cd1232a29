"""What tells that content is the same, and that a record is whole. Stored in files: another formula is another
`database.VERSION`.

CRC-32 finds every difference that fits into 32 neighbouring bits, and all but one in 2^32 of the others: what mistakes
and disks do. It does not keep anybody from making two contents alike on purpose, and need not: whoever can has a key to
publish with, and all that it gets is the answer "duplicate" for what is none.
"""

from __future__ import annotations

from zlib import crc32


def digest(data: bytes, lifetime_ms: int, event: str | None, collapse_key: str | None) -> int:
    """Fingerprint of the content that makes a repeat the same: its CRC-32, with the length of the data above that."""
    rest = str(lifetime_ms)
    if event is not None or collapse_key is not None:  # neither can be empty
        rest += f"\0{event or ''}\0{collapse_key or ''}"
    return len(data) << 32 | crc32(rest.encode(), crc32(data))


def checksum(content: int, seq: int, client_id: str, id: str, accepted_ms: int) -> int:
    """Of everything that is delivered, and to whom: a record with a flipped bit must not be. `content`: its digest."""
    return crc32(f"{seq}\0{client_id}\0{id}\0{accepted_ms}".encode(), content & 0xFFFFFFFF)
