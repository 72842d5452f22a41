"""`nsvm explain`: every kind of name has its page, and an unknown one says which is near."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.cli import explain_field, explain_pages, runs
from harness.cli.one_test import is_named
from harness.command import main
from harness.judge.clauses import load_clauses
from harness.judge.trust import TRUST
from tests.cli.test_coverage import write_run

ROOT = Path(__file__).resolve().parents[2]

ASID = "suites/core/test_checks_control.py::test_asid_zero_is_refused"
TESTS = [{"test": f"{ASID}[{case}]", "clauses": ["core.checks.asid_zero"]} for case in ("long64-keep_tlb", "x")]


def explain(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["explain", name]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "r", "2026-01-01T00:00:00+00:00", "qemu-tcg")
    found = runs.newest(tmp_path)
    monkeypatch.setattr("harness.cli.coverage.newest", lambda: found)
    monkeypatch.setattr(explain_pages, "newest", lambda: found)
    monkeypatch.setattr("harness.cli.explain.collected", lambda: TESTS)


def test_a_clause(capsys: pytest.CaptureFixture[str]) -> None:
    page = explain("core.checks.asid_zero", capsys)

    for said in (
        "A guest ASID (058h[31:0]) of 0 is refused",
        "AMD64 APM volume 2, 15.5.1; 15.16",
        "mandatory",
        "kvm-unit-tests",
        "test_checks_control.py::test_asid_zero_is_refused",
        "qemu-tcg, 1.0",
        "passed, 1 answer",
        "xen: FAIL",
    ):
        assert said in " ".join(page.split())  # where a line breaks depends on the folder's name
    assert explain("CHK-033", capsys) == page == explain("asid_zero", capsys)


def test_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    page = explain("test_asid_zero_is_refused[long64-keep_tlb]", capsys)

    for said in (
        "which is the host's own",  # the file's prose
        "TLB_CONTROL shares ASID's quadword",  # the function's
        "clause core.checks.asid_zero",
        "[long64-keep_tlb]",
        "assert guest.run().is_invalid",
    ):
        assert said in page


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("asid", ["058h", "32 bits", "2 (ASID)", "core.checks.asid_zero"]),
        ("58h", ["asid: a field"]),
        ("EXITINFO1", ["078h", "writes it", "core.ioio.info1"]),
        ("v_gif", ["060h, bits 9:9", "a part of vintr"]),
        ("cr0", ["PG", "core.checks"]),
        ("VMEXIT_NPF", ["400h", "guest-table", "np.fault"]),
        ("cpuid", ["bit        18 of intercept_misc1", "exit code  72h"]),
        ("#UD", ["an intercept"]),
        ("C000_0080h", ["EFER: an MSR", "byte 820h, bit 0"]),
        ("VGIF", ["Fn8000_000A EDX[16]", "later_bits.vgif.absent"]),
        ("nrips", ["next RIP save"]),
    ],
)
def test_a_name_of_the_architecture(name: str, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    page = explain(name, capsys)

    assert [each for each in said if each not in page] == []


def test_all_names_have_a_page() -> None:
    assert [name for name in explain_field.names() if not explain_field.pages(name, {}, lambda: lambda _: 0)] == []


@pytest.mark.parametrize(
    ("name", "near"),
    [("asid_zeo", "asid_zero"), ("core.checks.asid_zeero", "core.checks.asid_zero"), ("exitinf1", "exitinfo1")],
)
def test_an_unknown_name_is_one_line_and_status_2(name: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 2
    told = capsys.readouterr()
    assert told.out == "" and re.fullmatch(rf"nsvm: {name}: .*did you mean {near}\?\n", told.err, re.IGNORECASE)


def test_how_a_person_may_name_a_test() -> None:
    test = "suites/core/test_x.py::test_it[a-b]"

    for name in (test, "suites/core/test_x.py::test_it", "test_it", "test_it[a-b]", "./suites/core/test_x.py"):
        assert is_named(test, name)
    for name in ("test_i", "test_it[a]", "suites/core", "test_x"):
        assert not is_named(test, name)


def test_the_words_of_trust_are_spelt_out() -> None:
    used = {word for clause in load_clauses(ROOT / "suites").values() for word in clause.trust}

    assert used <= set(TRUST)
