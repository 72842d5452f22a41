"""The terminal's table, and the command that renders again."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.record import Check, ClauseInfo, Result, collect, load
from harness.summary import summarise
from reports.__main__ import main
from reports.table import print_summary, render_table
from tests.reports.synthetic import HOSTILE, Maker, quiet, summary_of, write

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_has_the_bits_that_have_clauses(tmp_path: Path) -> None:
    text = render_table(summary_of(tmp_path / "run.jsonl", Maker()))

    row = next(line for line in text.splitlines() if "NRIPS" in line)
    assert row.split() == ["3", "NRIPS", "no", "68", "18", "0", "0", "2", "0", "48", "0", "FAIL", "new"]
    assert "Offered, but no clauses yet: 28 SVME_ADDR_CHK" in text
    assert "clauses yet" not in text.replace("Offered, but no clauses yet", "")  # no line of bits that nobody has


def test_tests_that_deviate_in_universal_checks_only_stand_apart(tmp_path: Path) -> None:
    apart = render_table(summary_of(tmp_path / "run.jsonl", quiet()))
    alike = render_table(summary_of(tmp_path / "other.jsonl", quiet(targets=("bochs",))))

    assert "bit name            offer tests pass univ known  new mend skip lost verdict" in apart
    core = next(line for line in apart.splitlines() if "SVM base (core)" in line).split()
    assert (core[5], core[6]) == ("3", "21")
    assert "univ: known deviations of universal checks only" in apart
    assert "univ" not in alike  # where there are none, no column is empty for it


def test_numbers_are_whole_in_80_columns(tmp_path: Path) -> None:
    check = Check(clause="core.exit", verdict="FAIL", news="known", universal=True)
    own = Check(clause="core.a", verdict="PASS")
    tests = [
        Result(
            test=f"s/a.py::t[{n}]", target="t", verdict="FAIL", news="known", clauses=["core.a"], checks=[own, check]
        )
        for n in range(4613)
    ]
    known = ClauseInfo(id="core.a", bit="core", statement="a"), ClauseInfo(id="core.exit", bit="core", statement="e")

    text = render_table(summarise(collect([*known, *tests])))

    row = next(line for line in text.splitlines() if "SVM base (core)" in line)
    assert row.split()[3:7] == ["4613", "0", "4613", "0"]
    assert len(row) <= 80


def test_the_last_line_is_the_verdict(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", Maker())

    assert render_table(summary).splitlines()[-1] == summary.sentence + "."


def test_new_deviations_come_with_the_command(tmp_path: Path) -> None:
    text = render_table(summary_of(tmp_path / "run.jsonl", Maker()))

    assert "FAIL nrips.off.field_is_not_written (15.7.1)" in text
    assert "\n    ./nsvm run --target qemu-tcg -k 'test_field_is_not_written and case2'\n" in text
    assert "PASS core.checks.efer_svme_clear" in text
    assert "MISS suites/core/test_vintr.py::test_v_irq[case3]: worker gw1 was lost" in text


def test_plain_output_has_no_escape_sequence_and_tables_fit_80_columns(tmp_path: Path) -> None:
    out = io.StringIO()

    print_summary(summary_of(tmp_path / "run.jsonl", Maker(targets=("qemu-tcg", "bochs"))), out)

    assert "\x1b" not in out.getvalue()
    table = [
        line for line in out.getvalue().splitlines() if re.match(r"\s*(bit|\d+)? +\w+.*(verdict|PASS|FAIL|SKIP)", line)
    ]
    assert len(table) > 20
    assert max(len(line) for line in table) <= 80


def test_a_target_cannot_send_escape_sequences(tmp_path: Path) -> None:
    results = [
        Result(test=t, target=t[:60], verdict="FAIL", news="new", reason=t, clauses=(t,), rerun=t) for t in HOSTILE
    ]
    summary = summarise(load(write(tmp_path / "run.jsonl", results)))

    for colour in (False, True):
        text = render_table(summary, colour=colour)
        left = re.sub(r"\x1b\[[0-9;]*m", "", text) if colour else text
        assert all(c.isprintable() or c == "\n" for c in left)
        assert "[red]rich markup[/red]" in left


def test_colour_when_asked(tmp_path: Path) -> None:
    assert "\x1b[" in render_table(summary_of(tmp_path / "run.jsonl", Maker()), colour=True)


def test_an_ascii_terminal_is_no_error(tmp_path: Path) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")

    print_summary(summary_of(tmp_path / "run.jsonl", Maker(hostile=True)), out)

    assert b"new deviation" in raw.getvalue()


def test_a_killed_run_says_so(tmp_path: Path) -> None:
    text = render_table(summarise(load(write(tmp_path / "run.jsonl", quiet().records()[:200]))))

    assert "! The record has no end" in text
    assert text.splitlines()[-1].startswith("Cut short.")


def test_an_empty_record_is_no_error() -> None:
    assert "nothing was judged" in render_table(summarise(collect([])))


def test_the_command_renders_and_gives_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run.jsonl", Maker().records())

    assert main([str(tmp_path)]) == 1

    assert "qemu-tcg: 3 new deviations" in capsys.readouterr().out
    assert (tmp_path / "index.html").exists() and (tmp_path / "junit.xml").exists()
    assert main([str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_python_m_reports(tmp_path: Path) -> None:
    write(tmp_path / "run.jsonl", quiet().records())

    done = subprocess.run(
        [sys.executable, "-m", "reports", str(tmp_path), "--quiet"], cwd=ROOT, capture_output=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
