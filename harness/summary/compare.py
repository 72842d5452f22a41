"""Two runs side by side: what is new, what is mended, what nobody asks any more. Pure.

Made for a release against the last one, and for an L0 inside an emulated machine against that machine itself: what
both share comes from the emulator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.record import BAD_VERDICTS, LOST_VERDICTS, Run
from harness.summary.comparison import Cell, Change, Comparison, Kind, TargetComparison
from harness.summary.machine import machine_facts
from harness.summary.outcome import OF_NO_TEST, Judged, Outcome, outcomes_of
from harness.summary.scope import part
from harness.svm.features import SVM_BITS

_NUMBER = re.compile(r"[0-9.]+")
"""In a reason without rows: how long something took, mostly."""


def compare_runs(before: Run, now: Run, names: tuple[str, str] = ("before", "now")) -> Comparison:
    """Both runs, target by target. Where each has one target, these are compared, whatever they are called."""
    ours, theirs = _targets(before), _targets(now)
    if len(ours) == len(theirs) == 1:
        pairs = [(ours[0], theirs[0])]
    else:
        pairs = [(name, name) for name in ours if name in theirs]
    paired = {name for pair in pairs for name in pair}
    found = Comparison(
        *names,
        started_before=before.start.started if before.start else "",
        started_now=now.start.started if now.start else "",
        targets_gone=[name for name in ours if name not in paired],
        targets_added=[name for name in theirs if name not in paired],
    )
    for name, run in zip(names, (before, now), strict=True):
        if not run.complete or run.interrupted:
            found.notes.append(f"{name} was cut short: what it did not come to counts as not answered")
    outcomes = outcomes_of(before, []), outcomes_of(now, [])
    for first, second in pairs:
        found.targets.append(_compare(before, now, (first, second), outcomes))
    return found


def _compare(
    before: Run, now: Run, names: tuple[str, str], outcomes: tuple[Sequence[Outcome], Sequence[Outcome]]
) -> TargetComparison:
    first, second = (
        {o.test: o for o in each if o.target == name and not o.test.startswith(OF_NO_TEST)}
        for each, name in zip(outcomes, names, strict=True)
    )
    parts = [
        part(scope, len(tests)) if (scope := run.scopes.get(name)) else ""
        for run, name, tests in ((before, names[0], first), (now, names[1], second))
    ]
    scope = now.scopes.get(names[1])
    whole = now.complete and not now.interrupted and not (scope and (scope.chosen_by or scope.ended_by))
    bits = _bits(before, names[0]), _bits(now, names[1])
    answered = [{test for test, outcome in tests.items() if _answered(outcome)} for tests in (first, second)]
    judged = [{j.clause for test in tests for j in which[test].judged}
              for tests, which in zip(answered, (first, second), strict=True)]  # fmt: skip
    return TargetComparison(
        *names,
        cells=sorted(_cells(first, second, whole=whole), key=lambda cell: (cell.clause, cell.test)),
        compared=len(answered[0] & answered[1]),
        asked=len(answered[0]),
        changes=_changes(before, now, names),
        bits_lost=[bit for bit in bits[0] if bit not in bits[1]] if bits[1] is not None and bits[0] else [],
        bits_won=[bit for bit in bits[1] if bit not in bits[0]] if bits[0] is not None and bits[1] else [],
        part_before=parts[0],
        part_now=parts[1],
        otherwise=bool(scope and scope.options),
        clauses_unasked=sorted(judged[0] - judged[1]) if whole else [],
    )


def _cells(first: Mapping[str, Outcome], second: Mapping[str, Outcome], *, whole: bool) -> Iterable[Cell]:
    """What differs, and what deviates in both. `whole`: a test that the second lacks is gone, not left out."""
    for test in {**first, **second}:
        ours, theirs = first.get(test), second.get(test)
        if theirs is None and (not whole or ours is None or not _answered(ours)):
            continue
        said_before, said_now = _judged(ours), _judged(theirs)
        for clause in {**said_before, **said_now}:
            # A universal check is written down only where it fired: a test that ran without it has passed it.
            left, right = said_before.get(clause), said_now.get(clause)
            kind = _kind(_state(left, ours), _state(right, theirs))
            if kind is Kind.STILL and left and right and _answer(left) != _answer(right):
                kind = Kind.OTHER
            if kind is not None:
                yield Cell(
                    test,
                    clause,
                    kind,
                    _said(left, ours),
                    _said(right, theirs),
                    known=right is not None and right.category == "known",
                    heisenbug=_by_chance(left) or _by_chance(right),
                )


_PASSED, _DEVIATES, _SKIPPED, _LOST, _ABSENT = "passed", "deviates", "skipped", "lost", "absent"
_KINDS = {
    (_PASSED, _DEVIATES): Kind.REGRESSED,
    (_SKIPPED, _DEVIATES): Kind.NEVER_PASSED,
    (_LOST, _DEVIATES): Kind.NEVER_PASSED,
    (_ABSENT, _DEVIATES): Kind.NEVER_PASSED,
    (_DEVIATES, _DEVIATES): Kind.STILL,
    (_DEVIATES, _PASSED): Kind.MENDED,
    **dict.fromkeys(((_PASSED, _SKIPPED), (_DEVIATES, _SKIPPED)), Kind.NOT_ASKED),
    **dict.fromkeys(((_PASSED, _LOST), (_DEVIATES, _LOST)), Kind.LOST),
    **dict.fromkeys(((_PASSED, _ABSENT), (_DEVIATES, _ABSENT)), Kind.GONE),
}


def _kind(before: str, now: str) -> Kind | None:
    return _KINDS.get((before, now))


def _state(judged: Judged | None, outcome: Outcome | None) -> str:
    if outcome is None:
        return _ABSENT
    verdict = judged.verdict if judged else outcome.verdict
    if verdict == "SKIP":
        return _SKIPPED
    if verdict in LOST_VERDICTS:
        return _LOST
    return _DEVIATES if judged and verdict in BAD_VERDICTS else _PASSED


def _answered(outcome: Outcome) -> bool:
    return outcome.verdict not in ("SKIP", *LOST_VERDICTS)


def _judged(outcome: Outcome | None) -> dict[str, Judged]:
    """By clause; where it is judged twice, what deviates."""
    found: dict[str, Judged] = {}
    for judged in outcome.judged if outcome else ():
        if judged.clause not in found or judged.verdict in BAD_VERDICTS:
            found[judged.clause] = judged
    return found


def _answer(judged: Judged) -> object:
    """What a deviation came to: its verdict, and each row that differed, or its reason."""
    rows = judged.check.rows if judged.check else ()
    return judged.verdict, tuple((row.name, row.got) for row in rows) or _NUMBER.sub("", judged.summary)


def _by_chance(judged: Judged | None) -> bool:
    return judged is not None and (judged.after_others or bool(judged.baseline and judged.baseline.sometimes))


def _said(judged: Judged | None, outcome: Outcome | None) -> str:
    if outcome is None:
        return "not run"
    verdict, reason = (judged.verdict, judged.summary) if judged else (outcome.verdict, "")
    if judged is None and verdict in BAD_VERDICTS:
        verdict = "PASS"  # something else deviates in that test
    return f"{verdict}: {reason}" if reason and verdict != "PASS" else verdict


def _targets(run: Run) -> list[str]:
    return list(dict.fromkeys([*(info.target for info in run.targets), *(result.target for result in run.results)]))


def _bits(run: Run, target: str) -> list[str] | None:
    """The bits of Fn8000_000A EDX that all its workers saw, by name; None where none was asked."""
    seen = [info.edx for info in run.targets if info.target == target and info.booted]
    if not seen:
        return None
    edx = seen[0]
    for each in seen[1:]:
        edx &= each
    return [bit.name for bit in SVM_BITS if edx >> bit.bit & 1]


def _changes(before: Run, now: Run, names: tuple[str, str]) -> list[Change]:
    """The versions of everything, and the facts of the machine, that either run holds."""
    first, second = _versions(before, names[0]), _versions(now, names[1])
    return [Change(what, first.get(what, ""), second.get(what, "")) for what in {**first, **second}]


def _versions(run: Run, target: str) -> dict[str, str]:
    infos = [info for info in run.targets if info.target == target]

    def each(of: Callable[[object], str], values: Iterable[object]) -> str:
        return ", ".join(dict.fromkeys(text for value in values if (text := of(value))))

    start = run.start
    told = {
        "target": each(str, (info.version for info in infos)),
        "executor": each(str, (info.executor_build for info in infos)),
    }
    if start is not None:
        modified = " (modified)" if start.nsvm.dirty else ""
        told["nsvm"] = f"{start.nsvm.version} {start.nsvm.commit or ''}{modified}".strip()
        told["python"] = start.python
        told["harness on"] = ", ".join(text for text in (start.host.os, start.host.cpu) if text)
    told["baselines"] = each(str, (name for info in infos for name in info.baselines))
    told["clauses"] = str(len(run.clauses))
    for info in (info for info in infos if info.booted):
        for title, value in machine_facts(info).items():
            told.setdefault(title, value)
    return {what: text for what, text in told.items() if text}
