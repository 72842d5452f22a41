"""A pretended L1 for tests of the harness: it answers steps without a machine behind it.

It keeps memory, and makes every VMRUN end as a script says; so a test can have it be right, lie, or break off.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.scenario.steps import FAULT, RECORD, Op, Status, VmrunResult
from harness.svm import VMEXIT, Vmcb

MEMORY_SIZE = 0x180_0000
HOST_STATE = [(0, 0, 15, 0x1000), (0, 0, 18, 0x1D00), (1, 0, 0xC000_0082, 5)]  # CR3, EFER, LSTAR


@dataclass
class Outcome:
    """How one VMRUN shall end: VMCB fields as written by #VMEXIT, result bits, events, host changes."""

    fields: dict[str, int] = field(default_factory=dict)
    result: VmrunResult = VmrunResult.PROBED
    fault: tuple[int, int | None] | None = None
    host: list[tuple[int, int, int, int]] = field(default_factory=list)  # kind, number, before, after


def vmmcall_exit(vmcb: Vmcb) -> Outcome:
    """What a machine does that conforms: an exit for the VMMCALL at RIP."""
    return Outcome({"exitcode": VMEXIT.VMMCALL, "exitinfo1": 0, "exitinfo2": 0, "exitintinfo": 0, "eventinj": 0})


class FakeL1:
    """Answers a list of steps; use its `respond` as a FakeTarget's."""

    def __init__(self, outcome: Callable[[Vmcb], Outcome] = vmmcall_exit) -> None:
        self.outcome = outcome
        self.memory = bytearray(MEMORY_SIZE)
        self.vmruns = 0
        self.watchdog_us = 0  # of the last VMRUN
        self.msrs: dict[int, int] = {}

    def respond(self, steps: bytes) -> bytes:
        """The answer records to a RUN body."""
        answer = b""
        at = 0
        while at < len(steps):
            op, _, tag, size = RECORD.unpack_from(steps, at)
            body = steps[at + RECORD.size : at + RECORD.size + size]
            at += RECORD.size + size
            status, out = self._step(Op(op), body)
            answer += RECORD.pack(op, status, tag, len(out)) + out
            if status not in (Status.OK, Status.FAULT):
                break
        return answer

    def _step(self, op: Op, body: bytes) -> tuple[Status, bytes]:
        match op:
            case Op.MEM_WRITE:
                (addr,) = struct.unpack_from("<Q", body)
                self.memory[addr : addr + len(body) - 8] = body[8:]
            case Op.MEM_FILL:
                addr, size, byte = struct.unpack("<QIB", body)
                self.memory[addr : addr + size] = bytes([byte]) * size
            case Op.MEM_COPY:
                dst, src, size = struct.unpack("<QQI", body)
                self.memory[dst : dst + size] = self.memory[src : src + size]
            case Op.MEM_READ:
                addr, size = struct.unpack("<QI", body)
                return Status.OK, bytes(self.memory[addr : addr + size])
            case Op.TABLES:
                return Status.OK, struct.pack("<I", 0x1000)
            case Op.CPUID:
                return Status.OK, struct.pack("<IIII", 1, 2, 3, 4)
            case Op.RDMSR:
                return Status.OK, struct.pack("<Q", self.msrs.get(struct.unpack("<I", body)[0], 0))
            case Op.WRMSR:
                msr, value = struct.unpack("<IQ", body)
                self.msrs[msr] = value
            case Op.CODE:
                return Status.OK, struct.pack("<HHIQ", 0, 0, 0, 2)
            case Op.VMRUN:
                return self._vmrun(body)
            case Op.HOST_STATE:
                items = b"".join(struct.pack("<HHIQ", *item) for item in HOST_STATE)
                return Status.OK, struct.pack("<HH", len(HOST_STATE), 0) + items
            case _:
                return Status.BAD_STEP, b""
        return Status.OK, b""

    def _vmrun(self, body: bytes) -> tuple[Status, bytes]:
        self.vmruns += 1
        rax, _, self.watchdog_us = struct.unpack_from("<QII", body)
        page = slice(rax & ~0xFFF, (rax & ~0xFFF) + 4096)
        before = Vmcb(self.memory[page])
        outcome = self.outcome(before.copy())
        after = before.copy()
        after.update(outcome.fields)
        self.memory[page] = after.data
        differences = b""
        count = 0
        for offset in range(4096):
            if before.data[offset] != after.data[offset]:
                differences += struct.pack("<HHB", offset, 1, after.data[offset])
                count += 1
        result, events = outcome.result, b""
        if outcome.fault:
            vector, error = outcome.fault
            result |= VmrunResult.FAULTED
            events = FAULT.pack(vector, 2, error is not None, 0, error or 0, 0x1000, 0, 0, 2, 0, 8, 0, 0)
        host = b"".join(struct.pack("<HHIQQ", kind, 0, number, old, new) for kind, number, old, new in outcome.host)
        counts = (len(events) // FAULT.size, count, len(outcome.host))
        head = struct.pack("<IQHHHH", result | self.vmruns << 16, 1000, 0, *counts)
        return (Status.FAULT if outcome.fault else Status.OK), head + events + differences + host
