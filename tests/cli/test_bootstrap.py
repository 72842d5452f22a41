"""The bootstrap: finds or installs Python, makes the environment once, says in one line what is wrong."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli import bootstrap

ROOT = Path(__file__).resolve().parents[2]
BASICS = ("sh", "readlink", "id", "mktemp", "grep", "tail", "timeout", "rm", "env", "ln", "flock")
WITHOUT_PYTHON = "apt-get install -y --no-install-recommends python3 python3-venv"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A clone on a machine with a shell and little else: `bare/bin` is its whole PATH."""
    clone = tmp_path / "clone"
    (clone / "harness" / "cli").mkdir(parents=True)
    # The one Python that is looked for by its full name is here on the machine that runs this test.
    script = (ROOT / "nsvm").read_text().replace("/usr/bin/python3", "/nonexistent/python3")
    script = script.replace("/run/nsvm-apt.lock", shlex.quote(str(tmp_path / "apt.lock")))
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
    return subprocess.run(
        [str(clone / "nsvm"), *arguments], env=of(clone), capture_output=True, text=True, timeout=60, cwd=clone
    )


def of(clone: Path) -> dict[str, str]:
    """Its environment."""
    return {"PATH": str(clone / "bin"), "HOME": str(clone), "TMPDIR": str(clone)}


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
    tools, python = bare / "bin", shlex.quote(sys.executable)
    fake(tools, "id", "echo 0")
    fake(tools, "apt-get", f'case "$*" in *python3-venv*) ln -s {python} {tools}/python3 ;; esac')

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


def test_without_a_network_that_is_what_is_told(bare: Path) -> None:
    fake(bare / "bin", "id", "echo 0")
    script = (
        'case $1 in update) echo "W: Failed to fetch http://deb" ;; *) echo "E: Unable to locate"; exit 100 ;; esac'
    )
    fake(bare / "bin", "apt-get", script)

    done = nsvm(bare, "targets")

    assert done.returncode == 2
    assert "apt-get failed: E: Unable to locate; no network? W: Failed to fetch http://deb (all of it: " in done.stderr


def test_two_at_once_install_one_after_the_other(bare: Path, tmp_path: Path) -> None:
    """And what apt-get starts, as a service may be, does not keep the lock."""
    fake(bare / "bin", "id", "echo 0")
    fake(bare / "bin", "apt-get", f'[ -e /proc/self/fd/9 ] || echo "$1" >>{shlex.quote(str(bare / "calls"))}; exit 100')
    with open(tmp_path / "apt.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with subprocess.Popen([bare / "nsvm", "targets"], env=of(bare), stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr is not None
            said = [waiting.stderr.readline() for _ in range(3)]
            assert said[-1] == "nsvm: another nsvm is installing Debian packages; waiting for it\n"
            assert not (bare / "calls").exists()
            fcntl.flock(other, fcntl.LOCK_UN)
            assert waiting.wait(60) == 2

    assert (bare / "calls").read_text().split() == ["install", "update", "install"]


def test_a_python_that_is_too_old_or_has_no_venv_is_passed_over(bare: Path) -> None:
    tools = bare / "bin"
    fake(tools, "python3", "exit 1")
    (tools / "python3.12").symlink_to(sys.executable)

    assert nsvm(bare, "targets").stdout == "started with targets\n"


def test_what_lies_about_does_not_make_a_python_unusable(bare: Path) -> None:
    (bare / "bin" / "python3").symlink_to(sys.executable)
    (bare / "venv.py").write_text("raise ImportError('not the one of the standard library')")

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
    with pytest.raises(
        bootstrap.BootstrapError, match=r"cannot make the Python environment: .*\.nsvm.*: Not a directory"
    ):
        bootstrap.ensure_venv("venv", "run.txt", root=tmp_path)


def refusing(number: int) -> Callable[..., None]:
    def refuse(*_arguments: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("what", "number"),
    [("fcntl.flock", errno.ENOLCK), ("_make", errno.ENOSPC), ("Path.exists", errno.EACCES)],
)
def test_whatever_the_file_system_refuses_is_one_line(
    what: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.txt").write_text("")
    monkeypatch.setattr(f"harness.cli.bootstrap.{what}", refusing(number))

    with pytest.raises(bootstrap.BootstrapError, match=os.strerror(number)) as caught:
        bootstrap.ensure_venv("venv", "run.txt", root=tmp_path)

    assert str(tmp_path / ".nsvm") in str(caught.value)


def test_an_environment_that_does_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "ensure_venv", lambda *_, **_kw: tmp_path / "venv-1" / "bin" / "python")

    assert bootstrap.main(["targets"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"No such file or directory; remove {tmp_path}/venv-1" in told


def test_files_of_another_user_are_told_with_his_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `sudo ./nsvm run` in the same clone."""
    owner = pwd.getpwuid(tmp_path.stat().st_uid).pw_name
    refused = PermissionError(errno.EACCES, "Permission denied", "/clone/.nsvm/build.lock")

    assert bootstrap.told(refused, tmp_path) == "/clone/.nsvm/build.lock: Permission denied"
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert f"({tmp_path} belongs to {owner}: " in bootstrap.told(refused, tmp_path)


def test_a_lock_that_does_not_come_is_not_waited_for_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(tmp_path / "lock", "w") as first, open(tmp_path / "lock") as second:
        bootstrap.lock(first.fileno(), "never said", 0)
        with pytest.raises(TimeoutError, match="waited 0 s in vain: somebody is at it"):
            bootstrap.lock(second.fileno(), "somebody is at it", 0)

    assert capsys.readouterr().err == "nsvm: somebody is at it\n"


def test_environments_nobody_used_for_long_are_removed(tmp_path: Path) -> None:
    old, used, mine = (tmp_path / f"venv-{name}" for name in ("old", "used", "mine"))
    for folder in (old, used, mine):
        folder.mkdir()
        (folder / bootstrap.COMPLETE).touch()
    os.utime(old / bootstrap.COMPLETE, (0, 0))

    bootstrap._forget_unused(tmp_path, "venv", mine)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["venv-mine", "venv-used"]
