"""How a test's function ended, as an attempt: a lost target, an assert that failed, and what it says in one line."""

from __future__ import annotations

from harness.guest.l1 import L1
from harness.judge.comparisons import HARNESS, Comparisons
from harness.judge.expect import Match, Row
from harness.judge.verdict import Attempt
from harness.link.session import TargetLost


def of_lost(lost: TargetLost, l1: L1) -> Attempt:
    """The target was lost."""
    # A target that was not there has not deviated: what an attempt before this one saw is not laid to it.
    seen = {} if lost.verdict == "MISS" else dict(l1.universal)
    return Attempt(lost.verdict, lost.reason, frames=lost.frames, log=lost.log, error=lost, universal=seen)


def of_assertion(error: AssertionError, comparisons: Comparisons) -> Attempt:
    """An assert failed: with the rows of the comparisons that it made."""
    place, matches, held = comparisons.of_failure(error)
    if place is not None and place.path.startswith(HARNESS):
        return Attempt("ERROR", f"an assert of the harness failed at {place.path}:{place.line}", error=error)
    if not matches:
        return Attempt("FAIL", one_line(error), place=place, error=error)
    title = matches[-1].title
    if held:
        mismatch = Match(title, [Row("the comparison", "does not hold", "holds", "", False), *matches[-1].rows])
    else:
        mismatch = Match(title, [row for match in matches for row in match.rows])
    return Attempt("FAIL", _first_bad_row(mismatch), mismatch, place, error=error)


def _first_bad_row(mismatch: Match) -> str:
    bad = next((row for row in mismatch.rows if not row.ok), None)
    return f"{bad.name}: expected {bad.expected}, got {bad.got}" if bad else mismatch.title


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
