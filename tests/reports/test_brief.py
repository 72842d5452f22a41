"""`summary.json` and the last line: a script that reads nothing else must take neither a part nor a lost run for a
pass.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.record import Interrupted, Line, Scope
from harness.summary import Summary
from harness.summary.comparison import Comparison, TargetComparison
from reports.brief import last_line, render_summary
from tests.reports.synthetic import Maker, quiet, summary_of


def summary(tmp_path: Path, maker: Maker, *more: Line) -> Summary:
    return summary_of(tmp_path / "run.jsonl", maker, lambda records: records.__setitem__(slice(-1, -1), more))


def told(of: Summary, against: Comparison | None = None) -> str:
    return str(json.loads(render_summary(of, against))["line"])


def test_a_run_with_nothing_new_has_passed(tmp_path: Path) -> None:
    found = json.loads(render_summary(summary(tmp_path, quiet())))

    assert (found["line"], found["verdict"], found["exit_status"]) == ("nsvm: PASSED", "PASSED", 0)
    assert found["in_part"] is False and found["complete"] is True and found["new"] == []
    counts = found["counts"]
    assert counts["tests"] == sum(counts[k] for k in ("passed", "new", "mended", "known", "skipped", "without_verdict"))
    assert found["targets"][0]["offered"] == ["NP", "VGIF", "SVME_ADDR_CHK"]
    assert found["targets"][0]["bits"]["NP"]["verdict"]


def test_what_is_new_stands_in_it(tmp_path: Path) -> None:
    found = json.loads(render_summary(summary(tmp_path, Maker())))

    assert found["line"] == "nsvm: FAILED 3 new, 1 mended, 2 without a verdict"
    first = found["new"][0]
    assert first["clause"] and first["first"].startswith("suites/") and first["again"].startswith("./nsvm run")


def test_a_part_says_so(tmp_path: Path) -> None:
    part = Scope(target="qemu-tcg", chosen=12, there=4613, chosen_by=["-k asid"])
    found = json.loads(render_summary(summary(tmp_path, quiet(), part)))

    assert found["line"] == "nsvm: PASSED in part (12 of 4613 tests)" and found["in_part"] is True


def test_an_interrupted_run_has_not_passed(tmp_path: Path) -> None:
    assert told(summary(tmp_path, quiet(), Interrupted(reason="Ctrl-C"))) == "nsvm: FAILED interrupted"


def test_a_run_that_is_worse_than_before_has_not_passed(tmp_path: Path) -> None:
    worse = Comparison("1.0", "1.1", targets=[TargetComparison("t", "t", compared=1, asked=1, bits_lost=["NRIPS"])])

    assert told(summary(tmp_path, quiet()), worse) == "nsvm: FAILED worse than before"


@pytest.mark.parametrize(("status", "line"), [(2, "nsvm: FAILED status 2"), (3, "nsvm: FAILED not conclusive")])
def test_where_there_is_no_record_the_status_is_said(status: int, line: str) -> None:
    assert last_line(None, None, status) == line
