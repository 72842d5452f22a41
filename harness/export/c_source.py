"""A reproducer as one C file, to be read: the skeleton of guest_payloads/reproducer/ with the test's steps in it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.anatomy.code import instructions
from harness.export.captured import Captured
from harness.export.check import BEFORE_ALL, Check, Source
from harness.export.image import ExportError
from harness.judge.clauses import Clause
from harness.scenario import places
from harness.scenario.steps import GPR_NAMES, Op, Step, VmrunFlag, split_steps
from harness.svm.msr import msr_name
from harness.svm.vmcb import Vmcb, diff
from harness.svm.vmcb_words import whole_fields

SKELETON = Path(__file__).resolve().parents[2] / "guest_payloads" / "reproducer" / "skeleton.c"
_PAGE = 4096
_FLAGS = ("VMLOAD", "VMSAVE", "NO_CLGI", "IF", "NO_STGI", "TF")
_UNSUPPORTED = {
    Op.RAISE: "raises interrupts",
    Op.WINDOW: "takes interrupts",
    Op.CPU_START: "uses a second CPU",
    Op.CPU_JOIN: "uses a second CPU",
    Op.FAULTS: "counts exceptions",
}
_SOURCES = (
    Source.MEMORY, Source.VMRUN_REGISTER, Source.FAULT, Source.FAULT_ERROR, Source.FAULT_RIP, Source.MSR, Source.CPUID,
)  # fmt: skip


def source(told: Captured, clauses: Sequence[Clause]) -> str:
    """The C file. Raises ExportError for a test that does what the skeleton cannot."""
    requests = [split_steps(each) for each in told.requests]
    for step in (step for request in requests for step in request):
        if step.op in _UNSUPPORTED:
            raise ExportError(f"--format c: the test {_UNSUPPORTED[step.op]}, which the C file cannot do")
        if step.op is Op.CODE and struct.unpack_from("<I", step.body, 8)[0] & 1:
            raise ExportError("--format c: the test runs L1 code with interrupts on, which the C file cannot do")
    host = [check.name for check in told.checks if check.source not in _SOURCES]
    if host:
        raise ExportError(f"--format c: the test compares {host[0]}, which the C file cannot see; leave --format out")
    head = [f"Reproducer of {told.test}.", ""]
    for one in clauses:
        head.append(f"{one.id}: {one.statement} (AMD64 APM volume 2, {one.apm})")
    head += ["", f"Seen on {told.machine}: {told.verdict}{f': {told.reason}' if told.reason else ''}"]
    head += ["", "What it does:", "", *(f"  {line}" for line in told.page)]
    writer = _Writer(told.checks)
    text = SKELETON.read_text()
    text = text.replace(" * @head@", "@head@").replace(
        "/* @head@", "/* " + "\n".join(f" * {_comment(each)}".rstrip() for each in head)[3:].rstrip()
    )
    return text.replace("/* @scenario@ */", "\n".join(writer.scenario(told, requests)))


class _Writer:
    """Turns steps into C. It keeps the memory that they make, so that a VMCB can be written field by field."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = checks
        self._memory: dict[int, bytearray] = {}
        self._told: dict[tuple[int, bytes], bool] = {}  # writes that stand in the VMCB already

    def scenario(self, told: Captured, requests: Sequence[list[Step]]) -> Iterator[str]:
        """The title, the preconditions, a function for each request, and scenario()."""
        yield f'static const char title[] = {_string(f"nsvm reproducer of {told.test}")} "\\r\\n";'
        yield ""
        yield "static int offered(void)"
        yield "{"
        yield "    u32 before = failed;"
        yield from (f"    {self._expect(each)}" for each in self._checks if each.request == BEFORE_ALL)
        yield "    return failed == before;"
        yield "}"
        vmcbs = {vmcb for request in requests for step in request if (vmcb := _vmcb_of(step)) is not None}
        for number, request in enumerate(requests):
            yield ""
            yield (
                "/* What every scenario may take for granted: empty permission maps, and identity maps. */"
                if not number
                else (f"/* Scenario {number}. */")
            )
            yield f"static void request_{number}(void)"
            yield "{"
            yield from (f"    {line}" if line else "" for line in self._request(number, request, vmcbs))
            yield "}"
        yield ""
        yield "static void scenario(void)"
        yield "{"
        yield from (f"    request_{number}();" for number in range(len(requests)))
        yield "}"

    def _request(self, number: int, request: Sequence[Step], vmcbs: set[int]) -> Iterator[str]:
        for record, step in enumerate(request):
            yield from self._step(step, vmcbs, request[record + 1 :])
            if step.op in (Op.VMRUN, Op.CODE, Op.RDMSR, Op.WRMSR):
                own = [c for c in self._checks if (c.request, c.record) == (number, record)]
                yield from (self._expect(each) for each in own if each.source is not Source.MEMORY)
        yield from (self._expect(c) for c in self._checks if c.request == number and c.source is Source.MEMORY)

    def _step(self, step: Step, vmcbs: set[int], rest: Sequence[Step]) -> Iterator[str]:
        body = step.body
        match step.op:
            case Op.MEM_WRITE:
                (addr,) = struct.unpack_from("<Q", body)
                yield from self._write(addr, body[8:], vmcbs)
            case Op.MEM_FILL:
                addr, size, byte = struct.unpack("<QIB", body)
                self._put(addr, bytes([byte]) * size)
                if not _is_template(addr):
                    yield f"fill({addr:#x}, {size}, {byte:#04x});"
            case Op.MEM_COPY:
                to, at, size = struct.unpack("<QQI", body)
                data = self._get(at, size)
                self._put(to, data)
                if _is_template(to):
                    return
                if to in vmcbs and size == _PAGE:
                    yield from self._vmcb(to, rest)
                elif _is_template(at):
                    yield from _bulk(to, data)
                else:
                    yield f"copy({to:#x}, {at:#x}, {size});"
            case Op.TABLES:
                addr, kind = struct.unpack("<QB", body)
                yield f"identity_map({addr:#x}, {kind});"
            case Op.RDMSR:
                (msr,) = struct.unpack("<I", body)
                yield f"regs[0] = rdmsr({msr:#x}); /* {msr_name(msr)} */"
            case Op.WRMSR:
                msr, value = struct.unpack("<IQ", body)
                yield f"wrmsr({msr:#x}, {value:#x}); /* {msr_name(msr)} */"
            case Op.CODE:
                yield from self._code(body)
            case Op.VMRUN:
                yield from _vmrun(body)

    def _write(self, addr: int, data: bytes, vmcbs: set[int]) -> Iterator[str]:
        vmcb = addr & ~(_PAGE - 1)
        before = self._get(vmcb, _PAGE) if vmcb in vmcbs else b""
        self._put(addr, data)
        if _is_template(addr) or self._told.pop((addr, data), False):
            return
        if vmcb in vmcbs and addr + len(data) <= vmcb + _PAGE:
            for change in diff(Vmcb(before), Vmcb(self._get(vmcb, _PAGE))):
                if change.width_bytes > 8:
                    yield from _bytes(addr, data)
                    return
            for change in diff(Vmcb(before), Vmcb(self._get(vmcb, _PAGE))):
                place = f"{vmcb:#x} + {change.offset:#05x}"
                yield f"set({place}, {change.width_bytes}, {change.after:#x}); /* {change.name} */"
            return
        yield from _bytes(addr, data)

    def _vmcb(self, vmcb: int, rest: Sequence[Step]) -> Iterator[str]:
        """The VMCB with what the following steps write into it, field by field."""
        self._told = {}
        image = bytearray(self._get(vmcb, _PAGE))
        for step in rest:
            if step.op is not Op.MEM_WRITE:
                break
            (addr,) = struct.unpack_from("<Q", step.body)
            data = step.body[8:]
            if vmcb <= addr and addr + len(data) <= vmcb + _PAGE:
                image[addr - vmcb : addr - vmcb + len(data)] = data
                self._told[addr, data] = True
        yield ""
        yield f"/* The VMCB at {vmcb:#x}. */"
        yield f"fill({vmcb:#x}, {_PAGE}, 0);"
        for name, offset, width, value, meaning in whole_fields(Vmcb(image)):
            if width > 8:
                yield f"/* {name} */"
                yield from _bytes(vmcb + offset, bytes(image[offset : offset + width]))
            elif value:
                said = f"{name}: {_comment(meaning)}" if meaning else name
                yield f"set({vmcb:#x} + {offset:#05x}, {width}, {value:#x}); /* {said} */"

    def _code(self, body: bytes) -> Iterator[str]:
        addr, flags, mask = struct.unpack_from("<QIH", body)
        if addr == places.SVM_OFF_AND_ON:
            yield "svm_off_and_on();"
            return
        if addr == places.L1_CODE:
            yield "put_back();"
            return
        code = self._get(addr, 512)
        end = code.find(b"\xcc" * 4)
        yield ""
        yield f"/* L1's own code at {addr:#x}: */"
        yield from _listing(code[: end if end > 0 else 512], addr, until="ret")
        yield "fill((u64)regs, sizeof(regs), 0);"
        yield from _registers(mask, body[14:])
        yield "fault_vector = fault_error = fault_rip = 0;"
        yield f"call_code({addr:#x});"
        if not flags & 2:
            yield "put_back();"

    def _expect(self, check: Check) -> str:
        wanted = check.wanted
        match check.source:
            case Source.MEMORY:
                value = f"get({check.where:#x}, {wanted.width_bytes})"
            case Source.VMRUN_REGISTER:
                value = f"regs[{check.where}]"
            case Source.FAULT:
                value = "fault_vector"
            case Source.FAULT_ERROR:
                value = "fault_vector && fault_error != -1ull ? fault_error | 1ull << 32 : 0"
            case Source.FAULT_RIP:
                value = "fault_rip"
            case Source.CPUID:
                leaf, sub, register = check.where & 0xFFFF_FFFF, check.where >> 32 & 0xFFFF, check.where >> 48
                value = f"cpuid({leaf:#x}, {sub}, {register})"
            case _:
                value = "regs[0]"
        values = ", ".join(f"{each:#x}" for each in wanted.values)
        macro = "EXPECT_NOT" if wanted.negated else "EXPECT"
        return f"{macro}({_string(check.name)}, {value}, {wanted.mask:#x}, {values});"

    def _put(self, addr: int, data: bytes) -> None:
        for at in range(0, len(data)):
            place = addr + at
            self._memory.setdefault(place // _PAGE, bytearray(_PAGE))[place % _PAGE] = data[at]

    def _get(self, addr: int, size: int) -> bytes:
        blank = bytearray(_PAGE)
        return bytes(self._memory.get(at // _PAGE, blank)[at % _PAGE] for at in range(addr, addr + size))


def _vmcb_of(step: Step) -> int | None:
    """The VMCB that a step runs: VMRUN's operand, or RAX of L1 code."""
    if step.op is Op.VMRUN:
        operand: int = struct.unpack_from("<Q", step.body)[0]
        return operand & ~(_PAGE - 1)
    if step.op is Op.CODE and struct.unpack_from("<H", step.body, 12)[0] & 1:
        (rax,) = struct.unpack_from("<Q", step.body, 14)
        return int(rax) if rax % _PAGE == 0 and places.ARENA <= rax < places.GUESTS_END else None
    return None


def _is_template(addr: int) -> bool:
    return places.TEMPLATES <= addr < places.TEMPLATES + places.TEMPLATES_SIZE


def _vmrun(body: bytes) -> Iterator[str]:
    rax, flags, _, mask, _ = struct.unpack_from("<QIIHH", body)
    yield ""
    yield "default_registers();"
    yield from _registers(mask, body[20:])
    names = [name for name in _FLAGS if flags & VmrunFlag[name]]
    yield f"vmrun({rax:#x}, {' | '.join(names) or '0'});"


def _registers(mask: int, values: bytes) -> Iterator[str]:
    names = [(number, name) for number, name in enumerate(GPR_NAMES) if mask >> number & 1]
    for (number, name), value in zip(names, struct.unpack_from(f"<{len(names)}Q", values), strict=True):
        yield f"regs[{number}] = {value:#x}; /* {name.upper()} */"


def _bytes(addr: int, data: bytes) -> Iterator[str]:
    """Memory that is written: a number, or bytes with the code that they may be."""
    if len(data) in (1, 2, 4, 8):
        yield f"set({addr:#x}, {len(data)}, {int.from_bytes(data, 'little'):#x});"
        return
    if _may_be_code(addr):
        yield f"/* Code at {addr:#x}: */"
        yield from _listing(data[: -4 if data.endswith(b"\xcc" * 4) else None], addr)
    yield f"write({addr:#x}, (const u8[]){{"
    for at in range(0, len(data), 16):
        yield "    " + ", ".join(f"0x{byte:02x}" for byte in data[at : at + 16]) + ","
    yield f"}}, {len(data)});"


def _bulk(addr: int, data: bytes) -> Iterator[str]:
    """A page or less, of which most may be one byte."""
    filler = max(set(data), key=data.count)
    yield f"fill({addr:#x}, {len(data)}, {filler:#04x});"
    for at in range(0, len(data), 16):
        piece = data[at : at + 16]
        if piece.count(filler) != len(piece):
            yield from _bytes(addr + at, piece)


def _may_be_code(addr: int) -> bool:
    return places.GUEST_CODE <= addr < places.GUEST_CODE + places.GUEST_CODE_SIZE or (
        places.L1_CODE <= addr < places.L1_CODE + places.L1_CODE_SIZE
    )


def _listing(code: bytes, addr: int, until: str = "") -> Iterator[str]:
    for at, data, text in instructions(code, 64, addr):
        yield f"/*   {at:#x}  {data.hex(' '):<30} {_comment(text)} */"
        if until and text == until:
            return


def _comment(text: str) -> str:
    return text.encode("ascii", "replace").decode().replace("*/", "* /")


def _string(text: str) -> str:
    plain = text.encode("ascii", "replace").decode()
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
