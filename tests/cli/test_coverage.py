"""`nsvm coverage`: which runs it takes, and what it prints."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.cli import coverage, runs
from harness.command import main
from harness.record import Result, RunStart, Scope, TargetInfo, Writer

CLAUSE = "core.checks.asid_zero"
NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def write_run(
    folder: Path, started: str, target: str = "t", *, by: list[str] | None = None, verdict: str = "PASS"
) -> Path:
    with Writer(folder / "run.jsonl") as writer:
        writer.write(RunStart(run_id=folder.name, started=started))
        writer.write(TargetInfo(target=target, version="1.0", cpuid=[(0x8000_000A, 0, 1, 8, 0, 0xFF)]))
        writer.write(Scope(target=target, chosen=1, there=1, chosen_by=by or []))
        writer.write(Result(test="a", target=target, verdict=verdict, clauses=[CLAUSE]))  # type: ignore[arg-type]
    return folder


def test_the_newest_run_of_all_suites_counts_for_each_target(tmp_path: Path) -> None:
    write_run(tmp_path / "old", "2026-01-01T00:00:00+00:00")
    new = write_run(tmp_path / "new", "2026-01-02T00:00:00+00:00")
    write_run(tmp_path / "part", "2026-01-03T00:00:00+00:00", by=["-k asid"])
    other = write_run(tmp_path / "other", "2025-12-01T00:00:00+00:00", "u", by=["-k asid"])
    (tmp_path / "latest").symlink_to("part")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.jsonl").write_bytes(b'{"kind":"run"\n\xff\n{"kind":"scope"}\n')

    assert {name: found.folder for name, found in runs.newest(tmp_path).items()} == {"t": new, "u": other}


def test_how_old_a_run_is() -> None:
    for delta, said in (
        (timedelta(seconds=10), "just now"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(hours=3, minutes=5), "3 hours ago"),
        (timedelta(days=2), "2 days ago"),
    ):
        assert runs.age((NOW - delta).isoformat(), NOW) == said
    assert runs.age("yesterday", NOW) == ""


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_run(tmp_path / "r", "2026-01-01T00:00:00+00:00"))

    assert main(["coverage", folder, "--clause", "asid_zero"]) == 0
    printed = capsys.readouterr().out
    assert f"{CLAUSE}  passed" in printed
    assert "0 of 1 clauses never ran on any of these machines" in printed

    assert main(["coverage", folder, "--short"]) == 0
    assert "core: " in capsys.readouterr().out

    assert main(["coverage", folder, "--never"]) == 0
    assert CLAUSE not in capsys.readouterr().out

    assert main(["coverage", folder, "--json", "--clause", "asid_zero"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["clauses"][0]["machines"][0]["state"] == "passed"
    assert told["machines"][0]["target"] == "t"


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "newest", lambda: {})
    for arguments, said in (
        (["coverage", str(tmp_path)], "holds no run.jsonl"),
        (["coverage", "--clause", "nothing_like_it"], "no clause has"),
        (["coverage"], "./nsvm run"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
