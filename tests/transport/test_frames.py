"""The frame reader and writer (RFC 6455 §5), byte by byte and in any pieces."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.protocol import MAX_CLIENT_FRAME
from notifier.transport import frames
from notifier.transport.frames import BINARY, CLOSE, MAX_FRAGMENTS, PING, PONG, TEXT, FrameError, FrameReader

CONTINUATION = 0


def frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, mask: bytes | None = b"\x01\x02\x03\x04", head: int = 0
) -> bytes:
    """A frame as a client sends it; `mask` None sends it unmasked, `head` sets further bits of the first byte."""
    size = len(payload)
    masked = 0x80 if mask is not None else 0
    if size < 126:
        length = bytes((masked | size,))
    elif size < 65536:
        length = bytes((masked | 126,)) + size.to_bytes(2)
    else:
        length = bytes((masked | 127,)) + size.to_bytes(8)
    if mask is not None:
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes(((0x80 if final else 0) | head | opcode,)) + length + (mask or b"") + payload


def read(data: bytes, pieces: list[int] | None = None) -> list[tuple[int, bytes]]:
    """What a reader makes of `data`, fed in pieces of these sizes (the rest at once)."""
    reader, found = FrameReader(), []
    for size in pieces or []:
        found += list(reader.feed(data[:size]))
        data = data[size:]
    return found + list(reader.feed(data))


def refused(data: bytes) -> tuple[int, str]:
    """How it ends; one byte at a time ends it alike, and no later than with the last one."""
    outcomes = set()
    for pieces in ([], [1] * len(data)):
        with pytest.raises(FrameError) as failure:
            read(data, pieces)
        outcomes.add((failure.value.code, failure.value.reason))
    (outcome,) = outcomes
    return outcome


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 1000, 32767, MAX_CLIENT_FRAME])
@pytest.mark.parametrize("mask", [b"\x00\x00\x00\x00", b"\xff\x00\xff\x00", b"abcd"])
def test_every_size_and_mask(size: int, mask: bytes) -> None:
    payload = (b"payload-" * (size // 8 + 1))[:size]
    data = frame(TEXT, payload, mask=mask)
    assert read(data) == [(TEXT, payload)]
    if size < 200:
        assert read(data, [1] * len(data)) == [(TEXT, payload)]


@given(
    st.lists(st.tuples(st.sampled_from([TEXT, BINARY, PING, PONG]), st.binary(max_size=125)), max_size=6),
    st.lists(st.integers(1, 40), max_size=20),
)
def test_any_messages_in_any_pieces(messages: list[tuple[int, bytes]], pieces: list[int]) -> None:
    sent = [(opcode, payload.hex()[:125].encode() if opcode == TEXT else payload) for opcode, payload in messages]
    data = b"".join(frame(opcode, payload, mask=os.urandom(4)) for opcode, payload in sent)
    assert read(data, pieces) == sent


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=8), st.lists(st.integers(1, 30), max_size=20))
def test_fragments_are_joined_with_control_frames_between_them(parts: list[bytes], pieces: list[int]) -> None:
    data = b""
    for at, part in enumerate(parts):
        data += frame(CONTINUATION if at else BINARY, part, final=at == len(parts) - 1)
        data += frame(PING, b"%d" % at) if at < len(parts) - 1 else b""
    pings = [(PING, b"%d" % at) for at in range(len(parts) - 1)]
    assert read(data, pieces) == [*pings, (BINARY, b"".join(parts))]


def test_text_may_be_split_within_a_character() -> None:
    whole = "Grüße".encode()
    assert read(frame(TEXT, whole[:3], final=False) + frame(CONTINUATION, whole[3:])) == [(TEXT, whole)]


def test_what_was_good_comes_out_before_the_error() -> None:
    reader = FrameReader()
    found = []
    with pytest.raises(FrameError):
        found.extend([]) or [found.append(item) for item in reader.feed(frame(TEXT, b"good") + b"\xff\xff")]
    assert found == [(TEXT, b"good")]


def test_a_small_whole_text_frame_is_read_in_one_step() -> None:
    reader = FrameReader()
    assert reader.single_text(frame(TEXT, b'{"type":"ack","seq":1}')) == b'{"type":"ack","seq":1}'
    for other in (
        frame(TEXT, b"x" * 126), frame(BINARY, b"x"), frame(PONG, b"x"), frame(TEXT, b"x", final=False),
        frame(TEXT, b"x", mask=None), frame(TEXT, "é".encode()), frame(TEXT, b"x", head=0x40),
        frame(TEXT, b"xx")[:-1], frame(TEXT, b"x") + b"\x81", frame(TEXT, b"x") * 2, b"", b"\x81\x80",
    ):  # fmt: skip
        assert reader.single_text(other) is None
    assert list(reader.feed(frame(TEXT, b"a", final=False))) == []
    assert reader.single_text(frame(TEXT, b"x")) is None, "in the middle of a message"


def test_a_pong_is_read_in_one_step() -> None:
    reader = FrameReader()
    assert reader.single_pong(frame(PONG, b"\0\xff proof")) == b"\0\xff proof"
    assert reader.single_pong(frame(PONG, b"")) == b""
    for other in (
        frame(PONG, b"x" * 126), frame(PING, b"x"), frame(TEXT, b"x"), frame(PONG, b"x", final=False),
        frame(PONG, b"x", mask=None), frame(PONG, b"x", head=0x40), frame(PONG, b"xx")[:-1], frame(PONG, b"x") * 2, b"",
    ):  # fmt: skip
        assert reader.single_pong(other) is None
    assert list(reader.feed(frame(TEXT, b"a", final=False))) == []
    assert reader.single_pong(frame(PONG, b"x")) == b"x", "control frames may come in the middle of a message"
    assert list(reader.feed(frame(TEXT, b"a")[:1])) == []
    assert reader.single_pong(frame(PONG, b"x")) is None, "in the middle of a frame"


# -- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [0x10, 0x20, 0x40, 0x70])
def test_reserved_bits(head: int) -> None:
    assert refused(frame(TEXT, b"x", head=head))[0] == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes(opcode: int) -> None:
    assert refused(frame(opcode, b"x"))[0] == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_a_client_masks(opcode: int) -> None:
    assert refused(frame(opcode, b"xx", mask=None))[0] == 1002


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_control_frames_are_short_and_whole(opcode: int) -> None:
    assert refused(frame(opcode, b"x" * 126))[0] == 1002
    assert refused(frame(opcode, b"x", final=False))[0] == 1002


def test_a_continuation_needs_a_beginning() -> None:
    assert refused(frame(CONTINUATION, b"x"))[0] == 1002
    assert refused(frame(CONTINUATION, b"x", final=False))[0] == 1002
    assert refused(frame(TEXT, b"x") + frame(CONTINUATION, b"x"))[0] == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_beginning_needs_its_continuation(opcode: int) -> None:
    assert refused(frame(TEXT, b"x", final=False) + frame(opcode, b"x"))[0] == 1002


@pytest.mark.parametrize(("head", "size"), [(126, 0), (126, 125), (127, 0), (127, 126), (127, 32768)])
def test_a_length_is_written_in_as_few_bytes_as_it_can_be(head: int, size: int) -> None:
    """RFC 6455 §5.2."""
    data = bytes((0x81, 0x80 | head)) + size.to_bytes(2 if head == 126 else 8) + b"\0\0\0\0"
    assert refused(data)[0] == 1002


def test_a_message_of_more_than_32_kib() -> None:
    assert refused(frame(BINARY, b"x" * (MAX_CLIENT_FRAME + 1))) == (1009, "too_large")


@pytest.mark.parametrize("size", [MAX_CLIENT_FRAME + 1, 2**31, 2**63, 2**64 - 1])
def test_its_size_is_enough_to_refuse_it(size: int) -> None:
    assert refused(b"\x82\xff" + size.to_bytes(8)) == (1009, "too_large")


def test_fragments_together_of_more_than_32_kib() -> None:
    half = b"x" * (MAX_CLIENT_FRAME // 2)
    good = frame(BINARY, half, final=False) + frame(CONTINUATION, half, final=False)
    assert read(good + frame(CONTINUATION)) == [(BINARY, half + half)]
    with pytest.raises(FrameError) as failure:
        read(good + frame(CONTINUATION, b"x"))
    assert failure.value.code == 1009


def test_the_next_message_has_its_own_limits() -> None:
    whole = frame(BINARY, b"x" * 20_000, final=False) + frame(CONTINUATION, b"x" * 12_000)
    assert len(read(whole * 3)) == 3


def test_more_than_1024_fragments() -> None:
    allowed = frame(BINARY, b"", final=False) + frame(CONTINUATION, b"", final=False) * (MAX_FRAGMENTS - 2)
    assert read(allowed + frame(CONTINUATION, b"x")) == [(BINARY, b"x")]
    with pytest.raises(FrameError) as failure:
        read(allowed + frame(CONTINUATION, b"", final=False) + frame(CONTINUATION, b""))
    assert failure.value.code == 1009


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"ok \xf0\x9f\x98"])
def test_text_that_is_not_utf_8(text: bytes) -> None:
    assert refused(frame(TEXT, text))[0] == 1007
    assert refused(frame(TEXT, text[:1], final=False) + frame(CONTINUATION, text[1:]))[0] == 1007
    assert read(frame(BINARY, text)) == [(BINARY, text)]


@given(st.binary(max_size=100), st.lists(st.integers(1, 10), max_size=20))
def test_any_bytes_are_read_refused_or_waited_for_alike_in_any_pieces(data: bytes, pieces: list[int]) -> None:
    outcomes = []
    for cut in ([], pieces):
        found: list[object] = []
        reader = FrameReader()
        rest = data
        try:
            for size in [*cut, len(data)]:
                for message in reader.feed(rest[:size]):
                    found.append(message)  # noqa: PERF402 - it may end in the middle
                rest = rest[size:]
        except FrameError as error:
            found.append((error.code, error.reason))
        outcomes.append(found)
    assert outcomes[0] == outcomes[1]


# -- close frames -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4000, 4999])
def test_close_codes_that_may_be_sent(code: int) -> None:
    assert frames.parse_close(code.to_bytes(2) + "Grüße".encode()) == code


def test_a_close_frame_without_a_code() -> None:
    assert frames.parse_close(b"") == 1005


BAD_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)


@pytest.mark.parametrize("payload", [b"\x03", *(code.to_bytes(2) for code in BAD_CODES)])
def test_close_codes_that_must_not(payload: bytes) -> None:
    with pytest.raises(FrameError) as failure:
        frames.parse_close(payload)
    assert failure.value.code == 1002


def test_a_close_reason_that_is_not_utf_8() -> None:
    with pytest.raises(FrameError) as failure:
        frames.parse_close(b"\x03\xe8\xff")
    assert failure.value.code == 1007


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, "8100"), (125, "817d"), (126, "817e007e"), (65535, "817effff"), (65536, "817f0000000000010000")],
)
def test_what_we_send_is_final_and_not_masked(size: int, head: str) -> None:
    assert frames.encode(TEXT, b"x" * size) == bytes.fromhex(head) + b"x" * size


def test_a_close_frame() -> None:
    assert frames.encode_close(4401, "token_expired") == b"\x88\x0f\x11\x31token_expired"


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmasking(payload: bytes, mask: bytes) -> None:
    assert frames.unmask(payload, mask) == bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
