"""What every #VMEXIT must hold, whatever the test is about. Each check is a clause, judged over all the VMRUNs of a
run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.exit import INVALID_LOW, Exit
from harness.expect import Match, Row, hexadecimal
from harness.steps import VmrunResult
from harness.svm import Cpuid
from harness.svm.events import EVENT_VALID, describe_event
from harness.svm.exit_writes import forbidden_changes
from harness.svm.exits import KNOWN_CODES
from harness.svm.exits import describe_exitcode as say_exitcode
from harness.svm.fields import SAVE_AREA, VMLOAD_RANGES
from harness.svm.vmcb import diff

# Host state that #VMEXIT reloads (APM2 15.6). CR2, DR0 to DR3 and DR6 are shared with L2 and not reloaded.
RELOADED = (
    "CS", "SS", "DS", "ES", "GDTR.base", "GDTR.limit", "IDTR.base", "IDTR.limit",
    "CR0", "CR3", "CR4", "EFER", "RFLAGS", "RSP", "RAX",
)  # fmt: skip
# Host state that VMRUN and #VMEXIT leave alone, so that it changes only where L2's own code changes it.
SHARED = (
    "FS", "GS", "TR", "LDTR", "DR0", "DR1", "DR2", "DR3", "XCR0", "CR8",
    "MSR_C0000081", "MSR_C0000082", "MSR_C0000083", "MSR_C0000084", "MSR_C0000100", "MSR_C0000101", "MSR_C0000102",
    "MSR_C0000103", "MSR_00000174", "MSR_00000175", "MSR_00000176", "MSR_00000277", "MSR_000002FF",
    "MSR_C0010114", "MSR_C0010117",
)  # fmt: skip
_RFLAGS_IGNORED = 1 << 16 | 1 << 8  # RF, and TF: a host that single-steps has it cleared by the #DB it takes
_DR7_OFF = 0x400
# L2 code with one of these may change shared state: WRMSR, SWAPGS, MOV to DR or CR8, XSETBV, loads of FS, GS, LDTR,
# TR,
# WRFSBASE and WRGSBASE, VMLOAD, far calls and returns.
_CHANGES_SHARED = re.compile(
    rb"\x0f\x30|\x0f\x01\xf8|\x0f\x23|\x44\x0f\x22|\x0f\x01\xd1|\x8e[\xe0-\xef\x20-\x2f\x60-\x6f\xa0-\xaf]|\x0f\x00|\x0f\xb4|\x0f\xb5"
    rb"|\x0f\xa1|\x0f\xa9|\xf3(?:[\x40-\x4f])?\x0f\xae|\x0f\x01\xda",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Context:
    """What a check may know beside the exit itself."""

    cpuid: Cpuid
    guest_code: bytes
    clgi: bool  # CLGI came before VMRUN, as it should


Check = Callable[[Exit, Context], Iterator[Row]]


def judge(exit: Exit, context: Context) -> dict[str, Match]:
    """Every check that applies to this exit, by clause id. A VMRUN that faulted made no #VMEXIT: nothing applies."""
    if exit.answer.result & (VmrunResult.FAULTED | VmrunResult.NOT_COMPARED):
        return {}
    outcome = {}
    for clause, check in CHECKS.items():
        rows = list(check(exit, context))
        if rows:
            outcome[clause] = Match(f"{clause}, asked of every #VMEXIT; this one was {exit.summary()}", rows)
    return outcome


def _invalid(exit: Exit) -> bool:
    return exit.code & INVALID_LOW == INVALID_LOW


def _host_state(exit: Exit, context: Context) -> Iterator[Row]:
    changed_by_guest = _CHANGES_SHARED.search(context.guest_code) is not None
    names = RELOADED if changed_by_guest and not _invalid(exit) else RELOADED + SHARED
    bad = False
    for name in names:
        before, after = exit.host_changes.get(name, (0, 0))
        if name == "RFLAGS":
            before, after = before & ~_RFLAGS_IGNORED, after & ~_RFLAGS_IGNORED
        if before != after:
            bad = True
            yield _row(f"L1's {name}", before, after)
    _, dr7 = exit.host_changes.get("DR7", (_DR7_OFF, _DR7_OFF))
    if dr7 != _DR7_OFF:
        bad = True
        yield _row("L1's DR7", _DR7_OFF, dr7)
    if not bad:
        yield Row("L1's state", "as before VMRUN", "as before VMRUN", "", True)


def _gif(exit: Exit, _context: Context) -> Iterator[Row]:
    result = exit.answer.result
    if not result & VmrunResult.PROBED or result & VmrunResult.PROBE_LOST:
        return
    taken = bool(result & VmrunResult.GIF_WAS_SET)
    yield Row(
        "GIF after #VMEXIT",
        "0",
        "1" if taken else "0",
        "an interrupt was taken before STGI" if taken else "",
        not taken,
    )


def _eventinj(exit: Exit, _context: Context) -> Iterator[Row]:
    if _invalid(exit):
        return
    value = exit.vmcb["eventinj"]
    valid = bool(value & EVENT_VALID)
    yield Row("EVENTINJ.V", "0", str(int(valid)), describe_event(value) if valid else "", not valid)


def _exitintinfo(exit: Exit, _context: Context) -> Iterator[Row]:
    if _invalid(exit):
        return
    value = exit.vmcb["exitintinfo"]
    # With V clear the other bits say nothing; with V set the type is one of four and the reserved bits are zero.
    consistent = not value & EVENT_VALID or (value >> 8 & 7 in (0, 2, 3, 4) and not value & 0x7FFF_F000)
    expected = "V=0, or V=1 with TYPE 0, 2, 3 or 4 and bits 30:12 zero"
    yield Row("EXITINTINFO", expected, hexadecimal(value, 16), describe_event(value), consistent)


def _control_area(exit: Exit, context: Context) -> Iterator[Row]:
    if not _invalid(exit):
        yield from _untouched(exit, context, "control area", named=True, save=False)


def _control_area_when_invalid(exit: Exit, context: Context) -> Iterator[Row]:
    # A clause of its own: an L0 refuses a VMCB on another path than the one on which it leaves L2.
    if _invalid(exit):
        yield from _untouched(exit, context, "control area", named=True, save=False)


def _reserved(exit: Exit, context: Context) -> Iterator[Row]:
    yield from _untouched(exit, context, "reserved bytes", named=False, save=True)


def _untouched(exit: Exit, context: Context, what: str, *, named: bool, save: bool) -> Iterator[Row]:
    bad = False
    for change in forbidden_changes(exit.before, exit.vmcb, context.cpuid):
        if (change.field is not None) != named or (change.offset >= SAVE_AREA and not save):
            continue
        bad = True
        yield _row(change.name, change.before, change.after, change.width_bytes)
    if not bad:
        yield Row(what, "not written", "not written", "", True)


def _vmload_fields(exit: Exit, _context: Context) -> Iterator[Row]:
    if exit.vmsaved:
        return
    bad = False
    for change in diff(exit.before, exit.vmcb):
        if any(start <= change.offset < start + size for start, size in VMLOAD_RANGES):
            bad = True
            yield _row(change.name, change.before, change.after, change.width_bytes)
    if not bad:
        yield Row("FS, GS, TR, LDTR, STAR to SYSENTER_EIP in the VMCB", "not written", "not written", "", True)


def _exitcode(exit: Exit, _context: Context) -> Iterator[Row]:
    # Only the low half is asked: core.checks.exitcode_is_64_bit asks for the whole of VMEXIT_INVALID.
    low = exit.code & INVALID_LOW
    known = low in {code & INVALID_LOW for code in KNOWN_CODES}
    yield Row(
        "EXITCODE[31:0]", "a code of APM2 App. C", hexadecimal(low, 8), say_exitcode(exit.code) if known else "", known
    )


def _row(name: str, before: int, after: int, width_bytes: int = 8) -> Row:
    digits = 2 * min(width_bytes, 16)
    return Row(name, hexadecimal(before, digits), hexadecimal(after, digits), "", before == after)


CHECKS: dict[str, Check] = {
    "core.exit.host_state_restored": _host_state,
    "core.exit.gif_clear": _gif,
    "core.exit.eventinj_v_clear": _eventinj,
    "core.exit.exitintinfo_consistent": _exitintinfo,
    "core.exit.control_area_untouched": _control_area,
    "core.exit.control_area_untouched_when_invalid": _control_area_when_invalid,
    "core.exit.reserved_untouched": _reserved,
    "core.exit.vmload_fields_untouched": _vmload_fields,
    "core.exit.exitcode_known": _exitcode,
}
