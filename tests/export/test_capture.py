"""What of a test becomes a check, and what is honestly left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.export.capture import CapturingL1, captured
from harness.export.captured import Captured
from harness.export.check import Check, Source
from harness.judge.clauses import Clause
from harness.judge.expect import any_of, masked, unchanged, unwritten, written
from harness.judge.noting import overhearing
from harness.link.session import Session, TargetLost
from harness.record import Check as Judged
from harness.record import Result
from harness.scenario.asm import Assembler
from harness.scenario.steps import Op, split_steps
from harness.svm import VMEXIT
from tests.fake_executor import FakeTarget, Fault, Script
from tests.fake_l1 import FakeL1


def capture(test: Callable[[CapturingL1], None], tmp_path: Path, script: Script | None = None) -> Captured:
    session = Session(FakeTarget(respond=FakeL1().respond, scripts=[script or Script()]))
    try:
        l1 = CapturingL1(session, Assembler(tmp_path), {})
        with overhearing(l1), suppress(AssertionError, TargetLost):
            test(l1)
        return captured(l1, "t", [], ["NRIPS"])
    finally:
        session.close()


def by_name(told: Captured) -> dict[str, Check]:
    return {check.name.partition(" (")[0]: check for check in told.checks}


def test_fields_registers_and_host_state(tmp_path: Path) -> None:
    def test(l1: CapturingL1) -> None:
        exit = l1.guest("vmmcall", regs={"rbx": 5}, vmcb={"asid": 3}).run()
        assert exit.matches(
            code=VMEXIT.VMMCALL, asid=unchanged, v_irq=0, nrip=unwritten, info1=written, rip=any_of(1, 2),
            cr0=masked(1, 0xFF), regs={"rbx": 5, "rax": 0}, host={"CR3": unchanged},
        )  # fmt: skip

    told = capture(test, tmp_path)

    checks = by_name(told)
    assert told.left_out == []
    assert [op.op for op in split_steps(told.requests[1])][-1] is Op.VMRUN
    assert checks["asid"].where == 0x80_0058 and checks["asid"].wanted.values == (3,)
    assert checks["exitcode"].wanted.values == (0x81,) and checks["exitcode"].request == 1
    assert (checks["v_irq"].wanted.mask, checks["v_irq"].wanted.values) == (1 << 8, (0,))
    assert checks["nrip"].wanted.values == (0xA5A5_A5A5_A5A5_A5A5,)
    assert checks["exitinfo1"].wanted.negated
    assert checks["rip"].wanted.values == (1, 2)
    assert checks["cr0"].wanted.mask == 0xFF
    assert (checks["RBX"].source, checks["RBX"].where, checks["RBX"].otherwise) == (Source.VMRUN_REGISTER, 3, 5)
    assert checks["RAX"].source is Source.MEMORY
    assert (checks["L1's CR3"].source, checks["L1's CR3"].wanted.values) == (Source.HOST, (0x1000,))
    assert checks["exception of VMRUN in L1"].source is Source.FAULT
    assert checks["CPUID Fn8000_000A EDX[3]"].source is Source.CPUID


def test_faults_and_msrs_of_l1(tmp_path: Path) -> None:
    def test(l1: CapturingL1) -> None:
        assert l1.rdmsr(0x10).reads(0)
        assert l1.wrmsr(0x10, 5).ok
        assert l1.code("ud2").returned
        assert l1.code("ud2").faults("#UD")

    told = capture(test, tmp_path)

    sources = [(check.source, check.request) for check in told.checks if check.source is not Source.CPUID]
    assert sources == [
        (Source.FAULT, 1), (Source.MSR, 1), (Source.FAULT, 2), (Source.FAULT, 3), (Source.FAULT, 4),
        (Source.FAULT_ERROR, 4),
    ]  # fmt: skip
    last = split_steps(told.requests[4])[told.checks[-1].record]
    assert last.op is Op.CODE
    assert told.checks[-2].wanted.values == (0x106,)


def test_one_of_several_is_left_out(tmp_path: Path) -> None:
    def test(l1: CapturingL1) -> None:
        exit = l1.guest("vmmcall").run()
        assert exit.matches(asid=5) or exit.matches(asid=1)
        assert not exit.is_invalid
        if exit.matches(asid=2):
            return
        assert any(exit.matches(asid=n) for n in range(3))
        assert l1.expect("something else", exit.code + 1, 0x82)
        assert exit.ran

    told = capture(test, tmp_path)

    assert [each for each in by_name(told) if "CPUID" not in each] == ["exception of VMRUN in L1", "EXITCODE[31:0]"]
    assert by_name(told)["EXITCODE[31:0]"].wanted.negated
    assert len(told.left_out) == 5


def test_a_scenario_over_which_the_target_is_lost_is_in_it(tmp_path: Path) -> None:
    def test(l1: CapturingL1) -> None:
        with pytest.raises(TargetLost):
            l1.guest("vmmcall", vmcb={"asid": 9}).run()

    told = capture(test, tmp_path, Script(messages={n: (Fault.CLOSE, 0.0) for n in range(1, 9)}))

    assert any(step.op is Op.VMRUN for step in split_steps(told.requests[-1]))


@pytest.fixture
def l1(tmp_path: Path) -> Iterator[CapturingL1]:
    session = Session(FakeTarget(respond=FakeL1().respond))
    yield CapturingL1(session, Assembler(tmp_path), {})
    session.close()


def test_what_deviates_and_is_left_out_is_said(l1: CapturingL1, tmp_path: Path) -> None:
    clauses = {"core.a": Clause("core.a", "s", "1")}

    def keep(**more: object) -> Captured:
        checks = [Judged(clause="core.a", verdict="FAIL"), Judged(clause="core.exit.b", verdict="FAIL", universal=True)]
        result = Result(test="t", target="x", verdict="FAIL", clauses=["core.a"], checks=checks)
        l1.keep(tmp_path / "x.json", result, clauses, "a machine")
        return Captured.read(tmp_path / "x.json")

    with overhearing(l1):
        exit = l1.guest("vmmcall").run()
        if l1.expect("x", exit.code, 5):
            raise AssertionError
    assert keep().hides
    assert any("core.exit.b" in each for each in keep().left_out)
    with overhearing(l1), pytest.raises(AssertionError):
        assert exit.matches(asid=77)
    assert not keep().hides


def test_a_skipped_test_gives_nothing(l1: CapturingL1, tmp_path: Path) -> None:
    l1.keep(tmp_path / "x.json", Result(test="t", target="x", verdict="SKIP"), {}, "m")

    assert not (tmp_path / "x.json").exists()
