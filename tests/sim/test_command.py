"""`nsvm sim` as a person types it; nothing is built or started."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cli import machine, sim
from harness.cli.console import EXIT_USAGE, HarnessError, UserError
from harness.command import Parser
from harness.machine.base import TargetError, TargetOptions
from harness.sim.error import SimError
from harness.sim.state import State, load
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


def test_on_the_reference_machine_the_baseline_is_another_and_the_version_says_synthetic(
    state: State, tmp_path: Path
) -> None:
    version = "QEMU 10.0.13 (nsvm reference machine, synthetic, Debian 1:10.0.13)"
    dataclasses.replace(state, qemu_version=version, argv=("qemu", "-accel", "tcg", "-cpu", "max,+svm")).save()
    target = SimHost("sim:kvm", TargetOptions(tmp_path, tmp_path / "elf", tmp_path / "disk"))

    assert target.baselines == ("kvm", "kvm-on-reference")
    assert "synthetic" in target.version()


@pytest.fixture
def state(home: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """A state that no guest was asked on yet, and nothing to build."""
    (home / "kvm").mkdir(parents=True)
    made = State(
        directory=home / "kvm",
        kind="kvm",
        suite="bookworm",
        inputs="",
        argv=("qemu", "-accel", "tcg"),
        qemu_version="QEMU 7.2",
        qemu_stamp=(0, 0),
        l0_version="KVM of Linux 6.1",
        l0_version_tuple=(6, 1),
        host_key="ssh-ed25519 AAAA",
        paused=False,
    )
    made.save()
    monkeypatch.setattr(sim, "missing_build_tools", list)
    monkeypatch.setattr(machine, "build_executor", lambda: None)
    monkeypatch.setattr(machine, "build_host_program", lambda: None)
    return made


def guest_with(edx: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def running(name: str, programs: machine.Programs, *, use_lane: bool) -> Iterator[SimpleNamespace]:
        if edx is None:
            raise HarnessError(f"{name} did not start: x")
        leaves = {(sim.SVM_LEAF, 0): (1, 2, 0, edx)}
        yield SimpleNamespace(hello=SimpleNamespace(cpuid=SimpleNamespace(leaves=leaves)))

    monkeypatch.setattr(machine, "running", running)


def test_what_a_guest_sees_is_kept(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    guest_with(9, monkeypatch)
    assert sim._seen_by_guest(state).edx == 9
    assert load("kvm").edx == 9


def test_a_guest_that_does_not_start_is_a_warning(
    state: State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guest_with(None, monkeypatch)
    assert sim._seen_by_guest(state) == state
    assert "warning: no guest was started there: sim:kvm did not start: x" in capsys.readouterr().err


def test_what_somebody_has_built_anew_is_not_overwritten(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    guest_with(9, monkeypatch)
    anew = dataclasses.replace(state, host_key="ssh-ed25519 BBBB")
    anew.save()
    sim._seen_by_guest(state)
    assert load("kvm") == anew


def test_the_list_tells_own_builds_from_stock_ones(
    home: Path, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "kvm-mine").mkdir()
    made_of = {"kernel": "0123456789"}
    dataclasses.replace(state, directory=home / "kvm-mine", made_of=made_of, append="kvm_amd.vgif=0").save()

    assert nsvm("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines[1::3]] == [sim.STOCK, "own kernel 01234567; started with kvm_amd.vgif=0"]
    assert nsvm("list", "--json") == 0
    assert [entry["own"] for entry in json.loads(capsys.readouterr().out)] == [
        [],
        ["own kernel 01234567", "started with kvm_amd.vgif=0"],
    ]
