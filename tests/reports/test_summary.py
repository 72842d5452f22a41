"""The counting: worst wins, numbers agree with each other, and a record that lies is found out."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.record import (
    BaselineRef,
    Check,
    ClauseInfo,
    End,
    Fresh,
    Line,
    Result,
    Run,
    TargetInfo,
    Universal,
    collect,
    load,
)
from harness.summary import CATEGORIES, category, summarise
from tests.reports.synthetic import Maker, interrupted, quiet, summary_of, write

CLAUSES = [
    ClauseInfo(id="core.a", bit="core", statement="A."),
    ClauseInfo(id="core.b", bit="core", statement="B."),
    ClauseInfo(id="np.a", bit="NP", statement="NP."),
]


def _result(verdict: str = "PASS", news: str = "ok", test: str = "s/a.py::test_a", **more: Any) -> Result:
    return Result(test=test, target="t", verdict=verdict, news=news, **{"clauses": ("core.a",), **more})


def _run(*records: Line, end: bool = True) -> Run:
    closing: list[Line] = [End(finished="", duration_s=0, exit_status=0)] if end else []
    run = collect([*CLAUSES, *records])
    if closing:
        counts = Counter(r.verdict for r in run.results)
        news = Counter(r.news for r in run.results)
        run.end = End(
            finished="", duration_s=0, exit_status=1, counts=counts,
            new=news["new"], known=news["known"], mended=news["mended"],
        )  # fmt: skip
    return run


def test_a_quiet_run_is_status_0(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", quiet())

    assert summary.sentence == (
        "qemu-tcg: no new deviation; 28 known deviations in 6 clauses, 3 of them in universal checks only"
    )
    assert summary.exit_status == 0
    assert summary.contradictions == []


def test_new_mended_and_lost_are_in_the_sentence(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", Maker())

    assert summary.sentence == (
        "qemu-tcg: 3 new deviations in 2 clauses; 1 known deviation mended in 1 clause; "
        "28 known deviations in 6 clauses, 3 of them in universal checks only; "
        "2 tests without a verdict (1 ERROR, 1 MISS)"
    )
    assert summary.exit_status == 1
    assert summary.contradictions == []


@pytest.mark.parametrize("targets", [("qemu-tcg",), ("qemu-tcg", "bochs", "kvm")])
def test_all_numbers_agree_with_each_other(tmp_path: Path, targets: tuple[str, ...]) -> None:
    summary = summary_of(tmp_path / "run.jsonl", Maker(targets=targets))

    parts = summary.new + summary.mended + summary.known + summary.lost + summary.passed + summary.skipped
    assert parts == summary.tests == len(summary.run.results) == sum(summary.counts.values())
    assert {c: sum(o.category == c for o in summary.outcomes) for c in CATEGORIES} == {
        "new": summary.new, "mended": summary.mended, "known": summary.known,
        "lost": summary.lost, "passed": summary.passed, "skipped": summary.skipped,
    }  # fmt: skip
    for target in summary.targets:
        # Every outcome is in at least one row, and no row counts one twice.
        in_rows = sum(bit.cells[target.name].tally.tests for bit in summary.bits)
        assert in_rows >= target.tally.tests
        for bit in summary.bits:
            cell = bit.cells[target.name]
            assert cell.tally.tests <= target.tally.tests
            assert sum(cell.tally.reasons.values()) == cell.tally.skipped
            assert cell.clauses_judged <= len(bit.clauses)
    for wanted in ("new", "mended", "known"):
        outcomes = {j.outcome.number for d in summary.deviations if d.category == wanted for j in d.judged}
        assert {o.number for o in summary.outcomes if o.category == wanted} <= outcomes


def test_there_is_a_row_for_core_and_for_each_of_the_32_bits(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", quiet())

    assert summary.bits[0].key == "core"
    assert [b.bit for b in summary.bits[1:33]] == list(range(32))
    assert [b.key for b in summary.bits[33:]] == ["policy", "advisories"]
    assert all(b.key for b in summary.bits)
    offered = [b.bit for b in summary.bits if b.cells["qemu-tcg"].offered]
    assert offered == [0, 16, 28]


@pytest.mark.parametrize("name", ["LBRVIRT", "LbrVirt", "lbrvirt", "lbrv", "1", "bit1"])
def test_a_bit_is_found_by_any_of_its_names(name: str) -> None:
    run = collect([ClauseInfo(id="x.y", bit=name, statement="")])

    summary = summarise(run)

    assert [len(b.clauses) for b in summary.bits if b.bit == 1] == [1]


@pytest.mark.parametrize("order", list(itertools.permutations(("PASS", "FAIL", "CRASH"))))
def test_the_worst_verdict_of_its_tests_is_the_clauses(order: tuple[str, ...]) -> None:
    results = [_result(v, "new" if v != "PASS" else "ok", f"s/a.py::t[{v}]") for v in order]

    summary = summarise(_run(*results))

    assert summary.clauses["core.a"].verdict("t") == "CRASH"
    assert summary.bits[0].cells["t"].verdict == "CRASH"
    assert summary.new == 2


def test_a_skip_does_not_hide_a_pass_nor_a_miss() -> None:
    skipped = _result("SKIP", "skipped", "s/a.py::t[s]", reason="NP is not offered")
    passed = _result(test="s/a.py::t[p]")
    missed = _result("MISS", "ok", "s/a.py::t[m]")

    assert summarise(_run(skipped, passed)).clauses["core.a"].verdict("t") == "PASS"
    assert summarise(_run(skipped, passed, missed)).clauses["core.a"].verdict("t") == "MISS"
    assert summarise(_run(skipped)).clauses["core.a"].verdict("t") == "SKIP"


def test_a_pass_with_a_failing_check_is_a_failure_and_a_contradiction() -> None:
    lying = _result(checks=[Check(clause="core.b", verdict="FAIL", news="new")])

    summary = summarise(_run(lying))

    assert (summary.new, summary.passed, summary.exit_status) == (1, 0, 1)
    assert summary.clauses["core.b"].verdict("t") == "FAIL"
    assert any("recorded as PASS" in text for text in summary.contradictions)


@pytest.mark.parametrize("news", ["ok", "skipped", "mended"])
@pytest.mark.parametrize("verdict", ["FAIL", "CRASH", "HANG"])
def test_a_failure_that_is_told_as_nothing_new_is_new(verdict: str, news: str) -> None:
    summary = summarise(_run(_result(verdict, news)))

    assert summary.new == 1
    assert summary.exit_status == 1
    assert [d.category for d in summary.deviations] == ["new"]
    assert summary.contradictions


def test_a_known_failure_with_a_new_check_is_new() -> None:
    why = BaselineRef(reason="r")
    checks = [
        Check(clause="core.a", verdict="FAIL", news="known", baseline=why),
        Check(clause="core.b", verdict="FAIL", news="new"),
    ]

    summary = summarise(_run(_result("FAIL", "known", checks=checks)))

    assert summary.new == 1 and summary.exit_status == 1
    assert [(d.category, d.clause.info.id) for d in summary.deviations] == [("new", "core.b"), ("known", "core.a")]


def test_a_failure_without_a_clause_is_not_lost() -> None:
    summary = summarise(_run(_result("HANG", "new", clauses=())))

    (deviation,) = summary.deviations
    assert (deviation.category, deviation.clause.info.id, summary.exit_status) == ("new", "(no clause)", 1)


def test_a_failure_whose_checks_all_pass_is_laid_to_its_clause() -> None:
    summary = summarise(_run(_result("CRASH", "new", checks=[Check(clause="core.a", verdict="PASS")])))

    assert [(d.clause.info.id, d.verdict) for d in summary.deviations] == [("core.a", "CRASH")]
    assert summary.clauses["core.a"].verdict("t") == "CRASH"


def test_a_universal_failure_is_laid_to_its_own_clause_only() -> None:
    checks = [
        Check(clause="np.a", verdict="PASS"),
        Check(clause="core.b", verdict="FAIL", news="new", universal=True),
    ]
    universal = Universal(target="t", clause="core.b", checked=10, failed=1)

    summary = summarise(_run(_result("FAIL", "new", clauses=("np.a",), checks=checks), universal))

    assert summary.clauses["np.a"].verdict("t") == "PASS"
    assert summary.clauses["core.b"].verdict("t") == "FAIL"
    rows = {b.key: b.cells["t"] for b in summary.bits}
    assert (rows["NP"].verdict, rows["core"].verdict) == ("PASS", "FAIL")


EXIT_CHECK = Check(clause="core.b", verdict="FAIL", news="known", universal=True)


@pytest.mark.parametrize(
    ("own", "row", "whole"),
    [
        (Check(clause="np.a", verdict="PASS"), {"universal": 1, "known": 1}, 1),
        (Check(clause="np.a", verdict="FAIL", news="known"), {"known": 1}, 0),
        (Check(clause="np.a", verdict="FAIL", news="new"), {"new": 1}, 0),
        (Check(clause="np.a", verdict="PASS", news="mended"), {"mended": 1}, 0),
    ],
)
def test_a_known_universal_check_is_counted_where_the_test_is_and_not_as_what_it_names(
    own: Check, row: dict[str, int], whole: int
) -> None:
    verdict, news = ("FAIL", "known" if own.news == "ok" else own.news)
    universal = Universal(target="t", clause="core.b", checked=10, failed=1)

    summary = summarise(_run(_result(verdict, news, clauses=("np.a",), checks=[own, EXIT_CHECK]), universal))

    cells = {bit.key: bit.cells["t"] for bit in summary.bits}
    counted = {name: getattr(cells["NP"].tally, name) for name in (*CATEGORIES, "universal")}
    assert {name: number for name, number in counted.items() if number} == row
    assert cells["core"].tally.tests == 0  # a test of another bit does not fill the row of the check
    assert (cells["core"].verdict, cells["core"].category) == ("FAIL", "known")  # which says what its clauses are
    assert (summary.universal, "universal checks only" in summary.sentence) == (whole, bool(whole))
    assert summary.clauses["core.b"].per_target["t"].known == 1


@pytest.mark.parametrize("news", ["new", "known"])
def test_a_universal_check_that_is_new_or_alone_is_counted_in_its_own_row(news: str) -> None:
    check = Check(clause="core.b", verdict="FAIL", news=news, universal=True)
    names = [Check(clause="np.a", verdict="PASS")] if news == "new" else []

    summary = summarise(_run(_result("FAIL", news, clauses=("np.a",) if names else (), checks=[*names, check])))

    cells = {bit.key: bit.cells["t"] for bit in summary.bits}
    assert getattr(cells["core"].tally, news) == 1
    assert cells["NP"].tally.passed == len(names)


def test_what_deviates_in_universal_checks_only_is_part_of_what_is_known(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", Maker())

    assert 0 < summary.universal < summary.known
    for bit in summary.bits:
        tally = bit.cells["qemu-tcg"].tally
        assert tally.known_named + tally.universal == tally.known
    assert sum(bit.cells["qemu-tcg"].tally.universal for bit in summary.bits) == summary.universal


def test_universal_sums_add_up_over_workers() -> None:
    sums = [Universal(target="t", clause="core.b", checked=n, failed=0) for n in (10, 7)]

    summary = summarise(_run(_result(), *sums))

    assert summary.clauses["core.b"].universal["t"].checked == 17
    assert summary.clauses["core.b"].verdict("t") == "PASS"


def test_a_universal_failure_that_no_result_tells_is_a_contradiction() -> None:
    fired = Universal(target="t", clause="core.b", checked=10, failed=2)

    summary = summarise(_run(_result(), fired))

    assert any("did not hold after 2 VMRUNs" in text for text in summary.contradictions)
    assert summary.exit_status == 3
    assert summary.clauses["core.b"].verdict("t") == "FAIL"
    excused = _result(test="s/a.py::t2", fresh=Fresh(state="differs", shared_verdict="FAIL"))
    assert not summarise(_run(_result(), excused, fired)).contradictions


def test_a_run_without_end_is_never_status_0(tmp_path: Path) -> None:
    records = quiet().records(end=False)
    run = load(write(tmp_path / "run.jsonl", records))

    summary = summarise(run)

    assert summary.cut_short and summary.exit_status == 3
    assert summary.sentence.startswith("Cut short. qemu-tcg: no new deviation so far")
    assert summarise(run, ending=True).exit_status == 0


def test_an_empty_run_is_never_status_0() -> None:
    assert summarise(_run()).exit_status == 3
    assert summarise(Run()).exit_status == 3
    assert "nothing was judged" in summarise(_run()).sentence


def test_a_run_that_only_skips_says_that_nothing_was_judged() -> None:
    summary = summarise(_run(_result("SKIP", "skipped", reason="NP is not offered")))

    assert summary.sentence == "t: nothing was judged; all 1 test skipped"
    assert summary.exit_status == 3


def test_a_run_that_is_lost_whole_does_not_say_no_new_deviation() -> None:
    summary = summarise(_run(_result("MISS"), _result("ERROR", test="s/a.py::u")))

    assert summary.sentence == "t: nothing was judged; 2 tests without a verdict (1 ERROR, 1 MISS)"
    assert summary.exit_status == 3


def test_a_target_that_booted_and_tested_nothing_is_named() -> None:
    summary = summarise(_run(_result(), TargetInfo(target="bochs", edx=1)))

    assert summary.sentence == "bochs: nothing was judged; no test was run. t: no new deviation"


def test_lines_that_are_missing_are_noticed(tmp_path: Path) -> None:
    def lose(records: list[Line]) -> None:
        records.remove(next(r for r in records if isinstance(r, Result) and r.verdict == "FAIL"))

    summary = summary_of(tmp_path / "run.jsonl", quiet(), lose)

    assert any("results are missing" in text for text in summary.contradictions)
    assert summary.exit_status == 3


def test_an_end_that_claims_success_is_noticed(tmp_path: Path) -> None:
    def lie(records: list[Line]) -> None:
        end = records[-1]
        assert isinstance(end, End)
        records[-1] = replace(end, exit_status=0, new=0)

    summary = summary_of(tmp_path / "run.jsonl", Maker(), lie)

    assert summary.exit_status == 1
    assert any("exit status 0" in text for text in summary.contradictions)
    assert any("0 new" in text for text in summary.contradictions)


def test_a_test_told_twice_counts_once_and_as_the_worse() -> None:
    for order in ((0, 1), (1, 0)):
        both = [_result(), _result("FAIL", "new")]
        summary = summarise(_run(*(both[i] for i in order)))
        assert (summary.tests, summary.new) == (1, 1)
        assert any("twice" in text for text in summary.contradictions)


def test_a_bit_that_only_some_workers_see_is_noticed() -> None:
    workers = [TargetInfo(target="t", worker="gw0", edx=1), TargetInfo(target="t", worker="gw1", executor_build="x")]

    summary = summarise(_run(_result(), *workers))

    assert any("bit 0" in text for text in summary.contradictions)
    assert len(summary.targets[0].machines) == 2


def test_workers_alike_are_one_machine_with_its_facts(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", quiet())

    (machine,) = summary.targets[0].machines
    assert machine.workers == ["gw0", "gw1"]
    assert machine.facts["Vendor"] == "AuthenticAMD"
    assert (machine.facts["Family"], machine.facts["Model"], machine.facts["Stepping"]) == ("19h", "21h", "2h")
    assert (machine.facts["Physical address bits"], machine.facts["ASIDs (NASID)"]) == ("48", "16")
    assert len(machine.commands) == 2


def test_a_target_that_never_booted_offers_nothing_and_denies_nothing() -> None:
    summary = summarise(_run(_result("MISS"), TargetInfo(target="t", version="KVM 6.1")))

    assert {bit.cells["t"].offered for bit in summary.bits} == {None}


def test_a_target_without_cpuid_claims_nothing() -> None:
    summary = summarise(_run(_result(), TargetInfo(target="t")))

    assert summary.targets[0].machines[0].facts == {}
    assert summarise(_run(_result())).bits[1].cells["t"].offered is None


def test_an_interrupted_run_with_an_end_is_not_cut_short(tmp_path: Path) -> None:
    def stop(records: list[Line]) -> None:
        records.insert(-1, interrupted())

    summary = summary_of(tmp_path / "run.jsonl", quiet(), stop)

    assert not summary.cut_short
    assert summary.unfinished and summary.exit_status == 3
    assert summary.sentence.startswith("Interrupted. qemu-tcg: no new deviation so far")


@pytest.mark.parametrize(
    ("verdict", "news", "expected"),
    [
        ("PASS", "ok", "passed"), ("PASS", "mended", "mended"), ("FAIL", "known", "known"), ("FAIL", "new", "new"),
        ("FAIL", "ok", "new"), ("SKIP", "skipped", "skipped"), ("ERROR", "ok", "lost"), ("MISS", "new", "lost"),
        ("HANG", "known", "known"),
    ],
)  # fmt: skip
def test_category(verdict: str, news: str, expected: str) -> None:
    assert category(verdict, news) == expected
