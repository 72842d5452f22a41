"""The steps a scenario is made of, and the records they come back as (docs/link-protocol.md, *Steps*).

Pure encoding and decoding: bytes in, bytes out. Whatever is decoded came over a console and is checked against its
bounds.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

GPR_NAMES = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
GPR_NUMBER = {name: number for number, name in enumerate(GPR_NAMES)}
GPR_FILL = 0x5A5A_0000_0000_0000  # what VMRUN puts into a register that the scenario does not name, plus its number

MEM_WRITE_MAX = 3840  # data bytes of one MEM_WRITE, so that it fits a frame with room to spare


class MalformedAnswer(Exception):
    """The executor's answer does not follow the protocol: a bug of ours, or memory damaged by the target."""


class Op(IntEnum):
    """Step numbers."""

    MEM_WRITE = 0x01
    MEM_FILL = 0x02
    MEM_READ = 0x03
    MEM_COPY = 0x04
    TABLES = 0x05
    CPUID = 0x06
    RDMSR = 0x07
    WRMSR = 0x08
    CODE = 0x09
    VMRUN = 0x0A
    RAISE = 0x0B
    WINDOW = 0x0C
    HOST_STATE = 0x0D
    CPU_START = 0x0E
    CPU_JOIN = 0x0F
    FAULTS = 0x10


class Status(IntEnum):
    """How a step ended."""

    OK = 0
    FAULT = 1
    BAD_STEP = 2
    NO_ROOM = 3
    TIMEOUT = 4
    NO_CPU = 5
    BAD_ADDRESS = 6


class VmrunFlag(IntFlag):
    """How the executor goes about one VMRUN."""

    NONE = 0
    VMLOAD = 1 << 0
    VMSAVE = 1 << 1
    NO_CLGI = 1 << 2
    IF = 1 << 3
    NO_STGI = 1 << 4
    NO_GIF_PROBE = 1 << 5
    NO_HOST_STATE = 1 << 6
    NO_WATCHDOG = 1 << 7
    TF = 1 << 8
    NO_DRAIN = 1 << 9
    KEEP_HIDDEN = 1 << 10


class VmrunResult(IntFlag):
    """What the executor noticed about one VMRUN."""

    NONE = 0
    FAULTED = 1 << 0
    WATCHDOG = 1 << 1
    PROBED = 1 << 2
    GIF_WAS_SET = 1 << 3
    PROBE_LOST = 1 << 4
    NOT_COMPARED = 1 << 5


class TableKind(IntEnum):
    """Identity maps the executor makes itself."""

    LONG = 0
    PAE = 1
    LEGACY = 2
    LONG_4K = 3


TABLE_SIZES = {TableKind.LONG: 0x6000, TableKind.PAE: 0x5000, TableKind.LEGACY: 0x1000, TableKind.LONG_4K: 0x16000}


class RaiseKind(IntEnum):
    """What RAISE raises."""

    SELF = 0
    NMI_SELF = 1
    INIT_SELF = 2
    TIMER = 3
    CPU = 4
    NMI_CPU = 5


class Phase(IntEnum):
    """When, around a VMRUN, L1 took an exception or interrupt."""

    NONE = 0
    BEFORE_VMRUN = 1
    VMRUN = 2
    GIF_PROBE = 3
    AFTER_STGI = 4
    WINDOW = 5


FAULT = struct.Struct("<BBBBIQQQQQHHI")
RECORD = struct.Struct("<BBHI")


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception or interrupt that L1 took; `error` is None where the vector pushes no error code."""

    vector: int
    phase: Phase
    cpu: int
    error: int | None
    rip: int
    cr2: int
    dr6: int
    rflags: int
    rsp: int
    cs: int

    @classmethod
    def decode(cls, data: bytes, offset: int = 0) -> Fault:
        """Reads one 56-byte fault record; raises MalformedAnswer if it is cut short."""
        if len(data) < offset + FAULT.size:
            raise MalformedAnswer("a fault record is cut short")
        vector, phase, has_error, cpu, error, rip, cr2, dr6, rflags, rsp, cs, _, _ = FAULT.unpack_from(data, offset)
        known_phase = Phase(phase) if phase in Phase._value2member_map_ else Phase.NONE
        return cls(vector, known_phase, cpu, error if has_error else None, rip, cr2, dr6, rflags, rsp, cs)


@dataclass(frozen=True, slots=True)
class Step:
    """One encoded step. `label` names it in messages and never goes over the wire."""

    op: Op
    body: bytes
    flags: int = 0
    label: str = ""

    def encode(self, tag: int = 0) -> bytes:
        """The step as bytes, with a tag that its answer record gives back."""
        return RECORD.pack(self.op, self.flags, tag & 0xFFFF, len(self.body)) + self.body


@dataclass(frozen=True, slots=True)
class Record:
    """One step's answer, not yet read."""

    op: Op
    status: Status
    tag: int
    body: bytes


def encode_registers(registers: dict[str, int]) -> tuple[int, bytes]:
    """The mask and the values of a register set; raises KeyError for a name that is no register."""
    numbered = sorted((GPR_NUMBER[name], value) for name, value in registers.items())
    mask = 0
    for number, _ in numbered:
        mask |= 1 << number
    return mask, b"".join(struct.pack("<Q", value & (1 << 64) - 1) for _, value in numbered)


def mem_write(addr: int, data: bytes) -> list[Step]:
    """Writes `data` at `addr`, in as many steps as frames need."""
    return [
        Step(Op.MEM_WRITE, struct.pack("<Q", addr + at) + data[at : at + MEM_WRITE_MAX])
        for at in range(0, len(data), MEM_WRITE_MAX)
    ]


def mem_fill(addr: int, size: int, byte: int) -> Step:
    """Fills `size` bytes at `addr`."""
    return Step(Op.MEM_FILL, struct.pack("<QIB", addr, size, byte))


def mem_read(addr: int, size: int, label: str = "") -> Step:
    """Reads `size` bytes at `addr`."""
    return Step(Op.MEM_READ, struct.pack("<QI", addr, size), label=label)


def mem_copy(dst: int, src: int, size: int) -> Step:
    """Copies `size` bytes."""
    return Step(Op.MEM_COPY, struct.pack("<QQI", dst, src, size))


def tables(addr: int, kind: TableKind) -> Step:
    """Makes an identity map at `addr`; see TABLE_SIZES for the room it takes."""
    return Step(Op.TABLES, struct.pack("<QB", addr, kind))


def cpuid(leaf: int, subleaf: int = 0) -> Step:
    """CPUID."""
    return Step(Op.CPUID, struct.pack("<II", leaf, subleaf))


def rdmsr(msr: int) -> Step:
    """RDMSR with fault capture."""
    return Step(Op.RDMSR, struct.pack("<I", msr))


def wrmsr(msr: int, value: int) -> Step:
    """WRMSR with fault capture."""
    return Step(Op.WRMSR, struct.pack("<IQ", msr, value))


def code(
    addr: int, registers: dict[str, int], *, interrupts: bool = False, keep_state: bool = False, watchdog_ms: int = 0
) -> Step:
    """Calls the L1 code at `addr`. With `watchdog_ms` (at most 65535) an interrupt ends a guest that it enters."""
    mask, values = encode_registers(registers)
    flags = (1 if interrupts else 0) | (2 if keep_state else 0) | watchdog_ms << 16
    return Step(Op.CODE, struct.pack("<QIH", addr, flags, mask) + values)


def vmrun(rax: int, flags: VmrunFlag, registers: dict[str, int], watchdog_us: int = 0) -> Step:
    """VMRUN with `rax` as its operand."""
    mask, values = encode_registers(registers)
    return Step(Op.VMRUN, struct.pack("<QIIHH", rax, flags, watchdog_us, mask, 0) + values)


def raise_event(kind: RaiseKind, vector: int = 0, cpu: int = 0, delay_us: int = 0) -> Step:
    """Raises an interrupt, NMI or INIT."""
    return Step(Op.RAISE, struct.pack("<BBBBI", kind, vector, cpu, 0, delay_us))


def window(duration_us: int, *, stgi: bool = False, clgi_after: bool = False, interrupts: bool = True) -> Step:
    """Opens an interrupt window."""
    flags = (1 if stgi else 0) | (2 if clgi_after else 0) | (0 if interrupts else 4)
    return Step(Op.WINDOW, struct.pack("<II", duration_us, flags))


def host_state() -> Step:
    """Reads the whole host state."""
    return Step(Op.HOST_STATE, b"")


def host_state_at(cpu: int, serial: int) -> Step:
    """Reads the host state as it was right before a VMRUN of that CPU (see VmrunAnswer.serial)."""
    return Step(Op.HOST_STATE, struct.pack("<HH", cpu, serial))


def cpu_start(cpu: int, steps: list[Step]) -> Step:
    """Starts a list of steps on another CPU."""
    return Step(Op.CPU_START, struct.pack("<BBH", cpu, 0, 0) + encode_list(steps))


def cpu_join(cpu: int, timeout_us: int) -> Step:
    """Waits for that list to end."""
    return Step(Op.CPU_JOIN, struct.pack("<BBHI", cpu, 0, 0, timeout_us))


def encode_list(steps: list[Step]) -> bytes:
    """A list of steps as a RUN body; tags count from 0."""
    return b"".join(step.encode(tag) for tag, step in enumerate(steps))


def split_steps(data: bytes) -> list[Step]:
    """The steps of an encoded list; raises ValueError or struct.error for what is none."""
    found: list[Step] = []
    at = 0
    while at < len(data):
        op, flags, _, size = RECORD.unpack_from(data, at)
        at += RECORD.size
        found.append(Step(Op(op), data[at : at + size], flags))
        at += size
    return found


def split_records(data: bytes) -> list[Record]:
    """Cuts an answer into its records; raises MalformedAnswer."""
    records: list[Record] = []
    at = 0
    while at < len(data):
        if len(data) - at < RECORD.size:
            raise MalformedAnswer("an answer record's header is cut short")
        op, status, tag, size = RECORD.unpack_from(data, at)
        at += RECORD.size
        if size > len(data) - at:
            raise MalformedAnswer("an answer record's body is cut short")
        try:
            records.append(Record(Op(op), Status(status), tag, data[at : at + size]))
        except ValueError as error:
            raise MalformedAnswer(str(error)) from None
        at += size
    return records


@dataclass(frozen=True, slots=True)
class CodeAnswer:
    """What an L1 blob left behind. `registers` holds only those that changed."""

    fault: Fault | None
    registers: dict[str, int]
    rflags: int
    events: list[Fault]
    watchdog: bool = False  # it fired


@dataclass(frozen=True, slots=True)
class VmrunAnswer:
    """What one VMRUN left behind: changed registers, VMCB bytes and host state, and what L1 took meanwhile."""

    result: VmrunResult
    tsc_cycles: int
    registers: dict[str, int]
    events: list[Fault]
    differences: list[tuple[int, bytes]]
    host_changes: dict[str, tuple[int, int]] = field(default_factory=dict)
    serial: int = 0  # by which the executor knows the host state that it has kept; 0: it has kept none


class _Cursor:
    """Reads forward through untrusted bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, shape: str) -> tuple[int, ...]:
        size = struct.calcsize(shape)
        if self.at + size > len(self.data):
            raise MalformedAnswer("an answer body is cut short")
        values: tuple[int, ...] = struct.unpack_from(shape, self.data, self.at)
        self.at += size
        return values

    def take_bytes(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise MalformedAnswer("an answer body is cut short")
        self.at += size
        return self.data[self.at - size : self.at]

    def take_registers(self, mask: int) -> dict[str, int]:
        return {GPR_NAMES[number]: self.take("<Q")[0] for number in range(16) if mask >> number & 1}

    def take_faults(self, count: int) -> list[Fault]:
        return [Fault.decode(self.take_bytes(FAULT.size)) for _ in range(count)]


def decode_code(record: Record) -> CodeAnswer:
    """Reads a CODE record; raises MalformedAnswer."""
    cursor = _Cursor(record.body)
    fault = Fault.decode(cursor.take_bytes(FAULT.size)) if record.status is Status.FAULT else None
    mask, count, result, rflags = cursor.take("<HHIQ")
    registers = cursor.take_registers(mask)
    return CodeAnswer(fault, registers, rflags, cursor.take_faults(count), bool(result & 1))


def decode_vmrun(record: Record) -> VmrunAnswer:
    """Reads a VMRUN record; raises MalformedAnswer."""
    cursor = _Cursor(record.body)
    result, cycles, mask, event_count, diff_count, host_count = cursor.take("<IQHHHH")
    registers = cursor.take_registers(mask)
    events = cursor.take_faults(event_count)
    if result & VmrunResult.FAULTED and not any(event.phase is Phase.VMRUN for event in events):
        raise MalformedAnswer("VMRUN faulted, but no fault is recorded")
    differences = []
    for _ in range(diff_count):
        offset, size = cursor.take("<HH")
        if offset + size > 4096:
            raise MalformedAnswer("a VMCB difference lies outside the VMCB")
        differences.append((offset, cursor.take_bytes(size)))
    changes = {}
    for _ in range(host_count):
        kind, _, number, before, after = cursor.take("<HHIQQ")
        changes[host_item_name(kind, number)] = (before, after)
    return VmrunAnswer(VmrunResult(result & 0x3F), cycles, registers, events, differences, changes, result >> 16)


def decode_msr(record: Record) -> tuple[int | None, Fault | None]:
    """The value read (None after WRMSR) and the fault, if any."""
    if record.status is Status.FAULT:
        return None, Fault.decode(record.body)
    if record.op is Op.WRMSR:
        return None, None
    return _Cursor(record.body).take("<Q")[0], None


def decode_cpuid(record: Record) -> tuple[int, int, int, int]:
    """EAX, EBX, ECX, EDX."""
    eax, ebx, ecx, edx = _Cursor(record.body).take("<IIII")
    return eax, ebx, ecx, edx


def decode_window(record: Record) -> list[Fault]:
    """What was taken in an interrupt window, in order."""
    cursor = _Cursor(record.body)
    count, _ = cursor.take("<HH")
    return cursor.take_faults(count)


def decode_host_state(record: Record) -> dict[str, int]:
    """Host state by name."""
    cursor = _Cursor(record.body)
    count, _ = cursor.take("<HH")
    state = {}
    for _ in range(count):
        kind, _, number, value = cursor.take("<HHIQ")
        state[host_item_name(kind, number)] = value
    return state


_HOST_NAMES = {
    1: "CS", 2: "SS", 3: "DS", 4: "ES", 5: "FS", 6: "GS", 7: "TR", 8: "LDTR", 9: "GDTR.base", 10: "GDTR.limit",
    11: "IDTR.base", 12: "IDTR.limit", 13: "CR0", 14: "CR2", 15: "CR3", 16: "CR4", 17: "CR8", 18: "EFER",
    19: "RFLAGS", 20: "RSP", 21: "DR0", 22: "DR1", 23: "DR2", 24: "DR3", 25: "DR6", 26: "DR7", 27: "XCR0", 28: "RAX",
}  # fmt: skip


HOST_REGISTERS = tuple(_HOST_NAMES.values())
"""The names of the host state items that are no MSRs."""


def host_item_name(kind: int, number: int) -> str:
    """The name of a host state item: "CR3", or "MSR_C0000081" for an MSR."""
    return f"MSR_{number:08X}" if kind == 1 else _HOST_NAMES.get(number, f"item{number}")
