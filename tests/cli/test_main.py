"""The command line: a person's mistake is one line and status 2, our own fault one line, a file and status 3."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from harness import command as command_module
from harness.cli import new
from harness.command import main
from harness.version import VERSION, commit_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["frobnicate"], "there is no command 'frobnicate'; ./nsvm --help lists them"),
        (["comapre"], "there is no command 'comapre'; did you mean compare?"),
        (["run", "--fresh-bot", "always"], "; did you mean --fresh-boot?"),
        (["run", "--bogus"], "nsvm run does not know --bogus"),
        (["run", "--targ", "bochs"], "nsvm run does not know --targ"),
        (["run", "--target", "vax"], "no target is called 'vax'; there are "),
        (["run", "--fresh-boot", "often"], "invalid choice: 'often'"),
        (["run", "-n", "many"], "-n many: not a number of workers"),
        (["run", "-n", "1000"], "at most 64 workers"),
        (["run", "--qemu", "/nonexistent/qemu"], "--qemu /nonexistent/qemu: no such program"),
        (["run", "suites/nonexistent"], "suites/nonexistent: no such file or folder"),
        (["run", "--target"], "expected one argument"),
        (["doctor", "--no-boot"], "--no-boot goes with --target"),
        (["findings", "--write", "--check"], "not allowed with argument"),
        (["run", "--repeat", "9" * 5000], "not a number of times"),
        (["run", "--repeat", "1"], "--repeat 1: at least 2 times"),
        (["run", "--repeat", "2", "--", "--pdb"], "--repeat cannot leave the terminal to pytest"),
        (["run", "--baud", "fast"], "--baud fast: not a number of baud"),
        (["run", "--without", "NRIPS,Warp"], "no bit of Fn8000_000A EDX is called 'Warp'; there are NP, LbrVirt"),
        (["run", "--expect", "NRIP"], "--expect 'NRIP' is no bit of Fn8000_000A EDX"),
        (["run", "--expect", "NASID"], "say how many ASIDs there must be at least, as in NASID=16"),
        (["run", "--expect", "NP", "--without", "NP"], "--expect and --without both name NP"),
        (["run", "--policy", "xen"], "--policy: no policy is called 'xen'"),
        (["run", "--against", "nowhere"], "nowhere: holds no run.jsonl"),
        (["flaky", "nowhere"], "nowhere: holds no run.jsonl"),
        (["caps", "--target", "vax"], "no target is called 'vax'"),
        (["caps", "--", "-x"], "nothing may follow '--' for caps"),
        (["render", "nowhere"], "nowhere: holds no run.jsonl"),
        (["render"], "the following arguments are required: RUN"),
        (["bless", "nowhere"], "bless needs --reason"),
        (["bless", "nowhere", "--reason", "r", "--versions", "about 7"], "is not like >=7.2"),
        (["new", "Nosuch", "x"], "'Nosuch' cannot name a suite"),
        (["bench", "--only", "luck"], "no measure is called 'luck'"),
        (["sensitivity", "answers", "--target", "bochs"], "either files of answers or --target, not both"),
        (["sensitivity", "no/answers"], "no/answers: No such file or directory"),
        (["bench", "--rounds", "0"], "--rounds: at least 1"),
        (["test", "--env", "nonsense"], "invalid choice: 'nonsense'"),
        (["test", "--env", "lint", "--", "-x"], "need --env units or --env emulators"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line_and_status_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(arguments)

    said = capsys.readouterr()
    assert status == 2
    assert complaint in said.err
    assert len(said.err.splitlines()) == 1, said.err
    assert said.out == ""


def test_no_command_shows_the_help_and_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "exit status:" in capsys.readouterr().out


def commands() -> list[str]:
    (choices,) = (action.choices for action in command_module.build_parser()._actions if action.dest == "command")
    return list(choices or ())


@pytest.mark.parametrize("command", commands())
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0

    told = capsys.readouterr().out
    assert told.startswith(f"usage: nsvm {command} ")
    assert "--no-install" in told


def test_every_command_is_documented() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()

    assert [command for command in commands() if f"\n## nsvm {command}\n" not in page] == []


def test_the_version_is_the_projects_and_names_the_commit(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    commit = commit_of(ROOT)

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nsvm {project['version']}{f' ({commit[:12]})' if commit else ''}\n"
    assert project["version"] == VERSION
    assert commit_of(ROOT / "tests") == ""


def test_an_error_nobody_foresaw_is_one_line_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_args: object) -> int:
        raise ZeroDivisionError("the sky\nfell")

    monkeypatch.setattr(new, "run", broken)
    monkeypatch.setattr(command_module, "LOG", tmp_path / "log")

    assert main(["new", "core", "x"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("nsvm: internal error: ZeroDivisionError: the sky (traceback: ")
    assert len(said.splitlines()) == 1
    (written,) = (tmp_path / "log").iterdir()
    assert "raise ZeroDivisionError" in written.read_text()

    assert main(["--debug", "new", "core", "x"]) == 3
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(new, "run", interrupted)

    assert main(["new", "core", "x"]) == 130
    assert capsys.readouterr().err == "nsvm: interrupted\n"


def test_pins_are_exact_and_have_hashes() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text()
        pins = [line for line in text.splitlines() if line and not line[0].isspace()]

        assert pins, path
        assert all("==" in pin and pin.endswith("\\") for pin in pins), path
        assert "://" not in text, path


@pytest.mark.parametrize("given", [("--no-install",), ("--debug",), ("--no-install", "--debug"), ()])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_options_of_every_command_stand_anywhere(given: tuple[str, ...], at: int) -> None:
    words = ["sim", "build", "kvm"]

    args = command_module.build_parser().parse_args([*words[:at], *given, *words[at:]])

    assert (args.no_install, args.debug) == ("--no-install" in given, "--debug" in given)
