"""Shows that every test can fail (docs/commands.md, *nsvm sensitivity*).

No target is needed. Each recorded test is called with the answers it got, which it must accept, and then with one
answer altered at a time. A test that accepts every alteration checks nothing and is named; so is an assert that
stays true whatever is altered, or that nothing comes by.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import TypeVar

import pytest

from harness.home import state_of
from harness.judge.clauses import load_clauses
from harness.run import rehearsal
from harness.scenario.asm import Assembler
from harness.sensitivity.asserts import Assert, Lines, asserts_of, by_line, callees
from harness.sensitivity.lies import UNIVERSAL_LIES
from harness.sensitivity.report import ANOTHER_CPUID, DEVIATES, IDLE, NEVER, NOT_REPLAYED, Report, as_json, render
from harness.sensitivity.trial import SKIPPED, UNREPLAYABLE, Place, Trial, TrialResult
from harness.trace.answers import AnswersError, Recorded, read_answers

TRIES_MAX = 12  # tests that are asked first for what nothing has failed yet
CHUNK = 4  # jobs that a process takes at once
PR_SET_PDEATHSIG = 1  # prctl(2)
T = TypeVar("T")


class WorkerDied(Exception):
    """A process that tried tests ended before it was done; the text is one line for a person."""


@dataclass(frozen=True)
class Job:
    """One test to be tried, and how; see Trial.run."""

    item: pytest.Function
    recorded: Recorded
    survive: bool
    full: bool
    ask: Sequence[str]
    until: Assert | None


class _Collector:
    """A pytest plugin that keeps the tests that pytest finds."""

    def __init__(self) -> None:
        self.items: list[pytest.Function] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.items = [item for item in items if isinstance(item, pytest.Function)]


def collect(root: Path) -> dict[str, pytest.Function]:
    """The tests of the suites below `root`, by node id. Raises AnswersError if they cannot be collected."""
    os.environ.pop("PYTEST_ADDOPTS", None)  # the user's own runs are meant, as with every pytest that a command starts
    collector = _Collector()
    heard = io.StringIO()
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "--rootdir", str(root)]
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        status = pytest.main([str(root / "suites"), *options], plugins=[collector])
    if status == pytest.ExitCode.INTERRUPTED and not collector.items:
        raise KeyboardInterrupt
    if status != pytest.ExitCode.OK:
        lines = [line for line in heard.getvalue().splitlines() if line.startswith(("ERROR", "E "))] or ["no tests"]
        raise AnswersError(f"the suites cannot be collected: {lines[0].removeprefix('ERROR: ')[:300]}")
    return {item.nodeid: item for item in collector.items}


class Trials:
    """All trials, on several processes. They are forked, so that what was collected need not be sent to them."""

    def __init__(self, root: Path, processes: int) -> None:
        self._root = root
        self._processes = processes
        self._assembler = Assembler(state_of(root) / "cache" / "asm")
        self._clauses = load_clauses(root / "suites")
        self._items = collect(root)
        self._asserts = asserts_of(root)
        self._lines = by_line(root, self._asserts)

    def run(self, recordings: Sequence[Recorded], *, full: bool, why: Mapping[str, str] | None = None) -> Report:
        """Tries every recorded test, then what none of them has shown failing. `why` says why tests have no answers."""
        started = time.monotonic()
        named = {recorded.test for recorded in recordings}
        report = Report(full=full, gone=sorted(named - self._items.keys()), asserts=self._asserts)
        report.unrecorded = {test: (why or {}).get(test, "") for test in self._items if test not in named}
        there = [r for r in recordings if r.test in self._items]
        rehearsal.rehearse([self._items[r.test] for r in there], self._assembler)
        jobs = [
            self._job(recorded, full=full, ask=() if full else (UNIVERSAL_LIES[number % len(UNIVERSAL_LIES)],))
            for number, recorded in enumerate(there)
        ]
        for finding in self._map(jobs):
            report.add(finding)
        live = [r for r in there if report.tests[r.test].state not in (SKIPPED, UNREPLAYABLE)]
        self._try_checks(report, live)
        self._try_asserts(report, live)
        report.seconds = time.monotonic() - started
        return report

    def _try_checks(self, report: Report, recordings: Sequence[Recorded]) -> None:
        """Tells all lies to some of the tests that ask those universal checks which are silent so far."""
        chosen: dict[int, Recorded] = {}
        for clause in report.silent_checks:
            fits = [number for number, r in enumerate(recordings) if r.test in report.askers.get(clause, ())]
            chosen |= {number: recordings[number] for number in _sample(fits)}
        for finding in self._map([self._job(recorded, full=True) for recorded in chosen.values()]):
            report.count(finding)

    def _try_asserts(self, report: Report, recordings: Sequence[Recorded]) -> None:
        """Looks for a test and a lie for each assert that has not been seen failing, and sorts those that are left."""
        left = _unshown(report.asserts, report.places)
        callers = self._callers() if left else {}
        standing, ahead = {}, {}
        for one in left:
            by, may = report.reached.get(one, set()), callers.get((one.path, one.function), set())
            standing[one] = IDLE if by else _why_unreached(one, may, report)
            first = [r for r in recordings if r.test in (by or may)]
            ahead[one] = some = _sample(first)
            if standing[one] in (IDLE, NEVER):  # an assert is not accused before all have been tried
                rest = [r for r in recordings if r.test in by | may and r not in some]
                ahead[one] = some + sorted(rest, key=lambda r: r.test not in by)
        tries = TRIES_MAX
        while left:
            jobs = [self._job(recorded, until=one) for one in left for recorded in ahead[one][:tries]]
            for finding in self._map(jobs):
                report.count(finding)
            ahead = {one: ahead[one][tries:] for one in left}
            left = [one for one in _unshown(left, report.places) if ahead[one]]
            tries *= 4
        for one in _unshown(report.asserts, report.places):
            report.standing.setdefault(standing[one], []).append(one)

    def _callers(self) -> dict[tuple[str, str], set[str]]:
        """The tests that may call a function, by its file and name."""
        found: dict[tuple[str, str], set[str]] = {}
        for test, item in self._items.items():
            given = item.callspec.params.values() if hasattr(item, "callspec") else ()
            for function in (item.function, *(value for value in given if isinstance(value, FunctionType))):
                for file, name in callees(function, str(self._root / "suites")):
                    found.setdefault((str(Path(file).relative_to(self._root)), name), set()).add(test)
        return found

    def _job(
        self, recorded: Recorded, *, full: bool = False, ask: Sequence[str] = (), until: Assert | None = None
    ) -> Job:
        item = self._items[recorded.test]
        names = [str(name) for mark in item.iter_markers("clause") for name in mark.args]
        survive = any(name in self._clauses and self._clauses[name].class_ == "survive" for name in names[:1])
        return Job(item, recorded, survive, full, ask, until)

    def _map(self, jobs: list[Job]) -> Iterator[TrialResult]:
        """The findings, in order. Raises WorkerDied."""
        global _jobs, _context
        _jobs, _context = jobs, (self._assembler, self._root, self._lines)
        if self._processes == 1 or len(jobs) < 2:
            yield from map(_try, range(len(jobs)))
            return
        forked = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(self._processes, mp_context=forked, initializer=_begin_worker) as pool:
            try:
                yield from pool.map(_try, range(len(jobs)), chunksize=CHUNK)
            except BrokenProcessPool:
                raise WorkerDied("a process that tried tests died, perhaps for want of memory; try -n 1") from None
            except BaseException:
                for process in multiprocessing.active_children():  # or the pool waits until they are done
                    process.terminate()
                raise


_jobs: list[Job] = []
_context: tuple[Assembler, Path, Lines]


def _begin_worker() -> None:
    """Ctrl-C is the parent's to hear, and a worker does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _try(number: int) -> TrialResult:
    job = _jobs[number]
    trial = Trial(job.item, job.recorded, *_context)
    return trial.run(survive=job.survive, ask=job.ask, full=job.full, until=job.until)


def _why_unreached(one: Assert, may: set[str], report: Report) -> str:
    """How an assert stands that no honest replay comes by; `may` are the tests that may call its function."""
    if may & report.seen:
        return DEVIATES
    if any(test not in report.tests or report.tests[test].state in (SKIPPED, UNREPLAYABLE) for test in may):
        return NOT_REPLAYED
    return ANOTHER_CPUID if may and one.on_cpuid else NEVER


def _sample(fits: list[T]) -> list[T]:
    """Some of them, from all parts."""
    return fits[:: max(1, -(-len(fits) // TRIES_MAX))]


def _unshown(asserts: Iterable[Assert], places: Iterable[Place]) -> list[Assert]:
    known = list(places)
    return [one for one in asserts if not any(one.holds(path, line) for path, line in known)]


def judge(
    paths: Sequence[Path],
    *,
    root: Path,
    processes: int,
    full: bool,
    as_data: bool,
    why: Mapping[str, str] | None = None,
) -> int:
    """Reads answers, tries the tests, prints the report; the exit status. Raises AnswersError and WorkerDied.

    `why` says of tests that have no answers what came of them instead.
    """
    recordings = [recorded for path in paths for recorded in read_answers(path) if recorded.accepted]
    if not recordings:
        raise AnswersError(f"{', '.join(map(str, paths))}: no answers; record them with pytest --nsvm-answers")
    report = Trials(root, max(1, processes)).run(recordings, full=full, why=why)
    print(json.dumps(as_json(report), indent=1) if as_data else render(report))
    return report.exit_status
