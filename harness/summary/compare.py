"""Two runs side by side: where both deviate alike, where they differ, where one only deviates. Pure.

Made for an L0 inside an emulated machine: what deviates in the same way on the outer machine itself comes from the
emulator; what deviates only inside comes from the L0, or from the two together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from harness.record import BAD_VERDICTS, Result


class Kind(Enum):
    """How one clause of one test stands in two runs."""

    SAME = "both deviate, with the same answer"
    OTHER = "both deviate, with different answers"
    LEFT_ONLY = "deviates in the first only"
    RIGHT_ONLY = "deviates in the second only"
    NOT_ASKED = "deviates in the first; the second did not answer it"
    NOT_ASKED_LEFT = "deviates in the second; the first did not answer it"


@dataclass(frozen=True)
class Cell:
    """One clause of one test that deviates in at least one run. Reasons are the first difference seen."""

    test: str
    kind: Kind
    left: str
    right: str


@dataclass
class ClauseDifference:
    """The deviating tests of a clause."""

    clause: str
    cells: list[Cell] = field(default_factory=list)

    def of(self, kind: Kind) -> list[Cell]:
        """The cells of one kind."""
        return [cell for cell in self.cells if cell.kind is kind]


def compare_runs(left: Iterable[Result], right: Iterable[Result]) -> list[ClauseDifference]:
    """Every clause that deviates in at least one of two runs, by its name."""
    first, second = _judged(left), _judged(right)
    ran = _ran(first), _ran(second)
    found: dict[str, ClauseDifference] = {}
    for test, clause in sorted({**first, **second}):
        ours, theirs = first.get((test, clause)), second.get((test, clause))
        # A universal check is written down only where it fired: a test that ran without it has passed it.
        passed = ("PASS", "")
        ours = ours or (passed if test in ran[0] else None)
        theirs = theirs or (passed if test in ran[1] else None)
        kind = _kind(ours, theirs)
        if kind is not None:
            cell = Cell(test, kind, _said(ours), _said(theirs))
            found.setdefault(clause, ClauseDifference(clause)).cells.append(cell)
    return [found[clause] for clause in sorted(found)]


_Judged = dict[tuple[str, str], tuple[str, str]]


def _judged(results: Iterable[Result]) -> _Judged:
    """(test, clause) -> (verdict, reason)."""
    judged: _Judged = {}
    for result in results:
        for check in result.checks:
            judged[result.test, check.clause] = (check.verdict, check.summary or result.reason)
        for clause in result.clauses:
            judged.setdefault((result.test, clause), (result.verdict, result.reason))
    return judged


def _ran(judged: _Judged) -> set[str]:
    """The tests that came to an answer."""
    return {test for (test, _), (verdict, _) in judged.items() if verdict in ("PASS", *BAD_VERDICTS)}


def _kind(ours: tuple[str, str] | None, theirs: tuple[str, str] | None) -> Kind | None:
    left = ours is not None and ours[0] in BAD_VERDICTS
    right = theirs is not None and theirs[0] in BAD_VERDICTS
    if left and right:
        return Kind.SAME if ours == theirs else Kind.OTHER
    if left:
        return Kind.LEFT_ONLY if theirs is not None and theirs[0] == "PASS" else Kind.NOT_ASKED
    if right:
        return Kind.RIGHT_ONLY if ours is not None and ours[0] == "PASS" else Kind.NOT_ASKED_LEFT
    return None


def _said(judged: tuple[str, str] | None) -> str:
    return "not run" if judged is None else f"{judged[0]}{': ' + judged[1] if judged[1] else ''}"
