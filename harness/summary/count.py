"""Counts a run."""

from __future__ import annotations

from collections import Counter

from harness.record import ClauseInfo, Run
from harness.summary.bits import ClauseSummary, bit_cell, bit_rows, offered_to, row_key
from harness.summary.category import CATEGORIES, Tally, UniversalTally
from harness.summary.contradictions import cross_check
from harness.summary.machine import machines_of
from harness.summary.outcome import NO_CLAUSE, OF_NO_TEST, Outcome, outcomes_of
from harness.summary.scope import part, short
from harness.summary.whole import Deviation, Summary, TargetSummary


def summarise(run: Run, *, ending: bool = False) -> Summary:
    """Count a run. `ending`: its End is about to be written, so that it lacks one does not mean that it was killed."""
    contradictions: list[str] = []
    outcomes = outcomes_of(run, contradictions)
    names = dict.fromkeys([*(i.target for i in run.targets), *run.scopes, *(o.target for o in outcomes)])

    clauses = {id_: ClauseSummary(info) for id_, info in run.clauses.items()}

    def clause_of(id_: str) -> ClauseSummary:
        if id_ not in clauses:
            text = (
                "The test names no clause." if id_ == NO_CLAUSE else "The record does not say what this clause states."
            )
            clauses[id_] = ClauseSummary(ClauseInfo(id=id_, bit="(unknown)", statement=text, class_=""))
        return clauses[id_]

    for universal in run.universals:
        seen = clause_of(universal.clause).universal.setdefault(universal.target, UniversalTally())
        seen.checked += universal.checked
        seen.failed += universal.failed
        names.setdefault(universal.target)
    for outcome in outcomes:
        for judged in outcome.judged:
            summary = clause_of(judged.clause)
            summary.per_target.setdefault(outcome.target, Tally()).add(judged.verdict, judged.news, judged.summary)
            summary.judged.setdefault(outcome.target, []).append(judged)

    rows = bit_rows(c.info for c in clauses.values())
    for clause in clauses.values():
        rows[row_key(clause.info.bit)].clauses.append(clause)
    for row in rows.values():
        for name in names:
            row.cells[name] = bit_cell(row, name, offered_to(run, name, row.bit, contradictions))

    deviations = [
        Deviation(name, clause, wanted, found)
        for wanted in ("new", "mended", "known")
        for row in rows.values()
        for clause in row.clauses
        for name in names
        if (found := [j for j in clause.judged.get(name, ()) if j.category == wanted])
    ]
    cut_short = not (run.complete or ending)
    unfinished = cut_short or bool(run.interrupted)
    targets = [_target(run, name, outcomes, unfinished) for name in names]
    cross_check(run, outcomes, clauses, contradictions)
    return Summary(
        run=run,
        targets=targets,
        bits=list(rows.values()),
        clauses=clauses,
        outcomes=outcomes,
        deviations=deviations,
        contradictions=contradictions,
        cut_short=cut_short,
    )


def _target(run: Run, name: str, outcomes: list[Outcome], unfinished: bool) -> TargetSummary:
    tally = Tally()
    touched: dict[str, set[str]] = {c: set() for c in CATEGORIES}
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.target != name:
            continue
        tally.add(outcome.verdict, outcome.news, outcome.result.reason, universal=outcome.universal_only)
        counts[outcome.verdict] += 1
        touched[outcome.category].update(j.clause for j in outcome.judged if j.category == outcome.category)
    by_category = {c: len(ids) for c, ids in touched.items()}
    scope = run.scopes.get(name)
    ran = sum(1 for o in outcomes if o.target == name and not o.test.startswith(OF_NO_TEST))
    return TargetSummary(
        name, machines_of(run, name), tally, counts, by_category, unfinished, part(scope, ran), short(scope, ran)
    )
