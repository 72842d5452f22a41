"""One test, attempted: on a shared boot first, and once more on a fresh boot before anything new is reported of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest

from harness.guest.l1 import L1
from harness.guest.needs import NotOffered
from harness.judge.clauses import in_force
from harness.judge.comparisons import Comparisons, noting, surely_asserts
from harness.judge.verdict import Attempt, ClauseVerdict, judge, needs_fresh_boot, overall
from harness.link.session import ExecutorRefused, Past, TargetLost
from harness.machine.base import Watched
from harness.record import AFTER_OTHERS, Evidence, Fresh
from harness.run.aftermath import NAMED_MAX, in_words
from harness.run.decided import Decided
from harness.run.evidence import gather
from harness.run.how_it_ended import of_assertion, of_lost, one_line
from harness.run.worker import Worker
from harness.scenario.asm import AssemblyError

PATIENT_US = 2_000_000  # the watchdog of an attempt after one that the executor's own may have ended too soon


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
            self._worker.event("retry", f"{self._item.nodeid}: {attempt.reason}")
            attempt, was_fresh = self._try(trace=trace)
        if attempt.verdict == "FAIL" and self._l1.watchdog_exits:
            # A busy machine may not have run L2 at all by then, in a fresh boot above all.
            self._worker.event("retry", f"{self._item.nodeid}: {self._l1.watchdog_exits[-1]}")
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
            return of_lost(lost, l1), True
        counted = copy.deepcopy(worker.tallies)
        l1.reset(watchdog_us=watchdog_us)
        watched = worker.target if isinstance(worker.target, Watched) else None
        if watched is not None:
            watched.mark_evidence(trace=trace)
        attempt = self._call()
        try:
            l1.settle()
        except TargetLost as lost:
            attempt = of_lost(lost, l1)
        answered = attempt.verdict not in ("CRASH", "HANG", "MISS")  # those have been asked for the cause
        if watched is not None and answered and (failure := watched.l0_failure()):
            # Whatever the guest answered: an L0 that printed an oops is not one that works.
            attempt = replace(attempt, verdict="CRASH", reason=f"L0 failed: {failure}", universal=dict(l1.universal))
            worker.session.restart("L0 failed")
        if (dirties := marked("dirties")) and worker.session.running:
            worker.session.running.dirty = str(dirties.args[0]) if dirties.args else "the test leaves state behind"
        if attempt.verdict in ("FAIL", "PASS") and l1.universal:
            attempt = replace(attempt, universal=dict(l1.universal))
        if attempt.verdict in ("SKIP", "ERROR", "MISS"):
            # Its result says nothing of its VMRUNs, so that what they came to is not counted.
            worker.tallies.clear()
            worker.tallies.update(counted)
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
                return of_lost(lost, self._l1)
            except AssertionError as error:
                failed = of_assertion(error, comparisons)
                return replace(failed, reason="; ".join([*self._l1.watchdog_exits[-1:], failed.reason]))
            except (pytest.skip.Exception, NotOffered) as skipped:
                return Attempt("SKIP", str(skipped))
            except (KeyboardInterrupt, SystemExit):
                raise
            except (ExecutorRefused, AssemblyError) as error:
                return Attempt("ERROR", str(error), error=error)
            except Exception as error:
                return Attempt("ERROR", f"{type(error).__name__}: {one_line(error)}", error=error)
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
