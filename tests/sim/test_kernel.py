"""Modules are found, unpacked, and loaded in an order that works."""

from __future__ import annotations

import gzip
import lzma
import shutil
from pathlib import Path

import pytest

from harness.sim.error import SimError
from harness.sim.kernel import Kernel, depends


def module(*needed: str) -> bytes:
    return b"\x7fELF..\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0retpoline=Y\0"


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    folder = tmp_path / "lib/modules/6.1.0/kernel"
    (folder / "arch/x86/kvm").mkdir(parents=True)
    (folder / "arch/x86/kvm/kvm-amd.ko").write_bytes(module("kvm", "ccp"))
    (folder / "arch/x86/kvm/kvm.ko.xz").write_bytes(lzma.compress(module("irqbypass")))
    (folder / "irqbypass.ko.gz").write_bytes(gzip.compress(module()))
    (folder / "virtio_net.ko").write_bytes(module("net_failover"))
    (folder / "net_failover.ko").write_bytes(module("virtio_net"))
    return Kernel(tmp_path / "vmlinuz", tmp_path)


def test_what_a_module_needs_comes_before_it(kernel: Kernel) -> None:
    assert [name for name, _ in kernel.load_order(["kvm_amd"])] == ["irqbypass", "kvm", "kvm_amd"]


def test_each_comes_once_and_unpacked(kernel: Kernel) -> None:
    order = kernel.load_order(["kvm-amd", "kvm", "kvm_amd"])
    assert [name for name, _ in order] == ["irqbypass", "kvm", "kvm_amd"]
    assert all(data.startswith(b"\x7fELF") for _, data in order)


def test_a_circle_ends(kernel: Kernel) -> None:
    assert {name for name, _ in kernel.load_order(["virtio_net"])} == {"virtio_net", "net_failover"}


def test_what_is_not_there_counts_as_built_in(kernel: Kernel) -> None:
    assert kernel.load_order(["virtio_pci"]) == []
    assert Kernel(kernel.image, None).load_order(["kvm_amd"]) == []


def test_a_folder_without_modules_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SimError, match="no kernel module"):
        Kernel(tmp_path / "vmlinuz", tmp_path).load_order(["kvm"])


def test_what_cannot_be_unpacked_is_said(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SimError, match="apt-get install gzip"):
        kernel.load_order(["irqbypass"])


@pytest.mark.parametrize("path", ["kernel/irqbypass.ko.gz", "kernel/arch/x86/kvm/kvm.ko.xz"])
def test_a_damaged_module_is_named(kernel: Kernel, path: str) -> None:
    assert kernel.modules
    (kernel.modules / "lib/modules/6.1.0" / path).write_bytes(b"nothing of the sort")
    with pytest.raises(SimError, match=Path(path).name):
        kernel.load_order(["kvm", "irqbypass"])


def test_names_are_the_kernels(kernel: Kernel) -> None:
    assert depends(module("xen-privcmd", "x")) == ["xen_privcmd", "x"]
    assert depends(b"no module") == []
