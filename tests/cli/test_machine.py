"""What every command that uses a target does first: one line where it cannot."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from harness.cli import machine
from harness.cli.console import UserError


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "STATE", tmp_path)
    monkeypatch.setattr(machine, "LOG", tmp_path / "log")
    return tmp_path


def test_a_clone_that_cannot_be_written_is_one_line(state: Path) -> None:
    (state / "build.lock").mkdir()

    with pytest.raises(UserError, match=rf"cannot build the executor: {state}/build.lock: Is a directory"):
        machine.build_executor()


def test_another_build_is_waited_for_so_long_and_said_so(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "BUILD_LOCK_DEADLINE_S", 0)

    with open(state / "build.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="waited 0 s in vain: another nsvm builds the executor"):
            machine.build_host_program()

    assert capsys.readouterr().err == "nsvm: another nsvm builds the executor; waiting for it\n"
