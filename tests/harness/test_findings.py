"""The page of findings: made from baselines, the worst first, with a command that shows each again."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.baseline import BaselineError, Deviation, read_all
from harness.clauses import Clause
from harness.findings import find, page

CLAUSES = {name: Clause(name, f"{name} holds.", "15.5") for name in ("core.a", "core.b")}
COLLECTED = [{"test": f"suites/core/test_x.py::test_{name}[{n}]"} for name in "ab" for n in (1, 2)]


def deviation(clause: str, severity: str) -> Deviation:
    tests = (f"test_{clause[-1]}[*]",)
    return Deviation(clause, "because", "file.c", tests=tests, severity=severity, attack="none gained", seen=("6.1",))


def test_only_entries_with_a_severity_are_findings_and_the_worst_comes_first() -> None:
    found = find([deviation("core.a", "low"), deviation("core.b", "high"), deviation("core.a", "")], CLAUSES, COLLECTED)

    assert [(each.clause.id, each.deviation.severity) for each in found] == [("core.b", "high"), ("core.a", "low")]
    assert (found[0].test, found[0].tests) == ("suites/core/test_x.py::test_b[1]", 2)


def test_the_page_says_rule_cause_source_attacker_and_command() -> None:
    text = page({"kvm": find([deviation("core.a", "low")], CLAUSES, COLLECTED), "xen": []})

    for said in ("core.a holds.", "because", "file.c", "none gained", "versions: 6.1", "FAIL in 2 tests"):
        assert said in text
    assert "./nsvm run --target sim:kvm 'suites/core/test_x.py::test_a[1]'" in text
    assert "0 findings: none" in text


def test_a_severity_without_a_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kvm.toml"
    path.write_text('[[deviation]]\nclause = "core.a"\nreason = "r"\nreference = "f"\nseverity = "low"\n')

    with pytest.raises(BaselineError, match="attack says why"):
        read_all(path)
