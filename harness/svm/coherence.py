"""Which bits of CPUID Fn8000_000A make no sense without others: rules for any machine, whatever its policy.

Each holds on every one of the processors in policies/silicon.csv. Rules that look as sensible and do not hold there are
left out: processors show x2AVIC without AVIC, and reserved bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.svm.cpuid import Cpuid, svm_bit
from harness.svm.features import SVM_BITS

ECX_X2AVIC_EXT = 1 << 6
"""Fn8000_000A ECX[6]: more x2APIC IDs for AVIC (APM2 15.29.4.3)."""

REVISION = 1
"""Fn8000_000A EAX[7:0] of all SVM that there is."""


@dataclass(frozen=True)
class Implies:
    """Where `bit` is offered, `needs` is too."""

    bit: str
    needs: str
    apm: str
    why: str


IMPLIES: tuple[Implies, ...] = (
    Implies("PauseFilterThreshold", "PauseFilter", "15.14.4", "the threshold decides when the filter's count is reset"),
    Implies("VmsaveVirt", "NP", "15.33.1", "it translates the operand by the nested tables"),
    Implies("AVIC", "NP", "15.29", "the APIC's backing page is found by the nested tables"),
    Implies("GMET", "NP", "15.25.13", "the bit is one of the nested tables'"),
    Implies("SSSCheck", "NP", "15.25.14", "the bit is one of the nested tables'"),
    Implies("ROGPT", "NP", "15.25.5", "it is about guest tables on read-only nested pages"),
)
"""Bits that are about something that another bit stands for."""


def reserved_bits() -> int:
    """The bits of EDX that the manual calls reserved."""
    return sum(1 << bit.bit for bit in SVM_BITS if bit.reserved)


@dataclass(frozen=True)
class Contradiction:
    """One rule that does not hold. `rule` is short and stays the same, `found` says what came."""

    rule: str
    found: str


def contradictions(cpuid: Cpuid) -> Iterator[Contradiction]:
    """The rules that do not hold in what L1 sees."""
    if not cpuid.svm:
        if any(cpuid.leaf(0x8000_000A)):
            yield Contradiction("no leaf without SVM", "Fn8000_000A is not zero, though Fn8000_0001 ECX[2] (SVM) is 0")
        return
    eax, _, ecx, edx = cpuid.leaf(0x8000_000A)
    for rule in IMPLIES:
        if edx >> svm_bit(rule.bit).bit & 1 and not edx >> svm_bit(rule.needs).bit & 1:
            found = f"{rule.bit} is offered and {rule.needs} is not: {rule.why} (APM2 {rule.apm})"
            yield Contradiction(f"{rule.bit} needs {rule.needs}", found)
    if cpuid.max_extended_leaf < 0x8000_000A:
        yield Contradiction("leaf beyond the largest", f"Fn8000_0000 EAX is {cpuid.max_extended_leaf:08X}h")
    if eax & 0xFF != REVISION:
        yield Contradiction(
            "revision", f"Fn8000_000A EAX[7:0] is {eax & 0xFF}, no SVM but revision {REVISION} is known"
        )
    if cpuid.nasid < 2:
        yield Contradiction("NASID", f"Fn8000_000A EBX is {cpuid.nasid}: there is no ASID for a guest")
    if cpuid.hypervisor:
        yield from _of_a_hypervisor(ecx, edx)


def _of_a_hypervisor(ecx: int, edx: int) -> Iterator[Contradiction]:
    """A processor may show bits that nobody explains; an L0 that does so shows what it cannot have looked after."""
    for bit in SVM_BITS:
        if bit.reserved and edx >> bit.bit & 1:
            yield Contradiction(f"reserved bit {bit.bit}", f"Fn8000_000A EDX[{bit.bit}] is reserved, and is 1")
    if ecx & ~ECX_X2AVIC_EXT or (ecx and not edx >> svm_bit("x2AVIC").bit & 1):
        yield Contradiction("ECX", f"Fn8000_000A ECX is {ecx:08X}h")
