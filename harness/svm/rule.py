"""What a rule of VMRUN's consistency checks is, and the state it judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from harness.svm import registers as r
from harness.svm.cpuid import Cpuid
from harness.svm.vmcb import Vmcb

ALL_64 = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True)
class Rule:
    """A rule that a VMCB breaks.

    `certain`: the APM (or an agreed reading of it) makes VMRUN exit with VMEXIT_INVALID. Otherwise the case is
    undefined or only real hardware can decide it, and nothing may be asserted of a VMCB that breaks it.
    `clause` is the dotted id of the clause that states the rule.
    """

    id: str
    text: str
    apm: str
    clause: str
    certain: bool = True

    def __str__(self) -> str:
        return f"{self.clause}: {self.text} (APM2 {self.apm}){'' if self.certain else ', not certain'}"


class Ruling(Enum):
    """What a rule says of a VMCB."""

    KEPT = "kept"
    BROKEN = "broken"
    UNSURE = "unsure"


def broken_if(broken: object, unsure: object = False) -> Ruling:
    """BROKEN if `broken`, else UNSURE if `unsure`, else KEPT."""
    return Ruling.BROKEN if broken else Ruling.UNSURE if unsure else Ruling.KEPT


@dataclass(frozen=True)
class State:
    """A VMCB about to be run, the CPU L1 sees, and the host mode that some rules depend on.

    `pdpes`: the four entries at the guest's CR3, if the caller knows them (legacy PAE guests only).
    """

    vmcb: Vmcb
    cpuid: Cpuid
    host_paging: bool = True
    host_long_mode: bool = True
    pdpes: Sequence[int] | None = None

    def __getitem__(self, name: str) -> int:
        return self.vmcb[name]

    @property
    def above_physical(self) -> int:
        """Address bits at and above MAXPHYADDR."""
        return ALL_64 & ~((1 << self.cpuid.maxphyaddr) - 1)

    @property
    def paging(self) -> bool:
        """Guest CR0.PG."""
        return bool(self["cr0"] & r.CR0_PG)

    @property
    def lme_and_paging(self) -> bool:
        """EFER.LME and CR0.PG: the checks' notion of long mode (LMA itself is not looked at)."""
        return self.paging and bool(self["efer"] & r.EFER_LME)

    @property
    def code_64(self) -> bool:
        """The guest would run 64-bit code."""
        return self.lme_and_paging and bool(self["cs.attrib"] & r.ATTRIB_L)

    @property
    def nested_paging(self) -> bool:
        """NP_ENABLE, on a CPU that has nested paging (elsewhere the bit is ignored, APM2 15.25.3)."""
        return self.cpuid.has("NP") and self["np_enable"] == 1


Predicate = Callable[[State], Ruling]


@dataclass(frozen=True)
class RuleEntry:
    """A rule with its predicate."""

    id: str
    text: str
    apm: str
    predicate: Predicate

    @property
    def clause(self) -> str:
        """The rule's clause: one clause a rule, named alike."""
        return f"core.checks.{self.id}"

    def rule(self, certain: bool) -> Rule:
        """The rule as it is reported."""
        return Rule(self.id, self.text, self.apm, self.clause, certain)


Registry = list[RuleEntry]
CHECKS_SECTION = "15.5.1"  # Canonicalization and Consistency Checks


def adds_to(registry: Registry) -> Callable[..., Callable[[Predicate], Predicate]]:
    """A decorator maker: `@rule("asid_zero", "guest ASID is 0", "15.5.1")` puts the predicate into `registry`."""

    def rule(id: str, text: str, apm: str = CHECKS_SECTION) -> Callable[[Predicate], Predicate]:
        def add(predicate: Predicate) -> Predicate:
            registry.append(RuleEntry(id, text, apm, predicate))
            return predicate

        return add

    return rule
