"""What is asked for, and when it is built again."""

from __future__ import annotations

import dataclasses
import gzip
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.sim import build as building
from harness.sim import outer_qemu
from harness.sim.build import build
from harness.sim.error import SimError
from harness.sim.lock import locked
from harness.sim.packages import Choice, Package, PackageView
from harness.sim.state import STATE, State
from harness.sim.wanted import Wanted
from harness.sim.xen_image import uncompressed

PACKAGES = [Package("linux-image-cloud-amd64", "6.12.117-1", "linux.deb", 1, "")]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"kind": "bhyve"}, "'bhyve' is no kind"),
        ({"kind": "kvm", "xen": Path("/x")}, "--xen FILE is for"),
        ({"kind": "kvm", "modules": Path("/")}, "--modules DIR belongs to --kernel"),
        ({"kind": "kvm", "kernel": Path("/nonexistent")}, "--kernel /nonexistent: no such file"),
        ({"kind": "xen", "xen": Path("/nonexistent")}, "--xen /nonexistent: no such file"),
        ({"kind": "kvm", "qemu": "a", "outer_suite": "b"}, "give one"),
        ({"kind": "kvm", "memory_mib": 3}, "--memory-mib must be"),
    ],
)
def test_what_makes_no_sense_is_one_line(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(SimError, match=said) as caught:
        Wanted(**wanted).check()
    assert "\n" not in str(caught.value)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Builds without packages and machines; gives the names of what was really made."""
    monkeypatch.setenv("NSVM_SIM", str(tmp_path / "sim"))
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text("#!/bin/sh\necho QEMU emulator version 7.2.22\n")
    qemu.chmod(0o755)
    names: list[str] = []

    def make(kit: Any, directory: Path) -> State:
        directory.mkdir()
        names.append(directory.name)
        (directory / STATE).write_bytes(b"state")
        return State(
            directory=directory,
            kind="kvm",
            suite="bookworm",
            inputs=kit.inputs(),
            argv=(str(qemu), "-accel"),
            qemu_version="QEMU 7.2.22",
            qemu_stamp=outer_qemu.find(None).stamp(),
            l0_version="",
            l0_version_tuple=(),
            host_key="",
            paused=False,
        )

    def choose(view: PackageView, choices: list[Choice]) -> list[Package]:
        return list(PACKAGES)

    monkeypatch.setattr(building._Kit, "make", make)
    monkeypatch.setattr(building._Kit, "get", lambda kit: None)
    found = outer_qemu.OuterQemu((str(qemu),), qemu, "QEMU 7.2.22")
    monkeypatch.setattr(outer_qemu, "find", lambda path: found)
    monkeypatch.setattr(PackageView, "refresh", lambda view: None)
    monkeypatch.setattr(PackageView, "choose", choose)
    return names


def quiet(text: str) -> None:
    pass


def test_it_is_built_once(made: list[str]) -> None:
    assert build(Wanted("kvm"), quiet)[1]
    state, new = build(Wanted("kvm"), quiet)
    assert (state.name, new, made) == ("kvm", False, ["kvm"])
    assert build(Wanted("kvm"), quiet, force=True)[1]
    assert sorted(path.name for path in state.directory.parent.iterdir()) == [".kvm.lock", "kvm"]


def test_what_a_killed_build_left_is_removed(made: list[str], tmp_path: Path) -> None:
    (tmp_path / "sim/.kvm.draft/kvm").mkdir(parents=True)
    (tmp_path / "sim/.kvm.draft/kvm/initrd").touch()
    state, new = build(Wanted("kvm"), quiet)
    assert new and not (state.directory / "initrd").exists()
    assert not (tmp_path / "sim/.kvm.draft").exists()


def test_two_builds_wait_for_each_other_and_say_so(made: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    waits = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        if "waiting for it" in text:
            waits.set()

    with locked(tmp_path / "sim/.kvm.lock"):
        other = threading.Thread(target=build, args=(Wanted("kvm"), say), daemon=True)
        other.start()
        assert waits.wait(20), said
        assert made == []
    other.join(20)
    assert made == ["kvm"] and not other.is_alive()


def test_a_state_says_what_built_it(made: list[str], tmp_path: Path) -> None:
    kernel = tmp_path / "a bzImage"
    kernel.touch()
    vmm_args = ("--quirks-off", "800")
    wanted = Wanted("kvm", "trixie", name="kvm-mine", kernel=kernel, append="x=1 y", vmm_args=vmm_args, with_qemu=True)
    assert wanted.command() == (
        f"./nsvm sim build kvm --suite trixie --name kvm-mine --kernel '{kernel}' --append 'x=1 y'"
        " '--vmm-args=--quirks-off 800' --with-qemu"
    )
    assert Wanted("xen").command() == "./nsvm sim build xen"


def test_own_builds_of_qemu_count_by_their_content(made: list[str]) -> None:
    program = outer_qemu.find(None).program
    mine = Wanted("kvm", qemu=str(program))
    build(mine, quiet)
    assert not build(mine, quiet)[1]
    program.write_text(program.read_text() + "# another build of that version\n")
    assert build(mine, quiet)[1]


def test_a_state_file_that_was_lost_is_made_again(made: list[str]) -> None:
    state, _ = build(Wanted("kvm"), quiet)
    (state.directory / STATE).unlink()
    assert build(Wanted("kvm"), quiet)[1]


@pytest.mark.parametrize(
    "change",
    [{"cpu": "EPYC"}, {"memory_mib": 300}, {"append": "x=1"}, {"on_restore": "true"}, {"vmm_args": ("--cpus", "2")}],
)
def test_what_changes_it_has_it_built_again(made: list[str], change: dict[str, Any]) -> None:
    usual = Wanted("kvm", name="kvm-x")
    build(usual, quiet)
    assert build(dataclasses.replace(usual, **change), quiet)[1]


def test_a_newer_package_has_it_built_again(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    build(Wanted("kvm"), quiet)
    newer = [dataclasses.replace(PACKAGES[0], version="6.12.118-1")]
    monkeypatch.setattr(PackageView, "choose", lambda view, choices: newer)
    assert build(Wanted("kvm"), quiet)[1]


def test_own_kernels_count_by_their_content(made: list[str], tmp_path: Path) -> None:
    kernel, modules = tmp_path / "bzImage", tmp_path / "mods"
    modules.mkdir()
    kernel.write_bytes(b"1")
    (modules / "kvm.ko").write_bytes(b"1")
    mine = Wanted("kvm", name="kvm-mine", kernel=kernel, modules=modules)
    build(mine, quiet)
    assert not build(mine, quiet)[1]
    (modules / "kvm.ko").write_bytes(b"2")
    assert build(mine, quiet)[1]
    kernel.write_bytes(b"2")
    assert build(mine, quiet)[1]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (Wanted("kvm"), "kvm"),
        (Wanted("kvm", suite="trixie"), "kvm@6.12"),
        (Wanted("kvm", with_qemu=True), "kvm-qemu"),
        (Wanted("xen", with_qemu=True), "xen-hvm"),
        (Wanted("kvm", qemu="/x"), "kvm-on-qemu-7.2"),
        (Wanted("kvm", name="kvm-x"), "kvm-x"),
    ],
)
def test_names(made: list[str], wanted: Wanted, name: str) -> None:
    assert build(wanted, quiet)[0].name == name


@pytest.mark.parametrize(
    "unusual",
    [{"kernel": "bzImage"}, {"cpu": "EPYC"}, {"memory_mib": 1024}, {"append": "quiet"}, {"vmm_args": ("-x", "1")}],
)
def test_what_is_unusual_wants_a_name(made: list[str], tmp_path: Path, unusual: dict[str, Any]) -> None:
    """It would take the place of the usual one."""
    (tmp_path / "bzImage").touch()
    if "kernel" in unusual:
        unusual = {"kernel": tmp_path / "bzImage"}
    with pytest.raises(SimError, match="needs a name of its own"):
        build(Wanted("kvm", **unusual), quiet)


def test_a_hypervisor_is_an_elf_file(tmp_path: Path) -> None:
    path = tmp_path / "xen.gz"
    path.write_bytes(gzip.compress(b"\x7fELFxen"))
    assert uncompressed(path) == b"\x7fELFxen"
    for data in (b"MZ is an EFI program", b"\x1f\x8bbroken", b""):
        path.write_bytes(data)
        with pytest.raises(SimError, match=r"xen\.gz"):
            uncompressed(path)
