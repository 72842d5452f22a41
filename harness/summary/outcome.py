"""Outcomes: one parametrised test on one target, and what it says about each clause."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.record import AFTER_OTHERS, BAD_VERDICTS, BaselineRef, Check, News, Result, Run, Verdict, worst, worst_news
from harness.summary.category import Category, category, severity

NO_CLAUSE = "(no clause)"
OF_BASELINE = "baselines/"
"""How the name of a result begins that is of no test: a whole run has not shown what the baseline says."""
OF_NO_TEST = (OF_BASELINE, "policies/", "expected::")
"""How the names of all results begin that are of no test: `--policy` and `--expect` have theirs, too."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one outcome says about one clause. `check` is None where the clause was given the test's verdict."""

    clause: str
    outcome: Outcome
    verdict: Verdict
    news: News
    check: Check | None = None

    @property
    def category(self) -> Category:
        return category(self.verdict, self.news)

    @property
    def universal(self) -> bool:
        """Whether this is a check that every exit undergoes, not a clause that the test names."""
        return self.check is not None and self.check.universal

    @property
    def after_others(self) -> bool:
        """Whether it was seen after other tests of the same boot, and a fresh boot does not show it."""
        return self.outcome.after_others and (self.category == "new" or (self.category == "known" and self.marked))

    @property
    def marked(self) -> bool:
        """Whether the entry that knows it speaks of what shows after other tests."""
        return self.baseline is not None and self.baseline.after_others

    @property
    def baseline(self) -> BaselineRef | None:
        return self.check.baseline if self.check else None

    @property
    def summary(self) -> str:
        """One line: what went wrong, or why it was skipped."""
        return (self.check.summary if self.check else "") or self.outcome.result.reason


@dataclass(eq=False, slots=True)
class Outcome:
    """One parametrised test on one target, after the roll-up. `number` is its place in the run."""

    number: int
    result: Result
    verdict: Verdict
    news: News
    judged: list[Judged] = field(default_factory=list)

    @property
    def test(self) -> str:
        return self.result.test

    @property
    def target(self) -> str:
        return self.result.target

    @property
    def category(self) -> Category:
        return category(self.verdict, self.news)

    @property
    def names_clauses(self) -> bool:
        """Whether it judged clauses that it names, not universal checks alone."""
        return not all(j.universal for j in self.judged)

    @property
    def universal_only(self) -> bool:
        """Whether it is a known deviation, and nothing deviates but universal checks."""
        return self.category == "known" and all(j.universal for j in self.judged if j.category == "known")

    @property
    def word(self) -> str:
        """The verdict, and whether it shows after other tests only."""
        return f"{self.verdict} after others" if self.after_others else self.verdict

    @property
    def after_others(self) -> bool:
        """Whether it deviates after other tests of the same boot only."""
        return self.result.fresh is not None and self.result.fresh.state == AFTER_OTHERS

    @property
    def fresh_differs(self) -> bool:
        return self.result.fresh is not None and self.result.fresh.state == "differs"


def _mended_beside_known(result: Result) -> bool:
    """Whether one of its clauses is mended, and what deviates (a universal check, mostly) is known."""
    deviating = [check for check in result.checks if check.verdict in BAD_VERDICTS]
    mended = any(check.news == "mended" and check.verdict == "PASS" for check in result.checks)
    return mended and bool(deviating) and all(check.news == "known" for check in deviating)


def _judge(number: int, result: Result, contradictions: list[str]) -> Outcome:
    """Roll one result up, worst wins; say where it contradicts itself."""
    verdict = worst([result.verdict, *(c.verdict for c in result.checks if c.verdict != "SKIP")]) or "ERROR"
    news = worst_news([result.news, *(c.news for c in result.checks)]) or "new"
    where = f"{result.test} on {result.target}"
    if verdict != result.verdict:
        contradictions.append(f"{where} is recorded as {result.verdict}, but one of its checks as {verdict}")
    if verdict in BAD_VERDICTS and news in ("ok", "skipped", "mended") and not _mended_beside_known(result):
        contradictions.append(f"{where} is a {verdict} that is recorded as {news!r}; it is counted as new")
        news = "new"
    elif news != worst_news([result.news]) and verdict in BAD_VERDICTS | {"PASS"}:
        contradictions.append(f"{where} is recorded as {result.news!r}, but one of its checks as {news!r}")
    if verdict == "PASS" and news in ("new", "known"):
        contradictions.append(f"{where} is a PASS that is recorded as {news!r}; it is counted as {news}")
    outcome = Outcome(number, result, verdict, news)
    for check in result.checks:
        found = check.news
        if check.verdict in BAD_VERDICTS and found in ("ok", "skipped", "mended"):
            found = "known" if news == "known" else "new"
        outcome.judged.append(Judged(check.clause or NO_CLAUSE, outcome, check.verdict, found, check))
    told = {j.clause for j in outcome.judged}
    explained = any(j.verdict == verdict and j.news == news for j in outcome.judged)
    for clause in dict.fromkeys(result.clauses or (() if told else (NO_CLAUSE,))):
        if clause in told:
            continue
        # A clause that the test names but did not judge has the test's verdict, unless a check of another one gave it.
        if verdict not in BAD_VERDICTS or not explained:
            outcome.judged.append(Judged(clause, outcome, verdict, news))
    if verdict in BAD_VERDICTS | {"PASS"} and not any(j.category == outcome.category for j in outcome.judged):
        clause = next(iter(result.clauses), NO_CLAUSE)
        outcome.judged.append(Judged(clause, outcome, verdict, news))
    return outcome


def outcomes_of(run: Run, contradictions: list[str]) -> list[Outcome]:
    """One outcome for each test and target; of a test recorded twice the worse."""
    found: dict[tuple[str, str], Outcome] = {}
    for number, result in enumerate(run.results):
        outcome = _judge(number, result, contradictions)
        key = (result.test, result.target)
        before = found.get(key)
        if before is not None:
            both = f"{before.verdict} and {outcome.verdict}"
            contradictions.append(f"{result.test} on {result.target} is recorded twice ({both}); the worse one counts")
            if severity(before.category) <= severity(outcome.category):
                continue
        found[key] = outcome
    return list(found.values())
