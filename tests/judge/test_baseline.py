"""Baselines are strict: they excuse what they name, at the versions they name, and nothing else."""

from __future__ import annotations

from pathlib import Path

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
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\nverdict="HANG"\ngot.rip=["0h"]', "a HANG has none"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\ngot.rip="0h"', "got must be as in got.exitcode"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\ngot.rip=[]', "got must be as in got.exitcode"),
        ('[[deviation]]\nclause="a"\nreason="r"\nreference="x"\nsays="B"\nfields=["rip"]', "without fields or got"),
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

    assert baseline.known("core.exit.x", "a::t", "FAIL", [("tlb_control", "01h")]) is entry
    assert baseline.known("core.exit.x", "a::t", "FAIL", [("tlb_control", "01h"), ("asid", "2h")]) is None
    assert baseline.known("core.exit.x", "a::t", "FAIL", [("asid", "2h")]) is None
    assert baseline.known("core.exit.x", "a::t", "FAIL") is None  # it failed, and not by a field


def test_another_answer_in_a_known_row_is_new(tmp_path: Path) -> None:
    # Two planted bugs of KVM were excused as known ones: the same test failed, with another answer.
    path = tmp_path / "t.toml"
    path.write_text(
        '[[deviation]]\nclause = "core.a"\ngot."L1\'s CR0" = ["10h", "12h"]\ngot.rip = ["0082_*h"]\n'
        'reason = "r"\nreference = "f"\n'
    )
    baseline = Baseline.load(path, (1,))

    def news(*rows: tuple[str, str]) -> str:
        match = Match("title", [Row(name, "?", got, "", False) for name, got in rows])
        return overall(judge(Attempt("FAIL", "r", match), ["core.a"], TEST, baseline))[1]

    assert news(("L1's CR0", "10h")) == news(("L1's CR0", "12h"), ("rip", "0082_0003h")) == "known"
    assert news(("L1's CR0", "11h")) == news(("L1's CR0", "10h"), ("rip", "0083_0003h")) == "new"
    assert news(("L1's CR0", "10h"), ("v_irq", "1")) == news(("v_irq", "1")) == "new"
    assert overall(judge(Attempt("FAIL", "a bare assert"), ["core.a"], TEST, baseline)) == ("FAIL", "new")


def test_a_universal_check_keeps_every_answer_of_a_test() -> None:
    # A known answer in the first VMRUN must not hide another one in the second.
    first, later = (Match("t", [Row("L1's CR2", "0h", got, "", False)]) for got in ("1h", "2h"))

    first.take_in(later)
    first.take_in(later)

    assert [row.got for row in first.rows] == ["1h", "2h"]
    baseline = Baseline((Deviation("core.exit.u", "r", "f", got={"L1's CR2": ("1h",)}),))
    assert overall(judge(Attempt("PASS", universal={"core.exit.u": first}), [], TEST, baseline)) == ("FAIL", "new")


def test_an_entry_of_after_others_does_not_excuse_what_a_fresh_boot_shows() -> None:
    entry = Deviation("core.a", "r", "f", tests=("test_y[*]",), after_others=True)
    attempt, baseline = Attempt("FAIL", "r", bad_match()), Baseline((entry,))

    assert overall(judge(attempt, ["core.a"], TEST, baseline)) == ("FAIL", "new")
    assert overall(judge(attempt, ["core.a"], TEST, baseline, after_others=True)) == ("FAIL", "known")
    assert overall(judge(Attempt("PASS"), ["core.a"], TEST, baseline)) == ("PASS", "ok")  # not mended


def test_an_entry_that_says_how_excuses_only_that_death() -> None:
    entry = Deviation("core.a", "r", "f", verdict="CRASH", says="FATAL PAGE FAULT")
    baseline = Baseline((entry,))
    panicked = Attempt("CRASH", "the target ended; Xen panicked: FATAL PAGE FAULT")

    assert overall(judge(panicked, ["core.a"], TEST, baseline)) == ("CRASH", "known")
    assert overall(judge(Attempt("CRASH", "Xen BUG"), ["core.a"], TEST, baseline)) == ("CRASH", "new")
    assert Deviation("core.a", "r", "f", "CRASH", says="BUG at a.c:* in f()").excuses((), "Xen BUG at a.c:17 in f()")


def test_a_failure_that_compared_nothing_is_known_by_what_it_says() -> None:
    baseline = Baseline((Deviation("core.a", "r", "f", says="assert 3 == 4"),))

    assert overall(judge(Attempt("FAIL", "assert 3 == 4"), ["core.a"], TEST, baseline)) == ("FAIL", "known")
    assert overall(judge(Attempt("FAIL", "assert 3 == 5"), ["core.a"], TEST, baseline)) == ("FAIL", "new")
    assert overall(judge(Attempt("FAIL", "assert 3 == 4", bad_match()), ["core.a"], TEST, baseline)) == ("FAIL", "new")


def test_an_entry_that_shows_sometimes_promises_nothing() -> None:
    always = Deviation("core.a", "r", "f", tests=("test_a",))
    sometimes = Deviation("core.b", "r", "f", tests=("test_a",), sometimes=True)
    baseline = Baseline((always, sometimes))

    assert baseline.promised("core.a", "x::test_a") is always
    assert baseline.promised("core.b", "x::test_a") is None
    assert baseline.known("core.b", "x::test_a", "FAIL") is sometimes


def test_the_headline_of_a_new_deviation_is_a_row_that_the_baseline_does_not_know() -> None:
    entry = Deviation("core.a", "r", "f", fields=("tlb_control",), got={"nrip": ("0h",)})
    match = Match("t", [Row(name, "?", got, "", False) for name, got in (("tlb_control", "1"), ("nrip", "2h"))])
    baseline = Baseline((entry,))
    attempt = Attempt("FAIL", "watchdog; tlb_control: expected ?, got 1", match, universal={"core.a": match})

    named, universal = judge(attempt, ["core.a"], TEST, baseline)

    assert named.summary == "watchdog; nrip: expected ?, got 2h"
    assert universal.summary == "nrip: expected ?, got 2h"
