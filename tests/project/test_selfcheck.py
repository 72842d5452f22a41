"""The sums of `nsvm test`: whatever goes wrong counts as a failure, and the last line is the one that CI reads."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cli import machine
from harness.command import main
from harness.machine.process import start_time
from harness.project import selfcheck, selftest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`nsvm test` with a tox that does what the file `tox/NAME` says (Python)."""
    folder = tmp_path / "tox"
    folder.mkdir()
    (folder / "tox.py").write_text(
        "import os, sys\n"
        "name = sys.argv[sys.argv.index('-e') + 1]\n"
        f"exec(open(os.path.join({str(folder)!r}, name)).read())\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec {shlex.join([sys.executable, str(folder / "tox.py")])} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(selftest, "ensure_venv", lambda *_: python)
    monkeypatch.setattr(selftest, "ensure", lambda *_a, **_k: None)
    monkeypatch.setattr(selftest, "STATE", tmp_path)
    monkeypatch.setattr(selftest, "STOP_GRACE_S", 1)
    for build in ("build_executor", "build_host_program"):
        monkeypatch.setattr(machine, build, lambda **_k: None)
    for environment in selftest.ENVIRONMENTS:
        (folder / environment.name).write_text(COUNTS.format(2, 0, 0))
    return folder


COUNTS = "open(os.environ['NSVM_COUNTS'], 'w').write('{{\"passed\": {}, \"failed\": {}, \"skipped\": {}}}')\n"


def test_all_well(pretend: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "8 passed, 0 failed"


@pytest.mark.parametrize(
    ("script", "closing", "deadline_s"),
    [
        (COUNTS.format(5, 1, 2) + "sys.exit(1)", "11 passed, 1 failed, 2 skipped", 60),
        (COUNTS.format(5, 0, 0) + "sys.exit(1)", "11 passed, 1 failed", 60),
        ("sys.exit(0)", "6 passed, 1 failed", 60),
        ("open(os.environ['NSVM_COUNTS'], 'w').write('half')", "6 passed, 1 failed", 60),
        (COUNTS.format(5, 0, 0) + "import time; time.sleep(60)", "11 passed, 1 failed", 8),
    ],
    ids=["fails", "fails uncounted", "counts nothing", "torn counts", "hangs"],
)
def test_whatever_goes_wrong_fails(
    pretend: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: str,
    closing: str,
    deadline_s: int,
) -> None:
    (pretend / "units").write_text(script)
    hasty = tuple(
        selftest.Environment(e.name, deadline_s if e.name == "units" else 60, e.builds, e.emulates)
        for e in selftest.ENVIRONMENTS
    )
    monkeypatch.setattr(selftest, "ENVIRONMENTS", hasty)

    assert main(["test"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == closing


def test_time_that_is_used_up_fails_what_is_left(
    pretend: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selftest, "TOTAL_DEADLINE_S", 0)

    assert main(["test"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 4 failed"


def test_the_time_for_installing_and_building_counts(
    pretend: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(later_s=0.0, sleep=time.sleep)
    clock.monotonic = lambda: time.monotonic() + clock.later_s
    monkeypatch.setattr(selftest, "time", clock)
    monkeypatch.setattr(selftest, "ensure", lambda *_a, **_k: setattr(clock, "later_s", selftest.TOTAL_DEADLINE_S))

    assert main(["test"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 4 failed"


def test_two_at_once_in_a_clone_are_refused(pretend: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(selftest.STATE / "test.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        assert main(["test"]) == 2

    told = f"nsvm: another nsvm test runs in this clone: wait for its end ({selftest.STATE / 'test.lock'})\n"
    assert capsys.readouterr().err == told


ENDS_ITS_PARENT = """
import signal, subprocess, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "60"])
signal.signal(signal.SIGINT, signal.SIG_DFL)
open(os.path.join(os.path.dirname(sys.argv[0]), "pid"), "w").write(str(child.pid))
os.kill(os.getppid(), signal.{name})
time.sleep(60)
"""


@pytest.fixture
def noted() -> Iterator[list[int]]:
    """What signals would end the process that runs this test, if nobody took them."""
    got: list[int] = []
    before = {n: signal.signal(n, lambda n, _: got.append(n)) for n in (signal.SIGTERM, signal.SIGHUP)}
    yield got
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_all_that_was_started(
    pretend: Path, noted: list[int], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what outlives tox."""
    (pretend / "units").write_text(ENDS_ITS_PARENT.format(name=name))

    assert main(["test", "--env", "units"]) == 143

    assert capsys.readouterr().err == f"nsvm: ended by {name}\n"
    assert start_time(int((pretend / "pid").read_text())) is None
    os.kill(os.getpid(), signal.Signals[name])
    assert noted == [signal.Signals[name]]


def test_a_step_that_is_past_its_deadline_may_end_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "STEP_DEADLINE_S", 5)
    ends = (
        "import signal, time; signal.signal(signal.SIGINT, lambda *_: exit(open('ended', 'w').close())); time.sleep(60)"
    )

    assert selfcheck.call([sys.executable, "-c", f"{ends}; time.sleep(60)"], tmp_path) == 124
    assert (tmp_path / "ended").exists()


def test_one_environment_alone_with_pytest_arguments(pretend: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pretend / "units").write_text(COUNTS.format(1, 0, 0) + "print(sys.argv[-3:])")

    assert main(["test", "--env", "units", "--", "-k", "cobs"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed"


def test_the_suites_count_by_what_is_new(tmp_path: Path) -> None:
    record = tmp_path / "run.jsonl"
    lines = [
        {"kind": "result", "test": "a", "verdict": "PASS", "news": "ok"},
        {"kind": "result", "test": "b", "verdict": "FAIL", "news": "known"},
        {"kind": "result", "test": "c", "verdict": "FAIL", "news": "new"},
        {"kind": "result", "test": "d", "verdict": "PASS", "news": "mended"},
        {"kind": "result", "test": "e", "verdict": "ERROR", "news": "ok"},
        {"kind": "result", "test": "f", "verdict": "SKIP", "news": "skipped"},
        {"kind": "result", "test": "g", "verdict": "MISS", "news": "ok"},
        {"kind": "result", "test": "g", "verdict": "PASS", "news": "ok"},
    ]
    record.write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "resu')

    assert selfcheck._suite_counts(record) == (2, 4, 1)
    assert selfcheck._suite_counts(tmp_path / "missing") == (0, 1, 0)


def test_it_runs_with_the_standard_library_alone() -> None:

    done = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "harness" / "project" / "selfcheck.py")],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_every_tox_environment_is_known() -> None:
    names = {environment.name for environment in selftest.ENVIRONMENTS}

    assert names == set(selfcheck.CHECKS)
    tox = (ROOT / "tox.ini").read_text()
    assert all(f"[testenv:{name}]" in tox for name in names)
