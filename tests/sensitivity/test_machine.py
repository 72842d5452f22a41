"""`nsvm sensitivity --machine`: what is run for a fault, what counts as noticed, what is kept, and what is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.record.kinds import Result
from harness.record.run import Run
from harness.reference import faults as table
from harness.reference import recipe
from harness.reference.error import ReferenceMachineError
from harness.reference.faults import Fault
from harness.sensitivity import machine
from harness.sensitivity.machine import NOTICED, UNDECIDED, UNNOTICED, Outcome, Report

NRIP = Fault("nrip-stale", "nrips", "It is stale.", "KVM")
CPL = Fault("cpl-lost", "core", "It is lost.", "KVM")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("core", "np", "nrips"):
        (tmp_path / "suites" / name).mkdir(parents=True)
        (tmp_path / "suites" / name / "test_it.py").write_text("")
    (tmp_path / "suites" / "lib").mkdir()
    return tmp_path


def test_the_test_that_noticed_it_comes_first_then_its_own_area_then_the_rest(root: Path) -> None:
    assert machine.steps(NRIP, root, []) == [["suites/nrips"], ["suites/core", "suites/np"]]
    assert machine.steps(NRIP, root, [], "suites/np/test_it.py::a[b]") == [
        ["suites/np/test_it.py::a[b]"], ["suites/nrips"], ["suites/core", "suites/np"],
    ]  # fmt: skip
    assert machine.steps(NRIP, root, [], "suites/np/test_gone.py::a") == [
        ["suites/nrips"],
        ["suites/core", "suites/np"],
    ]
    assert machine.steps(NRIP, root, ["suites/np"]) == [["suites/np"]]


def result(test: str, verdict: str, news: str) -> Result:
    return Result(test=test, target="reference", verdict=verdict, news=news)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("results", "found"),
    [
        ([("a", "PASS", "ok"), ("b", "FAIL", "known"), ("c", "FAIL", "new")], ("c", "FAIL")),
        ([("a", "HANG", "new")], ("a", "HANG")),
        ([("a", "FAIL", "known"), ("b", "PASS", "mended")], None),
        ([("a", "ERROR", "new"), ("b", "MISS", "new")], None),
    ],
)
def test_only_a_new_deviation_counts_as_noticed(results: list[tuple[str, str, str]], found: object) -> None:
    run = Run()
    run.results.extend(result(*one) for one in results)

    assert machine.first_deviation(run) == found


def test_results_are_kept_and_an_undecided_fault_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "x.jsonl"
    machine.keep(path, Outcome("nrip-stale", NOTICED, by="suites/t.py::a", verdict="FAIL", paths=["suites"]))
    machine.keep(path, Outcome("cpl-lost", UNDECIDED, why="too slow"))
    path.write_text(path.read_text() + '{"fault": "torn')

    assert list(machine.read_outcomes(path)) == ["nrip-stale"]
    assert machine.hints(path.parent) == {"nrip-stale": "suites/t.py::a"}


def test_other_suites_or_another_machine_have_results_of_their_own(root: Path) -> None:
    first = machine.content_key(root, "a", [])

    assert machine.content_key(root, "a", []) == first
    assert machine.content_key(root, "b", []) != first
    assert machine.content_key(root, "a", ["suites/np"]) != first
    (root / "suites/np/test_it.py").write_text("x = 1\n")
    assert machine.content_key(root, "a", []) != first


def test_a_miss_needs_a_reason_and_the_bar_is_95_percent() -> None:
    many = [Fault(f"f{number}", "core", "x", "y") for number in range(20)]
    outcomes = {fault.name: Outcome(fault.name, NOTICED) for fault in many}
    assert Report(many, outcomes).exit_status == 0

    outcomes["f0"] = Outcome("f0", UNNOTICED)
    report = Report(many, outcomes)
    assert (report.percent, report.exit_status) == (95.0, 1)
    assert Report(many, outcomes, {"f0": "no guest can see it"}).exit_status == 0
    assert "f0 (core): x no reason is written down" in machine.render(report)

    outcomes["f1"] = Outcome("f1", UNNOTICED)
    assert Report(many, outcomes, {"f0": "a", "f1": "b"}).exit_status == 1, "below the bar"
    outcomes["f1"] = Outcome("f1", UNDECIDED, why="too slow")
    assert Report(many, outcomes, {"f0": "a"}).exit_status == 1


def test_the_report_counts_by_area() -> None:
    report = Report([NRIP, CPL], {"nrip-stale": Outcome("nrip-stale", NOTICED, by="t")})

    assert machine.as_json(report)["areas"] == {
        "nrips": {"faults": 1, "noticed": 1},
        "core": {"faults": 1, "noticed": 0},
    }
    assert "nothing is known of:\n  cpl-lost (core): It is lost. not run" in machine.render(report)


def test_reasons_are_of_faults_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "missed-faults.toml"
    path.write_text('[[missed]]\nfault = "cpl-lost"\nreason = "why"\n')
    assert machine.load_reasons(path, [CPL]) == {"cpl-lost": "why"}

    with pytest.raises(ReferenceMachineError, match="there is no fault 'cpl-lost'"):
        machine.load_reasons(path, [NRIP])
    machine.load_reasons(recipe.OURS / machine.MISSED, table.load())
