"""Small things around a run: defaults that a farm keeps in a file, old runs that go, words that a shell completes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.cli import prune, run_folder
from harness.cli.completion import bash, fish, man, zsh
from harness.cli.console import UserError
from harness.cli.defaults import Defaults, read_defaults
from harness.command import build_parser, main


def test_the_environment_counts_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "nsvm.toml").write_text('target = ["bochs", "qemu-tcg"]\nn = 2\nout = "night"\npolicy = "mine.toml"\n')

    file = read_defaults({}, (tmp_path,))
    both = read_defaults({"NSVM_TARGET": "sim:kvm,sim:xen", "NSVM_N": "1"}, (tmp_path / "no", tmp_path))

    assert file == Defaults(("bochs", "qemu-tcg"), "2", tmp_path / "night", str(tmp_path / "mine.toml"))
    assert (both.target, both.n, both.out) == (("sim:kvm", "sim:xen"), "1", tmp_path / "night")
    assert read_defaults({}, (tmp_path / "no",)) == Defaults()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('targt = "x"', "there is no 'targt'; did you mean target"),
        ('n = "2"', "n must be a number"),
        ("n =", "nsvm.toml: "),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "nsvm.toml").write_text(text)

    with pytest.raises(UserError, match=says):
        read_defaults({}, (tmp_path,))


def test_the_command_line_counts_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nsvm.toml").write_text('target = "vax"\n')
    monkeypatch.chdir(tmp_path)

    assert main(["run"]) == 2
    assert "no target is called 'vax'" in capsys.readouterr().err
    assert main(["run", "--target", "pdp"]) == 2
    assert "no target is called 'pdp'" in capsys.readouterr().err


def test_only_old_runs_of_our_naming_go_and_only_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NSVM_OUT", str(tmp_path))
    for day in range(1, 6):
        (tmp_path / f"2026110{day}T000000Z-bochs").mkdir()
    for name in ("20261101T000000Z-sim-kvm", "20261101T000000Z-bochs-2", "release-1.0", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "latest").symlink_to("20261102T000000Z-bochs")
    run_folder.make(tmp_path / "20261103T000000Z-bochs", ours=False)  # a run writes into it

    old = [folder.name for folder in prune.old_runs(tmp_path, 2)]
    assert old == ["20261101T000000Z-bochs", "20261101T000000Z-bochs-2"]
    assert main(["prune", "--keep", "2"]) == 0
    assert "2 of the runs in" in capsys.readouterr().out and (tmp_path / old[0]).exists()
    assert main(["prune", "--keep", "2", "--yes"]) == 0
    assert not (tmp_path / old[0]).exists() and (tmp_path / "release-1.0").exists()
    assert main(["prune", "--keep", "few"]) == 2


def test_a_shell_completes_commands_options_and_choices() -> None:
    script = bash(build_parser()) + (
        'try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _nsvm; echo "${COMPREPLY[*]}"; }\n'
        "try nsvm compa; try nsvm run --fresh; try nsvm run --lane a; try nsvm sim bu\n"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout.split() == ["compare", "--fresh-boot", "auto", "build"]
    assert zsh(build_parser()).startswith("autoload")
    assert "-l fresh-boot" in fish(build_parser())


def test_the_man_page_has_every_command() -> None:
    page = man(build_parser())

    assert page.startswith(".TH NSVM 1")
    assert ".SS nsvm compare" in page and ".B \\-\\-against RUN" in page
    assert not [line for line in page.splitlines() if line.startswith("'")]
