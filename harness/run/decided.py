"""What came of a test: the line of the run record, and what pytest is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.guest.l1 import L1
from harness.judge.verdict import DEVIATES, Attempt, ClauseVerdict, overall
from harness.record import BaselineRef, Check, Evidence, Fresh, News, Result, Verdict
from harness.run.evidence import failure_text, gather, rows_of, without_steps
from harness.run.worker import Worker

RERUN_MAX = 8
"""So many earlier tests stand in the line that runs a test again."""


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
        if self.news == "known":
            self._evidence = [without_steps(each) for each in self._evidence]
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


def _check(verdict: ClauseVerdict) -> Check:
    known = verdict.deviation
    return Check(
        clause=verdict.clause,
        verdict=verdict.verdict,
        news=verdict.news,
        universal=verdict.universal,
        baseline=BaselineRef(
            reason=known.reason,
            reference=known.reference,
            after_others=known.after_others,
            sometimes=known.sometimes,
        )
        if known
        else None,
        summary=verdict.summary,
        rows=rows_of(verdict.rows),
    )
