"""The page of findings: made from baselines, the worst first, with a command that shows each again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.judge.baseline import BaselineError, Deviation, read_all
from harness.judge.clauses import Clause
from harness.summary.findings import by_cause, find, page

CLAUSES = {name: Clause(name, f"{name} holds.", "15.5") for name in ("core.a", "core.b")}
COLLECTED = [{"test": f"suites/core/test_x.py::test_{name}[{n}]"} for name in "ab" for n in (1, 2)]


def deviation(clause: str, severity: str) -> Deviation:
    tests = (f"test_{clause[-1]}[*]",)
    return Deviation(clause, "because", "file.c", tests=tests, severity=severity, attack="none gained", seen=("6.1",))


def test_only_entries_with_a_severity_are_findings_and_the_worst_comes_first() -> None:
    found = find([deviation("core.a", "low"), deviation("core.b", "high"), deviation("core.a", "")], CLAUSES, COLLECTED)

    assert [(each.clause.id, each.deviation.severity) for each in found] == [("core.b", "high"), ("core.a", "low")]
    assert found[0].nodes == ("suites/core/test_x.py::test_b[1]", "suites/core/test_x.py::test_b[2]")


def test_the_page_says_rule_cause_source_attacker_and_command() -> None:
    text = page({"kvm": find([deviation("core.a", "low")], CLAUSES, COLLECTED), "xen": []})

    for said in ("core.a holds.", "because", "file.c", "none gained", "versions: 6.1", "FAIL in 2 tests"):
        assert said in text
    assert "./nsvm run --target sim:kvm 'suites/core/test_x.py::test_a[1]'" in text
    assert "0 findings: none" in text


def test_the_command_names_a_host_of_a_version_that_shows_it() -> None:
    newer = replace(deviation("core.a", "low"), seen=("7.2.13",))

    text = page({"kvm": find([newer], CLAUSES, COLLECTED)})

    assert "./nsvm run --target sim:kvm@7.2 'suites/core/test_x.py::test_a[1]'" in text


def test_the_command_names_the_reference_machine_where_the_usual_host_lacks_the_bit() -> None:
    clauses = {"core.a": Clause("core.a", "a holds.", "15.7", condition="NRIPS"), "core.b": CLAUSES["core.b"]}
    one = find([deviation("core.a", "low")], clauses, COLLECTED)
    both = find([deviation("core.a", "low"), deviation("core.b", "low")], clauses, COLLECTED)

    assert "--target sim:kvm 'suites/core/test_x.py::test_a[1]'" in page({"kvm": one}, {"kvm": ["NP", "NRIPS"]})
    assert "--target sim:kvm-on-reference 'suites/core/test_x.py::test_a[1]'" in page({"kvm": one}, {"kvm": ["NP"]})
    assert "--target sim:kvm 'suites/core/test_x.py::test_b[1]'" in page({"kvm": both}, {"kvm": ["NP"]})


def test_clauses_that_one_cause_breaks_are_one_finding() -> None:
    found = find([deviation("core.a", "low"), deviation("core.b", "low")], CLAUSES, COLLECTED)

    assert [[each.clause.id for each in cause] for cause in by_cause(found)] == [["core.a", "core.b"]]
    text = page({"kvm": found})
    assert "1 finding: 1 low. They break 2 clauses." in text
    assert "### core.a and 1 more: low" in text and "core.b holds." in text and "FAIL in 4 tests" in text


def test_findings_of_another_severity_or_cause_stay_apart() -> None:
    other = replace(deviation("core.b", "low"), reason="for another reason")
    found = find([deviation("core.a", "low"), other, deviation("core.b", "high")], CLAUSES, COLLECTED)

    assert len(by_cause(found)) == 3


def test_the_command_shows_what_deviates_each_time_if_anything_does() -> None:
    by_chance = replace(deviation("core.a", "low"), sometimes=True)

    text = page({"kvm": find([by_chance, deviation("core.b", "low")], CLAUSES, COLLECTED)})

    assert "- **Again**: `./nsvm run --target sim:kvm 'suites/core/test_x.py::test_b[1]'`" in text


def test_what_is_asked_of_every_exit_and_what_shows_by_chance_is_said_so() -> None:
    anywhere = replace(deviation("core.a", "low"), tests=(), sometimes=True)

    text = page({"kvm": find([anywhere], CLAUSES, COLLECTED)})

    assert "- **Seen**: in what is asked of every #VMEXIT, by chance; versions: 6.1." in text


def test_a_severity_without_a_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kvm.toml"
    path.write_text('[[deviation]]\nclause = "core.a"\nreason = "r"\nreference = "f"\nseverity = "low"\n')

    with pytest.raises(BaselineError, match="attack says why"):
        read_all(path)
