"""Emulators with the real executor: a Link to each, and a raw line for what no Link says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.judge.code import user_text
from harness.link.frames import BadFrame, Message, MessageType, SerialDecoder, encode_serial
from harness.link.hello import Hello
from harness.link.link import Link
from harness.machine.base import Console, Target, TargetOptions
from harness.scenario import places
from harness.scenario.asm import Assembled, Assembler, Snippet
from harness.scenario.steps import (
    CodeAnswer,
    Fault,
    Record,
    Status,
    Step,
    code,
    decode_code,
    encode_list,
    mem_write,
    split_records,
)
from harness.targets import create
from harness.targets.qemu import QemuTcg

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "guest_payloads/executor/build"
DEADLINE_S = 20.0


class QemuDisk(QemuTcg):
    """QEMU that boots a disk (or a CD) through its BIOS instead of a kernel; `options.disk_image` says which."""

    def _argv(self, console_fd: str, memory_fd: str) -> list[str]:
        argv = super()._argv(console_fd, memory_fd)
        del argv[argv.index("-kernel") : argv.index("-kernel") + 2]
        image = self._options.disk_image.absolute()
        if image.suffix == ".iso":
            return [*argv, "-cdrom", str(image), "-boot", "d"]
        return [*argv, "-drive", f"file={image},format=raw,snapshot=on"]


def make_target(name: str, options: TargetOptions) -> Target:
    return QemuDisk(options) if name == "qemu-disk" else create(name, options)


@dataclass
class Machine:
    """One booted emulator."""

    target: Target
    link: Link
    hello: Hello

    @classmethod
    def boot(cls, target: Target, *, lane: bool = False) -> Machine:
        capabilities = target.capabilities()
        console = target.start()
        link = Link(console, lane=target.lane_memory() if lane else None, round_trip_s=capabilities.round_trip_s)
        return cls(target, link, link.hello(capabilities.boot_deadline_s))

    @property
    def is_bochs(self) -> bool:
        return self.target.name == "bochs"

    def ask(self, *steps: Step) -> list[Record]:
        """Runs steps as one list; the records that came, however each ended."""
        return split_records(self.link.run(encode_list(list(steps)), DEADLINE_S))

    def run(self, *steps: Step) -> list[Record]:
        """Runs steps as one list, all of which must be done (faults included)."""
        records = self.ask(*steps)
        assert [record.status for record in records if record.status > Status.FAULT] == []
        assert len(records) == len(steps)
        return records

    def status(self, *steps: Step) -> Status:
        """How the last record of a list of steps ended."""
        last = self.ask(*steps)[-1]
        if last.status not in (Status.OK, Status.FAULT):
            assert last.body == b"", "a step that was not done has an empty body"
        return last.status


@dataclass
class Line:
    """A serial line to an executor, byte by byte."""

    console: Console
    decoder: SerialDecoder = field(default_factory=SerialDecoder)
    queue: list[Message] = field(default_factory=list)
    seq: int = 0

    def put(self, data: bytes) -> None:
        self.console.write(data, DEADLINE_S)

    def send(self, kind: int, seq: int, body: bytes = b"") -> None:
        self.put(encode_serial(Message(kind, seq, body)))

    def listen(self, timeout_s: float) -> Message | None:
        """The next message, or None if none came; what the executor sends must be whole."""
        end = time.monotonic() + timeout_s
        while not self.queue and (left := end - time.monotonic()) > 0:
            for item in self.decoder.feed(self.console.read(left)):
                assert not isinstance(item, BadFrame), item
                if isinstance(item, Message):
                    self.queue.append(item)
        return self.queue.pop(0) if self.queue else None

    def get(self) -> Message:
        """The next message."""
        message = self.listen(DEADLINE_S)
        assert message is not None, f"nothing within {DEADLINE_S} s"
        return message

    def next_seq(self) -> int:
        self.seq = self.seq % 65535 + 1
        return self.seq

    def get_answer(self, seq: int) -> bytes:
        """The data of the next answer, all fragments in order."""
        data, index, count = b"", 0, 1
        while index < count:
            message = self.get()
            assert (message.type, message.seq) == (MessageType.ANSWER, seq)
            assert int.from_bytes(message.body[:2], "little") == index
            count = int.from_bytes(message.body[2:4], "little")
            data += message.body[4:]
            index += 1
        return data

    def run(self, *steps: Step) -> list[Record]:
        """One RUN, answered at once."""
        seq = self.next_seq()
        self.send(MessageType.RUN, seq, encode_list(list(steps)))
        return split_records(self.get_answer(seq))

    def settle(self) -> None:
        """Asks for a HELLO and drops what comes before it. Asks again, for while the executor talks it cannot listen,
        and what its FIFO does not hold is lost."""
        for _ in range(40):
            seq = self.next_seq()
            self.put(b"\0")
            self.send(MessageType.HELLO_REQUEST, seq)
            while (message := self.listen(0.5)) is not None:
                if (message.type, message.seq) == (MessageType.HELLO, seq):
                    assert Hello.parse(message.body).cause == 1
                    return
        raise AssertionError("the executor does not answer any more")


@dataclass
class Blob:
    """One CODE step: what it left, and the addresses of its labels."""

    answer: CodeAnswer
    at: dict[str, int]

    @property
    def fault(self) -> Fault:
        assert self.answer.fault is not None, "the blob ran to its end"
        return self.answer.fault

    @property
    def vectors(self) -> list[int]:
        return [event.vector for event in self.answer.events]


class Blobs:
    """Runs assembly text in L1 (GNU as, Intel syntax), each blob at the same place."""

    def __init__(self, cache: Path) -> None:
        self._assembler = Assembler(cache)

    def assemble(self, text: str, addr: int, bits: int = 64) -> bytes:
        return self._assembler.one(Snippet(text, bits, addr)).code

    def place(self, machine: Machine, text: str, addr: int = places.L1_CODE) -> Assembled:
        """Writes the code, and a RET behind it."""
        assembled = self._assembler.one(Snippet(text + "\nret", 64, addr))
        machine.run(*mem_write(addr, assembled.code))
        return assembled

    def run(
        self,
        machine: Machine,
        text: str,
        *,
        user: bool = False,
        interrupts: bool = False,
        keep_state: bool = False,
        before: Sequence[Step] = (),
        **registers: int,
    ) -> Blob:
        """Runs `text` at CPL 0, or as user code at CPL 3. `before` are steps in the same list."""
        assembled = self.place(machine, user_text(text) if user else text)
        step = code(places.L1_CODE, registers, interrupts=interrupts, keep_state=keep_state)
        record = machine.run(*before, step)[-1]
        blob = Blob(decode_code(record), assembled.labels)
        assert (blob.answer.fault is not None) == (record.status is Status.FAULT)
        return blob
