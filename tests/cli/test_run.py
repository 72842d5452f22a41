"""`nsvm run` around pytest: statuses, interruptions, and what pytest is given."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.cli import machine, plan, pytest_process
from harness.cli import run as run_command
from harness.command import main
from harness.record import load

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


def place_pytest(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """What the commands start as Python is a pytest that does what `body` says."""
    script, python = folder / "pytest.py", folder / "python"
    script.write_text(FAKE_PYTEST.format(body=body))
    python.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(script)])} "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(plan, "PYTHON", str(python))
    monkeypatch.setattr(machine, "prepare", lambda *_a, **_k: None)
    monkeypatch.setattr(pytest_process, "STOP_GRACE_S", 1.0)
    monkeypatch.setattr(pytest_process, "TERMINATE_GRACE_S", 0.5)


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `nsvm run` with a pytest that does what `body` says; gives the status and the run folder."""

    def go(body: str, *arguments: str) -> tuple[int, Path]:
        place_pytest(tmp_path, monkeypatch, body)
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
    pretend: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, number: int, status: int, stubborn: bool
) -> None:
    ignore = "for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\n" if stubborn else ""
    ended = threading.Event()

    def interrupt() -> None:
        """Once a test has ended: the signal would end us while nobody takes it."""
        path = tmp_path / "out/run.jsonl"
        until = time.monotonic() + 60
        while not path.exists() or '"result"' not in path.read_text():
            if ended.wait(0.02) or time.monotonic() > until:
                return
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=interrupt)
    sender.start()
    try:
        got, out = pretend(f"{ignore}{PASSES}\ntime.sleep(90)\nopen(os.path.join(folder, 'slept'), 'w').close()")
    finally:
        ended.set()
        sender.join()

    assert got == status
    assert not (out / "slept").exists(), "it was waited for to its end"
    record = load(out / "run.jsonl")
    assert [each.reason for each in record.interrupted] == [
        "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    ]
    assert len(record.results) == 1
    assert (out / "index.html").exists()
    assert "ending the run" in capsys.readouterr().err


def test_a_pytest_that_says_nothing_is_ended(
    pretend: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SILENCE_S", 1.0)

    status, _ = pretend(f"{PASSES}\ntime.sleep(60)")

    assert status == 3
    assert "pytest said nothing for 1 s and was ended" in capsys.readouterr().err


def test_a_typed_password_is_in_the_environment_of_pytest_alone(pretend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_command, "password_for", lambda name: {"NSVM_SSH_PASSWORD": f"for {name}"})
    _, out = pretend("open(os.path.join(folder, 'password'), 'w').write(os.environ['NSVM_SSH_PASSWORD'])\n" + PASSES)

    assert (out / "password").read_text() == "for qemu-tcg"
    assert "NSVM_SSH_PASSWORD" not in os.environ


def test_ctrl_c_at_the_prompt_ends_the_command_and_leaves_nothing(
    pretend: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def prompt(_name: str) -> dict[str, str]:
        signal.raise_signal(signal.SIGINT)  # raises here only while the run has not taken signals over
        return {}

    monkeypatch.setattr(run_command, "password_for", prompt)
    status, out = pretend(PASSES)

    assert status == 130
    assert not out.exists()
    assert "Traceback" not in capsys.readouterr().err


def test_pytest_gets_what_was_asked_for(pretend: Any, tmp_path: Path) -> None:
    _, out = pretend(
        "open(os.path.join(folder, 'argv'), 'w').write(repr(sys.argv[1:]))\n" + PASSES + "\n" + ENDS.format(0),
        "-k", "asid or cr0", "-n", "3", "--fresh-boot", "always", "--qemu", "/bin/true",
        "--without", "vmcbclean, NripSave", "--cpu", "max,+svm", "--baud", "115200", "suites", "--", "-x", "--lf",
    )  # fmt: skip

    assert eval((out / "argv").read_text()) == [
        "-m", "pytest", "suites", "--target", "qemu-tcg", "--nsvm-out", str(out), "--fresh-boot", "always",
        "--qemu", "/bin/true", "--cpu", "max,+svm", "--without", "VmcbClean,NRIPS", "--baud", "115200",
        "-k", "asid or cr0", "-n", "3", "-x", "--lf",
    ]  # fmt: skip


def test_pytest_arguments_that_choose_workers_win(pretend: Any) -> None:
    _, out = pretend(
        "open(os.path.join(folder, 'argv'), 'w').write(repr(sys.argv[1:]))\n" + PASSES + "\n" + ENDS.format(0),
        "--", "-n0",
    )  # fmt: skip

    assert eval((out / "argv").read_text()).count("-n") == 0


@pytest.mark.parametrize(
    ("paths", "workers"),
    [(["suites/core/t.py::test_a[b]"], "0"), (["suites/core/t.py"], "2"), (["suites/t.py::a", "suites/t.py::b"], "2")],
)
def test_one_test_starts_one_machine(paths: list[str], workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _pid: {0, 1})

    command = plan.Plan(names=["qemu-tcg"], paths=paths, options=[]).command("qemu-tcg", Path("out"))

    assert command[-2:] == ["-n", workers]


def test_what_pytest_refuses_is_one_line_and_no_report(pretend: Any, capsys: pytest.CaptureFixture[str]) -> None:
    says = "usage: __main__.py [options]\\n__main__.py: error: unrecognized arguments: --frobnicate"
    status, _ = pretend(f"print('ERROR: {says}'); sys.exit(4)")

    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert said.err.splitlines()[-1] == "nsvm: qemu-tcg: pytest: unrecognized arguments: --frobnicate"


X_ENDS = 'write(kind="end", finished="", duration_s=1, exit_status=1, counts={"FAIL": 1}, new=1, known=0, mended=0)'


def test_a_run_that_x_ended_under_xdist_is_1_and_nobody_pressed_ctrl_c(
    pretend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    scope = 'write(kind="scope", target="qemu-tcg", chosen=9, there=9, ended_by="-x")'
    status, _ = pretend("\n".join([FAILS, scope, X_ENDS, "sys.exit(2)"]))

    said = capsys.readouterr()
    assert status == 1
    assert "1 of 9 tests run, then ended by -x" in said.out
    assert "nterrupted" not in said.out + said.err


@pytest.mark.parametrize(("name", "workers"), [("qemu-tcg", 2), ("sim:kvm", 2), ("ssh://root@zen3?l0=kvm", 1)])
def test_a_host_gets_one_worker_and_what_is_ours_one_a_core(
    name: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _pid: {0, 1})
    chosen = plan.Plan(names=[name], paths=["suites"], options=[])

    assert chosen.command(name, Path("out"))[-2:] == ["-n", str(workers)]
