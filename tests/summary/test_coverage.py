"""What counts as run, and what does not: the count of clauses that never ran must not be prettier than the records."""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge.clauses import Clause
from harness.record import Check, CpuidRow, Line, Result, RunStart, Scope, TargetInfo, Universal
from harness.summary.coverage import Coverage, State, cover, machines_of

NRIPS: CpuidRow = (0x8000_000A, 0, 1, 8, 0, 1 << 3)
NOTHING: CpuidRow = (0x8000_000A, 0, 1, 8, 0, 0)
ANY = Clause("core.any", "It does.", "15.5")
WITH = Clause("nrips.with", "It does.", "15.7.1", condition="NRIPS")
WITHOUT = Clause("nrips.without", "It does not.", "15.7.1", condition="!NRIPS")


def result(verdict: str, clause: str, target: str = "t", test: str = "a", **more: object) -> Result:
    return Result(test=test, target=target, verdict=verdict, clauses=[clause], **more)  # type: ignore[arg-type]


def coverage(clauses: Sequence[Clause], *records: Line, cpuid: CpuidRow = NRIPS) -> Coverage:
    info = TargetInfo(target="t", version="1.0", cpuid=[cpuid])
    return cover(clauses, machines_of("runs/x", [RunStart(run_id="1", started="2026-01-01"), info, *records]))


def test_what_came_to_an_answer_ran() -> None:
    for verdict, news, state in (
        ("PASS", "ok", State.PASSED),
        ("FAIL", "known", State.KNOWN),
        ("HANG", "new", State.NEW),
        ("CRASH", "ok", State.NEW),
    ):
        found = coverage([ANY], result(verdict, ANY.id, news=news))

        assert found.rows[0].cells[0].state is state
        assert found.never == []


def test_a_clause_whose_tests_were_only_skipped_never_ran() -> None:
    found = coverage([ANY], result("SKIP", ANY.id, reason="a second CPU is missing"))

    assert found.rows[0].cells[0].state is State.SKIPPED
    assert [row.why_never(found.machines) for row in found.never] == ["skipped: a second CPU is missing (t)"]
    assert "1 of 1 clauses never ran" in found.sentence and "1 were skipped" in found.sentence


def test_a_test_without_a_verdict_is_no_answer() -> None:
    for verdict in ("ERROR", "MISS"):
        assert coverage([ANY], result(verdict, ANY.id)).rows[0].cells[0].state is State.LOST


def test_the_bit_that_is_missing_is_named() -> None:
    found = coverage([WITH], result("SKIP", WITH.id, reason="x"), cpuid=NOTHING)

    assert found.rows[0].cells[0].state is State.NOT_OFFERED
    assert found.rows[0].cells[0].words == "no NRIPS"
    assert "not offered: no NRIPS (t)" in found.never[0].why_never(found.machines)
    assert "1 need what none of them offers" in found.sentence


def test_a_clause_under_its_other_side_says_so() -> None:
    # A test that asks both ways round judges the side in force alone: the record does not name the other clause.
    found = coverage([WITH, WITHOUT], result("PASS", WITH.id))

    assert [row.cells[0].words for row in found.rows] == ["passed", "has NRIPS"]
    assert found.rows[1].cells[0].state is State.OTHER_SIDE
    assert "only its other side can run: has NRIPS" in found.never[0].why_never(found.machines)


def test_of_a_condition_with_several_bits_the_one_that_matters_is_named() -> None:
    both = Clause("x.y", "s", "1", condition="NRIPS & VGIF")

    assert coverage([both]).rows[0].cells[0].words == "no VGIF"


def test_a_universal_clause_ran_if_a_vmrun_gave_it_an_occasion() -> None:
    clause = Clause("core.exit.x", "s", "1", universal=True)

    def state(checked: int, failed: int, *more: Line) -> State:
        counted = Universal(target="t", clause=clause.id, checked=checked, failed=failed)
        return coverage([clause], *more, counted).rows[0].cells[0].state

    fired = Check(clause=clause.id, verdict="FAIL", news="new", universal=True)
    assert state(5, 0) is State.PASSED
    assert state(5, 5) is State.KNOWN
    assert state(5, 1, result("FAIL", ANY.id, checks=[fired])) is State.NEW
    assert state(0, 0) is State.NOT_ASKED


def test_a_clause_that_says_why_no_test_asks_it_is_counted_apart() -> None:
    silent = Clause("core.silent", "s", "1", not_tested="nobody can see it")
    found = coverage([silent, ANY])

    assert [row.why_never(found.machines) for row in found.never] == [
        "no test: nobody can see it",
        "no test of it ran (t)",
    ]
    assert "2 of 2" in found.sentence and "1 have no test and say why" in found.sentence


def test_a_part_of_the_tests_is_called_one() -> None:
    found = coverage([ANY], Scope(target="t", chosen=1, there=9, chosen_by=["-k asid"], options=["--without NRIPS"]))

    assert found.machines[0].name == "t --without NRIPS"
    assert found.machines[0].part == "-k asid"
    assert found.rows[0].cells[0].why == "not among the tests of -k asid"


def test_cpuid_that_cannot_be_is_no_cpuid() -> None:
    assert coverage([WITH], cpuid=(1, 0, -1, 0, 0, 0)).rows[0].cells[0].state is State.NOT_ASKED
