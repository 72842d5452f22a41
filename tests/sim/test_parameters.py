"""Parameters of modules that a person names among the kernel's arguments reach the module, or are refused.

The initramfs loads its modules with insmod, which reads no kernel command line: `--append kvm_amd.vgif=0` had no effect
and nobody was told.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.sim import parameters
from harness.sim.error import Refused
from harness.sim.kernel import Kernel
from harness.sim.kvm_image import KVM_AMD_OPTIONS
from harness.sim.root import Packages, Root

USUAL = {"kvm_amd": KVM_AMD_OPTIONS}


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    folder = tmp_path / "modules"
    folder.mkdir()
    info = b"\0depends=kvm\0parmtype=vgif:int\0parm=vgif:enable virtual GIF\0parmtype=nested:int\0parmtype=npt:bool\0"
    (folder / "kvm-amd.ko").write_bytes(info)
    (folder / "kvm.ko").write_bytes(b"\0depends=\0parmtype=ignore_msrs:bool\0")
    (folder / "kvm-intel.ko").write_bytes(b"\0depends=kvm\0parmtype=ept:bool\0")
    return Kernel(tmp_path / "vmlinuz", folder)


def rc(kernel: Kernel, append: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Root, "_add_busybox", lambda root: None)
    monkeypatch.setattr(Root, "program", lambda root, path: None)
    root = Root(Packages([]), "nsvm-kvm", "bookworm")
    root.modules(kernel, ("kvm_amd",), append, USUAL)
    return root.archive("").decode("ascii", "replace")


@pytest.mark.parametrize(
    ("append", "loaded"),
    [
        ("", "insmod /lib/modules/kvm_amd.ko nested=1 npt=1 ||"),
        ("kvm_amd.vgif=0", "insmod /lib/modules/kvm_amd.ko nested=1 npt=1 vgif=0 ||"),
        ("quiet kvm-amd.vgif=0 x.y", "insmod /lib/modules/kvm_amd.ko nested=1 npt=1 vgif=0 ||"),
        ("kvm_amd.nested=0", "insmod /lib/modules/kvm_amd.ko nested=0 npt=1 ||"),
        ("kvm_amd.vgif=1 kvm_amd.vgif=0", "insmod /lib/modules/kvm_amd.ko nested=1 npt=1 vgif=0 ||"),
        ("kvm.ignore_msrs=1", "insmod /lib/modules/kvm.ko ignore_msrs=1 ||"),
        ("kvm.ignore_msrs", "insmod /lib/modules/kvm.ko ignore_msrs ||"),
        ("-- kvm_amd.vgif=0", "insmod /lib/modules/kvm_amd.ko nested=1 npt=1 ||"),
        ('kvm_amd.vgif="0; reboot"', "insmod /lib/modules/kvm_amd.ko nested=1 npt=1 'vgif=0; reboot' ||"),
    ],
)
def test_a_parameter_reaches_its_module(
    kernel: Kernel, append: str, loaded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loaded in rc(kernel, append, monkeypatch)


@pytest.mark.parametrize(
    ("append", "said"),
    [
        ("kvm_amd.vgiff=0", "kvm_amd has no such parameter; it has nested, npt, vgif"),
        ("kvm_intel.ept=0", "the host does not load kvm_intel; it loads kvm, kvm_amd"),
    ],
)
def test_what_no_module_would_obey_is_refused(
    kernel: Kernel, append: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused, match=re.escape(said)):
        rc(kernel, append, monkeypatch)


@pytest.mark.parametrize(
    ("append", "said"),
    [
        ("kvm_amd.vgif=0", ["0"]),
        ("kvm_amd.npt=1", ["Y"]),
        ("kvm_amd.npt=off", ["N"]),
        ("kvm.ignore_msrs", ["Y"]),
        ("a.b=0x10", ["16"]),
        ("a.b=text", ["other"]),
        ("a.b=1", ["hidden"]),
        ("a.b=1 a.b=0", ["0", "0"]),
        ("console=ttyS0", []),
    ],
)
def test_a_parameter_that_was_taken(append: str, said: list[str]) -> None:
    parameters.check_taken(append, said)


@pytest.mark.parametrize(
    ("append", "said", "complaint"),
    [
        ("kvm_amd.avic=1", ["N"], "--append kvm_amd.avic=1: kvm_amd has avic=N on this machine"),
        ("nonsense.x=1", ["absent"], "--append nonsense.x=1: the kernel there has no module nonsense"),
        ("a.b=1 c.d=1", ["1"], "of 2 module parameters"),
    ],
)
def test_a_parameter_that_was_not_taken_is_refused(append: str, said: list[str], complaint: str) -> None:
    with pytest.raises(Refused, match=re.escape(complaint)):
        parameters.check_taken(append, said)


def test_arguments_that_the_kernel_does_not_know_are_refused() -> None:
    console = '[    0.0] Unknown kernel command line parameters "nosense BOOT=x", will be passed to user space.'
    parameters.check_known("quiet", console)
    with pytest.raises(Refused, match="the kernel does not know nosense"):
        parameters.check_known("quiet nosense", console)


@pytest.mark.parametrize("said", ['parameter "nosense" unknown!', 'parameter "nosense" has invalid value "3", rc=-22!'])
def test_arguments_that_xen_does_not_know_are_refused(said: str) -> None:
    parameters.check_known_to_xen("hap_1gb=0", f"(XEN) {said}")
    with pytest.raises(Refused, match="Xen says: parameter nosense"):
        parameters.check_known_to_xen("nosense=3", f"(XEN) {said}")
