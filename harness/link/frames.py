"""Frames: messages as bytes on a serial line and in shared memory (docs/link-protocol.md, *Frames*).

Pure encoding and decoding. What is decoded came over a console and may be anything: nothing here raises on input,
and nothing here keeps more than a bounded amount of it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from mmap import mmap
from typing import NamedTuple

from cobs import cobs  # type: ignore[import-untyped]

PROTOCOL_VERSION = 1
FRAME_BODY_MAX = 4096  # bytes, in both directions
NOTE_MAX = 512
SEQ_MAX = 65535
HEADER = struct.Struct("<BBHI")  # version, type, seq, body_len
LENGTH = struct.Struct("<I")
CRC_SIZE = 4
FRAME_MIN = HEADER.size + CRC_SIZE
FRAME_MAX = HEADER.size + FRAME_BODY_MAX + CRC_SIZE
ENCODED_MAX = FRAME_MAX + FRAME_MAX // 254 + 1  # COBS adds one byte for each 254
BUNDLE_MAGIC = b"NSVMBNDL"
BUNDLE_VERSION = 1

_PRINTABLE = frozenset(b"\t\n\r\x1b") | frozenset(range(0x20, 0x7F))


class MessageType(IntEnum):
    """What a message is; from 80h on they go to the harness."""

    HELLO_REQUEST = 0x01
    RUN = 0x02
    FRAGMENT_REQUEST = 0x03
    LANE = 0x04
    REBOOT = 0x05
    HELLO = 0x81
    ANSWER = 0x82
    REFUSED = 0x83
    NOTE = 0x84
    BUNDLE_END = 0x85


class RefusedReason(IntEnum):
    """Why the executor did nothing with a frame."""

    BAD_CRC = 1
    TRUNCATED = 2
    OVERSIZED = 3
    BAD_VERSION = 4
    UNKNOWN_TYPE = 5
    BODY_LEN = 6
    BAD_COBS = 7
    NO_FRAGMENT = 8
    UART = 9


class Message(NamedTuple):
    """One message. `type` may be a number that MessageType does not know."""

    type: int
    seq: int
    body: bytes


class Noise(NamedTuple):
    """Bytes on the line that are no frame: what a BIOS, a boot loader or a panic printed."""

    data: bytes


class BadFrame(NamedTuple):
    """Something that looks like a frame and is none."""

    reason: str
    data: bytes


Decoded = Message | Noise | BadFrame


def pack_message(message: Message) -> bytes:
    """Header and body."""
    return HEADER.pack(PROTOCOL_VERSION, message.type, message.seq, len(message.body)) + message.body


def with_crc(packed: bytes) -> bytes:
    """A packed message followed by its CRC."""
    return packed + LENGTH.pack(zlib.crc32(packed))


def encode_serial(message: Message) -> bytes:
    """A message as it goes over a serial line."""
    if len(message.body) > FRAME_BODY_MAX:
        raise ValueError(f"a body of {len(message.body)} bytes does not fit a frame of {FRAME_BODY_MAX}")
    encoded: bytes = cobs.encode(with_crc(pack_message(message)))
    return b"\0" + encoded + b"\0"


def encode_lane(message: Message) -> bytes:
    """A message as it lies in shared memory, and in a bundle."""
    framed = with_crc(pack_message(message))
    return LENGTH.pack(len(framed)) + framed


def decode_lane(memory: bytes | mmap, at: int = 0, size: int | None = None) -> Message | BadFrame:
    """The message that lies at `at` in `memory`, in an area of `size` bytes (default: all the rest)."""
    size = len(memory) - at if size is None else min(size, len(memory) - at)
    if at < 0 or size < LENGTH.size:
        return BadFrame("no room for a length", b"")
    (total,) = LENGTH.unpack_from(memory, at)
    start = at + LENGTH.size
    if not FRAME_MIN <= total <= size - LENGTH.size:
        return BadFrame(f"a length of {total} in an area of {size}", memory[start : start + 64])
    return check_frame(memory[start : start + total])


def check_frame(frame: bytes) -> Message | BadFrame:
    """Takes message and CRC apart."""
    if len(frame) < FRAME_MIN:
        return BadFrame(f"truncated: {len(frame)} bytes", frame[:64])
    if zlib.crc32(frame) != 0x2144DF1C:  # the CRC of anything followed by its own CRC
        return BadFrame("CRC does not match", frame[:64])
    version, kind, seq, body_len = HEADER.unpack_from(frame)
    if version != PROTOCOL_VERSION:
        return BadFrame(f"protocol version {version}", frame[:64])
    if body_len != len(frame) - FRAME_MIN:
        return BadFrame(f"body_len {body_len} but {len(frame) - FRAME_MIN} bytes", frame[:64])
    return Message(kind, seq, frame[HEADER.size : -CRC_SIZE])


class SerialDecoder:
    """Turns what arrives on a serial line into messages. Holds at most one frame's worth of bytes."""

    def __init__(self) -> None:
        self._pending = b""
        self._overlong = False  # more came without a 00 than any frame has: it is noise up to the next 00

    @property
    def pending(self) -> bytes:
        """What has come since the last 00: the beginning of a frame, or of noise."""
        return self._pending

    @property
    def idle(self) -> bool:
        """Whether the next byte begins something new."""
        return not self._pending and not self._overlong

    def feed(self, data: bytes) -> list[Decoded]:
        """What `data` completes, in order."""
        *ended, rest = data.split(b"\0")
        found: list[Decoded] = []
        for part in ended:
            chunk = self._pending + part
            self._pending = b""
            if self._overlong or len(chunk) > ENCODED_MAX:
                found.append(Noise(chunk))
                self._overlong = False
            elif chunk:
                found.append(_decode_chunk(chunk))
        self._pending += rest
        if len(self._pending) > ENCODED_MAX or (self._overlong and self._pending):
            found.append(Noise(self._pending))
            self._pending = b""
            self._overlong = True
        return found


def _decode_chunk(chunk: bytes) -> Decoded:
    try:
        decoded = check_frame(cobs.decode(chunk))
    except cobs.DecodeError as error:
        decoded = BadFrame(f"COBS: {error}", chunk)
    if isinstance(decoded, Message):
        return decoded
    return Noise(chunk) if is_text(chunk) else BadFrame(decoded.reason, chunk)


def is_text(data: bytes) -> bool:
    """Whether bytes look like something a person was meant to read."""
    return sum(byte in _PRINTABLE for byte in data) * 8 >= len(data) * 7


def bundle_image(step_lists: Sequence[bytes], first_seq: int = 1) -> bytes:
    """A bundle file (docs/link-protocol.md, *Bundles*): one RUN for each list of steps, numbered from `first_seq`."""
    if not 1 <= first_seq <= first_seq + len(step_lists) - 1 <= SEQ_MAX and step_lists:
        raise ValueError(f"{len(step_lists)} runs from {first_seq} do not fit the sequence numbers 1 to {SEQ_MAX}")
    runs = [encode_lane(Message(MessageType.RUN, first_seq + at, steps)) for at, steps in enumerate(step_lists)]
    return BUNDLE_MAGIC + struct.pack("<II", BUNDLE_VERSION, len(runs)) + b"".join(runs)
