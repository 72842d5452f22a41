"""What a run says must be offered to L1, by `--expect` and `--policy`: bits of Fn8000_000A EDX, ASIDs, SVM MSRs.

Each is judged by itself, with a clause of its own (`offers.NRIPS`), whether it holds or not: what was expected and is
not there must not be a thousand skipped tests and a green run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.judge.offers import CLAUSE
from harness.judge.policy import Policy, PolicyError, load_policy
from harness.names import near
from harness.svm.cpuid import Cpuid, svm_bit
from harness.svm.features import SVM_BITS
from harness.svm.msr import MSR

NASID = "NASID"
NASID_MAX = 1 << 32
MSRS: Mapping[str, tuple[MSR, str]] = {
    "VM_CR": (MSR.VM_CR, "15.30.1"),
    "IGNNE": (MSR.IGNNE, "15.30.2"),
    "VM_HSAVE_PA": (MSR.VM_HSAVE_PA, "15.30.4"),
    "TSC_RATIO": (MSR.TSC_RATIO, "15.30.5"),
    "DEBUGCTL": (MSR.DEBUGCTL, "13.1.1"),
    "SPEC_CTRL": (MSR.SPEC_CTRL, "3.2.9"),
}
"""The MSRs that can be expected: those that hardware lets L1 read."""


class ExpectError(Exception):
    """An expectation that makes no sense. One line for people."""


@dataclass(frozen=True, slots=True)
class Want:
    """One thing that L1 must see, or (`offered` false) must not see. `by` says who wants it, `test` what it is called
    in the record.
    """

    name: str
    by: str
    test: str
    offered: bool = True
    least: int = 0
    """Of NASID: how many ASIDs at least."""

    @property
    def clause(self) -> str:
        """As `offers.NRIPS`."""
        return f"{CLAUSE}{self.name}"

    @property
    def bit(self) -> str:
        """The row of the bit table."""
        return "core" if self.name == NASID or self.name in MSRS else self.name

    @property
    def statement(self) -> str:
        """The clause in one sentence."""
        if self.name == NASID:
            return f"L1 sees at least {self.least} ASIDs in Fn8000_000A EBX, as {self.by} wants it."
        if self.name in MSRS:
            return f"L1 can read the MSR {self.name} ({int(MSRS[self.name][0]):08X}h), as {self.by} wants it."
        bit = svm_bit(self.name)
        seen = "sees" if self.offered else "does not see"
        return f"L1 {seen} Fn8000_000A EDX[{bit.bit}] ({bit.title}), as {self.by} wants it."

    @property
    def apm(self) -> str:
        """The section of the APM."""
        return "15.16" if self.name == NASID else MSRS[self.name][1] if self.name in MSRS else svm_bit(self.name).apm


def parse(text: str) -> tuple[str, ...]:
    """`NP,NRIPS,NASID=16,VM_CR` as its parts, each name once (the last), as the APM spells them. Raises ExpectError."""
    parts = (_part(part.strip()) for part in text.split(",") if part.strip())
    return tuple({part.partition("=")[0]: part for part in parts}.values())


def _part(text: str) -> str:
    name, equals, number = text.partition("=")
    if name.upper() == NASID:
        if not (number.isascii() and number.isdigit()) or not 0 < int(number[:12]) < NASID_MAX:
            raise ExpectError(f"{text[:40]}: say how many ASIDs there must be at least, as in NASID=16")
        return f"{NASID}={int(number)}"
    if equals:
        raise ExpectError(f"{text[:40]}: only NASID has a number, as in NASID=16")
    if name.upper() in MSRS:
        return name.upper()
    try:
        return svm_bit(name).name
    except KeyError:
        known = [*(bit.name for bit in SVM_BITS if not bit.reserved), NASID, *MSRS]
        raise ExpectError(
            f"{name[:40]!r} is no bit of Fn8000_000A EDX, nor NASID=N, nor an MSR that can be expected "
            f"({', '.join(MSRS)}){near(name, known)}"
        ) from None


def of_words(words: Iterable[str]) -> list[Want]:
    """What `--expect` wants; `words` as parse() gives them."""
    wants = []
    for word in words:
        name, _, number = word.partition("=")
        wants.append(Want(name, "--expect", f"expected::{CLAUSE}{name}", least=int(number or 0)))
    return wants


def policy_of(name: str, folder: Path) -> Policy:
    """The policy of that name. Raises ExpectError."""
    try:
        return load_policy(name, folder)
    except PolicyError as error:
        raise ExpectError(str(error)) from None


def of_policy(policy: Policy, cpuid: Cpuid) -> list[Want]:
    """What the policy wants of the bits that L1 sees. Raises ExpectError where it has no rule for that CPU."""
    try:
        rules, _ = policy.rules_for((cpuid.family, cpuid.model, cpuid.stepping))
    except PolicyError as error:
        raise ExpectError(f"policy {policy.name}: {error}") from None
    by = f"the policy {policy.name}"
    return [
        Want(rule.bit.name, by, f"policies/{policy.name}::{CLAUSE}{rule.bit.name}", offered=rule.guest == "provided")
        for rule in rules
        if rule.guest in ("provided", "withheld")
    ]


def complaint(want: Want, cpuid: Cpuid, msrs: Mapping[str, str]) -> str:
    """Why L1 does not see what is wanted; "" where it does. `msrs`: what L1 read, or the fault it took (`#GP[0]`)."""
    if want.name == NASID:
        return "" if cpuid.nasid >= want.least else f"Fn8000_000A EBX is {cpuid.nasid}; {want.by} wants {want.least}"
    if want.name in MSRS:
        got = msrs.get(want.name, "no answer")
        return f"reading {want.name} gives {got}" if got.startswith("#") or got == "no answer" else ""
    bit = svm_bit(want.name)
    offered = bool(cpuid.svm_bits >> bit.bit & 1)
    if offered == want.offered:
        return ""
    return f"Fn8000_000A EDX[{bit.bit}] ({bit.name}) is {int(offered)}; {want.by} wants {int(want.offered)}"
