"""The run in brief for machines: `summary.json`, and the one fixed last line of a terminal. docs/record.md says what
stands in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from harness.judge.offers import names
from harness.summary import Deviation, Summary, TargetSummary
from harness.summary.comparison import Comparison
from harness.text import line

SUMMARY_NAME: Final = "summary.json"
SCHEMA: Final = 1
DEVIATIONS_MAX: Final = 200
PASSED, FAILED = "PASSED", "FAILED"


def last_line(summary: Summary | None, against: Comparison | None, status: int) -> str:
    """`nsvm: PASSED`, or `nsvm: FAILED 3 new, 1 mended`. A part says so: `nsvm: PASSED in part (12 of 7537 tests)`."""
    if status == 0:
        part = summary.part_short if summary else ""
        return f"nsvm: {PASSED} in part ({part})" if part else f"nsvm: {PASSED}"
    return f"nsvm: {FAILED} {_why(summary, against, status)}"


def _why(summary: Summary | None, against: Comparison | None, status: int) -> str:
    told = []
    if summary is not None:
        for number, word in ((summary.new, "new"), (summary.mended, "mended"), (summary.lost, "without a verdict")):
            told += [f"{number} {word}"] if number else []
    if against is not None and against.worse:
        worse = len({(t.now, cell.test) for t in against.targets for cell in t.regressions})
        told.append(f"{worse} worse than before" if worse else "worse than before")
    if summary is not None:
        told += ["cut short"] if summary.cut_short else ["interrupted"] if summary.run.interrupted else []
    return ", ".join(told) or ("not conclusive" if status == 3 else f"status {status}")


def render_summary(summary: Summary, against: Comparison | None = None) -> bytes:
    """`summary.json`."""
    status = 1 if against is not None and against.worse else summary.exit_status
    start, end = summary.run.start, summary.run.end
    told: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": PASSED if status == 0 else FAILED,
        "line": last_line(summary, against, status),
        "exit_status": status,
        "in_part": any(target.part for target in summary.targets),
        "complete": not summary.unfinished,
        "sentence": summary.sentence,
        "run_id": start.run_id if start else "",
        "started": start.started if start else "",
        "finished": end.finished if end else "",
        "duration_s": end.duration_s if end else None,
        "command": list(start.argv) if start else [],
        "nsvm": {"version": start.nsvm.version, "commit": start.nsvm.commit, "modified": start.nsvm.dirty}
        if start
        else None,
        "counts": _counts(summary),
        "targets": [_target(summary, target) for target in summary.targets],
        **{kind: _deviations(summary.deviations, kind) for kind in ("new", "mended")},
        "against": None
        if against is None
        else {
            "name": against.before,
            "verdict": against.status,
            "worse": against.worse,
            "sentence": against.sentence,
            "targets": {t.now: {kind.value: n for kind, n in t.by_test.items()} for t in against.targets},
        },
    }
    return json.dumps(told, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _counts(of: Summary | TargetSummary) -> dict[str, int]:
    """Tests by category."""
    tally = of.tally if isinstance(of, TargetSummary) else of
    told = {name: int(getattr(tally, name)) for name in ("tests", "passed", "new", "mended", "known", "skipped")}
    return {**told, "known_in_universal_checks_only": tally.universal, "without_verdict": tally.lost}


def _target(summary: Summary, target: TargetSummary) -> dict[str, Any]:
    booted = [machine.info for machine in target.machines if machine.info.booted]
    return {
        "name": target.name,
        "versions": list(dict.fromkeys(machine.info.version for machine in target.machines)),
        "edx": f"{booted[0].edx:08X}" if booted else None,
        "offered": names(booted[0].edx) if booted else [],
        "facts": target.machines[0].facts if target.machines else {},
        "part": target.part,
        "sentence": target.sentence,
        "counts": _counts(target),
        "verdicts": dict(target.counts),
        "bits": {
            bit.key: {"verdict": cell.verdict, "category": cell.category, "clauses_judged": cell.clauses_judged,
                      "clauses": len(bit.clauses), "tests": cell.tally.tests, "skipped": cell.tally.skipped}
            for bit in summary.bits
            if bit.clauses and (cell := bit.cells[target.name])
        },
    }  # fmt: skip


def _deviations(deviations: Sequence[Deviation], kind: str) -> list[dict[str, Any]]:
    """The first of them; `counts` has how many tests there are."""
    return [
        {
            "clause": each.clause.info.id,
            "statement": line(each.clause.info.statement, 400),
            "apm": each.clause.info.apm,
            "target": each.target,
            "verdict": each.word,
            "tests": len(each.judged),
            "first": each.judged[0].outcome.test,
            "reason": line(each.judged[0].summary, 400),
            "again": each.judged[0].outcome.result.rerun,
        }
        for each in deviations
        if each.category == kind
    ][:DEVIATIONS_MAX]
