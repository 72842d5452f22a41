"""Recorded on one machine, judged without it: the same verdicts, whatever they were. A question that has changed since
is never given the old answer.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.record import load
from harness.trace.answers import read_answers
from harness.trace.file import Header, read_trace, write_trace
from harness.trace.oracle import differing, judge, named, read_settled
from tests.run.test_plugin import BASELINE, suite  # noqa: F401  # a fixture

pytest_plugins = ["pytester"]
SOURCE = """
from harness import any_of

@clause("core.a")
@pytest.mark.parametrize("asid", [1, 100, 101, 104, 110, 111])
def test_one(l1, asid):
    assert run(l1, asid).matches(code=VMEXIT.VMMCALL)

@clause("core.b")
def test_open(l1):
    assert run(l1, 0).matches(code=any_of(VMEXIT.INVALID, VMEXIT.CPUID))

@clause("core.avic")
def test_missing(l1):
    assert run(l1).matches(code=VMEXIT.VMMCALL)
"""


@pytest.fixture
def traced(suite, pytester):  # type: ignore[no-untyped-def]  # noqa: F811
    """Records SOURCE on the fake target; gives the results then, and what replays the trace with a source."""

    def record(source: str = SOURCE, baseline: str = ""):  # type: ignore[no-untyped-def]
        _, then, _ = suite(source, "--target", "fake", "--nsvm-answers", "answers", baseline=baseline)
        header = Header(target="fake", nature="synthetic", l0="a fake", baselines=("fake",))
        write_trace(pytester.path / "t.nsvmtrace", header, read_answers(Path("answers")))
        (pytester.path / "out" / "run.jsonl").rename("then.jsonl")

        def replay(source: str = SOURCE):  # type: ignore[no-untyped-def]
            return suite(source, "--target", "trace:t.nsvmtrace", "--fresh-boot", "never")

        return then, replay

    return record


def test_each_verdict_comes_again(traced) -> None:  # type: ignore[no-untyped-def]
    then, replay = traced()
    _, now, _ = replay()

    told = {test: (line["verdict"], line["news"]) for test, line in now.items()}
    assert told == {test: (line["verdict"], line["news"]) for test, line in then.items()}
    assert told == {
        "test_one[1]": ("PASS", "ok"), "test_one[100]": ("FAIL", "new"), "test_one[101]": ("CRASH", "new"),
        "test_one[104]": ("FAIL", "new"), "test_one[110]": ("PASS", "ok"), "test_one[111]": ("FAIL", "new"),
        "test_open": ("PASS", "ok"), "test_missing": ("SKIP", "skipped"),
    }  # fmt: skip
    assert then["test_one[111]"]["fresh"]["state"] == "after-others"
    assert read_trace(Path("t.nsvmtrace")).entries["suites/core/test_it.py::test_one[111]"].after_others


def test_the_baseline_of_the_machine_holds_for_its_trace(traced) -> None:  # type: ignore[no-untyped-def]
    baseline = BASELINE.replace('"test_one"', '"test_one[100]"')
    _, replay = traced(baseline=baseline)
    _, now, _ = replay()

    assert [now[f"test_one[{asid}]"]["news"] for asid in (100, 101)] == ["known", "new"]


def test_a_new_expectation_is_judged_by_the_old_answer(traced) -> None:  # type: ignore[no-untyped-def]
    _, replay = traced()
    done, now, _ = replay(SOURCE.replace("any_of(VMEXIT.INVALID, VMEXIT.CPUID)", "VMEXIT.CPUID"))

    assert done.ret == 1
    assert (now["test_open"]["verdict"], now["test_open"]["news"]) == ("FAIL", "new")


def test_a_test_that_asks_otherwise_has_no_answer(traced) -> None:  # type: ignore[no-untyped-def]
    _, replay = traced()
    _, now, _ = replay(SOURCE.replace("run(l1, 0)", "run(l1, 9)") + SOURCE.replace("test_", "test_new_"))

    assert (now["test_open"]["verdict"], now["test_open"]["reason"]) == (
        "SKIP", "the test asks otherwise than when the trace was recorded",
    )  # fmt: skip
    assert (now["test_new_open"]["verdict"], now["test_new_open"]["reason"]) == (
        "SKIP", "the trace does not have this test",
    )  # fmt: skip


def test_the_oracle_names_what_is_contradicted_and_what_is_settled(traced) -> None:  # type: ignore[no-untyped-def]
    _, replay = traced()
    replay(SOURCE.replace("[1, 100", "[100"))
    run = load(Path("out/run.jsonl"))
    found = judge(read_trace(Path("t.nsvmtrace")), run, read_settled(Path("out/settled.jsonl")))

    assert [(one.clause, one.new) for one in found.contradicted] == [
        ("core.a", True), ("core.exit.control_area_untouched", True),
    ]  # fmt: skip
    assert found.contradicted[0].tests == 3
    assert found.agrees == ["core.b"]
    (settled,) = found.settled
    assert (settled.clause, settled.row) == ("core.b", "exitcode")
    assert list(settled.came) == ["FFFF_FFFF_FFFF_FFFFh"]
    assert (found.otherwise, found.unanswered) == ([], [])


def test_two_machines_differ_where_one_deviates_and_the_other_does_not(traced) -> None:  # type: ignore[no-untyped-def]
    traced()
    left = load(Path("then.jsonl")).results
    other = [json.loads(line) for line in Path("then.jsonl").read_text().splitlines()]
    for line in other:
        if line.get("test", "").endswith("[100]"):
            line |= {"verdict": "PASS", "news": "ok", "checks": []}
    Path("other.jsonl").write_text("".join(json.dumps(line) + "\n" for line in other))
    right = load(Path("other.jsonl")).results

    assert differing(left, left) == []
    ((test, clause, ours, theirs),) = differing(left, right)
    assert (test.rpartition("::")[2], clause) == ("test_one[100]", "core.a")
    assert (named(clause, ours), named(clause, theirs)) == (False, True)
