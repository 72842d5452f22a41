"""Runs over time: which clause broke in which run, and with which version. A part of the suites is compared with
nothing, or each small run would seem to mend and break what it did not ask.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.command import main
from harness.record import ClauseInfo, End, Result, RunStart, Scope, TargetInfo, Verdict, Writer, load
from harness.summary import summarise
from harness.summary.trend import Trend, points_of, trend_of
from reports.trend import plot, render_trend


def written(base: Path, day: int, *, target: str = "t", part: str = "", **said: Verdict) -> None:
    with Writer(base / f"run{day}-{target}" / "run.jsonl") as writer:
        writer.write(RunStart(run_id=str(day), started=f"2026-11-{day:02}T22:00:00+00:00"))
        writer.write(TargetInfo(target=target, version=f"7.{day}", edx=1, executor_build="x"))
        writer.write(Scope(target=target, chosen=1, there=9, chosen_by=[part] if part else []))
        for clause, verdict in said.items():
            name = f"core.{clause}"
            writer.write(ClauseInfo(id=name, bit="core", statement="<b>It</b> holds."))
            news = {"PASS": "ok", "SKIP": "skipped"}.get(verdict, "new")
            writer.write(
                Result(test=f"suites/t.py::{clause}", target=target, verdict=verdict, news=news, clauses=[name])  # type: ignore[arg-type]
            )
        writer.write(End(finished="", duration_s=1.0, exit_status=0))


def read(base: Path) -> Trend:
    folders = sorted(path.parent for path in base.glob("*/run.jsonl"))
    return trend_of(p for each in folders for p in points_of(summarise(load(each / "run.jsonl")), each.name))


def test_who_broke_when_and_with_which_version(tmp_path: Path) -> None:
    written(tmp_path, 1, a="PASS", b="FAIL", c="PASS", d="PASS")
    written(tmp_path, 2, part="-k a", a="FAIL")
    written(tmp_path, 3, a="FAIL", b="PASS", c="SKIP", d="PASS")

    found = {change.clause: change for change in read(tmp_path).changes}

    assert {name: change.word for name, change in found.items()} == {
        "core.a": "broke", "core.b": "mended", "core.c": "no longer asked",
    }  # fmt: skip
    assert (found["core.a"].before.version, found["core.a"].now.version) == ("7.1", "7.3")


def test_the_matrix_has_what_deviates_somewhere(tmp_path: Path) -> None:
    written(tmp_path, 1, a="PASS", b="PASS")
    written(tmp_path, 1, target="u", a="FAIL", b="PASS")
    written(tmp_path, 2, part="-k b", b="PASS")
    trend = read(tmp_path)

    assert trend.clauses == ["core.a"]
    assert trend.latest["t"].run == "run1-t"  # the whole one, not the newer part
    page = render_trend(trend)
    assert 'href="run1-u/index.html#c-core.a"' in page and "Nothing changed" in page
    assert plot(trend.points["t"]).count(",") == 2


def test_the_command_finds_the_runs_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, 1, a="PASS")
    written(tmp_path, 2, a="CRASH")

    assert main(["trend", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "broke            core.a on t: PASS -> CRASH in run2-t (7.1 -> 7.2)" in said
    assert (tmp_path / "trend.html").stat().st_size > 1000
    assert main(["trend", str(tmp_path), "--json", "--last", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["matrix"] == {"core.a": {"t": "CRASH"}}
    assert main(["trend", str(tmp_path / "run1-t")]) == 3
    assert main(["trend", str(tmp_path / "nowhere")]) == 2
