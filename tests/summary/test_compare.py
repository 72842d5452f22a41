"""Two runs side by side: a release is as good as the last one only where nothing deviates that passed, and nothing is
left out that was asked. A feature that is gone is a thousand skipped tests and no failure: the comparison says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.command import main
from harness.record import (
    BaselineRef,
    Check,
    ClauseInfo,
    End,
    Fresh,
    Line,
    Result,
    Row,
    RunStart,
    Scope,
    TargetInfo,
    Writer,
    collect,
    load,
)
from harness.summary.against import as_json, read_against, write_against
from harness.summary.compare import compare_runs
from harness.summary.comparison import Comparison, Kind
from reports import render_all
from reports.compare import compare_text


def result(test: str, verdict: str, reason: str = "", news: str = "", **universal: str) -> Result:
    """One result of a clause `core.own`; `universal`: checks that fired besides."""
    news = news or {"PASS": "ok", "SKIP": "skipped"}.get(verdict, "new")
    known = BaselineRef(reason="known", sometimes=reason == "by chance") if news == "known" else None
    own = Check(clause="core.own", verdict=verdict, news=news, summary=reason, baseline=known)
    fired = [
        Check(clause=f"core.exit.{name}", verdict="FAIL", news="new", universal=True, summary=text)
        for name, text in universal.items()
    ]
    return Result(
        test=f"suites/t.py::{test}",
        target="t",
        verdict=verdict if not fired else "FAIL",
        news=news if not fired else "new",
        clauses=["core.own"],
        reason=reason,
        checks=[own, *fired],
    )


def compared(before: Sequence[Line], now: Sequence[Line]) -> Comparison:
    """Two runs that came to their ends."""
    end = End(finished="", duration_s=1.0, exit_status=0)
    return compare_runs(collect([*before, end]), collect([*now, end]), ("1.0", "1.1"))


def kinds(before: Sequence[Line], now: Sequence[Line]) -> dict[tuple[str, str], Kind]:
    (target,) = compared(before, now).targets
    return {(cell.clause, cell.test.partition("::")[2]): cell.kind for cell in target.cells}


@pytest.mark.parametrize(
    ("before", "now", "kind", "worse"),
    [
        (result("a", "PASS"), result("a", "FAIL", "rip: 1"), Kind.REGRESSED, True),
        (result("a", "PASS"), result("a", "FAIL", "rip: 1", "known"), Kind.REGRESSED, True),
        (result("a", "PASS"), result("a", "FAIL", "by chance", "known"), Kind.REGRESSED, False),
        (result("a", "FAIL", "rip: 1"), result("a", "FAIL", "rip: 1"), Kind.STILL, False),
        (result("a", "FAIL", "rip: 1"), result("a", "CRASH", "rip: 1"), Kind.OTHER, True),
        (result("a", "FAIL", "rip: B"), result("a", "FAIL", "rip: C", "known"), Kind.OTHER, False),
        (result("a", "HANG", "nothing in 3.0 s"), result("a", "HANG", "nothing in 3.1 s"), Kind.STILL, False),
        (result("a", "FAIL", "x"), result("a", "PASS"), Kind.MENDED, False),
        (result("a", "PASS"), result("a", "SKIP", "no NP"), Kind.NOT_ASKED, True),
        (result("a", "FAIL", "x"), result("a", "SKIP", "no NP"), Kind.NOT_ASKED, True),
        (result("a", "SKIP", "no NP"), result("a", "FAIL", "x"), Kind.NEVER_PASSED, True),
        (result("b", "PASS"), result("a", "FAIL", "x", "known"), Kind.NEVER_PASSED, False),
        (result("a", "PASS"), result("a", "MISS", "lost"), Kind.LOST, False),
        (result("a", "PASS"), result("a", "PASS"), None, False),
        (result("a", "SKIP", "no NP"), result("a", "PASS"), None, False),
        (result("a", "SKIP", "no NP"), result("a", "SKIP", "no NP"), None, False),
    ],
)
def test_each_kind_and_whether_it_is_a_regression(before: Result, now: Result, kind: Kind | None, worse: bool) -> None:
    found = kinds([before], [now])

    assert found.get(("core.own", "a")) is kind
    assert compared([before], [now]).worse is worse


def test_what_came_decides_not_the_first_difference() -> None:
    def answers(*got: str) -> Result:
        rows = [Row(name=name, expected="0", got=each) for name, each in zip(("rip", "rax"), got, strict=True)]
        return Result(
            test="suites/t.py::a", target="t", verdict="FAIL", news="new", clauses=["core.own"],
            checks=[Check(clause="core.own", verdict="FAIL", news="new", summary="rip: got 1", rows=rows)],
        )  # fmt: skip

    assert kinds([answers("1", "2")], [answers("1", "2")]) == {("core.own", "a"): Kind.STILL}
    assert kinds([answers("1", "2")], [answers("1", "3")]) == {("core.own", "a"): Kind.OTHER}


def test_a_universal_check_that_did_not_fire_has_passed() -> None:
    assert kinds([result("a", "PASS")], [result("a", "PASS", host="cr3")]) == {("core.exit.host", "a"): Kind.REGRESSED}
    assert kinds([result("a", "PASS", host="cr3")], [result("a", "PASS")]) == {("core.exit.host", "a"): Kind.MENDED}


def test_a_test_that_a_whole_run_lacks_is_gone_and_one_that_a_part_lacks_is_not() -> None:
    both = [result("a", "PASS"), result("b", "PASS")]
    part = Scope(target="t", chosen=1, there=2, chosen_by=["-k a"])

    assert kinds(both, both[:1]) == {("core.own", "b"): Kind.GONE}
    assert kinds(both, [part, both[0]]) == {}
    assert (
        "1 of 2 tests compared; now is a part: 1 of 2 tests, chosen by -k a" in compared(both, [part, both[0]]).sentence
    )


def test_what_the_user_took_away_is_no_regression() -> None:
    now = [Scope(target="t", options=["--without NRIPS"]), result("a", "SKIP", "NRIPS is not offered")]
    found = compared([result("a", "PASS")], now)

    assert found.targets[0].by_test == {Kind.NOT_ASKED: 1}
    assert not found.worse


def test_a_bit_that_is_lost_is_a_regression_and_one_that_is_won_is_not() -> None:
    def offering(edx: int) -> list[Line]:
        return [TargetInfo(target="t", executor_build="x", edx=edx), result("a", "PASS")]

    lost, won = compared(offering(0b1001), offering(0b0001)), compared(offering(0b0001), offering(0b1001))

    assert lost.targets[0].bits_lost == ["NRIPS"] and lost.worse
    assert won.targets[0].bits_won == ["NRIPS"] and not won.worse
    assert "bits lost: NRIPS" in lost.sentence


def test_what_a_fresh_boot_does_not_show_is_a_heisenbug() -> None:
    fresh = Fresh(state="after-others", shared_verdict="FAIL", fresh_verdict="PASS")
    now = Result(test="suites/t.py::a", target="t", verdict="FAIL", news="new", clauses=["core.own"], fresh=fresh)

    (cell,) = compared([result("a", "PASS")], [now]).targets[0].cells

    assert (cell.kind, cell.word) == (Kind.REGRESSED, "heisenbug")


def test_targets_are_paired_by_name_and_one_that_is_left_out_is_named() -> None:
    other = Result(test="suites/t.py::a", target="u", verdict="PASS", clauses=["core.own"])
    found = compared([result("a", "PASS"), other], [result("a", "PASS")])

    assert [target.now for target in found.targets] == ["t"]
    assert found.targets_gone == ["u"] and found.worse
    assert "u: no longer asked at all" in found.sentence


def test_nothing_in_common_is_not_conclusive() -> None:
    found = compared([result("a", "SKIP", "no NP")], [result("a", "PASS")])

    assert found.lost and not found.worse
    assert compare_text(found).splitlines()[-1].startswith("Not conclusive: ")


def write(folder: Path, *records: Line) -> Path:
    with Writer(folder / "run.jsonl") as writer:
        writer.write(RunStart(run_id=folder.name, started="2026-11-29T10:00:00+00:00"))
        writer.write(ClauseInfo(id="core.own", bit="core", statement="It <i>holds</i>."))
        for record in records:
            writer.write(record)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    """Two runs: one regression, one mended, 20 that are skipped now."""
    many = [f"m{number}" for number in range(20)]
    before = [result("a", "PASS"), result("b", "FAIL", "x\x1b[2J"), result("c", "FAIL", "same")]
    now = [result("a", "FAIL", "rip: 1"), result("b", "PASS"), result("c", "FAIL", "same")]
    one = write(tmp_path / "one", *before, *(result(name, "PASS") for name in many))
    two = write(tmp_path / "two", *now, *(result(name, "SKIP", "NP is not offered") for name in many))
    return str(one), str(two)


def test_the_command_shows_what_differs_and_ends_with_1(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *folders]) == 1
    said = capsys.readouterr().out

    assert "REGR.            core.own (1 test)" in said and "now:    FAIL: rip: 1" in said
    assert "no longer asked  SKIP: NP is not offered (20 tests)" in said and "and 17 more" in said
    assert "\x1b" not in said and "cut short" in said and "like  " not in said
    assert said.splitlines()[-1].startswith(
        "Worse than before: t: 1 REGR., 20 no longer asked, 1 mended, 1 like; 3 of 23"
    )
    assert main(["compare", *folders, "--all", "--tests"]) == 1
    assert "like             core.own (1 test)" in capsys.readouterr().out
    assert main(["compare", folders[1], folders[1]]) == 0


def test_the_comparison_as_json_is_read_back(folders: tuple[str, str], tmp_path: Path) -> None:
    one, two = (load(Path(folder) / "run.jsonl") for folder in folders)
    found = compare_runs(one, two, ("one", "two"))
    write_against(tmp_path, found)
    again = read_against(tmp_path)

    assert again is not None
    assert as_json(again, every=False)["targets"][0]["cells"] == as_json(found, every=False)["targets"][0]["cells"]
    assert json.loads((tmp_path / "against.json").read_text())["verdict"] == "worse"
    (tmp_path / "against.json").write_text('{"schema": 1, "before": []}')
    assert read_against(tmp_path) is None


def test_the_page_and_junit_say_it_first(folders: tuple[str, str]) -> None:
    one, two = folders
    write_against(Path(two), compare_runs(load(Path(one) / "run.jsonl"), load(Path(two) / "run.jsonl"), ("one", "two")))

    rendered = render_all(two)

    assert rendered.exit_status == 1
    page = (Path(two) / "index.html").read_text()
    assert ", worse than before</span>" in page
    assert page.index('id="against"') < page.index('id="bits"') and "20 no longer asked" in page
    assert '<testcase classname="nsvm.run" name="not worse than one"' in (Path(two) / "junit.xml").read_text()
