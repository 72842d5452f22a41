"""The rows of the bit table, and the clauses in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from harness.record import LOST_VERDICTS, ClauseInfo, Run, Verdict, worst
from harness.summary.category import Category, Tally, UniversalTally, severity
from harness.summary.outcome import Judged
from harness.svm.cpuid import SVM_BITS

CORE = "core"


@dataclass(slots=True)
class ClauseSummary:
    """One clause over all targets. A target that never judged it has no entry."""

    info: ClauseInfo
    per_target: dict[str, Tally] = field(default_factory=dict)
    judged: dict[str, list[Judged]] = field(default_factory=dict)
    universal: dict[str, UniversalTally] = field(default_factory=dict)

    def verdict(self, target: str) -> Verdict | Literal[""]:
        """The worst verdict on that target; "" if none. A universal clause that never fired passed."""
        tally = self.per_target.get(target)
        if tally is not None and tally.verdict not in ("", "SKIP"):
            return tally.verdict
        seen = self.universal.get(target)
        if seen is not None and seen.checked:
            return "FAIL" if seen.failed else "PASS"
        return tally.verdict if tally else ""

    def category(self, target: str) -> Category | Literal[""]:
        tally = self.per_target.get(target)
        found = tally.category if tally else ""
        if found in ("", "skipped") and self.verdict(target) == "PASS":
            return "passed"
        return found


@dataclass(slots=True)
class BitCell:
    """One bit on one target. `offered` is None where the target never booted, or for a row that is no bit."""

    offered: bool | None
    tally: Tally
    clauses_judged: int = 0
    verdict: Verdict | Literal[""] = ""
    category: Category | Literal[""] = ""


@dataclass(slots=True)
class BitSummary:
    """A row of the bit table. `bit` is None for the core row and for groups that belong to no one bit."""

    key: str
    bit: int | None
    title: str
    apm: str
    reserved: bool
    clauses: list[ClauseSummary] = field(default_factory=list)
    cells: dict[str, BitCell] = field(default_factory=dict)


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BIT_NUMBERS = {
    _squeezed(name): bit.bit for bit in SVM_BITS for name in (bit.name, *bit.aliases, f"bit{bit.bit}", str(bit.bit))
}


def row_key(bit: str) -> int | str:
    """The row that a clause's `bit` names: a bit number, or the name of a group that is no bit."""
    name = _squeezed(bit)
    return _BIT_NUMBERS.get(name, name)


def bit_rows(infos: Iterable[ClauseInfo]) -> dict[int | str, BitSummary]:
    """The rows of the bit table: core, all 32 bits, then the groups that are no bit."""
    rows: dict[int | str, BitSummary] = {CORE: BitSummary(CORE, None, "SVM base (core)", "", reserved=False)}
    for bit in SVM_BITS:
        rows[bit.bit] = BitSummary(bit.name, bit.bit, bit.title, bit.apm, reserved=bit.title == "reserved")
    for info in infos:
        name = info.bit or "(no bit)"
        rows.setdefault(row_key(info.bit), BitSummary(name, None, "", "", reserved=False))
    return rows


def offered_to(run: Run, target: str, bit: int | None, contradictions: list[str]) -> bool | None:
    """Whether a target offers the bit; None where that is not known."""
    if bit is None:
        return None
    seen = {bool(info.edx >> bit & 1) for info in run.targets if info.target == target and info.booted}
    if len(seen) > 1:
        contradictions.append(f"bit {bit} of Fn8000_000A EDX is offered to some workers of {target} and not to others")
    return True in seen if seen else None


def bit_cell(row: BitSummary, target: str, offered: bool | None) -> BitCell:
    """Each outcome once, with the worst that it says of this bit's clauses.

    A universal check fires in tests of every bit. Where that is known, a test is counted where the clauses stand that
    it names, as one in which only universal checks deviate if they hold; else one such check would fill the row of its
    own bit with all the tests that there are.
    """
    per_outcome: dict[int, list[Judged]] = {}
    for clause in row.clauses:
        for judged in clause.judged.get(target, ()):
            if not (judged.universal and judged.category == "known" and judged.outcome.names_clauses):
                per_outcome.setdefault(judged.outcome.number, []).append(judged)
    tally = Tally()
    for number in sorted(per_outcome):
        found = min(per_outcome[number], key=lambda j: severity(j.category))
        if found.outcome.universal_only and found.category in ("known", "passed"):
            tally.add(found.outcome.verdict, found.outcome.news, universal=True)
        else:
            tally.add(found.verdict, found.news, found.summary)
    verdicts = [v for c in row.clauses if (v := c.verdict(target))]
    ranked = sorted((c for clause in row.clauses if (c := clause.category(target))), key=severity)
    return BitCell(
        offered=offered,
        tally=tally,
        clauses_judged=sum(1 for v in verdicts if v not in ("SKIP", *LOST_VERDICTS)),
        verdict=worst(verdicts),
        category=ranked[0] if ranked else "",
    )
