"""What comes of two runs side by side: the words for it, target by target, clause by clause, test by test.

The unit is a *cell*: what one test says of one clause on one target, in both runs. The words are those of Xen's
osstest where it has one: `REGR.` passed before and deviates now, `like` deviates as it did before, `never pass`
deviates and the run before did not ask it, `heisenbug` deviates in a shared boot and not on a fresh one.

Made for a release against the last one, and for an L0 inside an emulated machine against that machine itself: what
both share comes from the emulator.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """How one clause of one test stands in two runs, the worst first. The value is the word for it."""

    REGRESSED = "REGR."
    NEVER_PASSED = "never pass"
    OTHER = "other answer"
    LOST = "no verdict"
    NOT_ASKED = "no longer asked"
    GONE = "no longer there"
    MENDED = "mended"
    STILL = "like"

    @property
    def meaning(self) -> str:
        """The word, said at length."""
        return _MEANING[self]

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Kind).index(self)


_MEANING = {
    Kind.REGRESSED: "deviates, and passed before",
    Kind.NEVER_PASSED: "deviates, and was not asked before",
    Kind.OTHER: "deviates with another answer than before",
    Kind.LOST: "ended without a verdict (ERROR, MISS), and had one before",
    Kind.NOT_ASKED: "skipped, and asked before",
    Kind.GONE: "asked before, and no test of this run",
    Kind.MENDED: "passes, and deviated before",
    Kind.STILL: "deviates as before",
}
HEISENBUG = "heisenbug"


@dataclass(frozen=True, slots=True)
class Cell:
    """One clause of one test that deviates in a run, or that only one of them answered."""

    test: str
    clause: str
    kind: Kind
    before: str
    """Verdict and reason, as in "FAIL: rip: 1"; "not run"."""
    now: str
    known: bool = False
    """Whether the baseline of the run now knows the deviation."""
    heisenbug: bool = False
    """Whether a fresh boot does not show it, or it shows by chance, as the baseline knows."""

    @property
    def word(self) -> str:
        """`REGR.`, `like`, `heisenbug` and the others."""
        return self.kind.value if not self.heisenbug or self.kind is Kind.STILL else HEISENBUG


@dataclass(frozen=True, slots=True)
class Change:
    """A version, or another fact of the machine or of nsvm, in both runs."""

    what: str
    before: str
    now: str

    @property
    def differs(self) -> bool:
        return self.before != self.now


@dataclass(slots=True)
class TargetComparison:
    """One target in two runs. `cells` are in the order of clause and test."""

    before: str
    now: str
    cells: list[Cell] = field(default_factory=list)
    compared: int = 0
    """Tests that both runs answered."""
    asked: int = 0
    """Tests that the run before answered."""
    changes: list[Change] = field(default_factory=list)
    bits_lost: list[str] = field(default_factory=list)
    bits_won: list[str] = field(default_factory=list)
    part_before: str = ""
    """Which part of the suites the run before was; "" of all of them. So with `part_now`."""
    part_now: str = ""
    otherwise: bool = False
    """Whether the machine now is another by the user's own wish (`--without`, `--cpu`): what it lacks is no loss."""
    clauses_unasked: list[str] = field(default_factory=list)
    """Clauses that tests answered before, and none now."""

    @property
    def name(self) -> str:
        return self.now if self.before == self.now else f"{self.now} (before: {self.before})"

    def of(self, *kinds: Kind) -> list[Cell]:
        """The cells of these kinds."""
        return [cell for cell in self.cells if cell.kind in kinds]

    @property
    def by_test(self) -> Counter[Kind]:
        """How many tests are of each kind, each with the worst that it says."""
        worst: dict[str, Kind] = {}
        for cell in self.cells:
            if cell.kind.rank < worst.get(cell.test, Kind.STILL).rank or cell.test not in worst:
                worst[cell.test] = cell.kind
        return Counter(worst.values())

    def is_regression(self, cell: Cell) -> bool:
        """Whether it is worse than before: deviates and did not (and not by chance, as the baseline knows), is no
        longer asked, or deviates in a way that the baseline does not know.
        """
        match cell.kind:
            case Kind.REGRESSED:
                return not (cell.known and cell.heisenbug)
            case Kind.NEVER_PASSED | Kind.OTHER:
                return not cell.known
            case Kind.NOT_ASKED:
                return not self.otherwise
        return False

    @property
    def regressions(self) -> list[Cell]:
        return [cell for cell in self.cells if self.is_regression(cell)]

    @property
    def worse(self) -> bool:
        """Whether something is worse than before."""
        return bool(self.regressions or (self.bits_lost and not self.otherwise))

    @property
    def sentence(self) -> str:
        """The comparison in one sentence, without a full stop."""
        told = [f"{number} {kind.value}" for kind in Kind if (number := self.by_test[kind]) and kind is not Kind.STILL]
        told = told or ["nothing is worse, nothing is mended"]
        told += [f"{number} {Kind.STILL.value}"] if (number := self.by_test[Kind.STILL]) else []
        told += [f"bits lost: {', '.join(self.bits_lost)}"] if self.bits_lost else []
        told += [f"bits won: {', '.join(self.bits_won)}"] if self.bits_won else []
        parts = [f"{which} is a part: {text}" for which, text in (("before", self.part_before), ("now", self.part_now))
                 if text]  # fmt: skip
        compared = f"{self.compared} of {self.asked} tests compared"
        return f"{self.name}: {', '.join(told)}; {'; '.join([compared, *parts])}"


@dataclass(slots=True)
class Comparison:
    """Two whole runs. `before` and `now` are what a person calls them."""

    before: str
    now: str
    started_before: str = ""
    started_now: str = ""
    targets: list[TargetComparison] = field(default_factory=list)
    targets_gone: list[str] = field(default_factory=list)
    """Targets that only the run before has."""
    targets_added: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def worse(self) -> bool:
        """Whether there is a regression."""
        return any(target.worse for target in self.targets) or bool(self.targets_gone)

    @property
    def lost(self) -> bool:
        """Whether something has no verdict now, or nothing could be compared."""
        return not any(t.compared for t in self.targets) or any(t.of(Kind.LOST) for t in self.targets)

    @property
    def in_part(self) -> bool:
        """Whether one of the runs was of less than all suites, or on a machine made another."""
        return any(target.part_before or target.part_now for target in self.targets)

    @property
    def status(self) -> str:
        """The verdict in a few words, for a badge. A part does not look like the whole."""
        told = "worse than before" if self.worse else "not conclusive" if self.lost else "not worse than before"
        return f"{told}, in part" if self.in_part else told

    @property
    def sentence(self) -> str:
        """The comparison in one sentence for each target, without a full stop."""
        told = [target.sentence for target in self.targets] or ["no target is in both runs"]
        told += [f"{name}: no longer asked at all" for name in self.targets_gone]
        return ". ".join(told)
