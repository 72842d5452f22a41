"""A whole run, counted: its targets, its deviations, its verdict."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from harness.record import BaselineRef, Run, worst
from harness.summary.bits import BitSummary, ClauseSummary
from harness.summary.category import Tally, counted
from harness.summary.machine import Machine
from harness.summary.outcome import Judged, Outcome


@dataclass(slots=True)
class Deviation:
    """All outcomes of one category (new, mended or known) on one clause and target."""

    target: str
    clause: ClauseSummary
    category: str
    judged: list[Judged]

    @property
    def verdict(self) -> str:
        return worst(j.verdict for j in self.judged)

    @property
    def word(self) -> str:
        """The verdict, and whether all of it shows after other tests only."""
        return f"{self.verdict} after others" if all(j.after_others for j in self.judged) else self.verdict

    @property
    def baselines(self) -> list[BaselineRef]:
        """The distinct baseline entries, in order."""
        return list(dict.fromkeys(j.baseline for j in self.judged if j.baseline is not None))


@dataclass(slots=True)
class TargetSummary:
    """One target's share of the run."""

    name: str
    machines: list[Machine]
    tally: Tally
    counts: Counter[str]
    """Outcomes by verdict."""
    clauses_by_category: dict[str, int]
    """How many distinct clauses the outcomes of a category touch."""
    unfinished: bool = False
    part: str = ""
    """Which part of the suites was asked for, and on what other machine; "" of all of them on the machine as it is."""
    part_short: str = ""

    @property
    def sentence(self) -> str:
        """This target's verdict in one sentence, without a full stop."""
        return f"{self.name} ({self.part}): {self._told}" if self.part else f"{self.name}: {self._told}"

    @property
    def _told(self) -> str:
        tally, clauses = self.tally, self.clauses_by_category
        if tally.tests == tally.skipped:
            told = f"all {counted(tally.tests, 'test')} skipped" if tally.tests else "no test was run"
            return f"nothing was judged; {told}"
        parts = []
        if tally.new:
            parts.append(f"{counted(tally.new, 'new deviation')} in {counted(clauses['new'], 'clause')}")
        elif tally.lost == tally.tests - tally.skipped:
            parts.append("nothing was judged")
        else:
            parts.append("no new deviation" + (" so far" if self.unfinished else ""))
        if tally.mended:
            parts.append(f"{counted(tally.mended, 'known deviation')} mended in {counted(clauses['mended'], 'clause')}")
        if tally.known:
            known = f"{counted(tally.known, 'known deviation')} in {counted(clauses['known'], 'clause')}"
            parts.append(known + (f", {tally.universal} of them in universal checks only" if tally.universal else ""))
        if tally.lost:
            each = ", ".join(f"{self.counts[v]} {v}" for v in ("ERROR", "MISS") if self.counts[v])
            parts.append(f"{counted(tally.lost, 'test')} without a verdict ({each})")
        return "; ".join(parts)


@dataclass(slots=True)
class Summary:
    """A whole run, counted."""

    run: Run
    targets: list[TargetSummary]
    bits: list[BitSummary]
    clauses: dict[str, ClauseSummary]
    outcomes: list[Outcome]
    deviations: list[Deviation]
    """New first, then mended, then known; within each in the order of the bit table."""
    contradictions: list[str]
    """Where the record disagrees with itself."""
    cut_short: bool

    @property
    def counts(self) -> dict[str, int]:
        """Outcomes by verdict over all targets."""
        return dict(sum((t.counts for t in self.targets), Counter()))

    def _sum(self, name: str) -> int:
        return sum(int(getattr(t.tally, name)) for t in self.targets)

    @property
    def new(self) -> int:
        return self._sum("new")

    @property
    def mended(self) -> int:
        return self._sum("mended")

    @property
    def known(self) -> int:
        return self._sum("known")

    @property
    def universal(self) -> int:
        """Of those known, where nothing deviates but universal checks."""
        return self._sum("universal")

    @property
    def lost(self) -> int:
        return self._sum("lost")

    @property
    def passed(self) -> int:
        return self._sum("passed")

    @property
    def skipped(self) -> int:
        return self._sum("skipped")

    @property
    def tests(self) -> int:
        return len(self.outcomes)

    @property
    def part_short(self) -> str:
        """For a badge: `12 of 4613 tests`; "" where everything was asked for."""
        parts = list(dict.fromkeys(target.part_short for target in self.targets))
        return parts[0] if len(parts) == 1 else "in part" if any(parts) else ""

    @property
    def damaged(self) -> bool:
        """The record lost or contradicts something."""
        return bool(self.contradictions) or any(p.grave for p in self.run.problems)

    @property
    def unfinished(self) -> bool:
        """Whether there was more to run: the record has no end, or says that the run was interrupted."""
        return self.cut_short or bool(self.run.interrupted)

    @property
    def exit_status(self) -> int:
        """1: something new or mended. 3: ERROR or MISS, or a record that is empty, unfinished or damaged. Else 0."""
        if self.new or self.mended:
            return 1
        judged = self.tests - self.lost - self.skipped
        return 3 if self.lost or not judged or self.unfinished or self.damaged else 0

    @property
    def sentence(self) -> str:
        """The verdict of the run in one sentence for each target, without a full stop."""
        if not self.targets:
            told = "nothing was judged: the record holds no result"
        else:
            told = ". ".join(t.sentence for t in self.targets)
        if not self.unfinished:
            return told
        return f"{'Cut short' if self.cut_short else 'Interrupted'}. {told}"
