"""Two runs side by side: what counts as the same answer, and what as not asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.command import main
from harness.record import Check, Result, Writer
from harness.summary.compare import Kind, compare_runs


def result(test: str, verdict: str, reason: str = "", **universal: str) -> Result:
    own = Check(clause="core.own", verdict=verdict, summary=reason)
    fired = [
        Check(clause=f"core.exit.{name}", verdict="FAIL", universal=True, summary=s) for name, s in universal.items()
    ]
    return Result(test=test, target="t", verdict=verdict, clauses=["core.own"], checks=[own, *fired])


def kinds(left: list[Result], right: list[Result]) -> dict[tuple[str, str], Kind]:
    return {(each.clause, cell.test): cell.kind for each in compare_runs(left, right) for cell in each.cells}


def test_the_same_answer_and_another_one() -> None:
    left = [result("a", "FAIL", "rip: 1"), result("b", "FAIL", "rip: 1"), result("c", "HANG", "x")]
    right = [result("a", "FAIL", "rip: 1"), result("b", "FAIL", "rip: 2"), result("c", "CRASH", "x")]

    assert kinds(left, right) == {
        ("core.own", "a"): Kind.SAME,
        ("core.own", "b"): Kind.OTHER,
        ("core.own", "c"): Kind.OTHER,
    }


def test_one_only() -> None:
    found = kinds([result("a", "FAIL", "x"), result("b", "PASS")], [result("a", "PASS"), result("b", "FAIL", "x")])

    assert found == {("core.own", "a"): Kind.LEFT_ONLY, ("core.own", "b"): Kind.RIGHT_ONLY}


def test_a_skip_or_a_lost_target_is_no_answer() -> None:
    left = [result("a", "FAIL", "x"), result("b", "MISS", "x"), result("c", "FAIL", "x")]
    right = [result("a", "SKIP", "no NP"), result("b", "FAIL", "x")]

    assert kinds(left, right) == {
        ("core.own", "a"): Kind.NOT_ASKED,
        ("core.own", "b"): Kind.NOT_ASKED_LEFT,
        ("core.own", "c"): Kind.NOT_ASKED,
    }


def test_a_universal_check_that_did_not_fire_has_passed() -> None:
    found = kinds([result("a", "PASS", host="cr3")], [result("a", "PASS")])

    assert found == {("core.exit.host", "a"): Kind.LEFT_ONLY}


def test_what_passes_in_both_is_not_there() -> None:
    assert compare_runs([result("a", "PASS")], [result("a", "PASS")]) == []


def test_a_record_of_several_targets_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, targets in ((one, ("sim:kvm",)), (two, ("sim:kvm", "bochs"))):
        with Writer(folder / "run.jsonl") as writer:
            for target in targets:
                writer.write(Result(test="s/a.py::t[\x1b[2J]", target=target, verdict="FAIL", clauses=["core.a"]))

    assert main(["compare", str(one), str(two)]) == 2
    assert f"{two}: holds runs on sim:kvm, bochs; give the folder of one of them, as {two}/sim-kvm" in (
        capsys.readouterr().err
    )
    assert main(["compare", str(one), str(one), "--tests"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "cut short" in said
