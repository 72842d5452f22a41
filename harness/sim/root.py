"""The root file system of a simulated host, put together from unpacked Debian packages."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from harness.sim.error import SimError
from harness.sim.initramfs import Entry, archive, character_device, file, folder, link
from harness.sim.kernel import Kernel, normal_name
from harness.sim.keys import KeyPair
from harness.sim.parameters import check, options_of

LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64")
LIBRARIES = "lib/x86_64-linux-gnu"
LOADER = "lib64/ld-linux-x86-64.so.2"
LOADED_LATE = ("libgcc_s.so.1",)
"""What programs load only when they need it."""

Usual = Mapping[str, Mapping[str, str]]
"""Modules, and the parameters that each is loaded with: name and value."""

FAILED = "nsvm: fail: "
READY = "nsvm: ready"
"""What the host writes to its console where something does not work, and when all is done; then SSH starts."""

INITTAB = """\
::sysinit:/etc/rc
::respawn:/usr/sbin/dropbear -F -s -r /etc/dropbear/host_key -p 22
"""

RC_BEGIN = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
hostname -F /etc/hostname
fail() { echo "nsvm: fail: $*"; }
"""

RC_NETWORK = """\
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2 ||
    fail "no network (no virtio_net in the kernel or its modules?)"
"""


class Packages:
    """Unpacked packages, searched one after the other. Folders may or may not be merged into /usr."""

    def __init__(self, trees: Sequence[Path]) -> None:
        self._trees = trees

    def find(self, *names: str) -> Path | None:
        """The first file of these names (patterns are allowed) in any package.

        Packages have absolute links too, which here would lead to a file of this machine.
        """
        for name in names:
            for tree in self._trees:
                for path in sorted(tree.glob(name)):
                    if path.is_file() and path.resolve().is_relative_to(tree.resolve()):
                        return path
        return None

    def need(self, *names: str) -> Path:
        """Like find, but raises SimError."""
        found = self.find(*names)
        if found is None:
            raise SimError(f"none of the packages has {' or '.join(names)}")
        return found

    def library(self, name: str) -> Path | None:
        """A shared library."""
        return self.find(*(f"{folder}/{name}" for folder in LIBRARY_FOLDERS), f"usr/lib/**/{name}", f"lib/**/{name}")


class Root:
    """The files of a simulated host."""

    def __init__(self, packages: Packages, hostname: str, suite: str) -> None:
        self._packages = packages
        self._modules: list[str] = []
        self.entries: dict[str, Entry] = {name: folder() for name in ("proc", "sys", "dev", "run", "mnt", "var/log")}
        self.entries |= {
            "tmp": folder(0o1777),
            "root": folder(0o700),
            "dev/console": character_device(5, 1),
            "dev/null": character_device(1, 3, 0o666),
            "var/run": link("../run"),
            "var/lock": link("../run/lock"),
            "init": link("/bin/busybox"),
            "etc/hostname": file(f"{hostname}\n"),
            "etc/hosts": file(f"127.0.0.1 localhost {hostname}\n"),
            "etc/passwd": file("root:x:0:0:root:/root:/bin/sh\n"),
            "etc/group": file("root:x:0:\n"),
            "etc/shells": file("/bin/sh\n"),
            "etc/nsswitch.conf": file("passwd: files\ngroup: files\nhosts: files\n"),
            "etc/os-release": file(f'ID=debian\nVERSION_CODENAME={suite}\nPRETTY_NAME="Debian {suite}, simulated"\n'),
            "etc/inittab": file(INITTAB),
        }
        self._add_busybox()
        self.program("usr/sbin/dropbear")

    def program(self, path: str, *names: str) -> None:
        """A program at `path`, from there or from the first of `names` in the packages, with its libraries."""
        found = self._packages.need(*(names or (path,)))
        self.entries[path] = file(found.read_bytes(), 0o755)
        self._add_libraries(found)

    def data(self, path: str, source: Path) -> None:
        """A file as it is."""
        self.entries[path] = file(source.read_bytes())

    def text(self, path: str, content: str) -> None:
        """A file of these words."""
        self.entries[path] = file(content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self.entries[path] = link(target)

    def keys(self, user: KeyPair, host: KeyPair) -> None:
        """Who may come in, and how the host shows who it is."""
        self.entries["root/.ssh"] = folder(0o700)
        self.entries["root/.ssh/authorized_keys"] = file(f"{user.public_line()} nsvm\n", 0o600)
        self.entries["etc/dropbear/host_key"] = file(host.dropbear_private(), 0o600)

    def modules(self, kernel: Kernel, wanted: Sequence[str], append: str, usual: Usual) -> None:
        """Kernel modules and the lines that load them, with the parameters that are usual and those in `append`."""
        order = dict(kernel.load_order(wanted))
        check(append, kernel, order)
        options = options_of(append, usual)
        for name, data in order.items():
            self.entries[f"lib/modules/{name}.ko"] = file(data)
            given = "".join(f" {shlex.quote(option)}" for option in options.get(name, ()))
            self._modules.append(f"insmod /lib/modules/{name}.ko{given} || fail 'module {name} does not load'\n")

    def loads(self, name: str) -> bool:
        """Whether it is a module here and loaded at boot."""
        return f"lib/modules/{normal_name(name)}.ko" in self.entries

    def archive(self, rc: str) -> bytes:
        """The initramfs, with what is to be done at boot after loading the modules."""
        script = RC_BEGIN + "".join(self._modules) + RC_NETWORK + rc + f'echo "{READY} $(cat /proc/uptime)"\n'
        self.entries["etc/rc"] = file(script, 0o755)
        return archive(self.entries)

    def _add_busybox(self) -> None:
        busybox = self._packages.need("bin/busybox", "usr/bin/busybox")
        self.entries["bin/busybox"] = file(busybox.read_bytes(), 0o755)
        try:
            ran = subprocess.run([busybox, "--list"], capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise SimError(f"busybox cannot be run on this machine: {error}") from None
        for name in ran.stdout.split():
            self.entries.setdefault(f"bin/{name}", link("busybox"))

    def _add_libraries(self, program: Path) -> None:
        todo = [*needed_libraries(program), *LOADED_LATE]
        while todo:
            name = todo.pop()
            at = LOADER if name == Path(LOADER).name else f"{LIBRARIES}/{name}"
            if at in self.entries:
                continue
            found = self._packages.library(name)
            if found is None:
                raise SimError(f"{program.name} needs {name}, which none of the packages has")
            self.entries[at] = file(found.read_bytes(), 0o755)
            todo += needed_libraries(found)


def needed_libraries(path: Path) -> list[str]:
    """What an ELF file says it needs, its loader included."""
    try:
        with open(path, "rb") as opened:
            dynamic = ELFFile(opened).get_section_by_name(".dynamic")
            tags = dynamic.iter_tags("DT_NEEDED") if isinstance(dynamic, DynamicSection) else ()
            return [*(str(getattr(tag, "needed", "")) for tag in tags), Path(LOADER).name]
    except (ELFError, OSError) as error:
        raise SimError(f"{path}: {error}") from None
