"""Frames: what is encoded is decoded again, and nothing that comes over a line does any harm."""

from __future__ import annotations

import struct
import zlib

from hypothesis import example, given
from hypothesis import strategies as st

from harness.link.frames import (
    ENCODED_MAX,
    FRAME_BODY_MAX,
    BadFrame,
    Message,
    MessageType,
    Noise,
    SerialDecoder,
    bundle_image,
    decode_lane,
    encode_lane,
    encode_serial,
)
from harness.text import printable

messages = st.builds(Message, st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=600))
NOISE = b"SeaBIOS (version 1.16.2)\r\n\x1b[2J"


@given(messages)
@example(Message(MessageType.ANSWER, 1, bytes(FRAME_BODY_MAX)))
@example(Message(MessageType.ANSWER, 1, b"\xff" * FRAME_BODY_MAX))
def test_a_message_survives_the_serial_line(message: Message) -> None:
    framed = encode_serial(message)

    assert SerialDecoder().feed(framed) == [message]
    assert len(framed) <= ENCODED_MAX + 2
    assert framed.count(0) == 2


@given(messages)
def test_a_message_survives_the_lane(message: Message) -> None:
    assert decode_lane(b"before" + encode_lane(message) + b"after", at=6) == message


def test_a_frame_is_as_the_protocol_says() -> None:
    message = b"\x01\x02\x34\x12\x03\x00\x00\x00abc"
    crc = struct.pack("<I", zlib.crc32(message))

    lane = encode_lane(Message(MessageType.RUN, 0x1234, b"abc"))
    serial = encode_serial(Message(MessageType.HELLO_REQUEST, 1, b""))

    assert lane == struct.pack("<I", 15) + message + crc
    assert serial[:1] == serial[-1:] == b"\0"
    assert len(serial) == 15, "must wait unharmed in a 16-byte FIFO"


@given(st.lists(messages, max_size=4), st.integers(1, 40))
def test_it_does_not_matter_how_the_bytes_are_cut(sent: list[Message], size: int) -> None:
    line = b"".join(map(encode_serial, sent))
    decoder = SerialDecoder()

    got = [item for at in range(0, len(line), size) for item in decoder.feed(line[at : at + size])]

    assert got == sent
    assert decoder.idle


def test_noise_costs_no_frame_that_begins_with_a_zero() -> None:
    message = Message(MessageType.HELLO, 0, b"hello")

    assert SerialDecoder().feed(NOISE + encode_serial(message)) == [Noise(NOISE), message]


def test_noise_can_be_read_before_a_frame_ends_it() -> None:
    decoder = SerialDecoder()

    assert decoder.feed(NOISE) == []
    assert decoder.pending == NOISE


def test_a_frame_cut_by_a_panic_is_lost_and_the_next_is_not() -> None:
    message = Message(MessageType.ANSWER, 7, b"x" * 90)
    line = encode_serial(message)[:50] + b"PANIC\r\n" + encode_serial(message)

    first, second = SerialDecoder().feed(line)

    assert isinstance(first, BadFrame | Noise) and b"PANIC" in first.data
    assert second == message


def test_endless_noise_is_passed_on_and_not_kept() -> None:
    decoder = SerialDecoder()
    message = Message(MessageType.ANSWER, 7, b"x")

    passed = [item for _ in range(100) for item in decoder.feed(b"u" * 1000)]
    last = decoder.feed(encode_serial(message))

    assert sum(len(item.data) for item in passed if isinstance(item, Noise)) + len(decoder.pending) == 100_000
    assert last[-1] == message


@given(st.lists(st.binary(max_size=6000), max_size=6))
def test_no_input_does_any_harm_on_the_line(chunks: list[bytes]) -> None:
    decoder = SerialDecoder()
    for chunk in chunks:
        decoder.feed(chunk)
        assert len(decoder.pending) <= ENCODED_MAX

    message = Message(MessageType.ANSWER, 7, b"still there")
    assert decoder.feed(encode_serial(message))[-1] == message


@given(st.binary(max_size=100), st.integers(-2, 120))
def test_no_memory_does_any_harm_in_the_lane(memory: bytes, at: int) -> None:
    assert isinstance(decode_lane(memory, at), BadFrame)


@given(messages, st.data())
def test_a_changed_bit_is_noticed(message: Message, data: st.DataObject) -> None:
    framed = bytearray(encode_lane(message))
    at = data.draw(st.integers(4, len(framed) - 1))
    framed[at] ^= 1 << data.draw(st.integers(0, 7))

    assert isinstance(decode_lane(bytes(framed)), BadFrame)


@given(st.binary(max_size=300))
def test_printable_is_printable(data: bytes) -> None:
    shown = printable(data, limit=100)

    assert all(line.isprintable() for line in shown.split("\n"))
    assert len(shown) <= 400


def test_a_bundle_is_as_the_protocol_says() -> None:
    image = bundle_image([b"first", b"second"], first_seq=5)

    assert image[:16] == b"NSVMBNDL" + struct.pack("<II", 1, 2)
    assert decode_lane(image, 16) == Message(MessageType.RUN, 5, b"first")
    assert decode_lane(image, 16 + 4 + 8 + 5 + 4) == Message(MessageType.RUN, 6, b"second")
