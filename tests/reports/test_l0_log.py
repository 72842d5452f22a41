"""What L0 said and did stands with the evidence, escaped and bounded; records from before it had a place are read."""

from __future__ import annotations

import json
from pathlib import Path

from harness.record import Check, ClauseInfo, End, Evidence, Fresh, Result, Row, RunStart, Writer, load
from harness.run.evidence import failure_text
from harness.summary import summarise
from harness.text import ends
from reports.html import render_html
from reports.junit import render_junit
from tests.reports.synthetic import HOSTILE

OOPS = "[   10.000000] BUG: unable to handle page fault"


def _record(path: Path, l0_log: str) -> Path:
    file = path / "run.jsonl"
    evidence = Evidence(title="the target ended", log="VMM said this", l0_log=l0_log)
    with Writer(file) as writer:
        writer.write(RunStart(run_id="r", started="2026-11-22T10:00:00+00:00"))
        writer.write(ClauseInfo(id="NP.A", bit="NP", statement="s"))
        writer.write(
            Result(
                test="suites/np/test_a.py::test_a",
                target="sim:kvm",
                verdict="CRASH",
                news="new",
                clauses=["NP.A"],
                checks=[Check(clause="NP.A", verdict="CRASH", news="new", summary="the target ended")],
                evidence=[evidence],
            )
        )
        writer.write(End(finished="", duration_s=1, exit_status=1, counts={"CRASH": 1}, new=1, known=0, mended=0))
    return file


def test_it_is_written_read_and_shown(tmp_path: Path) -> None:
    run = load(_record(tmp_path, f"{OOPS}\n{HOSTILE}<script>alert(1)</script>\x1b[2J"))
    assert run.problems == []
    page = render_html(summarise(run))
    assert "What L0 said and did meanwhile" in page and OOPS in page
    assert "<script>alert" not in page and "\x1b" not in page and "\\x1b[2J" in page
    xml = render_junit(summarise(run)).decode()
    assert "L0:" in xml and OOPS in xml and "\x1b" not in xml


def test_a_long_one_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    text = "\n".join([OOPS, *(f"noise {n}" for n in range(20_000)), "the last word"])
    page = render_html(summarise(load(_record(tmp_path, text[:60_000] + "\nthe last word"))))
    assert OOPS in page and "the last word" in page
    assert "noise 2000" not in page
    assert len(ends("x" * 100_000, 1000)) < 1100
    assert ends("short\n") == "short"


def test_an_old_record_has_none(tmp_path: Path) -> None:
    file = _record(tmp_path, "")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        for evidence in line.get("evidence", ()):
            evidence.pop("l0_log", None)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load(file)
    assert run.problems == []
    assert run.results[0].evidence[0].l0_log == ""
    assert "What L0 said and did meanwhile" not in render_html(summarise(run))


def test_a_terminal_shows_both_ends() -> None:
    evidence = Evidence(title="t", l0_log="\n".join(f"line {n}" for n in range(100)))
    text = failure_text([], Fresh(), {}, [evidence], "m", "r")
    assert "    line 0\n" in text and "    line 99" in text and "84 lines are in the report" in text
    assert "line 50" not in text


def test_nothing_in_a_failure_acts_on_the_terminal() -> None:
    evidence = Evidence(title=HOSTILE[1], rows=[Row(name="x", got=HOSTILE[1])], log=HOSTILE[1], frames=[HOSTILE[1]])

    text = failure_text([], Fresh(), {}, [evidence], f"a CPU {HOSTILE[1]}", "again")

    assert all(c.isprintable() or c == "\n" for c in text)
