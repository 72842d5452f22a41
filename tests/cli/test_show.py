"""`nsvm show`: what a record keeps of a test, or what the test sets where there is no run."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import one_test, show
from harness.command import main
from harness.record import Check, CodeLine, Evidence, Fresh, Result, Row, RunStart, SetField, Setup, TargetInfo, Writer
from harness.record.packed import pack
from harness.svm import Vmcb

TEST = "suites/core/test_x.py::test_it[a]"
OTHER = "suites/core/test_x.py::test_it[b]"
EVIDENCE = Evidence(
    title="after VMMCALL at RIP 5",
    at="suites/core/test_x.py:9",
    source="assert exit.matches(asid=1)",
    rows=[Row(name="asid", expected="1", got="0", meaning="\x1b[31m"), Row(name="rip", expected="5", got="5", ok=True)],
    code=[CodeLine(addr="0082_0000h", bytes="0f 01 d9", text="vmmcall", mark="saved RIP")],
    setup=Setup(
        good="long64",
        fields=[SetField("cr0 (558h)", "8000_0031h", "8001_0031h", "+WP")],
        intercepts=["+cpuid"],
        steps=[f"step {n}" for n in range(30)],
        vmcb_after=pack(bytes(Vmcb(fields={"exitcode": 0x81}).data)),
    ),
    frames=["frame"],
    log="a log",
    l0_log="what L0 said",
)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    with Writer(tmp_path / "run.jsonl") as writer:
        writer.write(RunStart(run_id="1", started="2026-01-01"))
        writer.write(TargetInfo(target="t", version="9.9"))
        check = Check(clause="core.x", verdict="FAIL", news="new", summary="asid: expected 1, got 0")
        writer.write(
            Result(
                test=TEST, target="t", verdict="FAIL", news="new", reason="asid: expected 1, got 0", clauses=["core.x"],
                checks=[check], evidence=[EVIDENCE], rerun="./nsvm run x", fresh=Fresh(state="same"),
            )
        )  # fmt: skip
        writer.write(Result(test=OTHER, target="t", verdict="PASS", clauses=["core.x"]))
    return str(tmp_path)


def test_all_of_the_evidence(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", folder, "test_it[a]"]) == 0
    page = capsys.readouterr().out

    for said in (
        "FAIL (new) on t, 9.9",
        "clause core.x: FAIL (new)",
        "the same on a fresh one",
        "suites/core/test_x.py:9: assert exit.matches(asid=1)",
        "NOT asid  expected 1  got 0",
        "cr0 (558h)  8001_0031h (was 8000_0031h)  +WP",
        "intercepts +cpuid",
        "step 0\n",
        "step 29\n",
        "vmmcall",
        "exitcode (070h)  0000_0000_0000_0081h  VMMCALL (81h)",
        "a log",
        "what L0 said",
        "again: ./nsvm run x",
    ):
        assert said in page
    assert "\x1b" not in page


def test_of_a_test_that_passed_what_it_sets(
    folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "find", lambda name: [name])
    monkeypatch.setattr(show, "pretended", lambda test: [f"pretended {test}"])

    assert main(["show", folder, OTHER]) == 0
    page = capsys.readouterr().out
    assert "PASS on t" in page and f"pretended {OTHER}" in page


def test_a_test_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    test = "suites/core/test_checks_control.py::test_asid_zero_is_refused[long64-keep_tlb]"
    monkeypatch.setattr(one_test, "collected", lambda: [{"test": test, "clauses": ["core.checks.asid_zero"]}])

    assert main(["show", "test_asid_zero_is_refused"]) == 0
    page = capsys.readouterr().out
    for said in (
        test,
        "clause core.checks.asid_zero",
        "asid (058h)",
        "0000_0000h (was 0000_0001h)",
        "vmmcall",
        "FFFF_FFFFh",
    ):
        assert said in page


def test_mistakes_are_one_line(
    folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(one_test, "collected", lambda: [{"test": TEST}, {"test": OTHER}])
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        (["show", "test_itt"], "did you mean"),
        (["show", "test_it"], "2 tests, name one"),
        (["show", folder, "test_itt[a]"], "the run has no test"),
        (["show", str(tmp_path / "empty"), "test_it"], "holds no run.jsonl"),
        (["show", "a", "b", "c"], "takes a test, or a run folder and a test"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
