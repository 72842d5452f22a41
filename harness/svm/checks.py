"""The consistency rules of VMRUN as one pure predicate: which of them does this VMCB break? (APM2 15.5.1)

A VMCB that breaks a certain rule makes VMRUN exit with VMEXIT_INVALID; one that breaks none runs; between them lies
what the APM leaves undefined or contradicts itself about, which is reported as `certain=False`.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.svm.cpuid import Cpuid
from harness.svm.rule import Rule, RuleEntry, Ruling, State
from harness.svm.rules_control import CONTROL_RULES
from harness.svm.rules_state import STATE_RULES
from harness.svm.vmcb import Vmcb

__all__ = ["CHECKS", "Rule", "broken_rules", "vmcb_address_is_legal"]

CHECKS: tuple[RuleEntry, ...] = (*STATE_RULES, *CONTROL_RULES)
"""Every rule, in the order they are reported."""


def broken_rules(
    vmcb: Vmcb,
    cpuid: Cpuid,
    *,
    host_paging: bool = True,
    host_long_mode: bool = True,
    pdpes: Sequence[int] | None = None,
) -> list[Rule]:
    """The rules that `vmcb` breaks on a CPU that shows `cpuid` to L1; empty for a VMCB that VMRUN must accept.

    `host_paging`, `host_long_mode`: L1's own mode at VMRUN. `pdpes`: the entries at the guest's CR3, for legacy PAE
    guests; without them that rule is not judged.
    """
    state = State(vmcb, cpuid, host_paging, host_long_mode, pdpes)
    broken: list[Rule] = []
    for check in CHECKS:
        finding = check.predicate(state)
        if finding is not Ruling.KEPT:
            broken.append(check.rule(certain=finding is Ruling.BROKEN))
    return broken


def vmcb_address_is_legal(rax: int, cpuid: Cpuid) -> bool:
    """Whether VMRUN, VMLOAD and VMSAVE take this operand: page aligned and below 1 << MAXPHYADDR, else #GP(0)."""
    return rax & 0xFFF == 0 and 0 <= rax < 1 << cpuid.maxphyaddr
