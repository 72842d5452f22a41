"""The lies a replay tells: each alters one thing in one recorded answer, as a wrong L0 might have answered.

A lie has the name of what it alters ("VMCB rip", "L1's CR3", "RDMSR value"); several lies may share one, for a value
can be wrong in several ways: every bit another, stale, or never written. *Fine* lies alter a part of something: one
word of memory, one part of a VMCB field, an interrupt that only this test raised.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.judge.exit import INVALID_LOW, Exit
from harness.judge.universal import RELOADED, SHARED
from harness.scenario.answer_bytes import (
    encode_code,
    encode_fault,
    encode_host_state,
    encode_record,
    encode_vmrun,
    encode_window,
)
from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    GPR_FILL,
    GPR_NAMES,
    GPR_NUMBER,
    CodeAnswer,
    Fault,
    Op,
    Phase,
    RaiseKind,
    Record,
    Status,
    Step,
    VmrunAnswer,
    VmrunResult,
    decode_code,
    decode_host_state,
    decode_msr,
    decode_vmrun,
    decode_window,
    split_records,
)
from harness.svm.events import EVENT_VALID
from harness.svm.exit_writes import SAVED_STATE
from harness.svm.exits import KNOWN_CODES, VMEXIT
from harness.svm.fields import FIELDS, SAVE_AREA, VMLOAD_FIELDS
from harness.svm.templates import OUTPUT_PATTERN, OUTPUT_RANGES
from harness.svm.vmcb import WHOLE_FIELDS, Vmcb, field
from harness.trace.answers import Calls, Lost

ALL_ONES = (1 << 64) - 1
WORDS_MAX = 40  # words of one width that are altered in one record of memory
RESERVED = next(at for at in range(SAVE_AREA, 4096) if not any(f.offset <= at < f.end for f in WHOLE_FIELDS))

# What #VMEXIT writes first, because that is what most tests are about; then what it must leave alone.
VMCB_FIELDS = tuple(
    dict.fromkeys(
        (
            "exitcode", "exitinfo1", "exitinfo2", "rip", "exitintinfo", "eventinj", "int_state", "vintr", "nrip",
            "insn_len", "insn_bytes", *SAVED_STATE, "g_pat", "dbgctl", "br_from", "br_to", "last_excp_from",
            "last_excp_to", "asid", "tlb_control", "clean", "intercept_exceptions", "intercept_misc1",
            "intercept_misc2", "iopm_base_pa", "msrpm_base_pa", "tsc_offset", "np_control", "n_cr3", "virt_ext",
            *(name for name in VMLOAD_FIELDS if field(name).parent is None),
        )
    )
)  # fmt: skip
VMCB_PARTS = tuple(item.name for item in FIELDS if item.parent in ("vintr", "int_state"))
EVENT_PARTS = (EVENT_VALID, 1 << 11, 7 << 8, 0xFF, 0xFFFF_FFFF << 32)  # V, EV, type, vector, error code
HOST_ITEMS = (*RELOADED, *SHARED, "CR2", "DR6", "DR7", "MSR_000001D9")

# What makes every universal check fail, all together: a quick run tells each test one of these.
UNIVERSAL_LIES = (
    "L1's CR3", "L1's DR7", "L1's LDTR", "result GIF_WAS_SET", "VMCB eventinj", "VMCB exitintinfo", "VMCB tlb_control",
    "VMCB reserved bytes", "VMCB ldtr.base", "VMCB exitcode", "VMCB exitcode unlisted", "result PROBE_LOST",
    "VMRUN event added", "L1's CR2", "L1's MSR_000001D9",
)  # fmt: skip

_LISTED = {code & INVALID_LOW for code in KNOWN_CODES}
_NMI = Fault(2, Phase.AFTER_STGI, 0, None, 0x1000, 0, 0, 2, 0x1000, 8)
_GP = Fault(13, Phase.VMRUN, 0, 0, 0x1000, 0, 0, 2, 0x1000, 8)
_UD = Fault(6, Phase.VMRUN, 0, None, 0x1000, 0, 0, 2, 0x1000, 8)
_RECORDED_BITS = (
    VmrunResult.WATCHDOG, VmrunResult.PROBED, VmrunResult.GIF_WAS_SET, VmrunResult.PROBE_LOST,
    VmrunResult.NOT_COMPARED,
)  # fmt: skip


@dataclass(frozen=True)
class Lie:
    """One altered answer: which call's, what is altered, and the records then."""

    call: int
    what: str
    records: list[Record]
    fine: bool = False


def lies_of(
    calls: Calls, exits: Mapping[int, Exit], raised: Sequence[int] | None = None, asked: Sequence[Scenario] = ()
) -> Iterator[Lie]:
    """All lies about a test's answers, the last answer's first: it is mostly the one that the test is about.

    Where the target was lost over a call, the lie is an answer; `asked` says to what.
    `exits` are those of the honest replay, by call: they say what the VMCB held. `raised` are the vectors that the
    test raised (see `raised_by`); unless it is None, fine lies come behind the others.
    """
    # What was read anywhere in the test: a stale page is a likely wrong answer.
    answered = {number: call for number, call in enumerate(calls) if not isinstance(call, Lost)}
    for number, scenario in enumerate(asked[: len(calls)]):
        if number not in answered:
            steps = [item for item in scenario.items if isinstance(item, Step)]
            yield Lie(number, "target not lost", list(map(_plain_answer, steps)))
    seen = dict.fromkeys(record.body for call in answered.values() for record in call if record.op is Op.MEM_READ)
    for fine in (False, True) if raised is not None else (False,):
        for number, call in reversed(answered.items()):
            exit = exits.get(number)
            for at in range(len(call) - 1, -1, -1):
                told = fine_lies(call[at], exit, raised or ()) if fine else record_lies(call[at], exit, seen)
                for what, record in told:
                    if record != call[at]:
                        yield Lie(number, what, [*call[:at], record, *call[at + 1 :]], fine)


def raised_by(scenarios: Iterable[Scenario]) -> list[int]:
    """The vectors of the interrupts and NMIs that these scenarios raise in L1."""
    found = []
    for step in (item for scenario in scenarios for item in scenario.items if isinstance(item, Step)):
        if step.op is Op.RAISE:
            kind, vector = step.body[:2]
            if kind in (RaiseKind.NMI_SELF, RaiseKind.NMI_CPU):
                found.append(2)
            elif kind != RaiseKind.INIT_SELF:
                found.append(vector)
    return list(dict.fromkeys(found))


def _plain_answer(step: Step) -> Record:
    """What a machine may have answered to a step if nothing particular happened."""
    exitcode = field("exitcode").offset, VMEXIT.VMMCALL.to_bytes(8, "little")
    plain = {
        Op.VMRUN: encode_vmrun(VmrunAnswer(VmrunResult.PROBED, 0, {}, [], [exitcode], {})),
        Op.CODE: encode_code(CodeAnswer(None, {}, 2, [])),
        Op.WINDOW: encode_window([]),
        Op.HOST_STATE: encode_host_state({}),
        Op.RDMSR: bytes(8),
        Op.CPUID: bytes(16),
    }
    body = bytes(struct.unpack_from("<QI", step.body)[1]) if step.op is Op.MEM_READ else plain.get(step.op, b"")
    return Record(step.op, Status.OK, 0, body)


Told = Iterator[tuple[str, Record]]


def record_lies(record: Record, exit: Exit | None, seen: Iterable[bytes] = ()) -> Told:
    """The lies about one record, each with its name."""
    match record.op:
        case Op.VMRUN:
            yield from _vmrun(record, exit)
        case Op.CODE:
            yield from _code(record)
        case Op.RDMSR | Op.WRMSR:
            yield from _msr(record)
        case Op.CPUID:
            values = struct.unpack("<4I", record.body)
            for at, name in enumerate(("EAX", "EBX", "ECX", "EDX")):
                for wrong in (values[at] ^ 0xFFFF_FFFF, 0, 0xFFFF_FFFF):
                    changed = [wrong if at == n else value for n, value in enumerate(values)]
                    yield f"CPUID {name}", replace(record, body=struct.pack("<4I", *changed))
        case Op.MEM_READ:
            yield from _memory(record, seen)
        case Op.WINDOW:
            for what, events in _events(decode_window(record), "WINDOW"):
                yield what, replace(record, body=encode_window(events))
        case Op.HOST_STATE:
            state = decode_host_state(record)
            for name, value in state.items():
                yield f"HOST_STATE {name}", replace(record, body=encode_host_state(state | {name: value ^ ALL_ONES}))
        case Op.RAISE | Op.FAULTS:
            yield f"{record.op.name} answer", replace(record, body=bytes(byte ^ 1 for byte in record.body))
        case Op.CPU_JOIN:
            inner = split_records(record.body)
            for at, part in enumerate(inner):
                for what, altered in record_lies(part, None, seen):
                    body = b"".join(map(encode_record, [*inner[:at], altered, *inner[at + 1 :]]))
                    yield f"CPU 1: {what}", replace(record, body=body)


def fine_lies(record: Record, exit: Exit | None, raised: Sequence[int]) -> Told:
    """The lies about parts of one record."""
    match record.op:
        case Op.MEM_READ:
            for start, end in _words(record.body):
                wrong = bytes(byte ^ 0xFF for byte in record.body[start:end])
                yield "memory word", replace(record, body=record.body[:start] + wrong + record.body[end:])
        case Op.VMRUN:
            yield from _fine_vmrun(record, exit, raised)
        case Op.CODE:
            code = decode_code(record)
            for what, events in _fine_events(code.events, "CODE", raised, Phase.NONE):
                yield what, replace(record, body=encode_code(replace(code, events=events)))
        case Op.WINDOW:
            for what, events in _fine_events(decode_window(record), "WINDOW", raised, Phase.WINDOW):
                yield what, replace(record, body=encode_window(events))
        case Op.CPU_JOIN:
            inner = split_records(record.body)
            for at, part in enumerate(inner):
                for what, altered in fine_lies(part, None, raised):
                    body = b"".join(map(encode_record, [*inner[:at], altered, *inner[at + 1 :]]))
                    yield f"CPU 1: {what}", replace(record, body=body)


def _words(memory: bytes) -> Iterator[tuple[int, int]]:
    """Aligned words of 8, 4 and 2 bytes, the most telling ones of each: those that hold something, then the last."""
    for width in (8, 4, 2):
        starts = list(range(0, len(memory), width)) if width < len(memory) else []
        starts.sort(key=lambda at: (len(set(memory[at : at + width])) == 1, -at))
        yield from ((at, at + width) for at in starts[:WORDS_MAX])


def _fine_events(
    events: list[Fault], name: str, raised: Sequence[int], phase: Phase
) -> Iterator[tuple[str, list[Fault]]]:
    """L1 took what was raised once more; or something elsewhere, with an error code, or in another order."""
    for vector in raised:
        yield f"{name} event added", [*events, replace(_NMI, vector=vector, phase=phase)]
    for at, event in enumerate(events):
        for rip in (0, ALL_ONES):
            yield f"{name} event's RIP", [*events[:at], replace(event, rip=rip), *events[at + 1 :]]
        error = None if event.error is not None else 0
        yield f"{name} event's error code", [*events[:at], replace(event, error=error), *events[at + 1 :]]
    yield f"{name} events' order", events[::-1]


def _fine_vmrun(record: Record, exit: Exit | None, raised: Sequence[int]) -> Told:
    answer = decode_vmrun(record)
    if not answer.result & VmrunResult.FAULTED:
        for what, events in _fine_events(answer.events, "VMRUN", raised, Phase.AFTER_STGI):
            yield what, replace(record, body=encode_vmrun(replace(answer, events=events)))
    if exit is None:
        return
    for name in VMCB_PARTS:
        item, altered = field(name), Vmcb(exit.vmcb.data)
        altered[name] ^= item.max
        differences = [*answer.differences, (item.offset, bytes(altered.data[item.offset : item.end]))]
        yield f"VMCB {name}", replace(record, body=encode_vmrun(replace(answer, differences=differences)))
    for bits in EVENT_PARTS:
        item = field("exitintinfo")
        data = (exit.vmcb["exitintinfo"] ^ bits).to_bytes(8, "little")
        told = replace(answer, differences=[*answer.differences, (item.offset, data)])
        yield "VMCB exitintinfo", replace(record, body=encode_vmrun(told))


def _memory(record: Record, seen: Iterable[bytes]) -> Told:
    size = len(record.body)
    wrong = [bytes(byte ^ 0xFF for byte in record.body), bytes(size)]
    wrong += [bytes([byte]) * size for byte in (0x5A, OUTPUT_PATTERN, 0xFF)]
    wrong += [body for body in seen if len(body) == size]
    for body in dict.fromkeys(wrong):
        yield "memory", replace(record, body=body)


def _msr(record: Record) -> Told:
    value, fault = decode_msr(record)
    name = record.op.name
    wrote = struct.pack("<Q", 0) if record.op is Op.RDMSR else b""
    if fault is not None:
        yield f"{name} fault removed", replace(record, status=Status.OK, body=wrote)
    if value is not None:
        for wrong in dict.fromkeys((value ^ ALL_ONES, 0, value ^ 1)):
            yield f"{name} value", replace(record, body=struct.pack("<Q", wrong))
    for what, altered in _faults(fault, name):
        yield what, replace(record, status=Status.FAULT, body=encode_fault(altered))


def _faults(fault: Fault | None, name: str) -> Iterator[tuple[str, Fault]]:
    """A fault where there was none, or another one."""
    if fault is None:
        yield f"{name} fault added", replace(_GP, phase=Phase.NONE)
        yield f"{name} fault added", replace(_UD, phase=Phase.NONE)
        return
    yield f"{name} fault's vector", replace(fault, vector=fault.vector ^ 0b1011)
    yield f"{name} fault's error code", replace(fault, error=None if fault.error is not None else 0)
    if fault.error is not None:
        yield f"{name} fault's error code", replace(fault, error=fault.error ^ 0xFFFF)
    yield f"{name} fault's RIP", replace(fault, rip=fault.rip + 1)
    yield f"{name} fault's CR2", replace(fault, cr2=fault.cr2 ^ ALL_ONES)
    yield f"{name} fault's DR6", replace(fault, dr6=fault.dr6 ^ 0xF00F)


def _code(record: Record) -> Told:
    answer = decode_code(record)
    if answer.fault is not None:
        yield "CODE fault removed", replace(record, status=Status.OK, body=encode_code(replace(answer, fault=None)))
    for what, altered in _faults(answer.fault, "CODE"):
        yield what, replace(record, status=Status.FAULT, body=encode_code(replace(answer, fault=altered)))
    for name in GPR_NAMES:
        if name == "rsp":
            continue
        values = [answer.registers[name] ^ ALL_ONES, 0] if name in answer.registers else [ALL_ONES >> 1, 0]
        for value in values:
            registers = answer.registers | {name: value}
            yield f"CODE {name}", replace(record, body=encode_code(replace(answer, registers=registers)))
        registers = {other: value for other, value in answer.registers.items() if other != name}
        yield f"CODE {name}", replace(record, body=encode_code(replace(answer, registers=registers)))
    yield "CODE rflags", replace(record, body=encode_code(replace(answer, rflags=answer.rflags ^ 0x3F_FFFF)))
    for what, events in _events(answer.events, "CODE"):
        yield what, replace(record, body=encode_code(replace(answer, events=events)))


def _events(events: list[Fault], name: str) -> Iterator[tuple[str, list[Fault]]]:
    for at, event in enumerate(events):
        rest = events[:at], events[at + 1 :]
        yield f"{name} event removed", [*rest[0], *rest[1]]
        yield f"{name} event's vector", [*rest[0], replace(event, vector=event.vector ^ 0b1011), *rest[1]]
        for phase in (Phase.BEFORE_VMRUN, Phase.GIF_PROBE, Phase.AFTER_STGI):
            yield f"{name} event's phase", [*rest[0], replace(event, phase=phase), *rest[1]]
        yield f"{name} event's RIP", [*rest[0], replace(event, rip=event.rip + 1), *rest[1]]
        yield f"{name} event's DR6", [*rest[0], replace(event, dr6=event.dr6 ^ 0xF00F), *rest[1]]
        yield f"{name} event's RFLAGS", [*rest[0], replace(event, rflags=event.rflags ^ 0x3F_FFFF), *rest[1]]
        yield f"{name} event added", [*events, event]
    yield f"{name} event added", [*events, _NMI]
    yield f"{name} event added", [*events, replace(_GP, phase=Phase.GIF_PROBE)]
    for phase in (Phase.BEFORE_VMRUN, Phase.GIF_PROBE):
        yield f"{name} event added", [*events, replace(_NMI, vector=0x61, phase=phase)]


def _vmrun(record: Record, exit: Exit | None) -> Told:
    answer = decode_vmrun(record)
    yield from _vmrun_fault(record, answer)

    def altered(**changes: object) -> Record:
        return replace(record, body=encode_vmrun(replace(answer, **changes)))  # type: ignore[arg-type]

    yield from _vmcb(answer, exit, altered)
    for name in GPR_NAMES:
        if name in ("rax", "rsp"):
            continue  # these are in the VMCB
        value = exit.regs[name] if exit is not None else answer.registers.get(name, GPR_FILL + GPR_NUMBER[name])
        yield f"register {name}", altered(registers=answer.registers | {name: value ^ ALL_ONES})
        if name in answer.registers:
            stale = {other: value for other, value in answer.registers.items() if other != name}
            yield f"register {name}", altered(registers=stale)
    for name in HOST_ITEMS:
        before, after = answer.host_changes.get(name, (0x400, 0x400) if name == "DR7" else (0, 0))
        changes = answer.host_changes | {name: (before, after ^ 0xFFFF_0000_FFFF_00FF)}
        yield f"L1's {name}", altered(host_changes=changes)
        if name in answer.host_changes:
            kept = {other: value for other, value in answer.host_changes.items() if other != name}
            yield f"L1's {name}", altered(host_changes=kept)
    keep = [event for event in answer.events if event.phase is Phase.VMRUN]  # a fault of VMRUN is lied about above
    if not answer.result & VmrunResult.FAULTED:
        keep = []
    rest = [event for event in answer.events if event not in keep]
    for what, events in _events(rest, "VMRUN"):
        yield what, altered(events=[*keep, *events])
    if not keep:
        yield "VMRUN event added", altered(events=[*rest, _GP])
    for bit in _RECORDED_BITS:
        result = answer.result ^ bit
        if bit is VmrunResult.GIF_WAS_SET:
            result = (result | VmrunResult.PROBED) & ~VmrunResult.PROBE_LOST
        yield f"result {bit.name}", altered(result=result)


def _vmrun_fault(record: Record, answer: VmrunAnswer) -> Told:
    """VMRUN raised an exception where it must not, or the other way round, or another one."""
    fault = next((event for event in answer.events if event.phase is Phase.VMRUN), None)
    if fault is None or not answer.result & VmrunResult.FAULTED:
        for added in (_GP, _UD):
            told = replace(answer, result=answer.result | VmrunResult.FAULTED, events=[added, *answer.events])
            yield "VMRUN fault added", replace(record, status=Status.FAULT, body=encode_vmrun(told))
        return
    others = [event for event in answer.events if event is not fault]
    none = replace(answer, result=answer.result & ~VmrunResult.FAULTED, events=others)
    yield "VMRUN fault removed", replace(record, status=Status.OK, body=encode_vmrun(none))
    for what, another in _faults(fault, "VMRUN"):
        yield what, replace(record, body=encode_vmrun(replace(answer, events=[another, *others])))


def _vmcb(answer: VmrunAnswer, exit: Exit | None, altered: Callable[..., Record]) -> Told:
    after = exit.vmcb if exit is not None else Vmcb()
    before = exit.before if exit is not None else Vmcb()
    if exit is None:  # VMRUN as a bare step: only what differed is known
        for at, data in answer.differences:
            after.data[at : at + len(data)] = data
    for name in VMCB_FIELDS:
        item = field(name)
        for value in _wrong_values(name, before[name], after[name]):
            data = value.to_bytes(item.width_bytes, "little")
            # A code that no CPU has is another check's to notice than one that this exit should not have.
            unlisted = name == "exitcode" and value & INVALID_LOW not in _LISTED
            what = f"VMCB {name}{' unlisted' if unlisted else ''}"
            yield what, altered(differences=[*answer.differences, (item.offset, data)])
    data = bytes([after.data[RESERVED] ^ 0xFF])
    yield "VMCB reserved bytes", altered(differences=[*answer.differences, (RESERVED, data)])


def _wrong_values(name: str, before: int, after: int) -> list[int]:
    """Ways in which a field can be wrong: every bit, as it was, not written; for the exit code likely others, too."""
    item = field(name)
    values = [after ^ item.max, before]
    if any(start <= item.offset < start + size for start, size in OUTPUT_RANGES):
        values.append(int.from_bytes(bytes([OUTPUT_PATTERN]) * item.width_bytes, "little"))
    if name == "exitcode":
        invalid = after & INVALID_LOW == INVALID_LOW
        likely = (VMEXIT.HLT, VMEXIT.SHUTDOWN, VMEXIT.INTR)
        values = [VMEXIT.VMMCALL if invalid else ALL_ONES, INVALID_LOW, *likely, *values]
    return [value for value in dict.fromkeys(map(int, values)) if value != after]
