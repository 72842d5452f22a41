"""Nothing outlives a run: not when it stops, not when it is killed, and nothing that is not ours is ever ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.machine import process
from harness.machine.base import TargetError
from harness.machine.process import Child, ChildRecord, reap_leftovers, start_time, state_directory

ROOT = Path(__file__).parents[2]
SLEEP = ["sleep", "300"]
HOLD = """
import sys, time
from pathlib import Path
from harness.machine.process import Child
child = Child(["sleep", "300"], cwd=Path.cwd())
print(child.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not nsvm's."""
    with subprocess.Popen(SLEEP) as running:
        yield running
        running.kill()


def gone_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if start_time(pid) is None:
            return True
        time.sleep(0.01)
    return False


def records() -> list[Path]:
    return sorted(state_directory().iterdir())


def test_a_child_is_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "socket"
    file.touch()
    child = Child(SLEEP, cwd=tmp_path, files=[file])
    assert child.alive()

    child.stop()
    child.stop()

    assert not child.alive()
    assert not file.exists()
    assert records() == []


def test_a_child_that_ignores_sigterm_is_killed_in_time(tmp_path: Path) -> None:
    child = Child(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], cwd=tmp_path)
    end = time.monotonic() + 20
    while "ready" not in child.log():
        assert child.alive() and time.monotonic() < end
        time.sleep(0.01)
    began = time.monotonic()

    child.stop(term_s=0.2)

    assert time.monotonic() - began < 20
    assert child.wait(0) == -signal.SIGKILL


def test_the_log_is_bounded_and_printable(tmp_path: Path) -> None:
    child = Child(["sh", "-c", r"yes | head -c 1000000; printf 'last \033 words'"], cwd=tmp_path)
    assert child.wait(20) == 0

    end = time.monotonic() + 20
    while not (log := child.log()).endswith(r"last \x1b words"):  # its end may still be in the pipe
        assert time.monotonic() < end
    child.stop()

    assert len(log) <= process.LOG_KEPT + 10


def test_a_program_that_is_not_there_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)  # no setpriv either

    with pytest.raises(TargetError, match="does not start"):
        Child(["/nonexistent/qemu"], cwd=tmp_path)
    assert records() == []


def test_a_killed_run_takes_its_emulators_along(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, stdout=subprocess.PIPE)
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    assert start_time(pid) is not None

    run.kill()
    run.wait()

    assert gone_within(pid, 20)
    assert len(records()) == 1
    assert reap_leftovers() == []  # it had gone by itself
    assert records() == []
    run.stdout.close()


def test_a_run_killed_while_it_starts_an_emulator_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel sends no signal for a parent that died before the signal was asked for."""
    real = shutil.which("setpriv")
    assert real is not None
    killed = tmp_path / "killed"
    slow = tmp_path / "setpriv"
    slow.write_text(
        f'#!/bin/sh\nfor n in $(seq 999); do test -e {killed} && break; sleep 0.02; done\nexec {real} "$@"\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    run = subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, stdout=subprocess.PIPE)
    assert run.stdout is not None
    pid = int(run.stdout.readline())

    run.kill()
    run.wait()
    run.stdout.close()
    assert start_time(pid) is not None  # nobody has told it yet
    killed.touch()

    assert gone_within(pid, 20)


def write_record(pid: int, *, owner: list[int], argv: list[str], files: tuple[Path, ...] = ()) -> None:
    record = ChildRecord.new(argv, files)
    record.content["owner"] = owner
    record.write(pid)


def dead_owner() -> list[int]:
    with subprocess.Popen(["true"]) as run:
        pass
    return [run.pid, 1]


def test_a_leftover_is_ended_by_the_next_run(stranger: subprocess.Popen[bytes], tmp_path: Path) -> None:
    file = tmp_path / "guest.ram"
    file.touch()
    write_record(stranger.pid, owner=dead_owner(), argv=SLEEP, files=(file,))

    done = reap_leftovers()

    assert len(done) == 1 and str(stranger.pid) in done[0]
    assert stranger.wait(20) == -signal.SIGKILL
    assert not file.exists()
    assert records() == []


def test_the_emulator_of_a_run_that_lives_is_left_alone(stranger: subprocess.Popen[bytes]) -> None:
    write_record(stranger.pid, owner=[os.getpid(), start_time(os.getpid()) or 0], argv=SLEEP)

    assert reap_leftovers() == []
    assert stranger.poll() is None
    assert len(records()) == 1


@pytest.mark.parametrize("change", ["argv", "since", "world"])
def test_a_process_that_is_not_provably_ours_is_left_alone(stranger: subprocess.Popen[bytes], change: str) -> None:
    write_record(stranger.pid, owner=dead_owner(), argv=SLEEP)
    (path,) = records()
    content = json.loads(path.read_text())
    content |= {"argv": ["sleep", "1"]} if change == "argv" else {}
    content |= {"child": [stranger.pid, 1]} if change == "since" else {}
    content |= {"world": ["another boot", "another namespace"]} if change == "world" else {}
    path.write_text(json.dumps(content))

    assert reap_leftovers() == []
    assert stranger.poll() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"world": 1, "owner": 2}', "null"])
def test_a_damaged_record_does_no_harm(text: str) -> None:
    (state_directory() / "child-damaged.json").write_text(text)

    assert reap_leftovers() == []


def test_a_state_directory_of_somebody_else_is_not_trusted(tmp_path: Path) -> None:
    state_directory().chmod(0o777)

    with pytest.raises(TargetError, match="not ours alone"):
        state_directory()
