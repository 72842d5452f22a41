"""The link's habits, one by one, on a virtual clock."""

from __future__ import annotations

import struct

import pytest

from harness.link.frames import Message, MessageType, encode_lane, encode_serial
from harness.link.link import Link, LinkClosed, LinkGarbage, LinkRefused, LinkReset, LinkTimeout
from tests.fake_executor import FakeExecutor, Fault, Script, SimClock, SimConsole, digest

DEADLINE_S = 3.0
FAR_S = DEADLINE_S / 3


def join(executor: FakeExecutor, first_seq: int | None = None) -> tuple[Link, SimClock]:
    """A link that has heard the hello."""
    clock = SimClock()
    link = Link(SimConsole(executor, clock), clock=clock, first_seq=first_seq)
    link.hello(DEADLINE_S)
    return link, clock


def at_message(number: int, fault: Fault, amount: float = 0.0) -> Script:
    return Script(messages={number: (fault, amount)})


def big(steps: bytes) -> bytes:
    return digest(steps) * 40


def test_a_request_is_answered_without_waiting_for_anything_else() -> None:
    link, clock = join(executor := FakeExecutor(run_s=0.001))
    began = clock.now

    assert link.run(b"steps", DEADLINE_S) == digest(b"steps")
    assert clock.now - began == pytest.approx(0.001)
    assert executor.overruns == 0


def test_the_hello_says_what_the_executor_says() -> None:
    link, _ = join(FakeExecutor())

    assert link.hello_seen is not None
    assert link.hello_seen.arena_base == 0x80_0000
    assert link.hello_seen.cpuid[(0x8000_000A, 0)] == (1, 0x8000, 0, 0xFF)
    assert "SeaBIOS" in link.console_text


def test_a_hello_that_was_lost_is_asked_for() -> None:
    link, clock = join(FakeExecutor(say_hello=False))

    assert clock.now <= 1.1
    assert link.run(b"steps", DEADLINE_S) == digest(b"steps")


def test_nobody_there_is_a_timeout_at_the_deadline() -> None:
    clock = SimClock()
    link = Link(SimConsole(FakeExecutor(say_hello=False, script=at_message(0, Fault.HANG)), clock), clock=clock)

    with pytest.raises(LinkGarbage, match="bytes came, but no frame"):  # the BIOS was there
        link.hello(DEADLINE_S)
    assert clock.now == pytest.approx(DEADLINE_S)


def test_a_slow_scenario_is_not_flooded() -> None:
    executor = FakeExecutor(script=at_message(0, Fault.LATE, 2.9))
    link, _ = join(executor)

    assert link.run(b"slow", DEADLINE_S) == digest(b"slow")
    assert link.stats.retransmits == 0
    assert len(executor.executions) == 1


def test_a_hang_is_a_timeout_at_the_deadline() -> None:
    link, clock = join(FakeExecutor(script=at_message(0, Fault.HANG)))
    began = clock.now

    with pytest.raises(LinkTimeout, match=r"no answer within 3 s") as caught:
        link.run(b"steps", DEADLINE_S)
    assert clock.now - began == pytest.approx(DEADLINE_S)
    assert caught.value.request_seq == 1
    assert any(line.startswith("-> RUN seq 1") for line in caught.value.last_frames)


def test_an_old_refusal_does_not_hide_a_hang() -> None:
    executor = FakeExecutor(script=at_message(1, Fault.HANG))
    link, _ = join(executor)
    link.run(b"before", DEADLINE_S)
    executor._send(executor._now + 0.5, 0x83, 0, struct.pack("<BBHI", 7, 0, 1, 1))  # of a frame cut by a full FIFO

    with pytest.raises(LinkTimeout):
        link.run(b"steps", DEADLINE_S)


def test_a_late_answer_is_not_taken_for_the_next_request() -> None:
    executor = FakeExecutor(script=at_message(0, Fault.LATE, 3.5))
    link, _ = join(executor)
    with pytest.raises(LinkTimeout):
        link.run(b"late", DEADLINE_S)

    assert link.run(b"next", DEADLINE_S) == digest(b"next")
    assert link.stats.stale_answers >= 1


def test_an_answer_to_somebody_else_is_not_taken() -> None:
    link, _ = join(FakeExecutor(script=at_message(0, Fault.LIE_SEQ)))

    assert link.run(b"steps", DEADLINE_S) == digest(b"steps")


def test_an_answer_that_was_cut_is_sent_again_soon_and_not_made_again() -> None:
    executor = FakeExecutor(script=Script(messages={0: (Fault.CUT, 0), 1: (Fault.NOISE, 0)}))
    link, _ = join(executor)

    assert link.run(b"steps", DEADLINE_S) == digest(b"steps")
    assert len(executor.executions) == 1
    assert link.stats.retransmits == 1


def test_a_lost_fragment_is_asked_for_alone_and_soon() -> None:
    class LosesOne(FakeExecutor):
        lost = False

        def _send_fragment(self, at: float, index: int) -> None:
            if index in (1, 12) and not self.lost:
                self.lost = index == 12
                return
            super()._send_fragment(at, index)

    executor = LosesOne(big, fragment_max=100)
    link, clock = join(executor)
    began = clock.now

    assert link.run(b"steps", DEADLINE_S) == big(b"steps")
    assert clock.now - began < FAR_S
    assert (link.stats.fragment_requests, link.stats.retransmits) == (2, 0)


def test_a_refused_frame_is_sent_again_soon() -> None:
    executor = FakeExecutor(script=at_message(0, Fault.REFUSE))
    link, clock = join(executor)
    began = clock.now

    assert link.run(b"steps", DEADLINE_S) == digest(b"steps")
    assert clock.now - began < FAR_S
    assert len(executor.executions) == 1


def test_refused_again_and_again_is_given_up() -> None:
    class Stubborn(FakeExecutor):
        def _handle(self, at: float, kind: int, seq: int, *rest: object) -> None:
            if kind == MessageType.RUN:
                return self._refuse(6, seq)
            return super()._handle(at, kind, seq, *rest)  # type: ignore[arg-type]

    link, clock = join(Stubborn())

    with pytest.raises(LinkRefused, match="BODY_LEN") as caught:
        link.run(b"steps", DEADLINE_S)
    assert caught.value.reason == 6
    assert clock.now < DEADLINE_S


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_DURING])
@pytest.mark.parametrize("hello_lost", [0.0, 1.0])
def test_a_reset_is_noticed_and_nothing_runs_twice(fault: Fault, hello_lost: float) -> None:
    executor = FakeExecutor(script=at_message(1, fault, hello_lost))
    link, _ = join(executor)
    link.run(b"before", DEADLINE_S)

    with pytest.raises(LinkReset) as caught:
        link.run(b"steps", DEADLINE_S)
    assert caught.value.hello.boot_id == 2
    assert [run.boot_id for run in executor.executions] in ([1], [1, 1])
    with pytest.raises(LinkReset):
        link.run(b"the link is dead", DEADLINE_S)


def test_a_reset_between_requests_is_noticed() -> None:
    link, _ = join(FakeExecutor(script=at_message(0, Fault.RESET_AFTER)))
    link.run(b"steps", DEADLINE_S)

    with pytest.raises(LinkReset):
        link.listen(1.0)


def test_a_console_that_closes_says_so_with_the_last_words() -> None:
    link, _ = join(FakeExecutor(script=Script(messages={0: (Fault.NOTE, 0), 1: (Fault.CLOSE, 0)})))
    link.run(b"steps", DEADLINE_S)

    with pytest.raises(LinkClosed) as caught:
        link.run(b"the end", DEADLINE_S)
    assert caught.value.notes == (r"something to know: \x1b[31mred",)


def test_notes_are_kept_for_whoever_asks() -> None:
    link, _ = join(FakeExecutor(script=at_message(0, Fault.NOTE)))
    link.run(b"steps", DEADLINE_S)

    assert len(link.take_notes()) == 1
    assert link.take_notes() == ()


def test_a_panic_in_the_middle_of_an_answer_can_be_read() -> None:
    link, _ = join(FakeExecutor(script=at_message(0, Fault.PANIC)))

    with pytest.raises(LinkGarbage) as caught:
        link.run(b"steps", DEADLINE_S)
    assert "PANIC: this is the end" in caught.value.console_text


def test_two_answers_to_one_request_are_garbage() -> None:
    link, _ = join(FakeExecutor(script=at_message(0, Fault.LIE_COUNT)))

    with pytest.raises(LinkGarbage, match="fragment 3 of 2"):
        link.run(b"steps", DEADLINE_S)


def test_the_sequence_number_never_is_zero() -> None:
    executor = FakeExecutor()
    link, _ = join(executor, first_seq=65534)

    for number in range(4):
        link.run(bytes([number]), DEADLINE_S)

    assert [run.seq for run in executor.executions] == [65534, 65535, 1, 2]


def test_a_request_that_does_not_fit_is_the_callers_fault() -> None:
    link, _ = join(FakeExecutor())

    with pytest.raises(ValueError, match="4097 bytes"):
        link.run(bytes(4097), DEADLINE_S)


def test_a_hello_later_on_says_whether_the_boot_still_lives() -> None:
    link, clock = join(FakeExecutor())
    began = clock.now

    assert link.hello(DEADLINE_S).boot_id == 1
    assert clock.now - began < 0.01


def test_a_reboot_that_was_asked_for_is_no_failure() -> None:
    executor = FakeExecutor()
    link, _ = join(executor)
    link.run(b"before", DEADLINE_S)

    assert link.reboot(DEADLINE_S).boot_id == 2
    assert link.run(b"after", DEADLINE_S) == digest(b"after")


@pytest.mark.parametrize("body", [b"", bytes(20), bytes(108), b"\2\0" + bytes(106), b"\xff" * 108])
def test_a_hello_that_cannot_be_is_garbage(body: bytes) -> None:
    executor = FakeExecutor(say_hello=False)
    executor._emit(0.5, encode_serial(Message(MessageType.HELLO, 0, body)))
    clock = SimClock()
    link = Link(SimConsole(executor, clock), clock=clock)

    with pytest.raises(LinkGarbage, match="hello"):
        link.hello(DEADLINE_S)


def test_a_bundle_is_listened_to() -> None:
    executor = FakeExecutor()
    for seq in (1, 2, 3):
        framed = encode_serial(Message(MessageType.ANSWER, seq, struct.pack("<HH", 0, 1) + bytes([seq])))
        executor._emit(0.1 * seq, framed if seq != 2 else framed.replace(b"\x02", b"\x03"))
    executor._emit(0.5, encode_serial(Message(MessageType.BUNDLE_END, 0, struct.pack("<II", 3, 0))))
    link, _ = join(executor)

    result = link.collect_bundle(DEADLINE_S)

    assert (result.ran, result.stopped_early) == (3, 0)
    assert result.answers == {1: b"\1", 3: b"\3"}
    assert encode_lane(Message(MessageType.RUN, 1, b""))  # the form a bundle has
