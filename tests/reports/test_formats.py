"""KTAP and KCIDB, for the kernel's tools and KernelCI: neither may be greener than the run, nor act on a terminal."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from harness.command import main
from harness.record import Interrupted, Scope
from reports.kcidb import path_of, render_kcidb
from reports.ktap import render_ktap
from tests.reports.synthetic import Maker, quiet, summary_of

RESULT = re.compile(r"^  (ok|not ok) \d+ [^#\n]*(?:# (\w+))?", re.M)


def test_ktap_has_a_line_for_each_test_and_a_word_for_each_outcome(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", Maker())
    text = render_ktap(summary)
    words = Counter((ok, word) for ok, word in RESULT.findall(text))

    assert text.startswith("KTAP version 1\n1..2\n  KTAP version 1\n  # Subtest: qemu-tcg\n")
    assert sum(words.values()) == summary.tests and f"  1..{summary.tests}\n" in text
    assert words["ok", ""] == summary.passed and words["ok", "SKIP"] == summary.skipped
    assert words["not ok", "XFAIL"] == summary.known and words["not ok", "ERROR"] == summary.lost
    assert words["not ok", ""] == summary.new + summary.mended
    assert "\nnot ok 1 qemu-tcg\n" in text and "  # FAIL nrips.off.field_is_not_written: " in text


def test_ktap_of_a_part_says_so_and_one_that_was_cut_short_is_not_ok(tmp_path: Path) -> None:
    part = Scope(target="qemu-tcg", chosen=12, there=4613, chosen_by=["-k asid"])
    text = render_ktap(summary_of(tmp_path / "run.jsonl", quiet(), lambda records: records.insert(-1, part)))
    stopped = Interrupted(reason="Ctrl-C")
    cut = render_ktap(summary_of(tmp_path / "cut.jsonl", quiet(), lambda records: records.insert(-1, stopped)))

    assert "  # part: 12 of 4613 tests, chosen by -k asid\n" in text and "\nok 1 qemu-tcg\n" in text
    assert cut.endswith("not ok 2 the record is whole and agrees with itself\n")


def test_kcidb_has_every_test_once_and_keeps_the_words_that_it_lacks(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", Maker(targets=("qemu-tcg", "bochs")))
    report = json.loads(render_kcidb(summary))

    assert report["version"] == {"major": 5, "minor": 3}
    assert len(report["checkouts"]) == 1 and len(report["builds"]) == 2
    builds = {build["id"] for build in report["builds"]}
    assert len({test["id"] for test in report["tests"]}) == summary.tests == len(report["tests"])
    for test in report["tests"]:
        assert test["build_id"] in builds
        assert re.fullmatch(r"[.a-zA-Z0-9_-]+", test["path"])
        assert test["status"] in ("PASS", "FAIL", "SKIP", "ERROR", "MISS")
    crash = next(test for test in report["tests"] if test["misc"]["verdict"] == "CRASH")
    assert crash["status"] == "FAIL" and crash["misc"]["news"] == "new"


def test_kcidb_of_a_build_that_is_known_makes_none(tmp_path: Path) -> None:
    report = json.loads(render_kcidb(summary_of(tmp_path / "r.jsonl", quiet()), origin="farm", build="redhat:123"))

    assert "builds" not in report and {test["build_id"] for test in report["tests"]} == {"redhat:123"}
    assert all(test["id"].startswith("farm:") for test in report["tests"])


@pytest.mark.parametrize(
    ("test", "path"),
    [
        ("suites/np/test_x.py::test_y[a-b.c]", "nsvm.np.test_x.test_y.a-b_c"),
        ("suites/core/test_x.py::test_y", "nsvm.core.test_x.test_y"),
        ("expected::offers.NP", "nsvm.expected.offers_NP"),
    ],
)
def test_a_test_has_a_path(test: str, path: str) -> None:
    assert path_of(test) == path


def test_what_a_target_said_is_harmless(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", Maker(hostile=True))

    assert render_kcidb(summary).isascii()
    assert "\x1b" not in render_ktap(summary)


def test_the_command_prints_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary_of(tmp_path / "run.jsonl", quiet())

    assert main(["render", str(tmp_path), "--as", "ktap"]) == 0
    assert capsys.readouterr().out.startswith("KTAP version 1\n")
    assert main(["render", str(tmp_path), "--as", "kcidb", "--origin", "farm"]) == 0
    assert json.loads(capsys.readouterr().out)["tests"][0]["origin"] == "farm"
    assert main(["render", str(tmp_path), "--build", "x:1"]) == 2
    assert main(["render", str(tmp_path), "--as", "kcidb", "--origin", "My Farm"]) == 2
    assert not (tmp_path / "index.html").exists()
