"""`nsvm sim` as a person types it; nothing is built or started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import sim
from harness.cli.command import Parser
from harness.cli.console import EXIT_USAGE, HarnessError, UserError
from harness.sim.error import SimError
from harness.targets.base import TargetError, TargetOptions
from harness.targets.sim_host import SimHost


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NSVM_SIM", str(tmp_path / "sim"))
    monkeypatch.setattr(sim, "LOG", tmp_path / "log")
    return tmp_path / "sim"


def nsvm(*words: str) -> int:
    parser = Parser(prog="nsvm")
    common = Parser(add_help=False)
    common.add_argument("--no-install", action="store_true")
    sim.add(parser.add_subparsers(parser_class=Parser), common)
    args = parser.parse_args(["sim", *words])
    status: int = args.run(args)
    return status


def test_nothing_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert nsvm("list") == 0
    assert capsys.readouterr().out == "no simulated host is built; ./nsvm sim build kvm makes one\n"
    assert nsvm("list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_broken_one_is_listed_with_what_to_do(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "kvm").mkdir(parents=True)
    (home / "kvm/machine.json").write_text("{")
    assert nsvm("list") == 0
    assert "not available: " in (out := capsys.readouterr().out) and "./nsvm sim build kvm --force" in out


@pytest.mark.parametrize("action", ["ssh", "console"])
def test_what_is_not_built(action: str) -> None:
    with pytest.raises(UserError) as caught:
        nsvm(action, "xen@4.20")
    assert str(caught.value) == "sim:xen@4.20 is not built: run ./nsvm sim build xen --suite trixie"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build", "kvm", "--suite", "No Such"), "is no Debian suite"),
        (("build", "kvm", "--kernel", "/nonexistent"), "--kernel /nonexistent: no such file"),
        (("build", "kvm", "--xen", "/etc/passwd"), "--xen FILE is for 'sim build xen'"),
        (("remove", "kvm"), "there is nothing to remove"),
        (("ssh", "../x"), "cannot name a simulated host"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        nsvm(*words, *(("--no-install",) if words[0] == "build" else ()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [(), ("build",), ("build", "bhyve"), ("frob",), ("remove",)])
def test_wrong_use(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        nsvm(*words)
    assert caught.value.code == EXIT_USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_a_machine_said_goes_to_a_file(tmp_path: Path) -> None:
    error = sim._for_people(SimError("sim:kvm did not come up: x", "a\nb"))
    assert isinstance(error, HarnessError)
    assert str(error) == f"sim:kvm did not come up: x (what it said: {tmp_path}/log/sim.log)"
    assert (tmp_path / "log/sim.log").read_text() == "a\nb\n"


def test_a_target_that_is_not_built(tmp_path: Path) -> None:
    target = SimHost("sim:kvm", TargetOptions(tmp_path, tmp_path / "elf", tmp_path / "disk"))
    assert [missing.what for missing in target.missing()] == ["sim:kvm is not built: run ./nsvm sim build kvm"]
    assert target.baselines == ("kvm", "kvm-on-tcg")
    assert target.version_tuple == () and target.exit_reason() is None and not target.alive()
    with pytest.raises(TargetError, match="is not built: run"):
        target.start()
    target.stop()
    target.close()
