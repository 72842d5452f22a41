"""Runs of the same thing, compared: a test whose verdict, or whose standing against the baseline, is not the same in
all of them is flaky, and is named.

Compared are the outcomes of a test on a target. A run that was cut short is compared as far as it goes: what it did
not come to does not differ. Where runs were to do the same, what one holds and another whole one does not, differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from harness.record import News, Run, Verdict
from harness.summary import Outcome, Summary

REPEAT_NAME = "repeat.json"
ABSENT: Final = "absent"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Seen:
    """What one run says of a test. The verdict is ABSENT where a whole run does not hold it."""

    verdict: Verdict | Literal["absent"]
    news: News = "ok"
    reason: str = ""

    @property
    def told(self) -> str:
        """As in "PASS", "FAIL (new)"."""
        return f"{self.verdict} ({self.news})" if self.news in ("new", "known", "mended") else self.verdict


@dataclass(frozen=True, slots=True)
class Flaky:
    """A test that does not say the same in every run. `seen` has an entry a run; None where a run was cut short."""

    test: str
    target: str
    seen: Sequence[Seen | None]
    rerun: str = ""

    @property
    def ways(self) -> dict[str, list[int]]:
        """The numbers of the runs (from 1) by what they say, the commonest first."""
        found: dict[str, list[int]] = {}
        for number, seen in enumerate(self.seen, 1):
            if seen is not None:
                found.setdefault(seen.told, []).append(number)
        return dict(sorted(found.items(), key=lambda way: -len(way[1])))

    @property
    def told(self) -> str:
        """As in "PASS in runs 1-4, 6; FAIL (new) in run 5"."""
        return "; ".join(
            f"{way} in run{'s' if len(numbers) > 1 else ''} {spans(numbers)}" for way, numbers in self.ways.items()
        )

    @property
    def reason(self) -> str:
        """Why it deviated, from the first run that is not like most."""
        rare = [numbers[0] for numbers in list(self.ways.values())[1:]]
        common = [numbers[0] for numbers in self.ways.values()]
        told = (self.seen[number - 1] for number in [*rare, *common])
        return next((seen.reason for seen in told if seen is not None and seen.reason), "")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs compared."""

    names: Sequence[str]
    summaries: Sequence[Summary]
    tests: int
    """How many tests were seen in two runs or more."""
    flaky: Sequence[Flaky]
    notes: Sequence[str]
    """What a reader must know about the runs to trust the comparison."""

    @property
    def sentence(self) -> str:
        """The result, without a full stop."""
        if not self.tests:
            return f"{len(self.names)} runs, and no test is in two of them: nothing was compared"
        compared = f"{len(self.names)} runs, {self.tests} test{'s' if self.tests > 1 else ''} compared"
        if not self.flaky:
            return f"{compared}: the same verdicts in every run"
        return f"{compared}: {len(self.flaky)} flaky"

    def as_json(self, statuses: Sequence[int]) -> dict[str, Any]:
        """The content of repeat.json."""
        runs = zip(self.names, self.summaries, statuses, strict=True)
        return {
            "schema": SCHEMA,
            "tests": self.tests,
            "sentence": self.sentence,
            "notes": list(self.notes),
            "runs": [
                {"run": name, "exit_status": status, "sentence": summary.sentence, "counts": summary.counts}
                for name, summary, status in runs
            ],
            "flaky": [
                {
                    "test": each.test,
                    "target": each.target,
                    "verdicts": [seen and seen.verdict for seen in each.seen],
                    "news": [seen and seen.news for seen in each.seen],
                    "reasons": [seen and seen.reason for seen in each.seen],
                    "rerun": each.rerun,
                }
                for each in self.flaky
            ],
        }


def compare_repeats(summaries: Mapping[str, Summary], *, same: bool = True) -> Comparison:
    """Compares runs by name, in their order. `same`: they were asked to run the same tests."""
    told = list(summaries.values())
    by_test = [{(o.test, o.target): o for o in summary.outcomes} for summary in told]
    cut = [summary.cut_short or bool(summary.run.interrupted) for summary in told]
    targets = [{target.name for target in summary.targets} for summary in told]
    keys = dict.fromkeys(key for outcomes in by_test for key in outcomes)
    flaky, tests = [], 0
    for test, target in keys:
        found = [outcomes.get((test, target)) for outcomes in by_test]
        tests += sum(outcome is not None for outcome in found) > 1
        seen = [
            _seen(outcome) if outcome is not None else None if short or not same or target not in on else Seen(ABSENT)
            for outcome, short, on in zip(found, cut, targets, strict=True)
        ]
        if len({each.told for each in seen if each is not None}) > 1:
            rerun = next((o.result.rerun for o in found if o is not None and o.result.rerun), "")
            flaky.append(Flaky(test, target, seen, rerun))
    notes = _notes(summaries, cut)
    if not same and len(keys) > tests:
        notes.append(f"tests in one run only: {len(keys) - tests}")
    return Comparison(list(summaries), told, tests, flaky, notes)


def spans(numbers: Iterable[int]) -> str:
    """As in "1-4, 6"; the numbers come in order."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][-1] == number - 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join("-".join(map(str, span)) for span in found)


def _seen(outcome: Outcome) -> Seen:
    shown = next((j.summary for j in outcome.judged if j.category == outcome.category), "") or outcome.result.reason
    return Seen(outcome.verdict, outcome.news, "" if outcome.verdict == "PASS" else shown)


def _notes(summaries: Mapping[str, Summary], cut: Sequence[bool]) -> list[str]:
    notes = [
        f"{name} was cut short: compared as far as it goes" for name, short in zip(summaries, cut, strict=True) if short
    ]
    notes += [f"{name} holds no result" for name, summary in summaries.items() if not summary.outcomes]
    versions: dict[str, dict[str, None]] = {}
    for summary in summaries.values():
        for info in summary.run.targets:
            versions.setdefault(info.target, {})[f"{info.version} with executor {info.executor_build[:12]}"] = None
    for target, told in versions.items():
        if len(told) > 1:
            notes.append(f"these runs are not of the same {target}: {'; '.join(told)}")
    commits = dict.fromkeys(_commit(summary.run) for summary in summaries.values())
    if len(commits) > 1:
        notes.append(f"these runs are not of the same nsvm: {'; '.join(commits)}")
    return notes


def _commit(run: Run) -> str:
    if run.start is None:
        return "unknown"
    return f"{run.start.nsvm.version} {(run.start.nsvm.commit or 'of no commit')[:12]}"
