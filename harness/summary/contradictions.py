"""A record's own sums held against its lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from harness.record import BAD_VERDICTS, Run, Verdict
from harness.summary.bits import ClauseSummary
from harness.summary.category import counted
from harness.summary.outcome import Outcome


def cross_check(
    run: Run, outcomes: list[Outcome], clauses: dict[str, ClauseSummary], contradictions: list[str]
) -> None:
    """Hold the record's own sums against its lines."""
    for clause in clauses.values():
        for target, seen in clause.universal.items():
            told = any(j.verdict in BAD_VERDICTS for j in clause.judged.get(target, ()))
            excused = any(o.target == target and (o.fresh_differs or o.after_others) for o in outcomes)
            if seen.failed and not told and not excused:
                text = f"did not hold after {counted(seen.failed, 'VMRUN')} on {target}, but no result says so"
                contradictions.append(f"{clause.info.id} {text}")
            if seen.failed > seen.checked:
                contradictions.append(f"{clause.info.id} failed more often than it was checked on {target}")
    if run.end is None:
        return
    results = Counter(r.verdict for r in run.results)
    said = {k: v for k, v in run.end.counts.items() if v}
    if said and said != dict(results):
        contradictions.append(
            f"the end of the record counts {_spelt(said)}, but its lines are {_spelt(results)}: results are missing"
            if sum(said.values()) > sum(results.values())
            else f"the end of the record counts {_spelt(said)}, but its lines are {_spelt(results)}"
        )
    found = Counter(o.category for o in outcomes)
    for name in ("new", "mended", "known"):
        if getattr(run.end, name) != found[name]:
            contradictions.append(
                f"the end of the record counts {getattr(run.end, name)} {name}, its lines {found[name]}"
            )
    if run.end.exit_status == 0 and (found["new"] or found["mended"] or found["lost"]):
        contradictions.append("the end of the record says that all was well (exit status 0), its results do not")


def _spelt(counts: Mapping[Verdict, int] | Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "nothing"
