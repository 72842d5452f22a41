"""Several records made one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli.merge import merge, worst_status
from harness.record import End, Event, Result, RunStart, TargetInfo, Writer, load


def write_record(path: Path, target: str, *results: tuple[str, str, str], end: bool = True) -> None:
    """A record with (test, verdict, news) lines."""
    with Writer(path) as writer:
        writer.write(RunStart(run_id="abc", started="2026-11-22T10:00:00+00:00"))
        writer.write({"kind": "clause", "id": "core.x", "bit": "core", "statement": "It holds.", "apm": "15.5"})
        writer.write(TargetInfo(target=target, worker="gw0", version="7.2", boots=1))
        writer.write(Event(target=target, what="boot"))
        for test, verdict, news in results:
            writer.write(Result(test=test, target=target, verdict=verdict, news=news, clauses=["core.x"]))
        if end:
            new = sum(news == "new" for _, _, news in results)
            counts = {verdict: sum(v == verdict for _, v, _ in results) for verdict in {v for _, v, _ in results}}
            writer.write(
                End(
                    finished="2026-11-22T10:01:00+00:00",
                    duration_s=60.0,
                    exit_status=int(new > 0),
                    counts=counts,
                    new=new,
                )
            )


def test_records_of_several_targets_become_one(tmp_path: Path) -> None:
    write_record(tmp_path / "a", "qemu-tcg", ("t::x", "PASS", "ok"), ("t::y", "FAIL", "known"))
    write_record(tmp_path / "b", "bochs", ("t::x", "FAIL", "new"))

    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "run.jsonl")

    kinds = [json.loads(line)["kind"] for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert kinds.count("run") == kinds.count("clause") == kinds.count("end") == 1
    merged = load(tmp_path / "run.jsonl")
    assert [(r.target, r.verdict) for r in merged.results] == [
        ("qemu-tcg", "PASS"),
        ("qemu-tcg", "FAIL"),
        ("bochs", "FAIL"),
    ]
    assert not merged.problems
    assert merged.end is not None
    assert (merged.end.exit_status, merged.end.new, merged.end.duration_s) == (1, 1, 120.0)
    assert merged.end.counts == {"PASS": 1, "FAIL": 2}


def test_a_record_without_end_leaves_the_merged_one_without(tmp_path: Path) -> None:
    write_record(tmp_path / "a", "qemu-tcg", ("t::x", "PASS", "ok"))
    write_record(tmp_path / "b", "bochs", ("t::x", "PASS", "ok"), end=False)
    with open(tmp_path / "b", "ab") as file:
        file.write(b'{"kind":"resu')

    merge([tmp_path / "a", tmp_path / "b", tmp_path / "missing"], tmp_path / "run.jsonl")

    merged = load(tmp_path / "run.jsonl")
    assert not merged.complete
    assert len(merged.results) == 2
    assert len(merged.problems) == 1


@pytest.mark.parametrize(("statuses", "worst"), [([], 0), ([0, 0], 0), ([0, 3], 3), ([3, 1, 0], 1), ([0, 2], 2)])
def test_the_status_of_several_runs(statuses: list[int], worst: int) -> None:
    assert worst_status(statuses) == worst
