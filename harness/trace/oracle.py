"""What a replayed trace says as the oracle: the clauses it contradicts, and what it settles of what is left open."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.record import Result, Run
from harness.trace.file import Trace

DEVIATES = ("FAIL", "CRASH", "HANG")


@dataclass
class Contradicted:
    """A clause that answers contradict. `first` is what came, of the first test; `new`: no baseline names it."""

    clause: str
    first: str
    tests: int = 0
    new: bool = False


@dataclass
class Settled:
    """A comparison with any of several values, and how often which of them came."""

    clause: str
    row: str
    allowed: str
    came: Counter[str] = field(default_factory=Counter)


@dataclass
class Oracle:
    """What one replay has shown. `otherwise`: tests whose verdict is not the one that they were recorded with."""

    agrees: list[str] = field(default_factory=list)
    contradicted: list[Contradicted] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    otherwise: list[tuple[str, str, str]] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)


def judge(trace: Trace, run: Run, settled: Mapping[str, list[tuple[str, str, str]]]) -> Oracle:
    """What the replay came to. `settled` is by test, as `read_settled` gives it."""
    found: dict[str, Contradicted] = {}
    agrees: dict[str, None] = {}
    oracle = Oracle()
    for result in run.results:
        for check in result.checks:
            if check.verdict == "PASS":
                agrees[check.clause] = None
            if check.verdict not in DEVIATES:
                continue
            one = found.setdefault(check.clause, Contradicted(check.clause, check.summary or result.reason))
            one.tests += 1
            if check.news == "new" and not one.new:
                one.new, one.first = True, check.summary or result.reason
        entry = trace.entries.get(result.test)
        if entry is not None and result.verdict != entry.verdict:
            if result.verdict == "SKIP":
                oracle.unanswered.append(result.test)
            else:
                oracle.otherwise.append((result.test, entry.verdict, result.verdict))
    oracle.contradicted = sorted(found.values(), key=lambda one: (not one.new, one.clause))
    oracle.agrees = [clause for clause in agrees if clause not in found]
    oracle.settled = _sum(run.results, settled)
    return oracle


def differing(left: Iterable[Result], right: Iterable[Result]) -> list[tuple[str, str, Result, Result]]:
    """The clauses of tests that two replays judge differently, each with both results."""
    others = {result.test: result for result in right}
    found = []
    for ours in left:
        theirs = others.get(ours.test)
        if theirs is None or "SKIP" in (ours.verdict, theirs.verdict):
            continue
        first, second = _said(ours), _said(theirs)
        for clause in sorted(first.keys() | second.keys()):
            if first.get(clause) != second.get(clause):
                found.append((ours.test, clause, ours, theirs))
    return found


def named(test_clause: str, result: Result) -> bool:
    """Whether a baseline names what this result has of the clause, or there is nothing to name."""
    return all(check.news not in ("new", "mended") for check in result.checks if check.clause == test_clause)


def read_settled(path: Path) -> dict[str, list[tuple[str, str, str]]]:
    """The file that a replay leaves in its folder, by test; no file is none."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            told = json.loads(line)
            found[told["test"]] = [(row, allowed, came) for row, allowed, came in told["settled"]]
    return found


def _said(result: Result) -> dict[str, tuple[str, object]]:
    """What deviates in it, by clause, with what came."""
    return {
        check.clause: (check.verdict, [(row.name, row.got) for row in check.rows] or check.summary)
        for check in result.checks
        if check.verdict in DEVIATES
    }


def _sum(results: Iterable[Result], settled: Mapping[str, list[tuple[str, str, str]]]) -> list[Settled]:
    sums: dict[tuple[str, str, str], Settled] = {}
    for result in results:
        clause = result.clauses[0] if result.clauses else ""
        for row, allowed, came in settled.get(result.test, []):
            sums.setdefault((clause, row, allowed), Settled(clause, row, allowed)).came[came] += 1
    return [sums[key] for key in sorted(sums)]
