"""The frame reader: any bytes in any pieces. Only FrameError comes out, and pieces make no difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier.protocol import MAX_CLIENT_FRAME
from notifier.transport.frames import MAX_FRAGMENTS, FrameError, FrameReader, encode, parse_close, unmask
from tests.door.raw import masked

pytestmark = pytest.mark.timeout(0)
fuzz = settings.get_profile("fuzz")
Reading = Callable[[FrameReader, bytes], Iterator[tuple[int, bytes]]]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Frames that are nearly right."""
    payload = draw(st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
    data = masked(
        draw(st.sampled_from([0, 0, 1, 1, 1, 2, 3, 8, 9, 10, 15])),
        payload,
        fin=draw(st.booleans()),
        rsv=draw(st.sampled_from([0, 0, 0, 0, 1, 4])),
        mask=draw(st.binary(min_size=4, max_size=4) | st.just(b"\0\0\0\0")),
    )
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
    return data


streams = st.lists(frames(), max_size=8).map(b"".join) | st.binary(max_size=400)


def messages(reader: FrameReader, piece: bytes) -> Iterator[tuple[int, bytes]]:
    """As a connection reads: what is common in one step."""
    if (text := reader.single_text(piece)) is not None:
        yield 1, text
    elif (pong := reader.single_pong(piece)) is not None:
        yield 10, pong
    else:
        yield from reader.feed(piece)


def read(pieces: list[bytes], steps: Reading = FrameReader.feed) -> tuple[list[tuple[int, bytes]], Any]:
    """What comes out, and how it ended."""
    reader, out = FrameReader(), []
    try:
        for piece in pieces:
            for message in steps(reader, piece):
                out.append(message)
                if message[0] == 8:
                    parse_close(message[1])
    except FrameError as error:
        return out, (error.code, error.reason)
    return out, None


@settings(fuzz)
@given(streams, st.lists(st.integers(0, 400), max_size=6))
def test_any_bytes_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    whole = read([data])
    marks = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert read([data[a:b] for a, b in pairwise(marks)]) == whole
    assert read([data[a:b] for a, b in pairwise(marks)], messages) == whole
    assert read([data[n : n + 1] for n in range(len(data))]) == whole
    for opcode, payload in whole[0]:
        assert opcode in (1, 2, 8, 9, 10)
        assert len(payload) <= (MAX_CLIENT_FRAME if opcode < 8 else 125)
        if opcode == 1:
            payload.decode()
    assert whole[1] is None or whole[1][0] in (1002, 1007, 1009)


@settings(fuzz)
@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmasking_is_its_own_inverse(payload: bytes, mask: bytes) -> None:
    if payload:
        assert unmask(unmask(payload, mask), mask) == payload
        assert unmask(payload, mask) == bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))


@settings(fuzz)
@given(st.integers(0, 70_000))
def test_what_is_written_says_its_length(size: int) -> None:
    frame = encode(2, bytes(size))
    start = 2 if size < 126 else 4 if size < 65536 else 10
    assert len(frame) == start + size
    assert int.from_bytes(frame[2:start]) == size if size > 125 else frame[1] == size


def test_fragments_never_pile_up() -> None:
    reader = FrameReader()
    list(reader.feed(masked(1, fin=False) + masked(0, fin=False) * (MAX_FRAGMENTS - 1)))
    with pytest.raises(FrameError):
        list(reader.feed(masked(0, fin=False)))
