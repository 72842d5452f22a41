"""What every #VMEXIT must hold, whatever the test is about. Each check is a clause, judged over all the VMRUNs of a
run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.judge.consistency import refused_if_broken
from harness.judge.exit import INVALID_LOW, Exit
from harness.judge.expect import Match, Row, hexadecimal
from harness.judge.fault import fault_text
from harness.scenario.steps import Fault, Phase, VmrunResult
from harness.svm import Cpuid
from harness.svm.events import EVENT_VALID, describe_event
from harness.svm.exit_writes import forbidden_changes
from harness.svm.exits import KNOWN_CODES, VMEXIT
from harness.svm.exits import describe_exitcode as say_exitcode
from harness.svm.fields import SAVE_AREA, VMLOAD_RANGES
from harness.svm.vmcb import diff

# Host state that #VMEXIT reloads (APM2 15.6). Whether CR2 and DR6 are L2's or L1's then is left open, see _cr2_and_dr6.
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
_BREAKPOINTS = 0xFF  # L0 to G3 of DR7
_DEBUGCTL = "MSR_000001D9"
_DR6_CAUSES = 0xE00F  # BT, BS, BD, B3 to B0; the rest is fixed, or belongs to newer features
_DB, _NMI, _FIRST_INTERRUPT = 1, 2, 32
_TF, _BS = 1 << 8, 1 << 14
_WRMSR = b"\x0f\x30"
_APIC_BASE = (0xFEE0_0000).to_bytes(4, "little")
# L2 code with one of these may change shared state: WRMSR, SWAPGS, MOV to DR or CR8, XSETBV, loads of FS, GS, LDTR and
# TR, WRFSBASE and WRGSBASE, VMLOAD.
_CHANGES_SHARED = re.compile(
    rb"\x0f\x30|\x0f\x01\xf8|\x0f\x23|[\x44-\x47]\x0f\x22|\x0f\x01\xd1|\x8e[\xe0-\xef\x20-\x2f\x60-\x6f\xa0-\xaf]|\x0f\x00|\x0f\xb4|\x0f\xb5"
    rb"|\x0f\xa1|\x0f\xa9|\xf3(?:[\x40-\x4f])?\x0f\xae|\x0f\x01\xda",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Context:
    """What a check may know besides the exit itself."""

    cpuid: Cpuid
    guest_code: bytes
    clgi: bool  # CLGI came before VMRUN, as it should
    probes: bool = True  # GIF was probed and L1's state compared


ExitCheck = Callable[[Exit, Context], Iterator[Row]]


def judge(exit: Exit, context: Context) -> dict[str, Match]:
    """Every check that applies to this exit, by clause id. A VMRUN that faulted made no #VMEXIT: nothing applies."""
    if exit.answer.result & (VmrunResult.FAULTED | VmrunResult.NOT_COMPARED):
        return {}
    outcome = {}
    summary = exit.summary()
    for clause, check in CHECKS.items():
        if not context.probes and check in _BY_PROBES:
            continue
        rows = list(check(exit, context))
        if rows:
            outcome[clause] = Match(f"{clause}, asked of every #VMEXIT; this one was {summary}", rows)
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
    # The manual says "disables all breakpoints", and nothing of what else is in DR7.
    _, dr7 = exit.host_changes.get("DR7", (0, 0))
    if dr7 & _BREAKPOINTS:
        bad = True
        yield _row("breakpoints enabled in L1's DR7", 0, dr7 & _BREAKPOINTS, 1)
    if not bad:
        yield Row("L1's state", "as before VMRUN", "as before VMRUN", "", True)


def _gif(exit: Exit, _context: Context) -> Iterator[Row]:
    result = exit.answer.result
    if result & VmrunResult.PROBED and not result & VmrunResult.PROBE_LOST:
        taken = bool(result & VmrunResult.GIF_WAS_SET)
        yield Row(
            "GIF after #VMEXIT",
            "0",
            "1" if taken else "0",
            "an interrupt was taken before STGI" if taken else "",
            not taken,
        )
    for event in exit.events:
        if event.phase in (Phase.VMRUN, Phase.GIF_PROBE) and _masked_by_gif(event):
            yield Row("taken between #VMEXIT and STGI", "no interrupt, no NMI", fault_text(event), "", False)


def _probe(exit: Exit, context: Context) -> Iterator[Row]:
    if not context.cpuid.has("APIC") or any(
        event.phase is Phase.BEFORE_VMRUN and not _masked_by_gif(event) for event in exit.events
    ):
        return  # there is nothing to send it with; or VMLOAD faulted, and VMRUN was not made
    result = exit.answer.result
    if not result & VmrunResult.PROBED:
        got = "it was never sent"
    elif not result & VmrunResult.PROBE_LOST:
        got = ""
    elif _WRMSR in context.guest_code or _APIC_BASE in context.guest_code:
        return  # L2 may have switched L1's APIC off
    else:
        got = "neither in the IRR nor taken"
    yield Row("the IPI that L1 sends itself with GIF=0", "in the IRR", got or "in the IRR", "", not got)


def _clgi(exit: Exit, context: Context) -> Iterator[Row]:
    if not context.clgi:
        return
    early = [event for event in exit.events if event.phase is Phase.BEFORE_VMRUN and event.vector >= _FIRST_INTERRUPT]
    got = ", ".join(fault_text(event) for event in early) or "no interrupt"
    yield Row("taken between CLGI and VMRUN", "no interrupt", got, "", not early)


def _exceptions(exit: Exit, _context: Context) -> Iterator[Row]:
    bad = [event for event in exit.events if _is_stray_exception(event)]
    got = ", ".join(fault_text(event) for event in bad) or "no exception"
    yield Row("taken by L1 after #VMEXIT", "no exception", got, "", not bad)


def _is_stray_exception(event: Fault) -> bool:
    if event.vector >= _FIRST_INTERRUPT or event.vector == _NMI:
        return False
    if event.vector == _DB:
        # L1's own TF traps once behind VMRUN; and once L1 has its DR7 back, its breakpoints are its own affair.
        stepped = event.dr6 & _BS and event.rflags & _TF
        return event.phase is Phase.VMRUN and not stepped
    return event.phase in (Phase.VMRUN, Phase.GIF_PROBE, Phase.AFTER_STGI)


def _masked_by_gif(event: Fault) -> bool:
    return event.vector >= _FIRST_INTERRUPT or event.vector == _NMI


def _cr2_and_dr6(exit: Exit, context: Context) -> Iterator[Row]:
    if _invalid(exit) or exit.code == VMEXIT.SHUTDOWN:
        return  # after a shutdown the VMCB does not say what L2 had (APM2 15.14.3)
    changed_by_guest = _CHANGES_SHARED.search(context.guest_code) is not None
    for name, mask in (("CR2", (1 << 64) - 1), ("DR6", _DR6_CAUSES)):
        if name == "DR6" and changed_by_guest:
            continue  # of a #DB that exits, the VMCB alone may have the cause, and L1 what L2 wrote before
        before, after = exit.host_changes.get(name, (0, 0))
        field = name.lower()
        legal = {before & mask, exit.before[field] & mask, exit.vmcb[field] & mask}
        ok = before == after or after & mask in legal
        say = "L1's own or L2's" if ok else "any of " + ", ".join(hexadecimal(value, 16) for value in sorted(legal))
        yield Row(f"L1's {name}", say, hexadecimal(after, 16) if not ok else say, "", ok)


def _debugctl(exit: Exit, context: Context) -> Iterator[Row]:
    before, after = exit.host_changes.get(_DEBUGCTL, (0, 0))
    if context.cpuid.has("LbrVirt") and exit.before["lbr_virt_enable"]:
        ok = before == after
    elif _WRMSR in context.guest_code:
        return
    else:
        ok = not after & ~before  # an exception in L2 may clear LBR
    yield Row("L1's DEBUGCTL", hexadecimal(before, 16), hexadecimal(after, 16), "", ok)


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


def _consistency(exit: Exit, context: Context) -> Iterator[Row]:
    yield from refused_if_broken(exit, context.cpuid)


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


_BY_PROBES = (_host_state, _gif, _probe, _clgi, _exceptions, _cr2_and_dr6, _debugctl)

CHECKS: dict[str, ExitCheck] = {
    "core.exit.host_state_restored": _host_state,
    "core.exit.gif_clear": _gif,
    "core.exit.interrupt_held": _probe,
    "core.exit.clgi_held_until_vmrun": _clgi,
    "core.exit.no_exception_in_l1": _exceptions,
    "core.exit.cr2_and_dr6": _cr2_and_dr6,
    "core.exit.debugctl": _debugctl,
    "core.exit.eventinj_v_clear": _eventinj,
    "core.exit.exitintinfo_consistent": _exitintinfo,
    "core.exit.control_area_untouched": _control_area,
    "core.exit.control_area_untouched_when_invalid": _control_area_when_invalid,
    "core.exit.reserved_untouched": _reserved,
    "core.exit.vmload_fields_untouched": _vmload_fields,
    "core.exit.exitcode_known": _exitcode,
    "core.exit.invalid_iff_rule_broken": _consistency,
}
