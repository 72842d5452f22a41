"""The image of a simulated Xen host: Xen, a paravirtualised dom0 with xl, BusyBox and Dropbear.

Xen is what QEMU boots (multiboot); dom0's kernel and initramfs are its modules.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.feature_mask import QEMU_NAMES
from harness.sim.error import SimError
from harness.sim.image import COMMON, Image, new_root, short_version
from harness.sim.kernel import Kernel
from harness.sim.keys import KeyPair
from harness.sim.packages import Choice, Package
from harness.sim.root import Packages, Root

KERNEL_PACKAGE = "linux-image-amd64"  # the cloud kernel cannot be dom0
SYSTEM_PACKAGE = "xen-system-amd64"
MODULES = ("xen_privcmd", "xenfs", "xen_evtchn", "xen_gntdev", "xen_gntalloc", "virtio_pci", "virtio_net")
PROGRAMS = ("xl", "xenstored", "xenconsoled", "xen-init-dom0", "xenconsole", "libxl-save-helper")
TOOLS = ("xen-cpuid", "xenctx", "xen-hvmctx", "xentrace", "xen-diag")
STORE_TOOLS = ("xenstore-read", "xenstore-write", "xenstore-ls", "xenstore-list", "xenstore-rm")
# rdrand: without it xl waits for entropy. `max` has bits that kill a paravirtualised dom0.
CPU = "qemu64,+svm,+npt,+rdrand"
MEMORY_MIB = 768
DOM0_MIB = 256
MEMORY_WITH_QEMU_MIB = 1024
DOM0_WITH_QEMU_MIB = 448
QEMU = "qemu-system-xen"
DEVICE_MODEL = "usr/libexec/xen-qemu-system-i386"  # where Debian's libxl looks for it
DEVICE_MODEL_DATA = ("usr/share/seabios/bios-256k.bin", "usr/share/qemu/keymaps/en-us")  # xl always says -vnc
# loglvl=info: Xen says at boot which SVM features it found. guest_loglvl=none: else each exit of an L2 writes a line.
APPEND = "console=com1 com1=115200,8n1 dom0_mem={}M loglvl=info guest_loglvl=none noreboot"
DOM0_APPEND = "console=hvc0 panic=-1 random.trust_cpu=on ipv6.disable=1"
XL_CONF = 'autoballoon="off"\nclaim_mode=0\n'

RC = """\
mkdir -p /run/xen /run/xenstored /var/log/xen/console /var/lib/xen
mount -t xenfs xenfs /proc/xen || fail "no xenfs"
xenstored --pid-file /run/xen/xenstored.pid || fail "xenstored does not start"
xen-init-dom0 || fail "xen-init-dom0 does not work"
xenconsoled --pid-file=/run/xen/xenconsoled.pid || fail "xenconsoled does not start"
dmesg -n 4
"""


class XenImage(Image):
    """It is stopped before it is saved."""

    paused = True

    def __init__(self, append: str, memory_mib: int | None, cpu: str | None, xen: Path | None, *, qemu: bool) -> None:
        usual, dom0 = (MEMORY_WITH_QEMU_MIB, DOM0_WITH_QEMU_MIB) if qemu else (MEMORY_MIB, DOM0_MIB)
        super().__init__(f"{APPEND.format(dom0)} {append}".strip(), memory_mib or usual, cpu or CPU)
        self._xen = xen
        self._qemu = qemu

    def packages(self, *, own_kernel: bool) -> list[Choice]:
        """See Image."""
        user = Choice(("busybox-static", "dropbear-bin"), ("lib", "zlib1g"))
        qemu = (QEMU, "seabios", "qemu-system-data") if self._qemu else ()
        xen = Choice((SYSTEM_PACKAGE, *qemu), ("lib", "xen", "zlib1g"))
        kernel = [] if own_kernel else [Choice((KERNEL_PACKAGE,), ("linux-",))]
        return [user, xen, *kernel]

    def files(self, kernel: Kernel, packages: Packages, suite: str, user: KeyPair, host: KeyPair) -> dict[str, bytes]:
        """See Image."""
        root = new_root(packages, "nsvm-xen", suite, user, host)
        root.modules(kernel, MODULES, {})
        _add_toolstack(root, packages)
        if self._qemu:
            _add_qemu(root, packages)
        return {
            "xen": uncompressed(self._xen or packages.need("boot/xen-*-amd64.gz", "boot/xen-*.gz")),
            "vmlinuz": kernel.image.read_bytes(),
            "initrd": root.archive(RC),
        }

    def boot(self) -> list[str]:
        """See Image."""
        return ["-kernel", "xen", "-append", self.append, "-initrd", f"vmlinuz {DOM0_APPEND},initrd"]

    def version(self, packages: Sequence[Package]) -> str:
        """Xen's."""
        return short_version(packages, SYSTEM_PACKAGE)

    def fingerprint(self) -> list[str]:
        """See Image."""
        qemu = (DEVICE_MODEL, *DEVICE_MODEL_DATA) if self._qemu else ()
        return [*COMMON, *MODULES, *PROGRAMS, *TOOLS, *STORE_TOOLS, RC, XL_CONF, *qemu]


def xen_cpu(bits: Iterable[str]) -> str:
    """The CPU model, with more bits of Fn8000_000A EDX, by the APM's names, than QEMU itself has."""
    return CPU + "".join(f",+{QEMU_NAMES[bit]}" for bit in bits)


def uncompressed(path: Path) -> bytes:
    """The hypervisor as an ELF file, which is what QEMU can boot."""
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError) as error:
        raise SimError(f"{path}: {error}") from None
    if data[:4] != b"\x7fELF":
        raise SimError(f"{path} is no Xen: xen or xen.gz as its build leaves it in xen/ is wanted, not xen.efi")
    return data


def _add_toolstack(root: Root, packages: Packages) -> None:
    """xl, what it starts and what it talks to, where they look for each other; links to them on PATH."""
    home = packages.need("usr/lib/xen-*/bin/xl").parent
    inside = f"usr/lib/{home.parent.name}/bin"
    for name in (*PROGRAMS, *TOOLS):
        if name in PROGRAMS or (home / name).is_file():
            root.program(f"{inside}/{name}")
            root.link(f"usr/sbin/{name}", f"/{inside}/{name}")
    for name in STORE_TOOLS:
        root.program(f"usr/bin/{name}")
    root.text("etc/xen/xl.conf", XL_CONF)
    root.text("etc/fstab", "")


def _add_qemu(root: Root, packages: Packages) -> None:
    """The device model of HVM guests, and what makes them boot: xl gives hvmloader the BIOS."""
    root.program(DEVICE_MODEL)
    for name in DEVICE_MODEL_DATA:
        root.data(name, packages.need(name))
    loader = packages.need("usr/lib/xen-*/boot/hvmloader")
    root.data(f"usr/lib/{loader.parent.parent.name}/boot/hvmloader", loader)
