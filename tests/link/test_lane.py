"""The memory lane: same answers, same promises, another way."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.link.frames import Message, MessageType, encode_serial
from harness.link.lane import DoorbellDecoder
from harness.link.link import Link, LinkReset, LinkTimeout
from tests.fake_executor import MEMORY_SIZE, FakeExecutor, Fault, Line, Script, SimClock, SimConsole, digest

DEADLINE_S = 3.0
NOTE = Message(MessageType.NOTE, 0, b"\1\1\1\0\1")


def join(script: Script | None = None) -> tuple[Link, FakeExecutor, SimClock]:
    memory = mmap.mmap(-1, MEMORY_SIZE)
    clock = SimClock()
    executor = FakeExecutor(script=script, memory=memory)
    link = Link(SimConsole(executor, clock), lane=memory, clock=clock)
    link.hello(DEADLINE_S)
    assert link.on_lane
    return link, executor, clock


def test_the_lane_is_opened_by_the_hello_and_answers() -> None:
    link, executor, clock = join()
    began = clock.now

    assert link.run(bytes(8000), DEADLINE_S) == digest(bytes(8000))
    assert clock.now - began < 0.001
    assert len(executor.executions) == 1


def test_closing_the_lane_goes_back_to_the_line() -> None:
    link, _, _ = join()

    link.close_lane(DEADLINE_S)

    assert not link.on_lane
    assert link.request_max == 4096
    assert link.run(b"steps", DEADLINE_S) == digest(b"steps")


# Messages 0 and 1 open the lane: LANE, and the HELLO_REQUEST that proves it.
@pytest.mark.parametrize("fault", [Fault.CUT, Fault.REFUSE, Fault.NOTE, Fault.LIE_SEQ, Fault.NOISE])
def test_what_goes_wrong_once_is_got_over(fault: Fault) -> None:
    link, executor, _ = join(Script(messages={2: (fault, 0.0)}))

    assert link.run(b"steps", DEADLINE_S) == digest(b"steps")
    assert len(executor.executions) == 1
    assert len(link.notes) == (fault is Fault.NOTE)


def test_an_answer_whose_doorbell_was_lost_is_found() -> None:
    link, executor, _ = join()
    executor.script = Script(to_harness={executor._went: Line.LOSE})

    assert link.run(b"steps", DEADLINE_S) == digest(b"steps")
    assert link.stats.retransmits == 0


def test_a_reset_on_the_lane_is_noticed() -> None:
    link, _, _ = join(Script(messages={2: (Fault.RESET_DURING, 0.0)}))

    with pytest.raises(LinkReset):
        link.run(b"steps", DEADLINE_S)


def test_a_request_that_may_still_run_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    link, executor, _ = join(Script(messages={2: (Fault.LATE, 3.5)}))
    with pytest.raises(LinkTimeout):
        link.run(b"late", DEADLINE_S)
    seen: list[bytes] = []
    take = executor._take

    def watch(message: bytes) -> None:
        seen.append(message[8:-4])
        take(message)

    monkeypatch.setattr(executor, "_take", watch)

    assert link.run(b"next", DEADLINE_S) == digest(b"next")
    assert seen[-1] == b"next"
    assert set(seen) <= {b"late", b"next"}
    assert len(executor.executions) == 2


@given(st.lists(st.sampled_from(["ring", "note"]), max_size=12), st.integers(1, 5))
def test_doorbells_and_frames_are_told_apart(sent: list[str], size: int) -> None:
    line = b"".join(b"\1" if item == "ring" else encode_serial(NOTE) for item in sent)
    decoder = DoorbellDecoder()

    got = [decoder.feed(line[at : at + size]) for at in range(0, len(line), size)]

    assert sum(rings for rings, _ in got) == sent.count("ring")
    assert [item for _, found in got for item in found] == [NOTE] * sent.count("note")


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_no_input_does_any_harm_to_the_doorbell(chunks: list[bytes]) -> None:
    decoder = DoorbellDecoder()
    for chunk in chunks:
        rings, _ = decoder.feed(chunk)
        assert rings <= chunk.count(1)

    decoder.feed(b"\0")
    assert decoder.feed(b"\1")[0] == 1
