"""The bootstrap: finds or installs Python, makes the environment once, says in one line what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import bootstrap

ROOT = Path(__file__).resolve().parents[2]
BASICS = ("sh", "readlink", "id", "mktemp", "grep", "tail", "timeout", "rm", "env", "ln")
WITHOUT_PYTHON = "apt-get install -y --no-install-recommends python3 python3-venv"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A clone on a machine with a shell and little else: `bare/bin` is its whole PATH."""
    clone = tmp_path / "clone"
    (clone / "harness" / "cli").mkdir(parents=True)
    # The one Python that is looked for by its full name is here on the machine that runs this test.
    script = (ROOT / "nsvm").read_text().replace("/usr/bin/python3", "/nonexistent/python3")
    (clone / "nsvm").write_text(script)
    (clone / "nsvm").chmod(0o755)
    (clone / "harness" / "cli" / "bootstrap.py").write_text("import sys\nprint('started with', *sys.argv[1:])\n")
    tools = clone / "bin"
    tools.mkdir()
    for tool in BASICS:
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    return clone


def fake(tools: Path, name: str, script: str) -> None:
    path = tools / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def nsvm(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(clone / "bin"), "HOME": str(clone), "TMPDIR": str(clone)}
    return subprocess.run(
        [str(clone / "nsvm"), *arguments], env=environment, capture_output=True, text=True, timeout=60, cwd=clone
    )


def test_without_python_and_without_leave_to_install_it_prints_the_command(bare: Path) -> None:
    fake(bare / "bin", "apt-get", "echo called >&2")
    fake(bare / "bin", "id", "echo 0")

    done = nsvm(bare, "run", "--no-install")

    assert done.returncode == 2
    assert f"--no-install given, nothing is installed; run: {WITHOUT_PYTHON}" in done.stderr
    assert "called" not in done.stderr


def test_without_root_it_prints_the_command_with_sudo(bare: Path) -> None:
    fake(bare / "bin", "apt-get", "echo called >&2")
    fake(bare / "bin", "id", "echo 1000")

    done = nsvm(bare, "run")

    assert done.returncode == 2
    assert f"without root nothing is installed; run: sudo {WITHOUT_PYTHON}" in done.stderr
    assert "called" not in done.stderr


def test_no_install_behind_the_dashes_is_pytests(bare: Path) -> None:
    fake(bare / "bin", "apt-get", "exit 100")
    fake(bare / "bin", "id", "echo 0")

    done = nsvm(bare, "run", "--", "--no-install")

    assert "running: apt-get install" in done.stderr


def test_where_there_is_no_apt_it_says_so(bare: Path) -> None:
    done = nsvm(bare, "doctor")

    assert done.returncode == 2
    assert "there is no apt-get here" in done.stderr


def test_root_installs_python_and_goes_on(bare: Path) -> None:
    tools = bare / "bin"
    fake(tools, "id", "echo 0")
    fake(tools, "apt-get", f'case "$*" in *python3-venv*) ln -s {sys.executable} {tools}/python3 ;; esac')

    done = nsvm(bare, "targets")

    assert done.returncode == 0, done.stderr
    assert done.stdout == "started with targets\n"
    assert "missing: Python 3.11 or newer with venv" in done.stderr


def test_a_failed_install_is_tried_again_after_an_update_then_told_in_one_line(bare: Path) -> None:
    tools = bare / "bin"
    fake(tools, "id", "echo 0")
    fake(tools, "apt-get", f'echo "$1" >>{bare}/calls; echo "E: Unable to locate package python3-venv"; exit 100')

    done = nsvm(bare, "targets")

    assert done.returncode == 2
    assert (bare / "calls").read_text().split() == ["install", "update", "install"]
    assert "apt-get failed: E: Unable to locate package python3-venv" in done.stderr


def test_a_python_that_is_too_old_or_has_no_venv_is_passed_over(bare: Path) -> None:
    tools = bare / "bin"
    fake(tools, "python3", "exit 1")
    (tools / "python3.12").symlink_to(sys.executable)

    assert nsvm(bare, "targets").stdout == "started with targets\n"


def test_the_script_may_be_called_through_a_link_from_anywhere(bare: Path, tmp_path: Path) -> None:
    (bare / "bin" / "python3").symlink_to(sys.executable)
    link = tmp_path / "nsvm"
    link.symlink_to(bare / "nsvm")

    done = subprocess.run(
        [str(link), "targets"], env={"PATH": str(bare / "bin")}, cwd="/", capture_output=True, text=True, timeout=60
    )

    assert done.stdout == "started with targets\n"


def make_in_another_process(root: Path) -> subprocess.Popen[str]:
    """ensure_venv on the requirements in `root`, as a second nsvm would."""
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\nfrom harness.cli.bootstrap import ensure_venv\n"
        f"print(ensure_venv('venv', 'run.txt', root=Path({str(root)!r})))"
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_at_once_share_the_work_and_a_half_made_one_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_text("# nothing\n")
    first = make_in_another_process(tmp_path)
    second = make_in_another_process(tmp_path)
    (out_1, err_1), (out_2, err_2) = first.communicate(timeout=120), second.communicate(timeout=120)

    assert (first.returncode, second.returncode) == (0, 0), err_1 + err_2
    assert out_1 == out_2
    assert (err_1 + err_2).count("nsvm: making") == 1
    python = Path(out_1.strip())
    assert subprocess.run([python, "-c", "import pip"], timeout=60).returncode == 0
    assert (tmp_path / ".nsvm" / "venv").resolve() == python.parents[1]

    (python.parents[1] / bootstrap.COMPLETE).unlink()
    (python.parents[1] / "half-made").touch()
    again = make_in_another_process(tmp_path)
    _, err = again.communicate(timeout=120)

    assert "nsvm: making" in err
    assert not (python.parents[1] / "half-made").exists()


def test_other_requirements_make_another_environment_and_pip_is_quoted_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    (tmp_path / "run.txt").write_text(f"nsvm-no-such-package==1.0 --hash=sha256:{'0' * 64}\n")

    with pytest.raises(bootstrap.BootstrapError) as caught:
        bootstrap.ensure_venv("venv", "run.txt", root=tmp_path)

    assert "pip could not install run.txt: ERROR: No matching distribution found for nsvm-no-such-package" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    assert "PIP_FIND_LINKS" in str(caught.value)


def test_missing_requirements_and_unwritable_places_are_told(tmp_path: Path) -> None:
    with pytest.raises(bootstrap.BootstrapError, match="is the clone complete"):
        bootstrap.ensure_venv("venv", "run.txt", root=tmp_path)

    (tmp_path / "run.txt").write_text("")
    (tmp_path / ".nsvm").write_text("a file")
    with pytest.raises(bootstrap.BootstrapError, match="cannot write"):
        bootstrap.ensure_venv("venv", "run.txt", root=tmp_path)


def test_environments_nobody_used_for_long_are_removed(tmp_path: Path) -> None:
    old, used, mine = (tmp_path / f"venv-{name}" for name in ("old", "used", "mine"))
    for folder in (old, used, mine):
        folder.mkdir()
        (folder / bootstrap.COMPLETE).touch()
    os.utime(old / bootstrap.COMPLETE, (0, 0))

    bootstrap._forget_unused(tmp_path, "venv", mine)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["venv-mine", "venv-used"]
