"""One test, attempted: on a shared boot first, and once more on a fresh boot before anything new is reported of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from harness.guest.l1 import L1
from harness.guest.needs import NotOffered
from harness.judge.clauses import in_force
from harness.judge.comparisons import HARNESS, Comparisons, noting, surely_asserts
from harness.judge.expect import Match, Row
from harness.judge.verdict import DEVIATES, Attempt, ClauseVerdict, judge, needs_fresh_boot, overall
from harness.link.session import ExecutorRefused, Past, TargetLost
from harness.machine.base import Watched
from harness.record import AFTER_OTHERS, BaselineRef, Check, Evidence, Fresh, News, Result, Verdict
from harness.run.aftermath import NAMED_MAX, in_words
from harness.run.evidence import failure_text, gather, rows_of
from harness.run.worker import Worker
from harness.scenario.asm import AssemblyError

RERUN_MAX = 8
"""So many earlier tests stand in the line that runs a test again."""
PATIENT_US = 2_000_000  # the watchdog of an attempt after one that the executor's own may have ended too soon


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
        evidence: list[Evidence] | None = None,
    ) -> None:
        self._worker = worker
        self._test = test
        self._attempt = attempt
        self._verdicts = verdicts
        self._fresh = fresh
        self._l1 = l1
        verdict, news = overall(verdicts)
        self.verdict: Verdict = verdict or attempt.verdict
        # Without a clause, as in a file outside suites/, nothing excuses a deviation.
        self.news: News = news or ("new" if attempt.verdict in DEVIATES else "ok")
        deviates = self.news in ("new", "known", "mended") or attempt.verdict in ("ERROR", "MISS")
        self._evidence: list[Evidence] = (
            gather(attempt, l1, worker.settings.root, l0_log) if deviates and evidence is None else evidence or []
        )
        self.standing = l1.tries
        """The attempt on which the verdict stands, as the L1 counts them."""
        self._rerun = worker.rerun(test, fresh.after if len(fresh.after) <= RERUN_MAX else ())

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
            reason=self._telling(),
            duration_s=round(duration_s, 4),
            scenario=self._l1.digests[-1] if self._l1.digests else "",
            checks=[_check(verdict) for verdict in self._verdicts],
            evidence=self._evidence,
            fresh=self._fresh,
            rerun=self._rerun,
        )

    def _telling(self) -> str:
        """What the first new deviation came to; else why the test ended as it did, or a known one."""
        by_news = {verdict.news: verdict.summary for verdict in reversed(self._verdicts)}
        return by_news.get("new") or self._attempt.reason or by_news.get("known") or ""

    def raise_outcome(self) -> None:
        """Tells pytest: new and mended deviations fail, known ones are expected failures, the rest passes."""
        if self._attempt.verdict == "SKIP":
            pytest.skip(self._attempt.reason)
        if self._attempt.verdict == "ERROR":
            if self._attempt.error is not None:
                raise self._attempt.error
            pytest.fail(f"{self._attempt.reason}\nagain:   {self._worker.rerun(self._test)}", pytrace=False)
        if self.news == "known":
            reasons = dict.fromkeys(v.deviation.reason for v in self._verdicts if v.deviation)
            # Not pytest.xfail(): of that pytest would format a traceback, a thousand times a run, for nobody.
            raise pytest.xfail.Exception("; ".join(reasons), pytrace=False)
        if self.news in ("new", "mended") or self._attempt.verdict == "MISS":
            machine = self._worker.machine()
            pytest.fail(
                failure_text(self._verdicts, self._fresh, self._worker.clauses, self._evidence, machine, self._rerun),
                pytrace=False,
            )


class Attempts:
    """Runs a test's function, twice where it must be."""

    def __init__(self, worker: Worker, item: pytest.Function, l1: L1, clauses: list[str]) -> None:
        self._worker = worker
        self._item = item
        self._l1 = l1
        self._clauses = clauses
        self._history: list[Past] = []  # what the boot had run before the last attempt
        self._in_force = clauses

    def run(self) -> Decided:
        """Attempts the test; a new deviation seen on a shared boot is repeated on a fresh one.

        Where that one deviates too, its verdict counts. Where it does not, the deviation is one after others.
        """
        first, was_fresh = self._attempt()
        tries = self._l1.tries
        verdicts = self._judge(first, after_others=self._l1.after_others)
        if not needs_fresh_boot(verdicts):
            return self._decided(first, verdicts, Fresh())
        l0_log = self._l0_evidence()
        if was_fresh or self._worker.settings.fresh_boot == "never":
            return self._decided(first, verdicts, Fresh(), l0_log)
        evidence = gather(first, self._l1, self._worker.settings.root, l0_log)
        history = self._history
        self._worker.session.restart("a deviation is repeated on a fresh boot")
        last, _ = self._attempt(trace=True)
        again = self._judge(last)
        if needs_fresh_boot(again) or last.verdict in ("ERROR", "MISS", "SKIP"):
            same = last.signature() == first.signature()
            fresh = Fresh(state="same" if same else "differs", shared_verdict=first.verdict, shared_reason=first.reason)
            return self._decided(last, again, fresh, self._l0_evidence() or l0_log)
        verdicts = self._judge(first, after_others=True)
        fresh = Fresh(
            state=AFTER_OTHERS,
            shared_verdict=first.verdict,
            shared_reason=first.reason,
            fresh_verdict=overall(again)[0],
            fresh_reason=last.reason,
        )
        if overall(verdicts)[1] == "new":
            fresh = self._search(first, fresh, history)
        decided = self._decided(first, verdicts, fresh, l0_log, evidence)
        decided.standing = tries
        return decided

    def _judge(self, attempt: Attempt, *, after_others: bool = False) -> list[ClauseVerdict]:
        baseline = self._worker.baseline
        return judge(attempt, self._in_force, self._item.nodeid, baseline, after_others=after_others)

    def _decided(
        self,
        attempt: Attempt,
        verdicts: Sequence[ClauseVerdict],
        fresh: Fresh,
        l0_log: str = "",
        evidence: list[Evidence] | None = None,
    ) -> Decided:
        return Decided(self._worker, self._item.nodeid, attempt, verdicts, fresh, self._l1, l0_log, evidence)

    def _search(self, first: Attempt, fresh: Fresh, history: Sequence[Past]) -> Fresh:
        """With the tests before it that must have run for the deviation to show."""
        worker = self._worker

        def shows() -> bool:
            again, _ = self._try(trace=False)
            return again.shape() == first.shape()

        with self._l1.uncounted():
            found = worker.aftermath.search(worker.session, history, shows)
        worker.session.restart("the next test gets a boot of its own")
        before = len({past.test for past in history})
        named = found.tests if found is not None and found.shown else ()
        return replace(fresh, after=named[:NAMED_MAX], before=before, how=in_words(found, before))

    def _l0_evidence(self) -> str:
        target = self._worker.target
        return target.evidence() if isinstance(target, Watched) else ""

    def _attempt(self, *, trace: bool = False) -> tuple[Attempt, bool]:
        """One try, and whether it had a boot of its own; one more if it did not start or the way there was cut."""
        attempt, was_fresh = self._try(trace=trace)
        if isinstance(attempt.error, TargetLost) and attempt.error.what in ("lost", "missing"):
            attempt, was_fresh = self._try(trace=trace)
        if attempt.verdict == "FAIL" and self._l1.watchdog_exits:
            # A busy machine may not have run L2 at all by then, in a fresh boot above all.
            attempt, was_fresh = self._try(trace=trace, watchdog_us=PATIENT_US)
        return attempt, was_fresh

    def _try(self, *, trace: bool, watchdog_us: int = 0) -> tuple[Attempt, bool]:
        marked = self._item.get_closest_marker
        worker, l1 = self._worker, self._l1
        try:
            worker.use_cpus(2 if marked("two_cpus") else worker.settings.cpus)
            l1.session = worker.session
            was_fresh = self._prepare_boot(wants_own=marked("fresh_boot") is not None)
            self._history = list(worker.session.boot.history)
            worker.session.test = self._item.nodeid
        except TargetLost as lost:
            return _of_lost(lost, l1), True
        l1.reset(watchdog_us=watchdog_us)
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
        with noting() as comparisons:
            try:
                self._skip_where_not_offered()
                self._item.obj(**arguments)
            except TargetLost as lost:
                return _of_lost(lost, self._l1)
            except AssertionError as error:
                failed = _of_assertion(error, comparisons)
                return replace(failed, reason="; ".join([*self._l1.watchdog_exits[-1:], failed.reason]))
            except (pytest.skip.Exception, NotOffered) as skipped:
                return Attempt("SKIP", str(skipped))
            except (KeyboardInterrupt, SystemExit):
                raise
            except (ExecutorRefused, AssemblyError) as error:
                return Attempt("ERROR", str(error), error=error)
            except Exception as error:
                return Attempt("ERROR", f"{type(error).__name__}: {_one_line(error)}", error=error)
        self._l1.settled = comparisons.settled()
        wrong = self._checks_nothing(comparisons)
        return Attempt("ERROR", wrong) if wrong else Attempt("PASS")

    def _checks_nothing(self, comparisons: Comparisons) -> str:
        """What is wrong with a test that passed and yet asked too little; "" if nothing is."""
        if not self._l1.digests:
            return "the test asked the target nothing"
        if place := comparisons.unasked(getattr(self._item.obj, "__func__", self._item.obj).__code__):
            where = place.below(self._worker.settings.root)
            return f"the test checks nothing here: a comparison is made and never asked, {where}: {place.source}"
        survives = self._worker.clauses[self._clauses[0]].class_ == "survive" if self._clauses else False
        if not comparisons.asked and not survives and not surely_asserts(self._item.obj):
            return "the test checks nothing: no comparison was asked, and it has no assert that surely ran"
        return ""

    def _skip_where_not_offered(self) -> None:
        """Skips where a clause's condition does not hold; of a clause and its contrary, one is in force."""
        stated = [self._worker.clauses[name] for name in self._clauses]
        holding, missing = in_force(stated, self._l1.cpuid)
        if missing:
            pytest.skip(missing)
        self._in_force = [one.id for one in holding]


def _of_lost(lost: TargetLost, l1: L1) -> Attempt:
    # A target that was not there has not deviated: what an attempt before this one saw is not laid to it.
    seen = {} if lost.verdict == "MISS" else dict(l1.universal)
    return Attempt(lost.verdict, lost.reason, frames=lost.frames, log=lost.log, error=lost, universal=seen)


def _of_assertion(error: AssertionError, comparisons: Comparisons) -> Attempt:
    place, matches, held = comparisons.of_failure(error)
    if place is not None and place.path.startswith(HARNESS):
        return Attempt("ERROR", f"an assert of the harness failed at {place.path}:{place.line}", error=error)
    if not matches:
        return Attempt("FAIL", _one_line(error), place=place, error=error)
    title = matches[-1].title
    if held:
        mismatch = Match(title, [Row("the comparison", "does not hold", "holds", "", False), *matches[-1].rows])
    else:
        mismatch = Match(title, [row for match in matches for row in match.rows])
    return Attempt("FAIL", _first_bad_row(mismatch), mismatch, place, error=error)


def _first_bad_row(mismatch: Match) -> str:
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
        baseline=BaselineRef(reason=known.reason, reference=known.reference, after_others=known.after_others)
        if known
        else None,
        summary=verdict.summary,
        rows=rows_of(verdict.rows),
    )
