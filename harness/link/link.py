"""The link: carries requests to the executor and brings its answers back, each executed exactly once.

docs/link-protocol.md is the contract. Stop and wait: one request is under way at a time. Whatever the console does,
each call returns the answer to its own request or raises a LinkError by its deadline.

When nothing comes for a while, the serial side first asks HELLO_REQUEST: a frame of 15 bytes, which waits unharmed in
a 16-byte FIFO while the executor is busy. Only the answer to that, which says that the executor is idle and still the
same boot, makes the request go out again. So a slow scenario is not flooded with repeats. And as a damaged hello may
be among whatever came that is no frame, no answer is taken after such bytes before the executor has said again which
boot it is. On the memory lane a request is rung again instead: the executor reads it where it lies, and an executor
that was reset does not listen there.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import mmap
from typing import NoReturn, TypeVar

from harness.link.answer import Answer
from harness.link.frames import (
    SEQ_MAX,
    BadFrame,
    Decoded,
    Message,
    MessageType,
    RefusedReason,
)
from harness.link.hello import Hello
from harness.link.lane import LEAVE, LaneChannel
from harness.link.link_error import LinkClosed, LinkError, LinkGarbage, LinkRefused, LinkReset, LinkTimeout
from harness.link.serial_channel import SerialChannel
from harness.link.transcript import Transcript, reason_name
from harness.machine.base import Console, ConsoleClosed, ConsoleTimeout

REFUSALS_MAX = 8  # of one request
QUIET_ROUND_TRIPS = 4  # silence this long, after something came, is the end of it
QUIET_MIN_S = 0.02
FRAGMENT_ROUND_TRIPS = 8  # how long to wait for a fragment that was asked for, or that should follow
FRAGMENT_MIN_S = 0.25
NUDGE_ROUND_TRIPS = 8
ASK_HELLO_S = 1.0
LAST_READS = 64


@dataclass
class LinkStats:
    """What the link had to do."""

    requests: int = 0
    retransmits: int = 0
    probes: int = 0
    fragment_requests: int = 0
    refusals: int = 0
    bad_frames: int = 0
    stale_answers: int = 0


@dataclass(frozen=True)
class BundleResult:
    """What a bundle gave: the answers that came whole, by sequence number."""

    answers: dict[int, bytes]
    ran: int
    stopped_early: int


__all__ = [
    "BundleResult",
    "Hello",
    "Link",
    "LinkClosed",
    "LinkError",
    "LinkGarbage",
    "LinkRefused",
    "LinkReset",
    "LinkStats",
    "LinkTimeout",
]

_Error = TypeVar("_Error", bound=LinkError)


class Link:
    """One harness end of one link. `lane` is the guest's memory: hello() then moves to the memory lane by itself.

    `round_trip_s` is what a small request takes at best; `retransmit_s` how long to wait before doubting that a
    request arrived (default: a third of the deadline, at least 8 round trips).
    """

    def __init__(
        self,
        console: Console,
        *,
        lane: mmap | None = None,
        clock: Callable[[], float] = time.monotonic,
        round_trip_s: float = 0.001,
        retransmit_s: float | None = None,
        first_seq: int | None = None,
    ) -> None:
        self._console = console
        self._lane_memory = lane
        self._clock = clock
        self._quiet_s = max(QUIET_ROUND_TRIPS * round_trip_s, QUIET_MIN_S)
        self._fragment_s = max(FRAGMENT_ROUND_TRIPS * round_trip_s, FRAGMENT_MIN_S)
        self._nudge_min_s = NUDGE_ROUND_TRIPS * round_trip_s
        self._retransmit_s = retransmit_s
        self._first_seq = first_seq
        self._seq = (first_seq or 1) - 1
        self._channel: SerialChannel | LaneChannel = SerialChannel(console)
        self._queue: deque[Decoded] = deque()
        self._dead: LinkReset | None = None
        self._unanswered: tuple[int, bytes] | None = None  # the request that lies in the lane
        self._received_before = 0
        self._doubt = False  # something came that is no frame: it may have been the hello of another boot
        self._transcript = Transcript()
        self.hello_seen: Hello | None = None
        self.stats = LinkStats()

    # What the caller does with it

    def hello(self, deadline_s: float) -> Hello:
        """Waits for the boot's hello, and asks for one if none comes. Later: asks whether the same boot still lives."""
        first = self.hello_seen is None
        deadline = self._clock() + deadline_s
        hello = self._await_hello(deadline_s, ask_at_once=not first)
        if first and hello.cause != 0 and self._first_seq is None:
            # It may have served another harness: its stored answer must not be taken for the one to our first request.
            self._seq = random.SystemRandom().randrange(SEQ_MAX)
        if first and self._lane_memory is not None and hello.lane_request_size and hello.lane_answer_size:
            self.open_lane(self._lane_memory, deadline - self._clock())
        return hello

    def run(self, steps: bytes, deadline_s: float) -> bytes:
        """Has a list of steps carried out, exactly once. Returns the answer records."""
        if len(steps) > self.request_max:
            raise ValueError(f"{len(steps)} bytes of steps, {self.request_max} fit a request")
        return self._ask(MessageType.RUN, steps, deadline_s)

    def open_lane(self, memory: mmap, deadline_s: float) -> None:
        """Moves to the memory lane."""
        hello = self._need_hello()
        lane = LaneChannel(
            self._console,
            memory,
            request_pa=hello.lane_request_pa,
            request_size=hello.lane_request_size,
            answer_pa=hello.lane_answer_pa,
            answer_size=hello.lane_answer_size,
        )
        self._ask(MessageType.LANE, b"\1", deadline_s)
        self._channel = lane
        self._await_hello(deadline_s, ask_at_once=True)  # proves the lane

    def close_lane(self, deadline_s: float) -> None:
        """Moves back to the serial line."""
        if self.on_lane:
            with self._sending():
                self._console.write(LEAVE, deadline_s)
            self._channel = SerialChannel(self._console)
            self._await_hello(deadline_s, ask_at_once=True)

    def reboot(self, deadline_s: float) -> Hello:
        """Has the machine reset, and waits for the hello of the next boot. The link starts again with it."""
        self._need_hello()
        deadline = self._clock() + deadline_s
        self.close_lane(deadline_s)
        while True:
            # It is not stored and not sent again blindly: only a hello from the old boot says that it was lost.
            self._send(Message(MessageType.REBOOT, self._take_seq(), b""), deadline_s)
            try:
                self._await_hello(deadline - self._clock(), ask_at_once=False)
            except LinkReset as reset:
                self._dead = None
                self._seq = (self._first_seq or 1) - 1
                self.hello_seen = reset.hello
                return reset.hello

    def collect_bundle(self, deadline_s: float) -> BundleResult:
        """Listens to a bundle's answers until its end. Sends nothing, so answers damaged on the way are missing."""
        deadline = self._clock() + deadline_s
        answers: dict[int, Answer] = {}
        state = Answer(0)
        self._check_alive()
        self._mark()
        while True:
            for item in self._receive_until(deadline, deadline_s, state):
                if item.type == MessageType.ANSWER:
                    answer = answers.setdefault(item.seq, Answer(item.seq))
                    if answer.add(item.body, self.answer_max) is not None:
                        self.stats.bad_frames += 1
                elif item.type == MessageType.BUNDLE_END and len(item.body) == 8:
                    self._seq = max(answers, default=0) % SEQ_MAX
                    whole = {seq: answer.data for seq, answer in answers.items() if answer.whole}
                    ran, stopped = int.from_bytes(item.body[:4], "little"), int.from_bytes(item.body[4:], "little")
                    return BundleResult(whole, ran, stopped)

    def listen(self, timeout_s: float) -> None:
        """Reads what comes between requests: notes, a reset. Raises LinkReset, LinkClosed."""
        end = self._clock() + timeout_s
        self._check_alive()
        while (left := end - self._clock()) > 0:
            self._receive(left, 0)
            while self._queue:
                self._sort(self._queue.popleft())

    # What it knows

    @property
    def on_lane(self) -> bool:
        """Whether requests go by shared memory."""
        return isinstance(self._channel, LaneChannel)

    @property
    def request_max(self) -> int:
        """The largest list of steps that run() takes, in bytes."""
        if self.on_lane or self.hello_seen is None:
            return self._channel.request_max
        return min(self._channel.request_max, self.hello_seen.frame_body_max)

    @property
    def answer_max(self) -> int:
        """The largest answer the executor gives, in bytes."""
        return self._need_hello().answer_max

    @property
    def boot_id(self) -> int:
        """Which boot this is; 0 before the hello."""
        return self.hello_seen.boot_id if self.hello_seen else 0

    @property
    def notes(self) -> tuple[str, ...]:
        """The last things the executor wanted a person to know."""
        return self._transcript.notes

    def take_notes(self) -> tuple[str, ...]:
        """The notes, once."""
        taken = self._transcript.notes
        self._transcript.forget_notes()
        return taken

    @property
    def console_text(self) -> str:
        """The end of what came over the console and is no frame."""
        return self._transcript.text(self._channel.pending)

    @property
    def last_frames(self) -> tuple[str, ...]:
        """The last messages both ways, oldest first, one line each."""
        return self._transcript.frames

    # Requests

    def _ask(self, kind: MessageType, body: bytes, deadline_s: float) -> bytes:
        self._check_alive()
        self._need_hello()
        now = self._clock()
        deadline = now + deadline_s
        if self._unanswered:
            self._settle(*self._unanswered, deadline, deadline_s)
        self._dispel_doubt(deadline)
        repeat_s = self._retransmit_s or max(deadline_s / 3, self._nudge_min_s)
        request = Message(kind, self._take_seq(), body)
        answer = Answer(request.seq)
        self.stats.requests += 1
        self._mark()
        framed = self._send(request, deadline_s)
        if self.on_lane:
            self._unanswered = request.seq, framed
        nudge_at = now + repeat_s
        probing = False
        while True:
            now = self._clock()
            if now >= deadline:
                self._expire(answer, deadline_s)
            if now >= nudge_at:
                nudge_at = now + repeat_s
                answer.refused_last = False  # an executor that still refuses will say so again; a silent one hangs
                if answer.missing is not None:
                    nudge_at = now + self._fragment_s
                    self._ask_fragment(answer, deadline - now)
                elif not self._take_unannounced(request.seq):
                    probing = self._nudge(framed, request.seq, deadline - now)
            if self._receive(min(deadline, nudge_at) - now, answer.seq):
                nudge_at = max(nudge_at, self._clock() + (self._fragment_s if answer.count else self._quiet_s))
            while self._queue:
                item = self._queue.popleft()
                message = self._sort(item)
                answer.frames += isinstance(item, Message)
                if message is None:
                    if isinstance(item, BadFrame):  # perhaps it was our answer: doubt sooner
                        nudge_at = min(nudge_at, self._clock() + self._quiet_s)
                elif message.type == MessageType.ANSWER and message.seq == request.seq:
                    if wrong := answer.add(message.body, self.answer_max):
                        raise self._error(LinkGarbage, f"an answer that cannot be: {wrong}", request.seq)
                    if answer.whole:
                        self._unanswered = None
                        self._dispel_doubt(deadline)
                        return answer.data
                    at_once = answer.asked or int.from_bytes(message.body[:2], "little") == answer.count - 1
                    nudge_at = min(nudge_at, self._clock() + (0 if at_once else self._fragment_s))
                elif message.type == MessageType.HELLO:
                    if probing and message.seq == request.seq:
                        # It is idle, and the same boot: the request or its answer was lost.
                        probing = False
                        answer.refused_last = False
                        self.stats.retransmits += 1
                        self._send(request, deadline - self._clock())
                        nudge_at = self._clock() + repeat_s
                elif message.type == MessageType.REFUSED and message.seq in (0, request.seq):
                    self._refused(message, answer)
                    nudge_at = min(nudge_at, self._clock() + self._quiet_s)
                else:
                    self.stats.stale_answers += message.type == MessageType.ANSWER

    def _dispel_doubt(self, deadline: float) -> None:
        if self._doubt and not self.on_lane:
            self._await_hello(deadline - self._clock(), ask_at_once=True)

    def _nudge(self, framed: bytes, seq: int, deadline_s: float) -> bool:
        """Doubts that a request arrived. True: the executor was asked whether it is idle."""
        with self._sending():
            repeated = self._channel.nudge(framed, seq, deadline_s)
        self.stats.retransmits += repeated
        self.stats.probes += not repeated
        return not repeated

    def _take_unannounced(self, seq: int) -> bool:
        """On the lane: takes an answer whose doorbell was lost."""
        found = self._channel.poll()
        if not isinstance(found, Message) or found.type != MessageType.ANSWER or found.seq != seq:
            return False
        self._queue.append(found)
        return True

    def _settle(self, seq: int, framed: bytes, deadline: float, deadline_s: float) -> None:
        """On the lane the executor may still be carrying out an earlier request, in place: nothing may overwrite it."""
        state = Answer(seq)
        self._mark()
        if not self._take_unannounced(seq):
            self._nudge(framed, seq, deadline_s)
            while not any(
                message.type == MessageType.ANSWER and message.seq == seq
                for message in self._receive_until(deadline, deadline_s, state)
            ):
                pass
        self._unanswered = None

    def _ask_fragment(self, answer: Answer, deadline_s: float) -> None:
        assert answer.missing is not None
        self.stats.fragment_requests += 1
        answer.asked = True
        self._send(Message(MessageType.FRAGMENT_REQUEST, answer.seq, answer.missing.to_bytes(2, "little")), deadline_s)

    def _refused(self, message: Message, answer: Answer) -> None:
        self.stats.refusals += 1
        answer.refusals += 1
        answer.refused_last = True
        answer.refused_reason = message.body[0] if message.body else 0
        if answer.refused_reason == RefusedReason.NO_FRAGMENT and message.seq == answer.seq:
            answer.parts.clear()  # start over: the repeated request brings them all
            answer.count, answer.asked = 0, False
        if answer.refusals >= REFUSALS_MAX:
            self._raise_refused(answer)

    def _expire(self, answer: Answer, deadline_s: float) -> NoReturn:
        within = f"within {deadline_s:.3g} s"
        if answer.refused_last:
            self._raise_refused(answer)
        if not answer.frames and self._came_since_send():
            raise self._error(LinkGarbage, f"bytes came, but no frame, {within}", answer.seq)
        if answer.count:
            what = f"only {len(answer.parts)} of {answer.count} fragments of the answer came {within}"
        else:
            what = f"no answer {within}" + (", though the executor says hello" if answer.frames else "")
        raise self._error(LinkTimeout, what, answer.seq)

    def _raise_refused(self, answer: Answer) -> NoReturn:
        name = reason_name(answer.refused_reason)
        error = self._error(LinkRefused, f"refused {answer.refusals} times, last for {name}", answer.seq)
        error.reason = answer.refused_reason
        raise error

    def _await_hello(self, deadline_s: float, *, ask_at_once: bool) -> Hello:
        self._check_alive()
        now = self._clock()
        deadline = now + deadline_s
        if self._unanswered:
            self._settle(*self._unanswered, deadline, deadline_s)
        repeat_s = min(max(deadline_s / 3, self._nudge_min_s), max(ASK_HELLO_S, self._nudge_min_s))
        ask_at = now if ask_at_once else now + repeat_s
        state = Answer(self._take_seq() if ask_at_once else 0)
        self._mark()
        while True:
            now = self._clock()
            if now >= deadline:
                self._expire(state, deadline_s)
            if now >= ask_at:
                state.seq = state.seq or self._take_seq()
                state.refused_last = False
                self._send(Message(MessageType.HELLO_REQUEST, state.seq, b""), deadline - now)
                ask_at = now + repeat_s
            if self._receive(min(deadline, ask_at) - now, state.seq):
                ask_at = max(ask_at, self._clock() + self._quiet_s)
            while self._queue:
                item = self._queue.popleft()
                state.frames += isinstance(item, Message)
                message = self._sort(item)
                if message is None:
                    continue
                if message.type == MessageType.HELLO and self.hello_seen is not None:
                    if not ask_at_once or message.seq == state.seq:
                        return self.hello_seen
                elif message.type == MessageType.REFUSED and message.seq in (0, state.seq):
                    self._refused(message, state)
                    ask_at = min(ask_at, self._clock() + self._quiet_s)

    # What comes and goes

    def _sort(self, item: Decoded) -> Message | None:
        """Does with an item what is the same for all requests. Returns messages that may be an answer."""
        self._transcript.came(item)
        if not isinstance(item, Message):
            self.stats.bad_frames += isinstance(item, BadFrame)
            self._doubt = True
            return None
        if item.type == MessageType.NOTE:
            return None
        if item.type == MessageType.HELLO:
            return self._sort_hello(item)
        return item

    def _sort_hello(self, message: Message) -> Message | None:
        try:
            hello = Hello.parse(message.body)
        except ValueError as error:
            if self.hello_seen is None:
                raise self._error(LinkGarbage, f"a hello that cannot be: {error}", message.seq) from error
            self.stats.bad_frames += 1
            return None
        if self.hello_seen is None:
            self.hello_seen = hello
        elif hello.boot_id != self.hello_seen.boot_id or hello.cause == 0:
            self._dead = self._error(LinkReset, "the machine was reset: another hello came", message.seq)
            self._dead.hello = hello
            raise self._dead
        self._doubt = False
        return message

    def _receive(self, wait_s: float, seq: int) -> bool:
        """Lets what comes into the queue. Says whether anything came."""
        if self._queue:
            return False
        before = self._channel.received
        try:
            self._queue.extend(self._channel.receive(max(wait_s, 0)))
        except ConsoleClosed as closed:
            raise self._error(LinkClosed, f"the console is closed: {closed}", seq) from closed
        return self._channel.received != before

    def _receive_until(self, deadline: float, deadline_s: float, state: Answer) -> list[Message]:
        now = self._clock()
        if now >= deadline:
            self._expire(state, deadline_s)
        self._receive(deadline - now, state.seq)
        messages = []
        while self._queue:
            item = self._queue.popleft()
            state.frames += isinstance(item, Message)
            message = self._sort(item)
            if message is not None:
                messages.append(message)
        return messages

    def _send(self, message: Message, deadline_s: float) -> bytes:
        self._transcript.sent(message)
        framed = self._channel.encode(message)
        with self._sending():
            self._channel.send(framed, max(deadline_s, 0))
        return framed

    @contextmanager
    def _sending(self) -> Iterator[None]:
        try:
            yield
        except (ConsoleClosed, ConsoleTimeout) as failed:
            self._hear_last_words()
            kind = LinkClosed if isinstance(failed, ConsoleClosed) else LinkTimeout
            raise self._error(kind, f"nothing can be sent: {failed}", self._seq) from failed

    def _hear_last_words(self) -> None:
        """Nothing can be sent any more, but what the other side said before may still be there."""
        for _ in range(LAST_READS):
            try:
                came = self._receive(0, 0)
            except LinkClosed:
                return
            while self._queue:
                self._sort(self._queue.popleft())
            if not came:
                return

    def _mark(self) -> None:
        self._received_before = self._channel.received

    def _came_since_send(self) -> bool:
        return self._channel.received > self._received_before

    def _take_seq(self) -> int:
        self._seq = self._seq % SEQ_MAX + 1
        return self._seq

    def _need_hello(self) -> Hello:
        if self.hello_seen is None:
            raise RuntimeError("no hello yet")
        return self.hello_seen

    def _check_alive(self) -> None:
        if self._dead is not None:
            raise self._dead

    def _error(self, kind: type[_Error], message: str, seq: int) -> _Error:
        return kind(
            message,
            last_frames=self.last_frames,
            console_text=self.console_text,
            notes=self.notes,
            request_seq=seq,
        )
