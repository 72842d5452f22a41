"""The real executor on a bad line: what it cannot understand it refuses with the reason, and goes on as before."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from cobs import cobs

from harness.link.frames import (
    FRAME_BODY_MAX,
    HEADER,
    Message,
    MessageType,
    RefusedReason,
    encode_serial,
    pack_message,
    with_crc,
)
from harness.scenario import places, steps
from harness.scenario.steps import encode_list
from harness.targets import names
from tests.executor.conftest import options
from tests.executor.machines import Line, make_target

pytestmark = pytest.mark.emulator

COUNTER = places.SCRATCH
FUZZ_FRAMES = 180
RUN = MessageType.RUN
STEP = steps.cpuid(0).encode()


@pytest.fixture(scope="module", params=names())
def booted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, built: None) -> Iterator[Line]:
    folder: Path = tmp_path_factory.mktemp("line")
    target = make_target(request.param, options(folder))
    line = Line(target.start())
    assert line.get().type == MessageType.HELLO
    yield line
    target.stop()


@pytest.fixture
def line(booted: Line) -> Line:
    booted.settle()
    return booted


def framed(packed: bytes) -> bytes:
    """Any bytes as a frame with a right CRC."""
    encoded: bytes = cobs.encode(with_crc(packed))
    return b"\0" + encoded + b"\0"


def refused(line: Line) -> tuple[RefusedReason, int, int]:
    """Reason, seq, and how many were refused so far."""
    message = line.get()
    assert message.type == MessageType.REFUSED
    reason, zero, _last, total = struct.unpack("<BBHI", message.body)
    assert zero == 0
    return RefusedReason(reason), message.seq, total


GOOD = pack_message(Message(RUN, 100, STEP))
DAMAGED = with_crc(GOOD)[:9] + b"\xee" + with_crc(GOOD)[10:]
BAD = {
    "a bit changed": (b"\0" + cobs.encode(DAMAGED) + b"\0", RefusedReason.BAD_CRC, 0),
    "an empty message": (framed(b""), RefusedReason.TRUNCATED, 0),
    "half a header": (framed(b"\1\2\3"), RefusedReason.TRUNCATED, 0),
    "one byte": (b"\0\1\0", RefusedReason.TRUNCATED, 0),
    "oversized by one": (framed(HEADER.pack(1, RUN, 9, FRAME_BODY_MAX + 1) + bytes(4097)), RefusedReason.OVERSIZED, 0),
    "far oversized": (b"\0" + b"\xff" * 6000 + b"\0", RefusedReason.OVERSIZED, 0),
    "version 2": (framed(HEADER.pack(2, RUN, 9, 0)), RefusedReason.BAD_VERSION, 9),
    "version 0": (framed(HEADER.pack(0, RUN, 9, 0)), RefusedReason.BAD_VERSION, 9),
    "type 55h": (framed(HEADER.pack(1, 0x55, 9, 0)), RefusedReason.UNKNOWN_TYPE, 9),
    "an answer": (framed(HEADER.pack(1, MessageType.ANSWER, 9, 4) + bytes(4)), RefusedReason.UNKNOWN_TYPE, 9),
    "body_len too large": (framed(HEADER.pack(1, RUN, 9, 9) + bytes(8)), RefusedReason.BODY_LEN, 9),
    "body_len too small": (framed(HEADER.pack(1, RUN, 9, 7) + bytes(8)), RefusedReason.BODY_LEN, 9),
    "a HELLO_REQUEST with a body": (framed(HEADER.pack(1, 1, 9, 1) + b"x"), RefusedReason.BODY_LEN, 9),
    "a FRAGMENT_REQUEST without": (framed(HEADER.pack(1, 3, 9, 0)), RefusedReason.BODY_LEN, 9),
    "a LANE without": (framed(HEADER.pack(1, 4, 9, 0)), RefusedReason.BODY_LEN, 9),
    "a REBOOT with": (framed(HEADER.pack(1, 5, 9, 1) + b"x"), RefusedReason.BODY_LEN, 9),
    "cut within a block": (encode_serial(Message(RUN, 100, STEP))[:10] + b"\0", RefusedReason.BAD_COBS, 0),
    "a text": (b"\0GRUB loading...\r\n\0", RefusedReason.BAD_COBS, 0),
}


@pytest.mark.parametrize("what", BAD)
def test_it_is_refused_with_the_reason(line: Line, what: str) -> None:
    data, reason, seq = BAD[what]
    line.put(data)
    first = refused(line)
    line.put(data)
    second = refused(line)

    assert first[:2] == second[:2] == (reason, seq)
    assert second[2] == first[2] + 1
    assert line.run(steps.cpuid(0))[0].status is steps.Status.OK


def test_the_longest_frame_is_taken(line: Line) -> None:
    step = steps.mem_write(COUNTER, b"\xff" * steps.MEM_WRITE_MAX)[0].encode()
    rest = FRAME_BODY_MAX - len(step) - 16
    body = step + steps.mem_write(COUNTER + 4000, b"\0" * rest)[0].encode()
    assert len(body) == FRAME_BODY_MAX
    seq = line.next_seq()

    line.send(RUN, seq, body)

    assert len(line.get_answer(seq)) == 16


def test_refused_names_the_last_request(line: Line) -> None:
    seq = line.next_seq()
    line.send(RUN, seq, STEP)
    line.get_answer(seq)
    line.put(b"\0\1\0")

    assert struct.unpack("<BBHI", line.get().body)[2] == seq


def test_noise_costs_one_frame_and_zeros_are_silence(line: Line) -> None:
    seq = line.next_seq()
    line.put(b"\0" * 50 + b"a BIOS says this \xff\xfe" + encode_serial(Message(RUN, seq, STEP)) + b"\0" * 50)

    assert refused(line)[0] is RefusedReason.BAD_COBS
    assert line.get_answer(seq)
    line.put(b"\0" * 200)
    line.settle()
    assert line.queue == []


def test_frames_back_to_back_may_share_their_zero(line: Line) -> None:
    first, second = line.next_seq(), line.next_seq()
    line.put(encode_serial(Message(MessageType.HELLO_REQUEST, first, b""))[:-1])
    line.put(encode_serial(Message(MessageType.HELLO_REQUEST, second, b"")))

    assert [line.get().seq, line.get().seq] == [first, second]


# Exactly once


def counting(line: Line) -> bytes:
    """A RUN whose every execution adds one to a counter in memory."""
    blob = b"\x48\xff\x03\xc3"  # inc qword ptr [rbx]; ret
    line.run(steps.mem_fill(COUNTER, 8, 0), *steps.mem_write(places.L1_CODE, blob))
    return encode_list([steps.code(places.L1_CODE, {"rbx": COUNTER}), steps.mem_read(COUNTER, 8)])


def counter(line: Line) -> int:
    return int.from_bytes(line.run(steps.mem_read(COUNTER, 8))[0].body, "little")


def test_a_repeated_run_is_answered_again_and_not_done_again(line: Line) -> None:
    body, seq = counting(line), line.next_seq()

    answers = []
    for _ in range(4):
        line.send(RUN, seq, body)
        answers.append(line.get_answer(seq))

    assert len(set(answers)) == 1
    assert counter(line) == 1


def test_it_is_not_done_again_after_refusals_and_hellos_either(line: Line) -> None:
    body, seq = counting(line), line.next_seq()
    line.send(RUN, seq, body)
    first = line.get_answer(seq)
    for data, _, _ in BAD.values():
        line.put(data)
        refused(line)
    line.send(MessageType.HELLO_REQUEST, seq)
    assert line.get().type == MessageType.HELLO

    line.send(RUN, seq, body)

    assert line.get_answer(seq) == first
    assert counter(line) == 1


def test_another_seq_or_another_body_is_another_run(line: Line) -> None:
    body, seq, other = counting(line), line.next_seq(), line.next_seq()
    for number, data in ((seq, body), (other, body), (other, body + STEP), (other, body)):
        line.send(RUN, number, data)
        line.get_answer(number)

    assert counter(line) == 4


def test_a_fragment_is_sent_again(line: Line) -> None:
    seq = line.next_seq()
    line.send(RUN, seq, steps.mem_read(0x10_0000, 9000).encode())
    whole = line.get_answer(seq)
    size = FRAME_BODY_MAX - 4

    for index in (2, 0, 1, 1):
        line.send(MessageType.FRAGMENT_REQUEST, seq, struct.pack("<H", index))
        message = line.get()
        assert (message.type, message.seq) == (MessageType.ANSWER, seq)
        assert message.body == struct.pack("<HH", index, 3) + whole[index * size : (index + 1) * size]
    for number, index in ((seq, 3), (seq, 0xFFFF), (seq + 1, 0)):
        line.send(MessageType.FRAGMENT_REQUEST, number, struct.pack("<H", index))
        assert refused(line)[:2] == (RefusedReason.NO_FRAGMENT, number)


# Fuzz


def spoiled(chance: random.Random, frame: bytes) -> bytes:
    """A frame as a bad line delivers it."""
    data = bytearray(frame)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at]
            case 2:
                data.insert(at, chance.randrange(256))
            case 3:
                data[at:at] = data[at : at + chance.randrange(40)]
            case 4:
                data = data[: at + 1] + b"\0" + data[at + 1 :]
    return bytes(data)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_it_answers_in_frames_and_lives(line: Line, seed: int) -> None:
    """Right frames, spoiled ones and noise: each right one is done once, and no spoiled one at all."""
    chance = random.Random(seed)
    body = counting(line)
    done = 0
    for number in range(FUZZ_FRAMES // (12 if "Pty" in type(line.console).__name__ else 3)):
        good = encode_serial(Message(RUN, line.next_seq(), body))
        match chance.randrange(4):
            case 0:
                line.put(good)
                line.get_answer(line.seq)
                done += 1
                continue
            case 1:
                data = spoiled(chance, good)
                if good in b"\0" + data + b"\0":
                    continue  # nothing was spoiled, after all
            case 2:
                data = chance.randbytes(chance.randrange(1, 600))
            case 3:
                data = framed(chance.randbytes(8) + bytes(chance.randrange(60)))
        line.put(data)
        line.settle()
        assert counter(line) == done, f"frame {number}: {data.hex()}"
    assert counter(line) == done
