"""One test, attempted: on a shared boot first, and once more on a fresh boot before anything new is reported of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness.guest.l1 import L1
from harness.judge.expect import take_mismatches
from harness.judge.verdict import Attempt, ClauseVerdict, judge, needs_fresh_boot, overall
from harness.link.session import ExecutorRefused, TargetLost
from harness.machine.base import Watched
from harness.record import BaselineRef, Check, Evidence, Fresh, News, Result, Verdict
from harness.run.evidence import failure_text, gather
from harness.run.worker import Worker
from harness.scenario.asm import AssemblyError


class Decided:
    """What came of a test: its verdict, what is news, and the evidence."""

    def __init__(
        self,
        worker: Worker,
        test: str,
        attempt: Attempt,
        verdicts: Sequence[ClauseVerdict],
        fresh: Fresh,
        l1: L1,
        l0_log: str = "",
    ) -> None:
        self._worker = worker
        self._test = test
        self._attempt = attempt
        self._verdicts = verdicts
        self._fresh = fresh
        self._l1 = l1
        verdict, news = overall(verdicts)
        self.verdict: Verdict = verdict or attempt.verdict
        self.news: News = news or "ok"
        deviates = self.news in ("new", "known", "mended") or attempt.verdict in ("ERROR", "MISS")
        self._evidence: list[Evidence] = gather(attempt, l1, l0_log) if deviates else []

    def result(self, duration_s: float) -> Result:
        """The line of the run record."""
        settings = self._worker.settings
        return Result(
            test=self._test,
            target=settings.target,
            verdict=self.verdict,
            worker=settings.worker,
            clauses=[v.clause for v in self._verdicts if not v.universal],
            news=self.news,
            reason=self._attempt.reason or self._telling(),
            duration_s=round(duration_s, 4),
            scenario=self._l1.digests[-1] if self._l1.digests else "",
            checks=[_check(verdict) for verdict in self._verdicts],
            evidence=self._evidence,
            fresh=self._fresh,
            rerun=self._worker.rerun(self._test),
        )

    def _telling(self) -> str:
        """What the first deviation came to, a new one before those that are known."""
        by_news = {verdict.news: verdict.summary for verdict in reversed(self._verdicts)}
        return by_news.get("new") or by_news.get("known") or ""

    def raise_outcome(self) -> None:
        """Tells pytest: new and mended deviations fail, known ones are expected failures, the rest passes."""
        if self._attempt.verdict == "SKIP":
            pytest.skip(self._attempt.reason)
        if self._attempt.verdict == "ERROR" and self._attempt.error is not None:
            raise self._attempt.error
        if self.news == "known":
            reasons = dict.fromkeys(v.deviation.reason for v in self._verdicts if v.deviation)
            # Not pytest.xfail(): of that pytest would format a traceback, a thousand times a run, for nobody.
            raise pytest.xfail.Exception("; ".join(reasons), pytrace=False)
        if self.news in ("new", "mended") or self._attempt.verdict == "MISS":
            machine = self._worker.machine()
            rerun = self._worker.rerun(self._test)
            pytest.fail(
                failure_text(self._verdicts, self._fresh, self._worker.clauses, self._evidence, machine, rerun),
                pytrace=False,
            )


class Attempts:
    """Runs a test's function, twice where it must be."""

    def __init__(self, worker: Worker, item: pytest.Function, l1: L1, clauses: list[str]) -> None:
        self._worker = worker
        self._item = item
        self._l1 = l1
        self._clauses = clauses

    def run(self) -> Decided:
        """Attempts the test; a new deviation seen on a shared boot is repeated on a fresh one, whose verdict counts."""
        first, was_fresh = self._attempt()
        verdicts = judge(first, self._clauses, self._item.nodeid, self._worker.baseline)
        fresh = Fresh(state="not-needed")
        last = first
        l0_log = self._l0_evidence() if needs_fresh_boot(verdicts) else ""
        if needs_fresh_boot(verdicts) and not was_fresh and self._worker.settings.fresh_boot != "never":
            self._worker.session.restart("a deviation is repeated on a fresh boot")
            last, _ = self._attempt(trace=True)
            verdicts = judge(last, self._clauses, self._item.nodeid, self._worker.baseline)
            same = last.signature() == first.signature()
            fresh = Fresh(state="same" if same else "differs", shared_verdict=first.verdict, shared_reason=first.reason)
            l0_log = self._l0_evidence() or l0_log
        return Decided(self._worker, self._item.nodeid, last, verdicts, fresh, self._l1, l0_log)

    def _l0_evidence(self) -> str:
        target = self._worker.target
        return target.evidence() if isinstance(target, Watched) else ""

    def _attempt(self, *, trace: bool = False) -> tuple[Attempt, bool]:
        """One try, and whether it had a boot of its own; one more if it did not start or the way there was cut."""
        attempt, was_fresh = self._try(trace=trace)
        if isinstance(attempt.error, TargetLost) and attempt.error.what in ("lost", "missing"):
            attempt, was_fresh = self._try(trace=trace)
        return attempt, was_fresh

    def _try(self, *, trace: bool) -> tuple[Attempt, bool]:
        marked = self._item.get_closest_marker
        worker, l1 = self._worker, self._l1
        try:
            worker.use_cpus(2 if marked("two_cpus") else worker.settings.cpus)
            l1.session = worker.session
            was_fresh = self._prepare_boot(wants_own=marked("fresh_boot") is not None)
        except TargetLost as lost:
            return _of_lost(lost, l1), True
        l1.reset()
        take_mismatches()
        watched = worker.target if isinstance(worker.target, Watched) else None
        if watched is not None:
            watched.mark_evidence(trace=trace)
        attempt = self._call()
        try:
            l1.settle()
        except TargetLost as lost:
            attempt = _of_lost(lost, l1)
        answered = attempt.verdict not in ("CRASH", "HANG", "MISS")  # those have been asked for the cause
        if watched is not None and answered and (failure := watched.l0_failure()):
            # Whatever the guest answered: an L0 that printed an oops is not one that works.
            attempt = replace(attempt, verdict="CRASH", reason=f"L0 failed: {failure}", universal=dict(l1.universal))
            worker.session.restart("L0 failed")
        if (dirties := marked("dirties")) and worker.session.running:
            worker.session.running.dirty = str(dirties.args[0]) if dirties.args else "the test leaves state behind"
        if attempt.verdict in ("FAIL", "PASS") and l1.universal:
            attempt = replace(attempt, universal=dict(l1.universal))
        return attempt, was_fresh

    def _prepare_boot(self, *, wants_own: bool) -> bool:
        session = self._worker.session
        running = session.running
        if running is not None and running.scenarios:
            if running.dirty:
                session.restart(running.dirty, discard=True)
            elif self._worker.settings.fresh_boot == "always":
                session.restart("a boot for every test")
            elif wants_own:
                session.restart("this test starts on a boot of its own")
        boots = session.boots
        boot = session.boot
        if session.boots != boots and boots == 0:
            self._worker.write_target()
        return boot.scenarios == 0

    def _call(self) -> Attempt:
        arguments = {name: self._item.funcargs[name] for name in self._item._fixtureinfo.argnames}
        try:
            self._skip_where_not_offered()
            self._item.obj(**arguments)
        except TargetLost as lost:
            return _of_lost(lost, self._l1)
        except AssertionError as error:
            mismatches = take_mismatches()
            mismatch = mismatches[-1] if mismatches else None
            reason = _first_bad_row(mismatch) if mismatch is not None else _one_line(error)
            return Attempt("FAIL", reason, mismatch, error=error)
        except pytest.skip.Exception as skipped:
            return Attempt("SKIP", str(skipped.msg))
        except (KeyboardInterrupt, SystemExit):
            raise
        except (ExecutorRefused, AssemblyError) as error:
            return Attempt("ERROR", str(error), error=error)
        except Exception as error:
            return Attempt("ERROR", f"{type(error).__name__}: {_one_line(error)}", error=error)
        if not self._l1.digests:
            return Attempt(
                "ERROR", "the test asked the target nothing", error=AssertionError("the test asked the target nothing")
            )
        return Attempt("PASS")

    def _skip_where_not_offered(self) -> None:
        for name in self._clauses:
            condition = self._worker.clauses[name].condition
            holds, reason = self._l1.cpuid.evaluate_condition(condition)
            if not holds:
                pytest.skip(f"{name} asks for {condition}: {reason}")


def _of_lost(lost: TargetLost, l1: L1) -> Attempt:
    take_mismatches()
    # A target that was not there has not deviated: what an attempt before this one saw is not laid to it.
    seen = {} if lost.verdict == "MISS" else dict(l1.universal)
    return Attempt(lost.verdict, lost.reason, frames=lost.frames, log=lost.log, error=lost, universal=seen)


def _first_bad_row(mismatch: Any) -> str:
    bad = next((row for row in mismatch.rows if not row.ok), None)
    return f"{bad.name}: expected {bad.expected}, got {bad.got}" if bad else mismatch.title


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def _check(verdict: ClauseVerdict) -> Check:
    known = verdict.deviation
    return Check(
        clause=verdict.clause,
        verdict=verdict.verdict,
        news=verdict.news,
        universal=verdict.universal,
        baseline=BaselineRef(reason=known.reason, reference=known.reference) if known else None,
        summary=verdict.summary,
    )
