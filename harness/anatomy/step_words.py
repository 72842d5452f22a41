"""Steps and pages of a scenario in words, one line each, code below the step that runs it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from harness.anatomy.code import instructions
from harness.guest.guest import RUN_ON_GUARD, Guest
from harness.judge.expect import hexadecimal
from harness.scenario import places, steps
from harness.scenario.scenario import Item, Page
from harness.scenario.steps import GPR_NAMES, Op, RaiseKind, Step, TableKind, VmrunFlag
from harness.svm.msr import msr_name

BYTES_SHOWN = 32

_PLACES = (
    (places.IOPM, 0x3000, "IOPM"),
    (places.MSRPM, 0x2000, "MSRPM"),
    (places.L1_CODE, places.L1_CODE_SIZE, "L1's code"),
    (places.TABLES_LONG, 0x6000, "L2's long-mode tables"),
    (places.TABLES_PAE, 0x5000, "L2's PAE tables"),
    (places.TABLES_LEGACY, 0x1000, "L2's 32-bit tables"),
    (places.TABLES_NESTED, 0x6000, "L1's nested tables"),
    (places.SCRATCH, places.SCRATCH_END - places.SCRATCH, "scratch"),
)
_TABLES = {
    TableKind.LONG: "long-mode",
    TableKind.PAE: "PAE",
    TableKind.LEGACY: "32-bit",
    TableKind.LONG_4K: "long-mode 4 KiB",
}
_RAISES = {
    RaiseKind.SELF: "interrupt {vector:X}h to itself",
    RaiseKind.NMI_SELF: "NMI to itself",
    RaiseKind.INIT_SELF: "INIT to itself",
    RaiseKind.TIMER: "APIC timer, vector {vector:X}h, in {delay} us",
    RaiseKind.CPU: "interrupt {vector:X}h to CPU {cpu}",
    RaiseKind.NMI_CPU: "NMI to CPU {cpu}",
}
_FLAGS = (
    (VmrunFlag.VMLOAD, "VMLOAD before"),
    (VmrunFlag.VMSAVE, "VMSAVE after"),
    (VmrunFlag.NO_CLGI, "GIF=1"),
    (VmrunFlag.IF, "IF=1"),
    (VmrunFlag.TF, "TF=1"),
    (VmrunFlag.NO_STGI, "no STGI after"),
    (VmrunFlag.NO_DRAIN, "nothing that is pending is taken after"),
    (VmrunFlag.KEEP_HIDDEN, "L1's own FS, GS, TR, LDTR and MSRs not loaded after"),
    (VmrunFlag.NO_WATCHDOG, "no watchdog"),
)


class Words:
    """Says steps in the order in which they are done: it remembers L1's code, to show it where it is run."""

    def __init__(self) -> None:
        self._code: dict[int, bytes] = {}

    def items(self, items: Iterable[Item], guest: Guest | None) -> Iterator[str]:
        """The steps of one scenario."""
        for item in items:
            if isinstance(item, Page):
                yield _page(item, guest)
                continue
            try:
                lines = list(self._step(item, guest))
            except (ValueError, KeyError, struct.error):  # a step that cannot be: the executor's to refuse
                lines = [f"a step {item.op.name} of {len(item.body)} bytes that cannot be"]
            yield from lines

    def _step(self, step: Step, guest: Guest | None) -> Iterator[str]:
        body = step.body
        match step.op:
            case Op.MEM_WRITE:
                (addr,) = struct.unpack_from("<Q", body)
                self._code[addr] = body[8:]
                if not places.L1_CODE <= addr < places.L1_CODE + places.L1_CODE_SIZE:
                    yield _write(addr, body[8:], guest)
            case Op.MEM_FILL:
                addr, size, byte = struct.unpack("<QIB", body)
                yield f"fill {size} bytes at {_place(addr, guest)} with {byte:02X}h"
            case Op.MEM_READ:
                addr, size = struct.unpack("<QI", body)
                name = f" ({step.label})" if step.label else ""
                yield f"read {size} bytes at {_place(addr, guest)}{name}"
            case Op.MEM_COPY:
                to, at, size = struct.unpack("<QQI", body)
                yield f"copy {size} bytes from {_place(at, guest)} to {_place(to, guest)}"
            case Op.TABLES:
                addr, kind = struct.unpack("<QB", body)
                yield f"{_TABLES[TableKind(kind)]} identity map at {_place(addr, guest)}"
            case Op.CPUID:
                leaf, sub = struct.unpack("<II", body)
                yield f"CPUID {leaf >> 16:04X}_{leaf & 0xFFFF:04X}h, {sub}"
            case Op.RDMSR:
                yield f"RDMSR {msr_name(struct.unpack('<I', body)[0])}"
            case Op.WRMSR:
                msr, value = struct.unpack("<IQ", body)
                yield f"WRMSR {msr_name(msr)} with {hexadecimal(value, 16)}"
            case Op.CODE:
                yield from self._run_code(body)
            case Op.VMRUN:
                yield _vmrun(body)
            case Op.RAISE:
                kind, vector, cpu, _, delay = struct.unpack("<BBBBI", body)
                yield "raise: " + _RAISES[RaiseKind(kind)].format(vector=vector, cpu=cpu, delay=delay)
            case Op.WINDOW:
                duration, flags = struct.unpack("<II", body)
                yield _window(duration, flags)
            case Op.HOST_STATE:
                yield "read L1's own state"
            case Op.CPU_START:
                yield f"CPU {body[0]} begins:"
                for line in self.items(steps.split_steps(body[4:]), guest):
                    yield f"    {line}"
            case Op.CPU_JOIN:
                yield f"wait for CPU {body[0]}"
            case Op.FAULTS:
                yield "count the exceptions that L1 took"

    def _run_code(self, body: bytes) -> Iterator[str]:
        addr, flags, mask = struct.unpack_from("<QIH", body)
        if addr == places.SVM_OFF_AND_ON:
            yield "EFER.SVME off and on again"
            return
        if addr == places.L1_CODE:
            yield "L1's own control registers put back"
            return
        notes = [
            *(["IF=1"] if flags & 1 else []),
            *(["its state stays"] if flags & 2 else []),
            *([f"watchdog {flags >> 16} ms"] if flags >> 16 else []),
        ]
        yield f"L1 code at {hexadecimal(addr, 8)}" + _more(notes) + _registers(mask, body[14:])
        code = self._code.get(addr, b"")
        for at, data, text in instructions(code, 64, addr):
            yield f"    {hexadecimal(at, 8)}  {data.hex(' '):<30} {text}"


def _vmrun(body: bytes) -> str:
    rax, flags, watchdog_us, mask, _ = struct.unpack_from("<QIIHH", body)
    notes = [text for flag, text in _FLAGS if flags & flag]
    if watchdog_us:
        notes.append(f"watchdog {watchdog_us} us")
    return f"VMRUN, rAX {hexadecimal(rax, 8 if rax < 1 << 32 else 16)}" + _more(notes) + _registers(mask, body[20:])


def _window(duration: int, flags: int) -> str:
    notes = [
        *(["STGI first"] if flags & 1 else []),
        *(["CLGI after"] if flags & 2 else []),
        "for NMIs alone (IF=0)" if flags & 4 else "IF=1",
    ]
    return f"take what is pending for {duration} us" + _more(notes)


def _more(notes: list[str]) -> str:
    return f" ({', '.join(notes)})" if notes else ""


def _registers(mask: int, values: bytes) -> str:
    names = [name for number, name in enumerate(GPR_NAMES) if mask >> number & 1]
    numbers = struct.unpack_from(f"<{len(names)}Q", values)
    shown = [f"{name}={value:X}h" for name, value in zip(names, numbers, strict=True) if value]
    return "; " + " ".join(shown) if shown else ""


def _page(page: Page, guest: Guest | None) -> str:
    if guest is not None and page.addr == guest.vmcb_pa:
        return f"the VMCB at {hexadecimal(page.addr, 8)}"
    return _write(page.addr, page.data, guest)


def _write(addr: int, data: bytes, guest: Guest | None) -> str:
    where = _place(addr, guest)
    if guest is not None and addr == guest.code_base and data.startswith(guest.code[: len(data)]):
        return f"L2's code, {len(data) - len(RUN_ON_GUARD)} bytes at {hexadecimal(addr, 8)}"
    if len(data) in (1, 2, 4, 8):
        return f"write {where}: {hexadecimal(int.from_bytes(data, 'little'), 2 * len(data))}"
    if data.count(data[0]) == len(data):
        return f"fill {len(data)} bytes at {where} with {data[0]:02X}h"
    first = next((at for at, byte in enumerate(data) if byte), 0) if len(data) > BYTES_SHOWN else 0
    start = first - first % 8
    shown = data[start : start + BYTES_SHOWN].hex(" ")
    beyond = " ..." if start + BYTES_SHOWN < len(data) else ""
    at = f" (from +{start:X}h)" if start else ""
    return f"write {len(data)} bytes at {where}{at}: {shown}{beyond}"


def _place(addr: int, guest: Guest | None) -> str:
    text = hexadecimal(addr, 8 if addr < 1 << 32 else 16)
    if guest is not None:
        for base, size, name in ((guest.vmcb_pa, 0x1000, "the VMCB"), (guest.code_base, len(guest.code), "L2's code")):
            if base <= addr < base + size:
                return f"{text} ({name}+{addr - base:X}h)"
    for base, size, name in _PLACES:
        if base <= addr < base + size:
            return f"{text} ({name}+{addr - base:X}h)"
    return text
