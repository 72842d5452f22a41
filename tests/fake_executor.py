"""A fake target: the executor's side of docs/link-protocol.md in Python, with faults to order.

FakeExecutor is a pure state machine over a clock that the caller owns. SimConsole joins it to a link on a virtual
clock, in one thread and without waiting; FakeTarget runs it in a thread behind a socket pair, as a target like any
other.

It is written against the page and not against harness/link/frames.py, so that the two check each other.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import mmap
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from cobs import cobs  # type: ignore[import-untyped]

from harness.link.hello import Hello
from harness.machine.base import Capabilities, Console, ConsoleClosed, Missing, TargetError, TargetOptions
from harness.machine.console import SocketConsole
from harness.svm.cpuid import Cpuid

BIOS_NOISE = b"SeaBIOS (version 1.16.2)\r\nBooting from Hard Disk...\r\n"
LANE_REQUEST_PA, LANE_ANSWER_PA, LANE_SIZE = 0x1000, 0x8000, 0x4000
MEMORY_SIZE = 0x10000
CPUID = Cpuid(
    {
        (0, 0): (1, 2, 3, 4),
        (1, 0): (0, 0, 0, 1 << 9),  # an APIC
        (0x8000_0001, 0): (0, 0, 1 << 2, 1 << 11 | 1 << 20 | 1 << 29),  # SVM; SYSCALL, NX, long mode
        (0x8000_000A, 0): (1, 0x8000, 0, 0x0000_00FF),
    }
)


class Line(Enum):
    """What a bad line does to one byte."""

    LOSE = auto()
    REPEAT = auto()
    CORRUPT = auto()
    ZERO = auto()


class Fault(Enum):
    """What goes wrong at one message that the executor takes."""

    LATE = auto()  # the answer takes `amount` seconds more
    NOISE = auto()  # BIOS text before the answer
    NOTE = auto()  # a note before the answer
    RESET_BEFORE = auto()  # the machine is reset before it does anything; amount > 0: its hello is lost
    RESET_DURING = auto()  # ... after the steps were carried out, before the answer; amount > 0: its hello is lost
    RESET_AFTER = auto()  # ... right after the answer
    HANG = auto()  # nothing more, ever
    CLOSE = auto()  # the console is closed
    PANIC = auto()  # half of an answer, then text, then nothing more
    CUT = auto()  # half of the answer's last frame, then it goes on as if nothing had been
    REFUSE = auto()  # refuses a good frame
    LIE_SEQ = auto()  # answers a request that nobody made, and then the right one
    LIE_COUNT = auto()  # a fragment that cannot be
    LIE_DATA = auto()  # a whole, valid, wrong answer: only the harness's own checks can notice


@dataclass(frozen=True)
class Script:
    """Faults to order: of bytes, by offset into each direction, and of messages, by number as they are taken."""

    to_executor: Mapping[int, Line] = field(default_factory=dict)
    to_harness: Mapping[int, Line] = field(default_factory=dict)
    messages: Mapping[int, tuple[Fault, float]] = field(default_factory=dict)


class Execution(NamedTuple):
    """One request carried out."""

    boot_id: int
    seq: int
    steps: bytes


def digest(steps: bytes) -> bytes:
    """An answer that belongs to one request only."""
    return hashlib.sha256(steps).digest()


class FakeExecutor:
    """The state machine. Times are seconds on the caller's clock; nothing happens between calls."""

    def __init__(
        self,
        respond: Callable[[bytes], bytes] = digest,
        script: Script | None = None,
        *,
        run_s: float = 0.0005,
        boot_s: float = 0.01,
        fifo_bytes: int | None = 16,
        fragment_max: int = 4092,
        memory: mmap.mmap | None = None,
        first_boot: int = 1,
        say_hello: bool = True,
    ) -> None:
        self.respond = respond
        self.script = script or Script()
        self.run_s = run_s
        self.boot_s = boot_s
        self.fifo_bytes = fifo_bytes
        self.fragment_max = fragment_max
        self.memory = memory
        self.boot_id = first_boot - 1
        self.boots = 0
        self.executions: list[Execution] = []
        self.taken = 0  # messages
        self.overruns = 0
        self.faults_met: list[Fault] = []
        self.closed_at: float | None = None
        self.dead = False
        self._came = self._went = 0  # bytes, each way
        self._fifo = bytearray()
        self._out: list[tuple[float, int, bytes, bytes]] = []  # when, order, on the line, in the lane
        self._order = itertools.count()
        self._now = 0.0
        self._boot(0.0, say_hello=say_hello)

    # The caller's side

    def receive(self, now: float, data: bytes) -> None:
        """Bytes come over the line."""
        self.advance(now)
        for byte in self._damage(data, self.script.to_executor, self._came):
            if self._busy_until > self._now and self.fifo_bytes is not None and len(self._fifo) >= self.fifo_bytes:
                self.overruns += 1
                continue
            self._fifo.append(byte)
            self._drain()
        self._came += len(data)

    def advance(self, now: float) -> None:
        """Time goes by."""
        while self._fifo and self._busy_until <= now and not self.dead:
            self._now = max(self._now, self._busy_until)
            self._drain()
        self._now = max(self._now, now)

    def take(self, now: float) -> bytes:
        """What has been sent by now."""
        self.advance(now)
        sent = b""
        while self._out and self._out[0][0] <= now:
            _, _, data, in_lane = heapq.heappop(self._out)
            sent += data
            if in_lane and self.memory is not None:
                self.memory[LANE_ANSWER_PA : LANE_ANSWER_PA + len(in_lane)] = in_lane
        return sent

    def next_time(self) -> float | None:
        """When something will happen by itself."""
        times = [self._out[0][0]] if self._out else []
        if self._fifo and not self.dead:
            times.append(self._busy_until)
        if self.closed_at is not None:
            times.append(self.closed_at)
        return min(times, default=None)

    # The machine

    def _boot(self, at: float, *, say_hello: bool = True) -> None:
        self.boots += 1
        self.boot_id += 1
        self._frame = bytearray()
        self._fifo.clear()
        self._lane_on = False
        self._stored: tuple[int, int, bytes] | None = None  # seq, CRC, answer
        self._refused = 0
        self._busy_until = at + self.boot_s
        self._emit(at, BIOS_NOISE)
        if say_hello:
            self._send(self._busy_until, 0x81, 0, self._hello(0))

    def _hello(self, cause: int) -> bytes:
        lane = (LANE_REQUEST_PA, LANE_SIZE, LANE_ANSWER_PA, LANE_SIZE) if self.memory is not None else (0, 0, 0, 0)
        hello = Hello(
            1, cause, 1, bytes(range(16)), self.boot_id, 0x80_0000, 0x100_0000, 4096, 65536, *lane,
            0x2_0000, 0x6_0000, 0x10_0000, 1, 0, 0, CPUID,
        )  # fmt: skip
        return hello.pack()

    def _drain(self) -> None:
        while self._fifo and self._busy_until <= self._now and not self.dead:
            byte = self._fifo.pop(0)
            if self._lane_on and byte in (0, 1):
                self._lane_on = bool(byte)
                if byte:
                    self._take_from_lane()
            elif byte:
                self._frame.append(byte)
            elif self._frame:
                frame, self._frame = bytes(self._frame), bytearray()
                self._take_frame(frame)

    def _take_frame(self, frame: bytes) -> None:
        try:
            decoded = cobs.decode(frame)
        except cobs.DecodeError:
            self._refuse(7, 0)
        else:
            self._take(decoded)

    def _take_from_lane(self) -> None:
        assert self.memory is not None
        (total,) = struct.unpack_from("<I", self.memory, LANE_REQUEST_PA)
        self._take(self.memory[LANE_REQUEST_PA + 4 : LANE_REQUEST_PA + 4 + min(total, LANE_SIZE - 4)])

    def _take(self, message: bytes) -> None:
        if len(message) < 12:
            return self._refuse(2, 0)
        crc = zlib.crc32(message[:-4])
        if crc.to_bytes(4, "little") != message[-4:]:
            return self._refuse(1, 0)
        version, kind, seq, body_len = struct.unpack_from("<BBHI", message)
        body = message[8:-4]
        if version != 1 or body_len != len(body):
            return self._refuse(4 if version != 1 else 6, seq)
        fault, amount = self.script.messages.get(self.taken, (None, 0.0))
        self.taken += 1
        if fault is not None:
            self.faults_met.append(fault)
        at = self._now + self.run_s
        match fault:
            case Fault.HANG:
                self.dead = True
                return None
            case Fault.CLOSE:
                self.closed_at = at
                self.dead = True
                return None
            case Fault.RESET_BEFORE:
                return self._boot(self._now, say_hello=not amount)
            case Fault.REFUSE:
                return self._refuse(5, seq)
            case Fault.LATE:
                at += amount
            case Fault.NOISE:
                self._emit(at, BIOS_NOISE)
            case Fault.NOTE:
                self._send(at, 0x84, 0, b"something to know: \x1b[31mred")
        self._busy_until = at
        self._handle(at, kind, seq, crc, body, fault, amount)

    def _handle(
        self, at: float, kind: int, seq: int, crc: int, body: bytes, fault: Fault | None, amount: float
    ) -> None:
        if kind == 0x01:
            self._send(at, 0x81, seq, self._hello(1))
        elif kind == 0x03:
            (index,) = struct.unpack("<H", body)
            if self._stored is None or self._stored[0] != seq or index >= len(self._fragments()):
                return self._refuse(8, seq)
            self._send_fragment(at, index)
        elif kind == 0x05:
            self._send(at, 0x82, seq, b"\0\0\1\0")
            self._boot(at)
        elif kind == 0x02:
            if self._stored is None or self._stored[:2] != (seq, crc):
                self.executions.append(Execution(self.boot_id, seq, body))
                self._stored = (seq, crc, self.respond(body))
            self._answer(at, seq, fault, amount)
        elif kind == 0x04:
            self._stored = (seq, crc, b"")
            self._answer(at, seq, fault, amount)
            self._lane_on = body == b"\1" and self.memory is not None
        else:
            self._refuse(5, seq)
        if fault is Fault.RESET_AFTER:
            self._boot(at)

    def _answer(self, at: float, seq: int, fault: Fault | None, amount: float) -> None:
        assert self._stored is not None
        data = self._stored[2]
        match fault:
            case Fault.RESET_DURING:
                return self._boot(at, say_hello=not amount)
            case Fault.LIE_SEQ:
                self._send(at, 0x82, seq % 65535 + 1, struct.pack("<HH", 0, 1) + b"a lie")
            case Fault.LIE_COUNT:
                return self._send(at, 0x82, seq, struct.pack("<HH", 3, 2) + b"a lie")
            case Fault.LIE_DATA:
                return self._send(at, 0x82, seq, struct.pack("<HH", 0, 1) + b"\xff" * max(len(data), 1))
            case Fault.PANIC | Fault.CUT:
                frame = self._encode(0x82, seq, struct.pack("<HH", 0, 1) + data)
                if fault is Fault.PANIC or not self._lane_on:
                    self._emit(at, frame[: len(frame) // 2])
                if fault is Fault.PANIC:
                    self._emit(at, b"\r\nPANIC: this is the end\r\n")
                    self.dead = True
                return None
        for index in range(len(self._fragments())):
            self._send_fragment(at, index)

    def _fragments(self) -> list[bytes]:
        assert self._stored is not None
        data, size = self._stored[2], LANE_SIZE if self._lane_on else self.fragment_max
        return [data[at : at + size] for at in range(0, len(data), size)] or [b""]

    def _send_fragment(self, at: float, index: int) -> None:
        assert self._stored is not None
        parts = self._fragments()
        self._send(at, 0x82, self._stored[0], struct.pack("<HH", index, len(parts)) + parts[index])

    def _refuse(self, reason: int, seq: int) -> None:
        self._refused += 1
        last = self._stored[0] if self._stored else 0
        self._busy_until = self._now + self.run_s
        self._send(self._busy_until, 0x83, seq, struct.pack("<BBHI", reason, 0, last, self._refused))

    # The line

    def _encode(self, kind: int, seq: int, body: bytes) -> bytes:
        message = struct.pack("<BBHI", 1, kind, seq, len(body)) + body
        encoded: bytes = cobs.encode(message + zlib.crc32(message).to_bytes(4, "little"))
        return b"\0" + encoded + b"\0"

    def _send(self, at: float, kind: int, seq: int, body: bytes) -> None:
        if not self._lane_on or kind == 0x84:
            return self._emit(at, self._encode(kind, seq, body))
        message = struct.pack("<BBHI", 1, kind, seq, len(body)) + body
        framed = struct.pack("<I", len(message) + 4) + message + zlib.crc32(message).to_bytes(4, "little")
        self._emit(at, b"\1", framed)

    def _emit(self, at: float, data: bytes, in_lane: bytes = b"") -> None:
        damaged = self._damage(data, self.script.to_harness, self._went)
        self._went += len(data)
        heapq.heappush(self._out, (at, next(self._order), damaged, in_lane))

    @staticmethod
    def _damage(data: bytes, faults: Mapping[int, Line], offset: int) -> bytes:
        if not faults:
            return data
        damaged = bytearray()
        for at, byte in enumerate(data, offset):
            match faults.get(at):
                case Line.LOSE:
                    pass
                case Line.REPEAT:
                    damaged += bytes((byte, byte))
                case Line.CORRUPT:
                    damaged.append(byte ^ 0x41)
                case Line.ZERO:
                    damaged.append(0)
                case None:
                    damaged.append(byte)
        return bytes(damaged)


class SimClock:
    """A clock that moves only when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SimConsole:
    """A console to a FakeExecutor on a SimClock. Reading is what makes time go by."""

    def __init__(self, executor: FakeExecutor, clock: SimClock, chunk_bytes: int = 65536) -> None:
        self.executor = executor
        self.clock = clock
        self.chunk_bytes = chunk_bytes
        self._held = b""

    def read(self, timeout_s: float) -> bytes:
        """See Console."""
        end = self.clock.now + timeout_s
        while True:
            self._held += self.executor.take(self.clock.now)
            if self._held:
                data, self._held = self._held[: self.chunk_bytes], self._held[self.chunk_bytes :]
                return data
            self._check()
            next_time = self.executor.next_time()
            if next_time is None or next_time > end:
                self.clock.now = end
                return b""
            self.clock.now = max(self.clock.now, next_time)

    def write(self, data: bytes, deadline_s: float) -> None:
        """See Console."""
        self._check()
        self.executor.receive(self.clock.now, data)

    def close(self) -> None:
        """See Console."""

    def _check(self) -> None:
        if self.executor.closed_at is not None and self.executor.closed_at <= self.clock.now:
            raise ConsoleClosed("the fake is closed")


class FakeTarget:
    """A target like any other, with a FakeExecutor in a thread. `scripts` are used one for each boot, then none.

    `start_failures` many starts raise TargetError. `last` is the executor of the running boot, `executors` are all.
    """

    name = "fake"
    baselines: tuple[str, ...] = (name,)

    def __init__(
        self,
        options: TargetOptions | None = None,
        respond: Callable[[bytes], bytes] = digest,
        scripts: Sequence[Script] = (),
        *,
        lane: bool = False,
        start_failures: int = 0,
        boot_deadline_s: float = 20.0,
        exit_reason: str = "the fake was told to end",
    ) -> None:
        self.options = options
        self.respond = respond
        self.executors: list[FakeExecutor] = []
        self.starts = 0
        self._scripts = list(scripts)
        self._lane = lane
        self._start_failures = start_failures
        self._boot_deadline_s = boot_deadline_s
        self._exit_reason = exit_reason
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._console: SocketConsole | None = None
        self._memory: mmap.mmap | None = None

    @property
    def last(self) -> FakeExecutor:
        """The executor of the last boot."""
        return self.executors[-1]

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """See Target."""
        return (1, 0)

    def start(self) -> Console:
        """See Target."""
        self.stop()
        self.starts += 1
        if self._start_failures:
            self._start_failures -= 1
            raise TargetError("the fake was told not to start", "nothing to see")
        self._memory = mmap.mmap(-1, MEMORY_SIZE) if self._lane else None
        script = self._scripts.pop(0) if self._scripts else Script()
        first_boot = 1000 * self.starts
        executor = FakeExecutor(self.respond, script, memory=self._memory, first_boot=first_boot, fifo_bytes=None)
        self.executors.append(executor)
        ours, theirs = socket.socketpair()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._serve, args=(executor, theirs), daemon=True, name="fake executor")
        self._thread.start()
        self._console = SocketConsole(ours)
        return self._console

    def stop(self) -> None:
        """See Target."""
        self._stopping.set()
        if self._console is not None:
            self._console.close()
            self._console = None
        if self._thread is not None:
            self._thread.join(20)
            assert not self._thread.is_alive(), "the fake executor does not stop"
            self._thread = None

    def alive(self) -> bool:
        """See Target."""
        return self._thread is not None and self._thread.is_alive()

    def exit_reason(self) -> str | None:
        """See Target."""
        return self._exit_reason if self.executors and self.last.closed_at is not None else None

    def log_tail(self) -> str:
        """See Target."""
        return f"fake log, start {self.starts}"

    def lane_memory(self) -> mmap.mmap | None:
        """See Target."""
        return self._memory

    def capabilities(self) -> Capabilities:
        """See Target."""
        return Capabilities(self._lane, 1, True, self._boot_deadline_s, 0.001)

    def version(self) -> str:
        """See Target."""
        return "fake 1.0"

    def command_line(self) -> list[str]:
        """See Target."""
        return ["fake"]

    def missing(self) -> list[Missing]:
        """See Target."""
        return []

    def _serve(self, executor: FakeExecutor, line: socket.socket) -> None:
        began = time.monotonic()
        with line:
            while not self._stopping.is_set():
                now = time.monotonic() - began
                try:
                    if sent := executor.take(now):
                        line.sendall(sent)
                    if executor.closed_at is not None and executor.closed_at <= now:
                        return
                    due = executor.next_time()
                    wait_s = 0.05 if due is None else min(max(due - now, 0), 0.05)
                    if select.select([line], [], [], wait_s)[0]:
                        data = line.recv(65536)
                        if not data:
                            return
                        executor.receive(time.monotonic() - began, data)
                except OSError:
                    return
