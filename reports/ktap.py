"""The run as KTAP, version 1, as the kernel's test tools read it: a subtest for each target.

A known deviation is `not ok` with XFAIL, what a target did not offer is SKIP; CRASH stays a plain `not ok`, HANG is
TIMEOUT, and what gave no verdict (ERROR, MISS) is ERROR.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.summary import Outcome, Summary
from harness.text import line

_REASON_MAX = 300


def render_ktap(summary: Summary) -> str:
    """Lines of text. A part says so in a comment, and a run that was cut short in a test of its own that fails."""
    told = ["KTAP version 1", f"1..{len(summary.targets) + 1}"]
    for number, target in enumerate(summary.targets, 1):
        outcomes = [outcome for outcome in summary.outcomes if outcome.target == target.name]
        name = line(target.name, 80)
        told += ["  KTAP version 1", f"  # Subtest: {name}"]
        told += [f"  # part: {line(target.part, 300)}"] if target.part else []
        told.append(f"  1..{len(outcomes)}")
        for place, outcome in enumerate(outcomes, 1):
            told += [f"  {text}" for text in _test(place, outcome)]
        bad = any(outcome.category in ("new", "mended", "lost") for outcome in outcomes) or not outcomes
        told += [f"{'not ok' if bad else 'ok'} {number} {name}"]
    wrong = summary.unfinished or summary.damaged or not summary.outcomes
    told.append(f"{'not ok' if wrong else 'ok'} {len(summary.targets) + 1} the record is whole and agrees with itself")
    return "\n".join(told) + "\n"


def _test(number: int, outcome: Outcome) -> Iterator[str]:
    name = line(outcome.test, 300).replace("#", "_")
    reason = line(next((j.summary for j in outcome.judged if j.category == outcome.category), "")
                  or outcome.result.reason, _REASON_MAX)  # fmt: skip
    match outcome.category:
        case "passed":
            yield f"ok {number} {name}"
        case "skipped":
            yield f"ok {number} {name} # SKIP {reason}"
        case "known":
            yield f"not ok {number} {name} # XFAIL known {outcome.word}: {reason}"
        case "lost":
            yield f"not ok {number} {name} # ERROR {outcome.verdict}: {reason}"
        case "mended":
            yield f"# mended: {', '.join(j.clause for j in outcome.judged if j.category == 'mended')}"
            yield f"not ok {number} {name}"
        case _:
            for judged in outcome.judged:
                if judged.category == "new":
                    yield f"# {outcome.word} {judged.clause}: {line(judged.summary, _REASON_MAX)}"
            yield f"not ok {number} {name}" + (" # TIMEOUT" if outcome.verdict == "HANG" else "")
