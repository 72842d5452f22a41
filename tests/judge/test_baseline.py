"""Baselines are strict: they excuse what they name, at the versions they name, and nothing else."""

from __future__ import annotations

import pytest

from harness.judge.baseline import Baseline, BaselineError, Deviation, in_range
from harness.judge.expect import Match, Row
from harness.judge.verdict import Attempt, judge, needs_fresh_boot, overall

TEST = "suites/core/test_x.py::test_y[cr0-bit32]"
FILE = """
[[deviation]]
clause = "core.a"
tests = ["test_y[cr0-*]"]
reason = "the emulator does not look"
reference = "svm_helper.c"
versions = ">=7.2,<8"

[[deviation]]
clause = "core.exit.u"
reason = "every exit"
reference = "svm_helper.c"
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(FILE)
    return path


def test_known_only_for_its_clause_test_verdict_and_version(path):
    baseline = Baseline.load(path, (7, 2, 18))

    assert baseline.known("core.a", TEST, "FAIL")
    assert not baseline.known("core.b", TEST, "FAIL")
    assert not baseline.known("core.a", "suites/core/test_x.py::test_y[cr3-bit32]", "FAIL")
    assert not baseline.known("core.a", TEST, "CRASH")
    assert not Baseline.load(path, (10, 0)).known("core.a", TEST, "FAIL")


def test_brackets_in_a_pattern_are_brackets(path):
    assert not Baseline.load(path, (7, 2)).known("core.a", "suites/core/test_x.py::test_yc", "FAIL")


@pytest.mark.parametrize(
    ("versions", "version", "holds"),
    [
        ("", (1,), True), (">=7.2", (7, 2), True), (">=7.2", (7, 1, 9), False), (">=7.2,<8", (8,), False),
        ("==2.7", (2, 7, 0), True), ("<8", (7, 99), True), (">7.2", (7, 2, 1), True),
    ],
)  # fmt: skip
def test_version_ranges(versions, version, holds):
    assert in_range(versions, version) is holds


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[[deviation]]\nclause="a"\nreference="x"', "reason is missing"),
        ('[[deviation]]\nclause="a"\nreason=" "\nreference="x"', "reason is missing"),
        ('[[deviation]]\nclause="a"\nreason="r"', "reference is missing"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\nverdict="SKIP"', "SKIP"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\nversions="7.x"', "version range"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\ntest="y"', "unknown key test"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\nversions=7', "versions must be a text"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\ntests="test_a"', "tests must be a list of texts"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\nfields=[1]', "fields must be a list of texts"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\nsometimes="no"', "sometimes must be true or false"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\nverdict="HANG"\nfields=["rip"]', "a HANG has none"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\nsays="BUG"', "says is for a CRASH or a HANG"),
        ('[[deviations]]\nclause="a"', "what is deviations"),
        ('[deviation]\nclause="a"', "entries and nothing else"),
        ("[[deviation", "t.toml"),
    ],
)
def test_wrong_file_is_one_clear_line(tmp_path, text, complaint):
    path = tmp_path / "t.toml"
    path.write_text(text)

    with pytest.raises(BaselineError, match=complaint) as caught:
        Baseline.load(path, (1,))

    assert "\n" not in str(caught.value)


def bad_match(name="GIF"):
    return Match("title", [Row(name, "0", "1", "", False)])


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (Attempt("PASS"), ("PASS", "mended")),
        (Attempt("FAIL", "r", bad_match()), ("FAIL", "known")),
        (Attempt("CRASH", "r"), ("CRASH", "new")),
        (Attempt("SKIP", "r"), ("SKIP", "skipped")),
        (Attempt("FAIL", "r", universal={"core.exit.u": bad_match()}), ("FAIL", "known")),
        (Attempt("FAIL", "r", universal={"core.exit.v": bad_match()}), ("FAIL", "new")),
    ],
)
def test_verdict_and_news(path, attempt, expected):
    verdicts = judge(attempt, ["core.a"], TEST, Baseline.load(path, (7, 2)))

    assert overall(verdicts) == expected
    assert needs_fresh_boot(verdicts) is (expected[1] == "new")


def test_universal_check_fails_a_test_that_passes(path):
    verdicts = judge(Attempt("PASS", universal={"core.exit.v": bad_match()}), ["core.z"], TEST, Baseline())

    assert overall(verdicts) == ("FAIL", "new")
    assert [(v.clause, v.verdict) for v in verdicts] == [("core.z", "PASS"), ("core.exit.v", "FAIL")]


def test_an_entry_with_fields_excuses_only_those() -> None:
    entry = Deviation("core.exit.x", "r", "f", fields=("tlb_control",))
    baseline = Baseline((entry,))

    assert baseline.known("core.exit.x", "a::t", "FAIL", ["tlb_control"]) is entry
    assert baseline.known("core.exit.x", "a::t", "FAIL", ["tlb_control", "asid"]) is None
    assert baseline.known("core.exit.x", "a::t", "FAIL", ["asid"]) is None
    assert baseline.known("core.exit.x", "a::t", "FAIL") is None  # it failed, and not by a field


def test_an_entry_that_says_how_excuses_only_that_death() -> None:
    entry = Deviation("core.a", "r", "f", verdict="CRASH", says="FATAL PAGE FAULT")
    baseline = Baseline((entry,))
    panicked = Attempt("CRASH", "the target ended; Xen panicked: FATAL PAGE FAULT")

    assert overall(judge(panicked, ["core.a"], TEST, baseline)) == ("CRASH", "known")
    assert overall(judge(Attempt("CRASH", "Xen BUG"), ["core.a"], TEST, baseline)) == ("CRASH", "new")


def test_an_entry_that_shows_sometimes_promises_nothing() -> None:
    always = Deviation("core.a", "r", "f", tests=("test_a",))
    sometimes = Deviation("core.b", "r", "f", tests=("test_a",), sometimes=True)
    baseline = Baseline((always, sometimes))

    assert baseline.promised("core.a", "x::test_a") is always
    assert baseline.promised("core.b", "x::test_a") is None
    assert baseline.known("core.b", "x::test_a", "FAIL") is sometimes
