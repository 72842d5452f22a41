"""What is judged when a run is over: bits that the target lost or gained, and known deviations nobody has shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.judge.baseline import Baseline
from harness.judge.expected import ExpectError, complaint, of_policy, of_words
from harness.judge.offers import Offers, differences
from harness.judge.policy import Policy
from harness.judge.verdict import DEVIATES
from harness.record import LOST_VERDICTS, BaselineRef, Check, ClauseInfo, News, Result, Run, Verdict
from harness.run.options import RunOptions
from harness.summary import OF_BASELINE
from harness.summary.machine import cpuid_of


def offered_otherwise(offers: Offers, run: Run, target: str, options: RunOptions) -> Iterator[ClauseInfo | Result]:
    """A deviation, with a clause of its own, for each bit of Fn8000_000A EDX that is not as the baseline says.

    A target whose workers saw several machines has all that differs in any of them.
    """
    told: set[str] = set()
    for edx in dict.fromkeys(info.edx for info in run.targets if info.target == target and info.booted):
        for found in differences(offers, edx, options.without):
            if found.clause in told:
                continue
            told.add(found.clause)
            bit = found.bit
            yield ClauseInfo(
                id=found.clause,
                bit=bit.name,
                statement=f"L1 sees Fn8000_000A EDX[{bit.bit}] ({bit.title}) as the baseline of the target says.",
                apm=bit.apm,
                trust=["baseline"],
            )
            check = Check(clause=found.clause, verdict="FAIL", news="new", summary=found.reason)
            yield Result(
                test=f"{OF_BASELINE}{offers.path.name}::{found.clause}",
                target=target,
                verdict="FAIL",
                news="new",
                clauses=[found.clause],
                reason=found.reason,
                checks=[check],
            )


def expected_otherwise(
    words: Sequence[str], policy: Policy | None, run: Run, target: str
) -> Iterator[ClauseInfo | Result]:
    """A result, with a clause of its own, for each thing that `--expect` and `--policy` want: PASS, or a new deviation.

    A target whose workers saw several machines passes only where all of them have it. Nothing where it never booted.
    """
    booted = [info for info in run.targets if info.target == target and info.booted]
    told: set[str] = set()
    for info in booted[:1]:
        wants = of_words(words)
        try:
            wants += of_policy(policy, cpuid_of(info)) if policy else ()
        except ExpectError as error:
            yield Result(test="policies/", target=target, verdict="ERROR", reason=str(error))
        for want in wants:
            wrong = next((text for each in booted if (text := complaint(want, cpuid_of(each), each.msrs))), "")
            clause = want.clause
            if clause not in told:
                yield ClauseInfo(id=clause, bit=want.bit, statement=want.statement, apm=want.apm, trust=[want.by])
            told.add(clause)
            verdict: Verdict = "FAIL" if wrong else "PASS"
            news: News = "new" if wrong else "ok"
            check = Check(clause=clause, verdict=verdict, news=news, summary=wrong)
            yield Result(
                test=want.test, target=target, verdict=verdict, news=news, clauses=[clause], reason=wrong,
                checks=[check],
            )  # fmt: skip


def mended_everywhere(baseline: Baseline, run: Run, target: str) -> Iterator[Result]:
    """Known deviations that no test of a whole run has shown: of a whole clause, or of a universal check in tests that
    are named. What a test says of a clause that it names itself stands in its own result.
    """
    universal = {item.clause for item in run.universals if item.checked}
    fired = {item.clause for item in run.universals if item.failed}
    judged = universal | {check.clause for result in run.results for check in result.checks if check.verdict == "PASS"}
    for entry in baseline.deviations:
        if not entry.always or entry.clause not in (universal if entry.tests else judged):
            continue
        if not entry.tests and entry.clause in fired:
            continue  # in an attempt that did not count
        covered = [result for result in run.results if entry.covers(entry.clause, result.test)]
        told = [check for result in covered for check in result.checks if check.clause == entry.clause]
        if any(check.verdict in DEVIATES or (entry.tests and not check.universal) for check in told):
            continue
        verdicts = {result.verdict for result in covered} - {"SKIP"}
        if entry.tests and (not verdicts or verdicts & LOST_VERDICTS):
            continue
        which = f" in {', '.join(entry.tests)}" if entry.tests else ""
        reason = f"the baseline says that this clause deviates{which}; no test of this run has shown it"
        reference = BaselineRef(reason=entry.reason, reference=entry.reference)
        check = Check(clause=entry.clause, verdict="PASS", news="mended", baseline=reference, summary=reason)
        test = f"{OF_BASELINE}{target}.toml::{entry.clause}{f'[{entry.tests[0]}]' if entry.tests else ''}"
        yield Result(test=test, target=target, verdict="PASS", news="mended", reason=reason, checks=[check])
