"""A machine that is only pretended, to see what a test sets without a target.

It keeps memory and answers every step as if all went well: VMRUN ends in the exit that the VMCB's rules ask for, a
refusal or VMMCALL, code runs to its end. What a test learns from it means nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import cast

from harness.link.hello import Hello
from harness.link.link import Link
from harness.link.session import Boot, Session
from harness.scenario import places, steps
from harness.scenario.answer_bytes import encode_code, encode_host_state, encode_record, encode_vmrun, encode_window
from harness.scenario.scenario import Page, Scenario, differing_runs
from harness.scenario.steps import CodeAnswer, Op, Record, Status, Step, TableKind, VmrunAnswer, VmrunResult
from harness.svm import VMEXIT, Cpuid, Vmcb
from harness.svm.checks import broken_rules

SCENARIOS_MAX = 512
_PAGE = 4096
_VMRUN = b"\x0f\x01\xd8"
_CODE = struct.Struct("<QIH")


class Enough(Exception):
    """The test goes on and on: what it set so far is what there is to see."""


def hello_of(cpuid: Cpuid) -> Hello:
    """The hello of an executor on that CPU, with two processors."""
    return Hello(
        1, 0, 2, bytes(16), 1, places.ARENA, places.ARENA_SIZE, 4096, 256 << 10, 0, 0, 0, 0,
        places.LOW_GUEST, places.LOW_GUESTS_END - places.LOW_GUEST, places.TABLES_LONG, 1, 0, 0, cpuid,
    )  # fmt: skip


class PretendSession(Session):
    """A session without a target."""

    def __init__(self, cpuid: Cpuid) -> None:
        self._pretended = Boot(1, cast(Link, None), hello_of(cpuid))
        self._pages: dict[int, bytearray] = {}
        self._msrs: dict[int, int] = {}
        self._joined: dict[int, bytes] = {}
        self._scenarios = 0
        self.boots = 1
        self.test = ""

    @property
    def deadline_s(self) -> float:
        """Nothing is waited for."""
        return 1.0

    @property
    def boot(self) -> Boot:
        """The one boot there is."""
        return self._pretended

    @property
    def running(self) -> Boot | None:
        """The one boot there is."""
        return self._pretended

    def run(self, scenario: Scenario, deadline_s: float | None = None) -> list[Record]:
        """An answer for each step. Raises Enough for a test that does not end."""
        self._scenarios += 1
        if self._scenarios > SCENARIOS_MAX:
            raise Enough
        records = []
        for item in scenario.items:
            if isinstance(item, Page):
                self._write(item.addr, item.data)
            else:
                records.append(self._answer(item))
        return records

    def restart(self, why: str, *, discard: bool = False) -> None:
        """Nothing is there to be restarted."""

    def close(self) -> None:
        """Nothing is there to be ended."""

    def _answer(self, step: Step) -> Record:
        return Record(step.op, Status.OK, 0, self._body(step))

    def _body(self, step: Step) -> bytes:
        body = step.body
        match step.op:
            case Op.MEM_WRITE:
                self._write(struct.unpack_from("<Q", body)[0], body[8:])
            case Op.MEM_FILL:
                addr, size, byte = struct.unpack("<QIB", body)
                self._write(addr, bytes([byte]) * size)
            case Op.MEM_READ:
                return self._read(*struct.unpack("<QI", body))
            case Op.MEM_COPY:
                to, at, size = struct.unpack("<QQI", body)
                self._write(to, self._read(at, size))
            case Op.TABLES:
                return struct.pack("<I", steps.TABLE_SIZES[TableKind(body[8])])
            case Op.CPUID:
                return struct.pack("<IIII", *self.boot.hello.cpuid.leaf(*struct.unpack("<II", body)))
            case Op.RDMSR:
                return struct.pack("<Q", self._msrs.get(struct.unpack("<I", body)[0], 0))
            case Op.WRMSR:
                msr, value = struct.unpack("<IQ", body)
                self._msrs[msr] = value
            case Op.CODE:
                return self._code(body)
            case Op.VMRUN:
                return self._vmrun(struct.unpack_from("<Q", body)[0])
            case Op.RAISE:
                return b"\x01"
            case Op.WINDOW:
                return encode_window([])
            case Op.HOST_STATE:
                return encode_host_state({name: 0 for name in steps.HOST_REGISTERS if name != "RAX"})
            case Op.CPU_START:
                answers = (encode_record(self._answer(each)) for each in steps.split_steps(body[4:]))
                self._joined[body[0]] = b"".join(answers)
            case Op.CPU_JOIN:
                return self._joined.pop(body[0], b"")
            case Op.FAULTS:
                return bytes(8)
        return b""

    def _code(self, body: bytes) -> bytes:
        addr, _, mask = _CODE.unpack_from(body)
        if mask & 1 and _VMRUN in self._read(addr, 512):  # L1 code that makes VMRUN itself, rAX its operand
            self._vmrun(struct.unpack_from("<Q", body, _CODE.size)[0])
        return encode_code(CodeAnswer(None, {}, 2, []))

    def _vmrun(self, rax: int) -> bytes:
        page = rax & ~(_PAGE - 1)
        before = Vmcb(self._read(page, _PAGE))
        after = before.copy()
        certain = [rule for rule in broken_rules(before, self.boot.hello.cpuid) if rule.certain]
        after.update(
            {
                "exitcode": VMEXIT.INVALID if certain else VMEXIT.VMMCALL,
                "exitinfo1": 0,
                "exitinfo2": 0,
                "exitintinfo": 0,
                "eventinj": 0,
            }
        )
        self._write(page, bytes(after.data))
        runs = differing_runs(bytes(before.data), bytes(after.data))
        changed = [(start, bytes(after.data[start:end])) for start, end in runs]
        return encode_vmrun(VmrunAnswer(VmrunResult.PROBED, 1, {}, [], changed, {}, 1))

    def _read(self, addr: int, size: int) -> bytes:
        data = bytearray()
        for start, end in _within_pages(addr, size):
            data += self._page(start)[start % _PAGE : start % _PAGE + end - start]
        return bytes(data)

    def _write(self, addr: int, data: bytes) -> None:
        for start, end in _within_pages(addr, len(data)):
            at = start % _PAGE
            self._page(start)[at : at + end - start] = data[start - addr : end - addr]

    def _page(self, addr: int) -> bytearray:
        return self._pages.setdefault(addr // _PAGE, bytearray(_PAGE))


def _within_pages(addr: int, size: int) -> Iterator[tuple[int, int]]:
    """The range [start, end) of each page that a range touches."""
    at = addr
    while at < addr + size:
        end = min(addr + size, (at // _PAGE + 1) * _PAGE)
        yield at, end
        at = end
