"""The run record: what is written survives, what is damaged is told."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import record
from harness.record import (
    Check,
    ClauseInfo,
    End,
    Event,
    Evidence,
    Interrupted,
    Problem,
    Result,
    Row,
    RunStart,
    TargetInfo,
    Universal,
    Writer,
    load,
    read,
    worst,
    worst_news,
)
from tests.reports.synthetic import HOSTILE, Maker, write


def _result(**changes: object) -> Result:
    given: dict[str, object] = {"test": "suites/a.py::test_a", "target": "t", "verdict": "PASS", **changes}
    return Result(**given)  # type: ignore[arg-type]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    records = Maker(targets=("qemu-tcg", "bochs")).records()

    run = load(write(tmp_path / "run.jsonl", records))

    assert run.problems == []
    assert run.complete
    assert len(run.results) == sum(isinstance(r, Result) for r in records)
    assert run.clauses.keys() == {r.id for r in records if isinstance(r, ClauseInfo)}
    first = next(r for r in records if isinstance(r, Result) and r.evidence)
    again = next(r for r in run.results if (r.test, r.target) == (first.test, first.target))
    assert json.loads(record.encode(again)) == json.loads(record.encode(first))


def test_kind_comes_first_and_class_has_its_own_name() -> None:
    line = record.encode(ClauseInfo(id="a.b", bit="core", statement="s", class_="any-of"))

    assert line.startswith(b'{"kind":"clause",')
    assert json.loads(line)["class"] == "any-of"
    assert line.endswith(b"\n") and line.count(b"\n") == 1


def test_a_torn_last_line_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "run.jsonl", [_result(), _result(test="b")])
    data = path.read_bytes()

    for cut in range(1, len(data.splitlines(keepends=True)[1])):
        path.write_bytes(data[:-cut])
        run = load(path)
        whole = cut == 1  # only the newline is missing: the record is whole
        assert [r.test for r in run.results] == ["suites/a.py::test_a"] + ["b"] * whole
        assert [p.torn for p in run.problems] == [True] * (not whole)
        assert not run.complete


def test_a_writer_closes_off_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(record.encode(_result())[:-20])

    with Writer(path) as writer:
        writer.write(_result(test="b"))

    run = load(path)
    assert [r.test for r in run.results] == ["b"]
    assert len(run.problems) == 1 and run.problems[0].grave


def test_a_record_glued_to_a_torn_one_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(record.encode(_result())[:-20] + record.encode(_result(test="b")))

    run = load(path)

    assert [r.test for r in run.results] == ["b"]
    assert "torn" in run.problems[0].text and run.problems[0].grave


def test_text_cannot_look_like_a_glued_record(tmp_path: Path) -> None:
    forged = record.encode(_result(test="forged")).decode()
    path = tmp_path / "run.jsonl"
    path.write_bytes(record.encode(_result(reason=forged))[:-2])

    assert load(path).results == []


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[1,2]\n",
        b'"text"\n',
        b"\xff\xfe\x00garbage\n",
        b"[" * 100_000 + b"\n",
        b'{"kind":"result"}\n',
        b'{"kind":"clause","bit":"core"}\n',
        b'{"kind":"result","test":"a","target":"t","verdict":' + b"9" * 5000 + b"}\n",
    ],
    ids=["words", "array", "string", "bytes", "deep", "no-test", "no-id", "huge-number"],
)
def test_a_damaged_line_is_told_and_not_fatal(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(record.encode(_result()) + line + record.encode(_result(test="b")))

    run = load(path)

    assert [r.test for r in run.results] == ["suites/a.py::test_a", "b"]
    assert [p.line for p in run.problems if p.grave] == [2]


def test_an_unknown_kind_and_unknown_fields_are_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    extra = dict(json.loads(record.encode(_result())), later={"a": [1]})
    path.write_text(json.dumps({"kind": "hologram", "x": 1}) + "\n" + json.dumps(extra) + "\n")

    run = load(path)

    assert len(run.results) == 1
    assert [p.grave for p in run.problems] == [False]


def test_odd_types_are_told_and_read_as_far_as_they_go(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    odd = {
        "kind": "result", "test": "a", "target": "t", "verdict": "FINE", "news": 7, "clauses": "one.clause",
        "duration_s": "long", "checks": [3, {"clause": "c", "verdict": "FAIL", "universal": "yes"}],
        "evidence": {"title": "x"}, "fresh": [],
    }  # fmt: skip
    path.write_text(json.dumps(odd) + "\n")

    run = load(path)

    (result,) = run.results
    assert (result.verdict, result.news, result.clauses, result.duration_s) == ("ERROR", "new", ("one.clause",), 0.0)
    assert [c.verdict for c in result.checks] == ["FAIL"]
    assert run.problems


def test_a_cpuid_row_that_is_no_row_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    rows = [[1, 0, 1, 2, 3, 4], [1, 2], "x", [1, 0, -1, 2, 3, 1 << 40]]
    path.write_text(json.dumps({"kind": "target", "target": "t", "cpuid": rows}) + "\n")

    assert load(path).targets[0].cpuid == ((1, 0, 1, 2, 3, 4),)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.record.reader.LINE_MAX_BYTES", 1000)
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"x" * 5000 + b"\n" + record.encode(_result()))

    found = list(read(path))

    assert isinstance(found[0], Problem) and "longer" in found[0].text
    assert isinstance(found[1], Result)


def test_the_writer_bounds_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.record.writer.LINE_MAX_BYTES", 200_000)
    noise = Evidence(log="x" * 10_000_000, frames=["y" * 5000] * 500)

    line = record.encode(_result(evidence=[noise] * 10))

    assert len(line) <= 200_000
    assert "left out" in json.loads(line)["evidence"][0]["log"]


def test_the_writer_takes_what_json_does_not() -> None:
    class Verdict(StrEnum):
        FAIL = "FAIL"

    odd = _result(
        verdict=Verdict.FAIL,
        reason="lone \ud800 and \x00",
        duration_s=float("nan"),
        clauses={"a.b"},
        evidence=[Evidence(rows=[Row(name="n", got=1 << 5000)])],  # type: ignore[arg-type]
    )

    found = json.loads(record.encode(odd))

    assert found["verdict"] == "FAIL"
    assert found["duration_s"] is None
    assert "integer of 5001 bits" in found["evidence"][0]["rows"][0]["got"]
    assert json.loads(record.encode({"kind": "event", "detail": object(), "b": b"\x01\x02"}))["b"] == "0102"


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.text(min_size=1), st.floats(), st.lists(st.text(), max_size=4))
def test_any_text_goes_through_unchanged(tmp_path: Path, reason: str, test: str, took: float, names: list[str]) -> None:
    path = tmp_path / "run.jsonl"
    path.unlink(missing_ok=True)

    run = load(write(path, [_result(test=test, reason=reason, duration_s=took, clauses=names)]))

    (result,) = run.results
    assert (result.test, result.reason, list(result.clauses)) == (test, reason, names)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_any_bytes_are_read_without_an_error(tmp_path: Path, pieces: list[bytes]) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"kind":"result",'.join(pieces))

    load(path)


def _write_for_ever(path: str, name: str) -> None:
    with Writer(path) as writer:
        for number in range(1_000_000):
            writer.write(_result(test=f"{name}::{number}", evidence=[Evidence(log=HOSTILE[1] * 300)]))


def test_writers_killed_in_the_middle_lose_no_more_than_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_for_ever, args=(str(path), name)) for name in "ab"]
    for process in writers:
        process.start()
    until = time.monotonic() + 20
    while (not path.exists() or path.stat().st_size < 2_000_000) and time.monotonic() < until:
        time.sleep(0.01)
    for process in writers:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    run = load(path)

    assert len(run.problems) <= 2
    assert not run.complete
    for name in "ab":
        numbers = [int(r.test.partition("::")[2]) for r in run.results if r.test.startswith(name)]
        assert numbers == list(range(len(numbers)))


def test_a_second_run_in_the_file_is_told(tmp_path: Path) -> None:
    records = [RunStart(run_id="a", started=""), RunStart(run_id="b", started=""), RunStart(run_id="a", started="")]

    run = load(write(tmp_path / "run.jsonl", records))

    assert run.start is not None and run.start.run_id == "a"
    assert any("second run" in p.text and p.grave for p in run.problems)


def test_the_last_word_of_a_worker_on_its_target_counts(tmp_path: Path) -> None:
    records = [
        TargetInfo(target="t", worker="gw0", boots=1),
        TargetInfo(target="t", worker="gw1", boots=1),
        TargetInfo(target="t", worker="gw0", boots=9),
        Universal(target="t", clause="c", checked=1, failed=0),
        Event(target="t", what="boot"),
        Interrupted(reason="Ctrl-C"),
        End(finished="now", duration_s=1, exit_status=0),
    ]

    run = load(write(tmp_path / "run.jsonl", records))

    assert [t.boots for t in run.targets] == [9, 1]
    assert run.complete and run.interrupted[0].reason == "Ctrl-C"


def test_worst_wins() -> None:
    assert worst(["PASS", "SKIP"]) == "PASS"
    assert worst(["PASS", "MISS", "SKIP"]) == "MISS"
    assert worst(["ERROR", "FAIL", "HANG"]) == "HANG"
    assert worst(["CRASH", "HANG"]) == "CRASH"
    assert worst(["PASS", "SHINY"]) == "ERROR"
    assert worst([]) == ""
    assert worst_news(["ok", "known", "mended"]) == "mended"
    assert worst_news(["skipped", "rumour"]) == "new"


def test_no_file_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        load(tmp_path / "none.jsonl")


def test_a_check_without_news_is_ok(tmp_path: Path) -> None:
    path = write(tmp_path / "run.jsonl", [_result(checks=[Check(clause="a", verdict="PASS")])])

    assert load(path).results[0].checks[0].news == "ok"
