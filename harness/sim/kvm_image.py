"""The image of a simulated KVM host: Debian's cloud kernel with kvm_amd, BusyBox and Dropbear."""

from __future__ import annotations

from collections.abc import Sequence

from harness.sim.image import COMMON, Image, new_root, short_version
from harness.sim.kernel import Kernel
from harness.sim.keys import KeyPair
from harness.sim.packages import Choice, Package
from harness.sim.root import Packages, Root

KERNEL_PACKAGE = "linux-image-cloud-amd64"
MODULES = ("kvm_amd", "virtio_pci", "virtio_net")
KVM_AMD_OPTIONS = {"nested": "1", "npt": "1"}
# panic=-1: a panic ends the machine at once (-no-reboot). kvm_amd.*: for kernels that have it built in.
APPEND = (
    "console=ttyS0 panic=-1 mitigations=off tsc=reliable no_timer_check nokaslr random.trust_cpu=on "
    "ipv6.disable=1 kvm_amd.nested=1 kvm_amd.npt=1"
)
CPU = "max,+svm"
MEMORY_MIB = 512
MEMORY_WITH_QEMU_MIB = 1024
QEMU = "qemu-system-x86"
FIRMWARE = ("bios-256k.bin", "multiboot_dma.bin", "linuxboot_dma.bin", "kvmvapic.bin", "pvh.bin")

RC = """\
[ -c /dev/kvm ] || fail "no /dev/kvm"
echo "nsvm: kvm_amd nested=$(cat /sys/module/kvm_amd/parameters/nested) npt=$(cat /sys/module/kvm_amd/parameters/npt)"
"""


class KvmImage(Image):
    """It is saved running: a Linux that was stopped before does not come back with a working network."""

    def __init__(
        self, append: str, memory_mib: int | None, cpu: str | None, *, qemu: bool, modules: Sequence[str] = ()
    ) -> None:
        usual = MEMORY_WITH_QEMU_MIB if qemu else MEMORY_MIB
        super().__init__(f"{APPEND} {append}".strip(), memory_mib or usual, cpu or CPU)
        self._own = append
        self._qemu = qemu
        self._modules = (*MODULES, *modules)

    def packages(self, *, own_kernel: bool) -> list[Choice]:
        """See Image."""
        user = ["busybox-static", "dropbear-bin", *([QEMU, "seabios"] if self._qemu else [])]
        kernel = [] if own_kernel else [Choice((KERNEL_PACKAGE,), ("linux-",))]
        return [Choice(tuple(user), ("lib", "zlib1g", "qemu-system-common", "qemu-system-data")), *kernel]

    def files(self, kernel: Kernel, packages: Packages, suite: str, user: KeyPair, host: KeyPair) -> dict[str, bytes]:
        """See Image."""
        root = new_root(packages, "nsvm-kvm", suite, user, host)
        root.modules(kernel, self._modules, self._own, {"kvm_amd": KVM_AMD_OPTIONS})
        if self._qemu:
            _add_qemu(root, packages)
        return {"vmlinuz": kernel.image.read_bytes(), "initrd": root.archive(RC)}

    def boot(self) -> list[str]:
        """See Image."""
        return ["-kernel", "vmlinuz", "-initrd", "initrd", "-append", self.append]

    def version(self, packages: Sequence[Package]) -> str:
        """The kernel's."""
        return short_version(packages, KERNEL_PACKAGE)

    def fingerprint(self) -> list[str]:
        """See Image."""
        return [
            *COMMON,
            *self._modules,
            " ".join(f"{name}={value}" for name, value in KVM_AMD_OPTIONS.items()),
            RC,
            f"qemu={self._qemu}",
        ]


def _add_qemu(root: Root, packages: Packages) -> None:
    """QEMU and the firmware that a machine without devices needs."""
    root.program("usr/bin/qemu-system-x86_64")
    for name in FIRMWARE:
        found = packages.find(f"usr/share/qemu/{name}", f"usr/share/seabios/{name}")
        if found is not None:
            root.data(f"usr/share/qemu/{name}", found)
