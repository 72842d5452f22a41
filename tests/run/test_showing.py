"""`pytest --nsvm-show` calls tests on a pretended machine: to their end, without a target, and each gets its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.guest.l1 import L1
from harness.judge.clauses import Clause
from harness.run.pretend import SCENARIOS_MAX, Enough, PretendSession
from harness.run.showing import cpuid_for
from harness.scenario import steps
from harness.scenario.asm import Assembler
from harness.svm import VMEXIT, make_cpuid

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[2]

TESTS = """
from harness import VMEXIT, clause

@clause("nrips.a")
def test_it(l1):
    guest = l1.guest("vmmcall", vmcb={"asid": 3})
    assert guest.run().matches(code=VMEXIT.CPUID, nrip=guest.code_base)
    assert guest.resume(cr2=5).matches(code=VMEXIT.VMMCALL)

@clause("nrips.a")
def test_that_looks_itself(l1):
    assert l1.guest("vmmcall").run().code == VMEXIT.CPUID

@clause("nrips.a")
def test_that_breaks(l1):
    l1.guest("vmmcall").run()
    raise ValueError("so what")

@clause("nrips.a")
def test_without_end(l1):
    guest = l1.guest("vmmcall")
    while True:
        guest.run()
"""


@pytest.fixture
def l1(tmp_path: Path) -> L1:
    return L1(PretendSession(make_cpuid(["NP"])), Assembler(tmp_path), {})


def test_what_a_test_sets_and_asks(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\npytest_plugins = ['harness.plugin']")
    suite = pytester.mkdir("suites").joinpath("nrips")
    suite.mkdir()
    suite.joinpath("clauses.toml").write_text(
        '[[clause]]\nid = "nrips.a"\nbit = "NRIPS"\nstatement = "S."\napm = "15.7.1"\ntrust = ["APM"]\n'
        'condition = "NRIPS"\n'
    )
    suite.joinpath("test_x.py").write_text(TESTS)
    out = pytester.path / "show.jsonl"

    done = pytester.runpytest_subprocess("suites", "--nsvm-show", str(out), "-p", "no:cacheprovider")

    assert done.ret == 0
    told: dict[str, dict[str, Any]] = {}
    for line in out.read_text().splitlines():
        told[json.loads(line)["test"].rpartition("::")[2]] = json.loads(line)
    good = told["test_it"]
    assert good["ended"] == "" and good["clauses"] == ["nrips.a"]
    assert ["exitcode", "0000_0000_0000_0072h"] in good["expected"]
    assert any("asid (058h)" in line for line in good["page"]) and any("cr2 (640h)" in line for line in good["page"])
    assert "test_x.py:12" in told["test_that_looks_itself"]["ended"]
    assert "ValueError" in told["test_that_breaks"]["ended"]
    assert "Enough" in told["test_without_end"]["ended"]


def test_the_pretended_cpu_has_what_the_clauses_ask_for() -> None:
    def cpu(condition: str) -> bool:
        stated = Clause("a", "s", "1", condition=condition)
        return cpuid_for([stated]).evaluate_condition(condition)[0]

    for condition in ("", "NRIPS", "!NRIPS", "NP & !VGIF", "!SVM", "SpecCtrl & IBRS", "!LMSLE | NP", "LA57"):
        assert cpu(condition)


def test_a_pretended_vmrun(l1: L1) -> None:
    assert l1.guest("vmmcall").run().code == VMEXIT.VMMCALL
    assert l1.guest("vmmcall", vmcb={"asid": 0}).run().is_invalid
    exit = l1.guest("vmmcall").run_in("clgi\nvmrun\nstgi")
    assert exit.code == VMEXIT.VMMCALL


def test_pretended_memory(l1: L1) -> None:
    at = l1.scratch(2)
    l1.write(at + 4090, bytes(range(12)))
    assert l1.read(at + 4088, 16) == bytes(2) + bytes(range(12)) + bytes(2)
    l1.fill(at, 4096, 7)
    assert l1.read(at + 4095, 2) == b"\x07\x06"
    l1.wrmsr(0x10, 5)
    assert l1.rdmsr(0x10).value == 5
    assert l1.host_state()["CR0"] == 0


def test_a_pretended_second_cpu(l1: L1) -> None:
    assert l1.guest("vmmcall").run(cpu=1).code == VMEXIT.VMMCALL
    with l1.on_second_cpu([steps.rdmsr(0x10)]) as second:
        pass
    assert len(second.answers) == 1


def test_it_ends(l1: L1) -> None:
    with pytest.raises(Enough):
        for _ in range(SCENARIOS_MAX + 1):
            l1.rdmsr(0x10)
