"""The folder of a simulated host, and what is said when it is not as it should be."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.sim import outer_qemu
from harness.sim import state as states
from harness.sim.error import SimError
from harness.sim.machine import OuterMachine
from harness.sim.packages import Package, PackageView
from harness.sim.state import State


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NSVM_SIM", str(tmp_path / "sim"))
    return tmp_path / "sim"


@pytest.fixture
def state(home: Path, tmp_path: Path) -> State:
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text("#!/bin/sh\necho QEMU emulator version 7.2.22 '(Debian)'\n")
    qemu.chmod(0o755)
    (home / "kvm").mkdir(parents=True)
    made = State(
        directory=home / "kvm",
        kind="kvm",
        suite="bookworm",
        inputs="0123",
        argv=(str(qemu), "-accel", "tcg", "-cpu", "max,+svm"),
        qemu_version="QEMU 7.2.22 (Debian)",
        qemu_stamp=outer_qemu.find(str(qemu)).stamp(),
        l0_version="KVM of Linux 6.1.192-2",
        l0_version_tuple=(6, 1, 192),
        host_key="ssh-ed25519 AAAA",
        paused=False,
        measured={"boot_s": 3.5},
    )
    made.save()
    return made


def test_it_comes_back_as_it_was_saved(state: State) -> None:
    assert states.load("kvm") == state
    assert states.load("sim:kvm").name == "kvm"
    assert states.built() == ["kvm"]


@pytest.mark.parametrize("name", ["kvm", "xen@4.20", "kvm-mine", "xen_2", "kvm@6.12", "kvm-on-qemu-10.0"])
def test_names_that_can_be(name: str) -> None:
    assert states.check_name(f"sim:{name}") == name


@pytest.mark.parametrize("name", ["", "zen", "kvm/..", "../kvm", "kvm mine", "kvm:x", "kvmx", "kvm-" + "x" * 80])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(SimError, match="cannot name a simulated host"):
        states.load(name)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("kvm", "./nsvm sim build kvm"),
        ("xen", "./nsvm sim build xen"),
        ("kvm@6.12", "./nsvm sim build kvm --suite trixie"),
        ("kvm-qemu", "./nsvm sim build kvm --with-qemu"),
        ("kvm-on-qemu-10.0", "./nsvm sim build kvm --outer-suite trixie"),
        ("xen-mine", "./nsvm sim build xen --name xen-mine ..."),
    ],
)
def test_what_is_not_built_says_how_to_build_it(name: str, command: str) -> None:
    with pytest.raises(SimError) as caught:
        states.load(name)
    assert str(caught.value) == f"sim:{name} is not built: run {command}"


def test_a_state_of_another_format_is_not_used(state: State) -> None:
    content = json.loads((state.directory / "machine.json").read_text())
    (state.directory / "machine.json").write_text(json.dumps(content | {"format": 0}))
    with pytest.raises(SimError, match="built by another version of nsvm: run"):
        states.load("kvm")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "kind": "kvm", "more": 1}'])
def test_a_broken_one_says_what_to_do(state: State, text: str) -> None:
    (state.directory / "machine.json").write_text(text)
    with pytest.raises(SimError, match=r"run \./nsvm sim build kvm") as caught:
        states.load("kvm")
    assert "\n" not in str(caught.value)


def test_the_same_qemu_is_not_asked_again(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: pytest.fail("it was asked"))
    outer_qemu.check_unchanged(state)


def test_another_build_of_the_same_version_is_taken(state: State) -> None:
    outer_qemu.check_unchanged(dataclasses.replace(state, qemu_stamp=(0, 0)))


def test_another_version_is_not(state: State) -> None:
    changed = dataclasses.replace(state, qemu_stamp=(0, 0), qemu_version="QEMU 7.2.21 (Debian)")
    with pytest.raises(SimError, match=r"built with QEMU 7\.2\.21 .* is now QEMU 7\.2\.22 .*: run .* --force"):
        outer_qemu.check_unchanged(changed)


def test_what_built_it_is_what_builds_it_again(state: State) -> None:
    mine = "./nsvm sim build kvm --suite sid --kernel /src/bzImage"
    changed = dataclasses.replace(state, qemu_stamp=(0, 0), qemu_version="QEMU 1.0", command=mine)
    with pytest.raises(SimError) as caught:
        outer_qemu.check_unchanged(changed)
    assert str(caught.value).endswith(f": run {mine} --force")


def test_a_suites_qemu_is_run_by_that_suites_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 12's lib64 is an absolute link, so below the tree it leads to this machine's loader."""

    def unpack(archive: Path, into: Path) -> None:
        for folder in ("lib/x86_64-linux-gnu", "lib64", "usr/bin"):
            (into / folder).mkdir(parents=True)
        (into / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2").write_text("theirs")
        (into / "lib64/ld-linux-x86-64.so.2").symlink_to(tmp_path / "ours")

    (tmp_path / "ours").write_text("ours")
    package = Package(outer_qemu.PACKAGE, "1:7.2", "q.deb", 1, "")
    view = PackageView("bookworm", tmp_path / "view")
    monkeypatch.setattr(view, "resolve", lambda wanted: [package])
    monkeypatch.setattr(view, "fetch", lambda wanted: [tmp_path / package.file])
    monkeypatch.setattr(outer_qemu, "unpack", unpack)
    monkeypatch.setattr(outer_qemu, "version", lambda command: "QEMU 7.2")
    found = outer_qemu.from_suite(view, tmp_path / "qemu")
    assert Path(found.command[0]).read_text() == "theirs"


def test_a_qemu_that_is_gone(state: State) -> None:
    Path(state.argv[0]).unlink()
    with pytest.raises(SimError, match="which is gone"):
        OuterMachine(state).start()


def test_what_is_no_qemu() -> None:
    true = shutil.which("true")
    assert true
    with pytest.raises(SimError, match="is no QEMU that runs here"):
        outer_qemu.find(true)
    with pytest.raises(SimError, match="no such program"):
        outer_qemu.find("/nonexistent/qemu")


def test_a_state_file_that_is_gone(state: State) -> None:
    with pytest.raises(SimError, match=r"has no saved state .*: run \./nsvm sim build kvm --force"):
        OuterMachine(state).start()


def test_removing(state: State) -> None:
    assert states.remove("sim:kvm") > 0
    assert states.built() == []
    with pytest.raises(SimError, match="there is nothing to remove"):
        states.remove("kvm")


def test_own_builds_are_told_from_stock_ones(state: State) -> None:
    assert state.own == []
    made_of = {"kernel": "0123456789abcdef", "modules": {"kvm.ko": "aa"}, "xen": None}
    added = {"append": "kvm_amd.vgif=0", "on_restore": "dmesg -n 8", "vmm_args": ("--quirks-off", "800")}
    mine = dataclasses.replace(state, made_of=made_of, **added)

    kernel, modules, *more = mine.own

    assert kernel == "own kernel 01234567"
    assert modules.startswith("own modules ")
    assert more == ["started with kvm_amd.vgif=0", "after each restore: dmesg -n 8", "guests with --quirks-off 800"]
    others = dataclasses.replace(mine, made_of={"modules": {"kvm.ko": "ab"}})
    assert others.own[0] != modules, "two builds of the modules look the same"
