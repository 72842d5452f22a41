"""Debian packages: what and why is said first, and nothing is installed without leave."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from harness.cli import debian
from harness.cli.console import UserError
from harness.cli.debian import Need

NEEDS = [
    Need("make", "make", "builds the executor"),
    Need("as", "binutils", "assembles"),
    Need("bochs", "bochs bochs-term", "is the machine"),
]
COMMAND = "apt-get install -y --no-install-recommends binutils bochs bochs-term make"


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt-get that writes down what it is asked; `apt/status` is what it exits with."""
    tool = tmp_path / "bin" / "apt-get"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\necho "$DEBIAN_FRONTEND $*" >>{tmp_path}/calls\necho "E: it went wrong"\n'
        f'case "$1" in install) exit $(/bin/cat {tmp_path}/status) ;; esac\n'
    )
    tool.chmod(0o755)
    (tmp_path / "status").write_text("0")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "main_Packages").touch()
    monkeypatch.setenv("PATH", str(tool.parent))
    monkeypatch.setattr(debian, "LISTS", tmp_path / "lists")
    monkeypatch.setattr(debian, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(debian.os, "geteuid", lambda: 0)
    return tmp_path


def calls(apt: Path) -> list[str]:
    return (apt / "calls").read_text().splitlines() if (apt / "calls").exists() else []


def test_nothing_missing_says_nothing(capsys: pytest.CaptureFixture[str], apt: Path) -> None:
    debian.ensure([], may_install=False, log=apt / "log")

    assert capsys.readouterr() == ("", "")


def test_no_install_prints_the_exact_command(apt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--no-install given") as caught:
        debian.ensure(NEEDS, may_install=False, log=apt / "log")

    assert str(caught.value).endswith(f"run: {COMMAND}")
    assert "missing: Debian package bochs-term (bochs: is the machine)" in capsys.readouterr().err
    assert calls(apt) == []


def test_without_root_the_command_has_sudo(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian.os, "geteuid", lambda: 1000)

    with pytest.raises(UserError, match="without root nothing is installed") as caught:
        debian.ensure(NEEDS, may_install=True, log=apt / "log")

    assert str(caught.value).endswith(f"run: sudo {COMMAND}")
    assert calls(apt) == []


def test_without_apt_it_names_the_packages(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(apt))

    with pytest.raises(UserError, match="no apt-get here: install binutils bochs bochs-term make"):
        debian.ensure(NEEDS, may_install=True, log=apt / "log")


def test_root_is_told_what_and_why_before_it_is_installed(apt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    debian.ensure(NEEDS, may_install=True, log=apt / "log")

    told = capsys.readouterr().err.splitlines()
    assert told[-1] == f"nsvm: running: {COMMAND}"
    assert "nsvm: missing: Debian package make (make: builds the executor)" in told[:-1]
    assert len(calls(apt)) == 1
    assert calls(apt)[0].startswith("noninteractive install -y --no-install-recommends")


def test_missing_lists_are_fetched_first(apt: Path) -> None:
    (apt / "lists" / "main_Packages").unlink()

    debian.ensure(NEEDS, may_install=True, log=apt / "log")

    assert [call.split()[1] for call in calls(apt)] == ["update", "install"]


def test_a_failure_is_tried_again_after_an_update_and_then_told_in_one_line(apt: Path) -> None:
    (apt / "status").write_text("100")

    with pytest.raises(UserError, match=r"apt-get could not install .*: E: it went wrong") as caught:
        debian.ensure(NEEDS, may_install=True, log=apt / "log")

    assert [call.split()[1] for call in calls(apt)] == ["install", "update", "install"]
    assert "\n" not in str(caught.value)


def test_without_a_network_that_is_what_is_told(apt: Path) -> None:
    unfetched = "W: Failed to fetch http://deb.debian.org/  Temporary failure resolving 'deb.debian.org'"
    (apt / "status").write_text("100")
    tool = apt / "bin" / "apt-get"
    tool.write_text(tool.read_text() + f'case "$1" in update) echo "{unfetched}" ;; esac\n')

    with pytest.raises(UserError) as caught:
        debian.ensure(NEEDS, may_install=True, log=apt / "log")

    assert f"E: it went wrong; no network? {unfetched} (all of it: " in str(caught.value)


def test_two_at_once_wait_for_each_other_and_not_for_ever(
    apt: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(debian, "APT_DEADLINE_S", 0)

    with open(apt / "lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="waited 0 s in vain: another nsvm is installing Debian packages"):
            debian.ensure(NEEDS, may_install=True, log=apt / "log")

    assert "nsvm: another nsvm is installing Debian packages; waiting for it" in capsys.readouterr().err
    assert calls(apt) == []


def test_the_start_script_holds_the_same_lock() -> None:
    assert f"exec 9>{debian.LOCK}\n" in (Path(__file__).resolve().parents[2] / "nsvm").read_text()


def test_a_tool_that_no_package_has_is_not_installed(apt: Path) -> None:
    with pytest.raises(UserError, match="no Debian package has it"):
        debian.ensure([Need("/my/qemu", "", "is the machine")], may_install=True, log=apt / "log")

    assert calls(apt) == []


def test_build_tools_are_looked_for_on_the_path(apt: Path) -> None:
    assert {need.package for need in debian.missing_build_tools()} == {"gcc", "make", "binutils"}

    clang = apt / "bin" / "clang"
    clang.write_text("")
    clang.chmod(0o755)
    assert "gcc" not in {need.package for need in debian.missing_build_tools()}
