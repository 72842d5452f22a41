"""Shows that every test can fail: `python -m harness.sensitivity ANSWERS...` (docs/commands.md, *nsvm sensitivity*).

No target is needed. Each recorded test is called with the answers it got, which it must accept, and then with one
answer altered at a time. A test that accepts every alteration checks nothing and is named; so is an assert that
stays true whatever is altered.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import rehearsal
from harness.asm import Assembler
from harness.asserts import Assert, asserts_of, callees
from harness.clauses import load_clauses
from harness.cli.sensitivity import add_arguments
from harness.replay import UNIVERSAL_CHECKS, AnswersError, Recorded, read_answers
from harness.trial import (
    BY_HELPER,
    NOTHING,
    NOTICES,
    RANKS,
    SEEN,
    SKIPPED,
    SURVIVES,
    UNREPLAYABLE,
    Finding,
    Place,
    Trial,
)

ROOT = Path(__file__).resolve().parent.parent
TRIES_MAX = 12  # tests asked for an assert that no lie has failed yet
SHOWN_MAX = 40


@dataclass(frozen=True)
class Job:
    """One test to be tried. `until` is an assert that has to fail, `if_reached` if only the test comes by it at all."""

    number: int
    item: pytest.Function
    recorded: Recorded
    survive: bool
    full: bool
    until: Assert | None = None
    if_reached: bool = False


@dataclass
class Report:
    """What all trials together have shown. `tests` has each test once: its best finding on any target."""

    tests: dict[str, Finding] = field(default_factory=dict)
    replays: int = 0
    broke: int = 0
    seconds: float = 0.0
    universal: Counter[str] = field(default_factory=Counter)
    lied: Counter[str] = field(default_factory=Counter)
    noticed: Counter[str] = field(default_factory=Counter)
    by_universal: Counter[str] = field(default_factory=Counter)
    places: set[Place] = field(default_factory=set)
    asserts: list[Assert] = field(default_factory=list)
    idle: list[Assert] = field(default_factory=list)  # reached, and true whatever is altered
    unreached: list[Assert] = field(default_factory=list)  # behind something that the targets deviate in, mostly
    gone: list[str] = field(default_factory=list)  # recorded tests that are not in the suites any more
    full: bool = False

    def add(self, finding: Finding) -> None:
        """Counts one test's finding."""
        self.count(finding)
        known = self.tests.get(finding.test)
        if known is None or RANKS.index(finding.state) < RANKS.index(known.state):
            self.tests[finding.test] = finding
        self.lied.update(finding.lied)
        self.noticed.update(finding.noticed)
        self.by_universal.update(finding.by_universal)

    def count(self, finding: Finding) -> None:
        """Counts replays, and what was seen failing."""
        self.replays += finding.replays
        self.broke += finding.broke
        self.universal.update(finding.universal)
        self.places |= finding.places

    def named(self, state: str) -> list[Finding]:
        """The tests in that state."""
        return [finding for finding in self.tests.values() if finding.state == state]

    @property
    def silent_checks(self) -> list[str]:
        """Universal checks that no lie has made fail."""
        return [clause for clause in UNIVERSAL_CHECKS if not self.universal[clause]]

    @property
    def unnoticed(self) -> list[str]:
        """What neither a test nor a universal check notices."""
        return sorted(what for what in self.lied if not self.noticed[what] and not self.by_universal[what])

    @property
    def exit_status(self) -> int:
        """0 if every test, every assert that was reached and every universal check can fail."""
        return 1 if self.named(NOTHING) or self.named(UNREPLAYABLE) or self.silent_checks or self.idle else 0


class _Collector:
    """A pytest plugin that keeps the tests that pytest finds."""

    def __init__(self) -> None:
        self.items: list[pytest.Function] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.items = [item for item in items if isinstance(item, pytest.Function)]


def collect(root: Path) -> dict[str, pytest.Function]:
    """The tests of the suites below `root`, by node id. Raises AnswersError if they cannot be collected."""
    collector = _Collector()
    heard = io.StringIO()
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "--rootdir", str(root)]
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        status = pytest.main([str(root / "suites"), *options], plugins=[collector])
    if status != pytest.ExitCode.OK:
        lines = [line for line in heard.getvalue().splitlines() if line.startswith(("ERROR", "E "))] or ["no tests"]
        raise AnswersError(f"the suites cannot be collected: {lines[0].removeprefix('ERROR: ')[:300]}")
    return {item.nodeid: item for item in collector.items}


class Trials:
    """All trials, on several processes. They are forked, so that what was collected need not be sent to them."""

    def __init__(self, root: Path, processes: int) -> None:
        self._root = root
        self._processes = processes
        self._assembler = Assembler(root / ".nsvm" / "cache" / "asm")
        self._clauses = load_clauses(root / "suites")
        self._items = collect(root)

    def run(self, recordings: Sequence[Recorded], *, full: bool) -> Report:
        """Tries every recorded test, then the asserts that none of them has shown failing."""
        started = time.monotonic()
        report = Report(full=full, gone=[r.test for r in recordings if r.test not in self._items])
        there = [r for r in recordings if r.test in self._items]
        rehearsal.rehearse([self._items[r.test] for r in there], self._assembler)
        jobs = [self._job(number, recorded, full) for number, recorded in enumerate(there)]
        for finding in self._map(jobs):
            report.add(finding)
        live = [r for r in there if report.tests[r.test].state not in (SKIPPED, UNREPLAYABLE)]
        self._try_asserts(report, live)
        report.seconds = time.monotonic() - started
        return report

    def _try_asserts(self, report: Report, recordings: Sequence[Recorded]) -> None:
        """Looks for a test and a lie for each assert that has not been seen failing."""
        may_call = {name: callees(self._items[name].function) for name in {r.test for r in recordings}}
        called = {(name.partition("::")[0], function) for name, those in may_call.items() for function in those}
        found = asserts_of(self._root, (name.partition("::")[0] for name in may_call))
        report.asserts = [one for one in found if (one.path, one.function) in called]
        reached: set[Assert | None] = set()
        for rest in (False, True):  # some tests of each; then, where these do not come by it, all that do
            jobs = []
            for one in _unshown(report.asserts, report.places):
                fits = [r for r in recordings if r.test.startswith(one.path) and one.function in may_call[r.test]]
                if not rest:
                    fits = fits[:: max(1, -(-len(fits) // TRIES_MAX))]
                if one not in reached:
                    jobs += [self._job(0, recorded, False, one, rest) for recorded in fits]
            for finding in self._map(jobs):
                report.count(finding)
                reached.add(finding.reached)
        left = _unshown(report.asserts, report.places)
        report.idle = [one for one in left if one in reached]
        report.unreached = [one for one in left if one not in reached]

    def _job(
        self, number: int, recorded: Recorded, full: bool, until: Assert | None = None, if_reached: bool = False
    ) -> Job:
        item = self._items[recorded.test]
        names = [str(name) for mark in item.iter_markers("clause") for name in mark.args]
        survive = any(name in self._clauses and self._clauses[name].class_ == "survive" for name in names[:1])
        return Job(number, item, recorded, survive, full, until, if_reached)

    def _map(self, jobs: list[Job]) -> Iterable[Finding]:
        global _jobs, _context
        _jobs, _context = jobs, (self._assembler, self._root)
        if self._processes == 1 or len(jobs) < 2:
            yield from map(_try, range(len(jobs)))
            return
        with multiprocessing.get_context("fork").Pool(self._processes) as pool:
            yield from pool.imap_unordered(_try, range(len(jobs)), chunksize=4)


_jobs: list[Job] = []
_context: tuple[Assembler, Path]


def _try(number: int) -> Finding:
    job = _jobs[number]
    assembler, root = _context
    trial = Trial(job.item, job.recorded, assembler, root)
    return trial.run(survive=job.survive, number=job.number, full=job.full, until=job.until, if_reached=job.if_reached)


def _unshown(asserts: Iterable[Assert], places: Iterable[Place]) -> list[Assert]:
    known = list(places)
    return [one for one in asserts if not any(one.holds(path, line) for path, line in known)]


def render(report: Report) -> str:
    """The report as text."""
    lines = []
    for state, title in (
        (NOTHING, "TESTS THAT NOTICE NOTHING"),
        (UNREPLAYABLE, "tests that cannot be replayed"),
        (SURVIVES, "tests that notice only that the target is lost; their clauses ask for no more"),
    ):
        lines += _listed(title, [f"{f.test}" + (f": {f.reason}" if f.reason else "") for f in report.named(state)])
    lines += _listed("recorded tests that the suites do not have", report.gone)
    lines += _listed("ASSERTS THAT NO ALTERATION MAKES FAIL", list(map(str, report.idle)))
    title = "asserts that no replay reaches, because these targets deviate before"
    lines += _listed(title, list(map(str, report.unreached)))
    if report.full:
        lines += _table(report)
    lines.append("universal checks, and how many alterations made each fail:")
    for clause in UNIVERSAL_CHECKS:
        count = report.universal[clause]
        lines.append(f"  {count:7}  {clause}{'' if count else '   NONE'}")
    states = Counter(finding.state for finding in report.tests.values())
    lines.append(
        f"{len(report.tests)} tests: {states[NOTICES]} notice an alteration, {states[BY_HELPER]} by a helper's assert; "
        f"{states[SEEN]} were seen failing on the target; {states[SURVIVES]} notice only the loss of the target; "
        f"{states[NOTHING]} notice nothing; {states[UNREPLAYABLE]} cannot be replayed; "
        f"{states[SKIPPED]} were skipped on the target and are not judged"
    )
    lines.append(
        f"{len(report.asserts)} asserts: {len(report.idle)} cannot fail, {len(report.unreached)} were not reached, "
        "the others were seen failing"
    )
    lines.append(f"{report.replays} replays in {report.seconds:.1f} s, {report.broke} broke off")
    return "\n".join(lines)


def _table(report: Report) -> list[str]:
    lines = ["altered, and how many tests had it, noticed it, and had it noticed by a universal check:"]
    for what in sorted(report.lied):
        lines.append(
            f"  {report.lied[what]:6} {report.noticed[what]:6} {report.by_universal[what]:6}  {what}"
            + ("   NOTICED BY NONE" if what in report.unnoticed else "")
        )
    return lines + _listed(
        "altered, and noticed by no test and no universal check", report.unnoticed, len(report.unnoticed)
    )


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
        "asserts_that_cannot_fail": list(map(str, report.idle)),
        "asserts_not_reached": list(map(str, report.unreached)),
        "universal": {clause: report.universal[clause] for clause in UNIVERSAL_CHECKS},
        "fields": {
            what: [report.lied[what], report.noticed[what], report.by_universal[what]] for what in sorted(report.lied)
        },
        "fields_noticed_by_none": report.unnoticed if report.full else None,
        "gone": report.gone,
        "replays": report.replays,
        "broke": report.broke,
        "seconds": round(report.seconds, 1),
        "exit_status": report.exit_status,
    }


def judge(paths: Sequence[Path], *, root: Path, processes: int, full: bool, as_data: bool) -> int:
    """Reads answers, tries the tests, prints the report; the exit status. Raises AnswersError."""
    recordings = [recorded for path in paths for recorded in read_answers(path)]
    if not recordings:
        raise AnswersError(f"{', '.join(map(str, paths))}: no answers; record them with pytest --nsvm-answers")
    report = Trials(root, max(1, processes)).run(recordings, full=full)
    print(json.dumps(as_json(report), indent=1) if as_data else render(report))
    return report.exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m harness.sensitivity`."""
    parser = argparse.ArgumentParser(prog="python -m harness.sensitivity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("answers", nargs="+", type=Path, metavar="ANSWERS", help="what pytest --nsvm-answers wrote")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return judge(
            args.answers, root=args.root.resolve(), processes=args.processes, full=args.full, as_data=args.json
        )
    except AnswersError as error:
        print(f"nsvm: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
