"""Many runs over time: what each target said of each clause, who broke when, and the targets beside each other. Pure.

Only runs of all the suites are compared with each other; a part has its point, and says that it is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from harness.record import Verdict
from harness.summary.whole import Summary

JUDGED = ("PASS", "FAIL", "CRASH", "HANG")


@dataclass(frozen=True, slots=True)
class Point:
    """One target in one run."""

    run: str
    started: str
    target: str
    version: str
    part: str
    counts: Mapping[str, int]
    """Tests by category, and `tests`."""
    clauses: Mapping[str, str]
    """The verdict of each clause that has one."""
    unfinished: bool = False

    @property
    def whole(self) -> bool:
        return not (self.part or self.unfinished)


@dataclass(frozen=True, slots=True)
class Change:
    """A clause that a target judged otherwise than in the whole run before."""

    clause: str
    target: str
    before: Point
    now: Point
    was: str
    verdict: str

    @property
    def broke(self) -> bool:
        """Whether it passed before."""
        return self.was == "PASS" and self.verdict != "PASS"

    @property
    def word(self) -> str:
        """broke, mended, no longer asked, or another verdict."""
        if self.verdict == "SKIP":
            return "no longer asked"
        return "broke" if self.broke else "mended" if self.verdict == "PASS" else "another verdict"


@dataclass(slots=True)
class Trend:
    """All of them. `points` are by target, each in the order of time."""

    points: dict[str, list[Point]] = field(default_factory=dict)

    @property
    def latest(self) -> dict[str, Point]:
        """The newest whole run of each target, or the newest."""
        found = {}
        for name, points in self.points.items():
            whole = [point for point in points if point.whole]
            found[name] = (whole or points)[-1]
        return found

    @property
    def changes(self) -> list[Change]:
        """What changed from whole run to whole run, the newest first."""
        found = []
        for name, points in self.points.items():
            whole = [point for point in points if point.whole]
            for before, now in pairwise(whole):
                for clause, verdict in now.clauses.items():
                    was = before.clauses.get(clause, "")
                    asked = was in JUDGED and (verdict in JUDGED or verdict == "SKIP")
                    if asked and was != verdict:
                        found.append(Change(clause, name, before, now, was, verdict))
        return sorted(found, key=lambda c: (c.now.started, c.broke), reverse=True)

    @property
    def clauses(self) -> list[str]:
        """The clauses on which the newest runs do not all agree, or that deviate somewhere."""
        latest = self.latest.values()
        names = sorted({clause for point in latest for clause in point.clauses})
        return [name for name in names if any(p.clauses.get(name, "PASS") not in ("PASS", "SKIP") for p in latest)]


def points_of(summary: Summary, run: str) -> list[Point]:
    """A point for each target of a run."""
    start = summary.run.start
    points = []
    for target in summary.targets:
        verdicts: dict[str, Verdict] = {
            id_: verdict for id_, clause in summary.clauses.items() if (verdict := clause.verdict(target.name))
        }
        tally = target.tally
        names = ("tests", "new", "mended", "known", "lost", "passed", "skipped")
        points.append(
            Point(
                run=run,
                started=start.started if start else "",
                target=target.name,
                version=next((m.info.version for m in target.machines if m.info.version), ""),
                part=target.part,
                counts={name: int(getattr(tally, name)) for name in names},
                clauses=verdicts,
                unfinished=summary.unfinished,
            )
        )
    return points


def trend_of(points: Iterable[Point]) -> Trend:
    """By target and time."""
    trend = Trend()
    for point in sorted(points, key=lambda p: (p.started, p.run)):
        trend.points.setdefault(point.target, []).append(point)
    return trend
