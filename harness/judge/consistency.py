"""Whether a VMRUN was refused exactly where the VMCB breaks a consistency rule (harness/svm/checks.py).

Only rules that are certain are asked. A VMCB that breaks none of these, but one of which the APM says too little, may
run or be refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.judge.exit import INVALID_LOW, Exit
from harness.judge.expect import Row
from harness.scenario.steps import Phase
from harness.svm import Cpuid, Rule, Vmcb, broken_rules, field
from harness.svm.exits import exit_name
from harness.svm.fields import SAVE_AREA
from harness.svm.names import CR0, CR4, EFER

REFUSED = "VMEXIT_INVALID"
FOUND_MAX = 4096  # VMCBs


def refused_if_broken(exit: Exit, cpuid: Cpuid) -> Iterator[Row]:
    """Rows for each certain rule that is broken and was let pass, or one for a refusal without such a rule."""
    if not exit.vmcb_known or (cpuid.has("VmcbClean") and exit.before["clean"]):
        return  # the CPU may have seen another VMCB than this
    if any(event.phase is Phase.BEFORE_VMRUN and event.vector < 32 for event in exit.events):
        return  # VMLOAD faulted, and VMRUN was not made
    broken = _broken(exit.before, cpuid)
    certain = [rule for rule in broken if rule.certain]
    refused = exit.code & INVALID_LOW == INVALID_LOW
    if certain and not refused:
        for rule in certain:
            yield Row(rule.id, REFUSED, exit_name(exit.code), f"{rule.text} ({rule.clause})", False)
    elif refused and not broken and not _pointers_unknown(exit.before):
        yield Row(REFUSED, "a consistency rule is broken", "none is", "", False)
    elif certain or not broken:
        expected = REFUSED if certain else "L2 is entered"
        yield Row("VMRUN", expected, expected, "", True)


ASKED = [(0, SAVE_AREA)] + [
    (field(name).offset, field(name).offset + field(name).width_bytes)
    for name in ("cs.attrib", "efer", "cr4", "cr3", "cr0", "dr7", "dr6", "rflags", "s_cet", "g_pat")
]
"""The parts of a VMCB that the rules read."""

_found: dict[bytes, list[Rule]] = {}
_found_on: Cpuid | None = None


def _broken(vmcb: Vmcb, cpuid: Cpuid) -> list[Rule]:
    """broken_rules(), which most VMCBs of a run need not be asked for twice: they differ in RIP and registers alone."""
    global _found_on
    if cpuid is not _found_on or len(_found) > FOUND_MAX:
        _found.clear()
        _found_on = cpuid
    key = b"".join(vmcb.data[start:end] for start, end in ASKED)
    found = _found.get(key)
    if found is None:
        found = _found[key] = broken_rules(vmcb, cpuid)
    return found


def _pointers_unknown(vmcb: Vmcb) -> bool:
    """Whether VMRUN may look at entries in memory: the page-directory pointers of a legacy PAE guest."""
    if vmcb["np_enable"] or not vmcb["cr0"] & CR0.PG or vmcb["efer"] & EFER.LME:
        return False
    return bool(vmcb["cr4"] & CR4.PAE)
