"""`nsvm run` around pytest: folders, several records made one, statuses, interruptions."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cli import machine, main, run
from harness.cli.console import UserError
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

    run.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "run.jsonl")

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

    run.merge([tmp_path / "a", tmp_path / "b", tmp_path / "missing"], tmp_path / "run.jsonl")

    merged = load(tmp_path / "run.jsonl")
    assert not merged.complete
    assert len(merged.results) == 2
    assert len(merged.problems) == 1


def test_the_run_folder_is_new_unless_the_user_names_one_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ROOT", tmp_path)
    first = run._run_folder(None, ["qemu-tcg", "bochs"])
    first.mkdir(parents=True)

    assert first.parent == tmp_path / "runs"
    assert first.name.endswith("Z-qemu-tcg+bochs")
    assert run._run_folder(None, ["qemu-tcg", "bochs"]) != first

    (tmp_path / "mine").mkdir()
    assert run._run_folder(str(tmp_path / "mine"), ["bochs"]) == tmp_path / "mine"
    (tmp_path / "mine" / "run.jsonl").touch()
    with pytest.raises(UserError, match="there is a run in it already"):
        run._run_folder(str(tmp_path / "mine"), ["bochs"])


def test_paths_and_test_ids_are_found_from_where_the_user_is_and_from_the_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "suites" / "core"
    suite.mkdir(parents=True)
    (suite / "test_x.py").touch()
    monkeypatch.setattr(run, "ROOT", tmp_path)

    monkeypatch.chdir("/")
    assert run._path("suites/core/test_x.py::test_a[b::c]") == "suites/core/test_x.py::test_a[b::c]"
    monkeypatch.chdir(suite)
    assert run._path("test_x.py") == "suites/core/test_x.py"


FAKE_PYTEST = """\
import json, os, signal, sys, time
folder = sys.argv[sys.argv.index("--nsvm-out") + 1]
record = open(os.path.join(folder, "run.jsonl"), "a", buffering=1)
def write(**entry): record.write(json.dumps(entry) + "\\n")
print("collected 2 items")
write(kind="run", schema=1, run_id="abc", started="2026-11-22T10:00:00+00:00")
write(kind="target", target="qemu-tcg", worker="main", version="7.2", boots=1)
{body}
"""

PASSES = 'write(kind="result", test="suites/t.py::a", target="qemu-tcg", verdict="PASS", news="ok", clauses=["core.x"])'
FAILS = 'write(kind="result", test="suites/t.py::b", target="qemu-tcg", verdict="FAIL", news="new", clauses=["core.x"])'
ENDS = 'write(kind="end", finished="", duration_s=1, exit_status={0}, counts={{"PASS": 1}}, new=0, known=0, mended=0)'


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `nsvm run` with a pytest that does what `body` says; gives the status and the run folder."""
    monkeypatch.setattr(machine, "prepare", lambda *_a, **_k: None)
    monkeypatch.setattr(run, "STOP_GRACE_S", 1.0)
    monkeypatch.setattr(run, "TERMINATE_GRACE_S", 0.5)

    def go(body: str, *arguments: str) -> tuple[int, Path]:
        script = tmp_path / "pytest.py"
        script.write_text(FAKE_PYTEST.format(body=body))
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(
            run, "sys", SimpleNamespace(executable=str(python), stdout=sys.stdout, stderr=sys.stderr, argv=[])
        )
        out = tmp_path / "out"
        return main(["run", "--out", str(out), *arguments]), out

    return go


def test_all_as_expected_is_0_and_leaves_record_log_and_report(
    pretend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = pretend("\n".join([PASSES, ENDS.format(0)]))

    said = capsys.readouterr()
    assert status == 0, said.err
    assert {"run.jsonl", "pytest.log", "junit.xml", "index.html"} <= {path.name for path in out.iterdir()}
    assert f"Report: {out}/index.html" in said.out
    assert "qemu-tcg: 1/2 tests" in said.err


def test_a_new_deviation_is_1_and_told_at_once(pretend: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = pretend("\n".join([PASSES, FAILS, "sys.exit(1)"]))

    assert status == 1
    assert "new FAIL   suites/t.py::b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        ("print('ERROR: file not found: x'); sys.exit(4)", 2, "qemu-tcg: pytest: file not found: x"),
        ("sys.exit(5)", 2, "no test was chosen"),
        ("print('INTERNALERROR> OSError: no'); sys.exit(3)", 3, "INTERNALERROR> OSError: no"),
        ("print('ERROR suites/t.py - SyntaxError'); sys.exit(2)", 3, "ERROR suites/t.py - SyntaxError"),
        ("record.flush(); os.kill(os.getpid(), signal.SIGKILL)", 3, "pytest was killed by SIGKILL"),
        (
            PASSES + "\n" + ENDS.format(0) + "\nsys.exit(1)",
            3,
            "pytest ended with status 1, but the record says nothing of it",
        ),
    ],
    ids=["usage", "no tests", "internal", "collection", "killed", "contradiction"],
)
def test_what_goes_wrong_with_pytest_is_told_in_a_line(
    pretend: Any, capsys: pytest.CaptureFixture[str], body: str, status: int, complaint: str
) -> None:
    got, _ = pretend(body)

    assert got == status
    assert complaint in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stubborn", [False, True], ids=["obeys", "does not listen"])
def test_an_interrupted_run_still_gets_its_report(
    pretend: Any, capsys: pytest.CaptureFixture[str], number: int, status: int, stubborn: bool
) -> None:
    ignore = "for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\n" if stubborn else ""
    timer = threading.Timer(1.0, os.kill, (os.getpid(), number))
    timer.start()
    began = time.monotonic()

    got, out = pretend(f"{ignore}{PASSES}\ntime.sleep(60)")

    timer.join()
    assert got == status
    assert time.monotonic() - began < 30
    record = load(out / "run.jsonl")
    assert [each.reason for each in record.interrupted] == [signal.Signals(number).name]
    assert len(record.results) == 1
    assert (out / "index.html").exists()
    assert "ending the run" in capsys.readouterr().err


def test_a_pytest_that_says_nothing_is_ended(
    pretend: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STALL_LIMIT_S", 1.0)

    status, _ = pretend(f"{PASSES}\ntime.sleep(60)")

    assert status == 3
    assert "pytest said nothing for 1 s and was ended" in capsys.readouterr().err


def test_pytest_gets_what_was_asked_for(pretend: Any, tmp_path: Path) -> None:
    _, out = pretend(
        "open(os.path.join(folder, 'argv'), 'w').write(repr(sys.argv[1:]))\n" + PASSES + "\n" + ENDS.format(0),
        "-k", "asid or cr0", "-n", "3", "--fresh-boot", "always", "--qemu", "/bin/true", "suites", "--", "-x", "--lf",
    )  # fmt: skip

    assert eval((out / "argv").read_text()) == [
        "-m", "pytest", "suites", "--target", "qemu-tcg", "--nsvm-out", str(out), "--fresh-boot", "always",
        "-k", "asid or cr0", "--qemu", "/bin/true", "-n", "3", "-x", "--lf",
    ]  # fmt: skip


def test_pytest_arguments_that_choose_workers_win(pretend: Any) -> None:
    _, out = pretend(
        "open(os.path.join(folder, 'argv'), 'w').write(repr(sys.argv[1:]))\n" + PASSES + "\n" + ENDS.format(0),
        "--", "-n0",
    )  # fmt: skip

    assert eval((out / "argv").read_text()).count("-n") == 0
