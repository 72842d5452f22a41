"""What all trials of `nsvm sensitivity` together have shown: what counts as a defect, as text, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.sensitivity.asserts import Assert
from harness.sensitivity.replay import UNIVERSAL_CHECKS
from harness.sensitivity.trial import (
    BY_HELPER,
    NOTHING,
    NOTICES,
    RANKS,
    SEEN,
    SKIPPED,
    SURVIVES,
    UNREPLAYABLE,
    Place,
    TrialResult,
)

SHOWN_MAX = 40

# Where an assert stands that nothing has failed: IDLE if an honest replay comes by it, else the first of the others
# that is true of it. IDLE and NEVER are defects.
IDLE = "ASSERTS THAT NO ALTERATION MAKES FAIL"
DEVIATES = "asserts not reached; a test that may come by them deviates before, as a baseline knows"
NOT_REPLAYED = "asserts not reached; a test that may come by them was skipped, has no answers, or cannot be replayed"
ANOTHER_CPUID = "asserts not reached; they are behind a question about CPUID that these targets answer otherwise"
NEVER = "ASSERTS THAT NEVER RUN"
EXCUSED = (DEVIATES, NOT_REPLAYED, ANOTHER_CPUID)


@dataclass
class Report:
    """What all trials together have shown. `tests` has each test once: its best finding on any target."""

    tests: dict[str, TrialResult] = field(default_factory=dict)
    replays: int = 0
    broke: int = 0
    seconds: float = 0.0
    universal: Counter[str] = field(default_factory=Counter)
    lied: Counter[str] = field(default_factory=Counter)
    noticed: Counter[str] = field(default_factory=Counter)
    by_universal: Counter[str] = field(default_factory=Counter)
    places: set[Place] = field(default_factory=set)
    asserts: list[Assert] = field(default_factory=list)
    standing: dict[str, list[Assert]] = field(default_factory=dict)  # of the asserts that nothing has failed
    reached: dict[Assert, set[str]] = field(default_factory=dict)  # the tests whose honest replay comes by an assert
    askers: dict[str, set[str]] = field(default_factory=dict)  # those that give a universal check something to judge
    seen: set[str] = field(default_factory=set)  # those that were seen failing on a target
    gone: list[str] = field(default_factory=list)  # recorded tests that are not in the suites any more
    unrecorded: dict[str, str] = field(default_factory=dict)  # tests of the suites without answers, and why
    full: bool = False

    def add(self, finding: TrialResult) -> None:
        """Counts one test's finding."""
        self.count(finding)
        known = self.tests.get(finding.test)
        if known is None or RANKS.index(finding.state) < RANKS.index(known.state):
            self.tests[finding.test] = finding
        self.lied.update(finding.lied)
        self.noticed.update(finding.noticed)
        self.by_universal.update(finding.by_universal)
        for one in finding.reached:
            self.reached.setdefault(one, set()).add(finding.test)
        for clause in finding.asked:
            self.askers.setdefault(clause, set()).add(finding.test)
        if finding.state == SEEN:
            self.seen.add(finding.test)

    def count(self, finding: TrialResult) -> None:
        """Counts replays, and what was seen failing."""
        self.replays += finding.replays
        self.broke += finding.broke
        self.universal.update(finding.universal)
        self.places |= finding.places

    def named(self, state: str) -> list[TrialResult]:
        """The tests in that state."""
        return [finding for finding in self.tests.values() if finding.state == state]

    def left(self, standing: str) -> list[Assert]:
        """The asserts that stand there."""
        return self.standing.get(standing, [])

    @property
    def silent_checks(self) -> list[str]:
        """Universal checks that no lie has made fail, though they were asked, or every test was there to ask them."""
        silent = [clause for clause in UNIVERSAL_CHECKS if not self.universal[clause]]
        return [clause for clause in silent if clause in self.askers or not self.unrecorded]

    @property
    def unnoticed(self) -> list[str]:
        """What neither a test nor a universal check notices."""
        return sorted(what for what in self.lied if not self.noticed[what] and not self.by_universal[what])

    @property
    def exit_status(self) -> int:
        """0 if all tests, asserts and universal checks that could be judged can fail, and the answers are of today."""
        tests = [*self.named(NOTHING), *self.named(UNREPLAYABLE)]
        return 1 if tests or self.silent_checks or self.left(IDLE) or self.left(NEVER) or self.gone else 0


def render(report: Report) -> str:
    """The report as text."""
    lines = []
    for state, title in (
        (NOTHING, "TESTS THAT NOTICE NOTHING"),
        (UNREPLAYABLE, "tests that cannot be replayed"),
        (SURVIVES, "tests that notice only that the target is lost; their clauses ask for no more"),
    ):
        lines += _listed(title, _with_reasons((f.test, f.reason) for f in report.named(state)))
    lines += _listed("RECORDED TESTS THAT THE SUITES DO NOT HAVE; record them again", report.gone)
    lines += _listed("tests without answers, not judged", _with_reasons(report.unrecorded.items()))
    for standing in (IDLE, NEVER, *EXCUSED):
        lines += _listed(standing, list(map(str, report.left(standing))))
    if report.full:
        lines += _table(report)
    lines.append("universal checks, and how many alterations made each fail:")
    for clause in UNIVERSAL_CHECKS:
        count, silent = report.universal[clause], clause in report.silent_checks
        lines.append(f"  {count:7}  {clause}{'' if count else '   NONE' if silent else '   not judged: no occasion'}")
    states = Counter(finding.state for finding in report.tests.values())
    lines.append(
        f"{len(report.tests)} tests: {states[NOTICES]} notice an alteration, {states[BY_HELPER]} by a helper's assert; "
        f"{states[SEEN]} were seen failing on the target; {states[SURVIVES]} notice only the loss of the target; "
        f"{states[NOTHING]} notice nothing; {states[UNREPLAYABLE]} cannot be replayed; "
        f"{states[SKIPPED]} were skipped on the target and are not judged; {len(report.unrecorded)} have no answers"
    )
    excused = sum(len(report.left(standing)) for standing in EXCUSED)
    lines.append(
        f"{len(report.asserts)} asserts: {len(report.left(IDLE))} cannot fail, {len(report.left(NEVER))} never run, "
        f"{excused} were not reached, the others were seen failing"
    )
    lines.append(f"{report.replays} replays in {report.seconds:.1f} s, {report.broke} broke off")
    return "\n".join(lines)


def _table(report: Report) -> list[str]:
    lines = ["altered, and in how many tests' answers, how many noticed it, in how many a universal check did:"]
    for what in sorted(report.lied):
        lines.append(
            f"  {report.lied[what]:6} {report.noticed[what]:6} {report.by_universal[what]:6}  {what}"
            + ("   NOTICED BY NONE" if what in report.unnoticed else "")
        )
    return lines + _listed(
        "altered, and noticed by no test and no universal check", report.unnoticed, len(report.unnoticed)
    )


def _with_reasons(named: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name}: {reason}" if reason else name for name, reason in named]


def _listed(title: str, names: Sequence[str], shown_max: int = SHOWN_MAX) -> list[str]:
    if not names:
        return []
    more = [f"  and {len(names) - shown_max} more (--json names all)"] if len(names) > shown_max else []
    return [f"{title}: {len(names)}", *(f"  {name}" for name in names[:shown_max]), *more]


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON-safe data."""
    return {
        "tests": {
            f.test: {"state": f.state, "target": f.target, "reason": f.reason, "noticed": sorted(f.noticed)}
            for f in report.tests.values()
        },
        "notice_nothing": [f.test for f in report.named(NOTHING)],
        "not_replayable": {f.test: f.reason for f in report.named(UNREPLAYABLE)},
        "asserts": len(report.asserts),
        "asserts_that_cannot_fail": list(map(str, report.left(IDLE))),
        "asserts_that_never_run": list(map(str, report.left(NEVER))),
        "asserts_not_reached": {why: list(map(str, report.left(why))) for why in EXCUSED if report.left(why)},
        "universal": {clause: report.universal[clause] for clause in UNIVERSAL_CHECKS},
        "fields": {
            what: [report.lied[what], report.noticed[what], report.by_universal[what]] for what in sorted(report.lied)
        },
        "fields_noticed_by_none": report.unnoticed if report.full else None,
        "gone": report.gone,
        "without_answers": report.unrecorded,
        "replays": report.replays,
        "broke": report.broke,
        "seconds": round(report.seconds, 1),
        "exit_status": report.exit_status,
    }
