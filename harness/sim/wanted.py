"""What a person asks for when a simulated host is to be built."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.sim.error import SimError

SUITE = "bookworm"
MEMORY_MIB = (256, 65536)
VMM_OF_QEMU = {"kvm": "qemu", "xen": "hvm"}
"""What guests run under where the host has a QEMU."""


@dataclass(frozen=True)
class Wanted:
    """What a person asks for. None: the usual."""

    kind: str
    suite: str = SUITE
    name: str | None = None
    qemu: str | None = None
    outer_suite: str | None = None
    outer: str | None = None
    """What `qemu` is, if nsvm built it: "reference"."""
    outer_bits: tuple[str, ...] = ()
    """Bits of Fn8000_000A EDX that a CPU model of it must be given."""
    kernel: Path | None = None
    modules: Path | None = None
    xen: Path | None = None
    cpu: str | None = None
    memory_mib: int | None = None
    append: str = ""
    on_restore: str = ""
    vmm_args: tuple[str, ...] = ()
    with_qemu: bool = False

    def command(self) -> str:
        """What a person types to have it built."""
        words = ["./nsvm", "sim", "build", self.kind]
        for option, value in (
            ("--suite", self.suite if self.suite != SUITE else None),
            ("--name", self.name),
            ("--qemu", None if self.outer else self.qemu),
            ("--outer", self.outer),
            ("--outer-suite", self.outer_suite),
            ("--kernel", self.kernel and self.kernel.absolute()),
            ("--modules", self.modules and self.modules.absolute()),
            ("--xen", self.xen and self.xen.absolute()),
            ("--cpu", self.cpu),
            ("--memory-mib", self.memory_mib),
            ("--append", self.append or None),
            ("--on-restore", self.on_restore or None),
        ):
            words += [] if value is None else [option, str(value)]
        if self.vmm_args:  # in one word: it begins with a dash
            words.append(f"--vmm-args={shlex.join(self.vmm_args)}")
        return shlex.join([*words, *(["--with-qemu"] if self.with_qemu else [])])

    def check(self) -> None:
        """Raises SimError for what makes no sense."""
        if self.kind not in ("kvm", "xen"):
            raise SimError(f"{self.kind!r} is no kind of simulated host: kvm and xen are")
        if self.qemu and self.outer_suite:
            raise SimError("--qemu and --outer-suite both say which QEMU the outer machine is: give one")
        if self.xen and self.kind != "xen":
            raise SimError("--xen FILE is for 'sim build xen'")
        if self.modules and not self.kernel:
            raise SimError("--modules DIR belongs to --kernel FILE")
        for option, path in (("--kernel", self.kernel), ("--xen", self.xen)):
            if path is not None and not path.is_file():
                raise SimError(f"{option} {path}: no such file")
        if self.modules is not None and not self.modules.is_dir():
            raise SimError(f"--modules {self.modules}: no such folder")
        if self.memory_mib is not None and not MEMORY_MIB[0] <= self.memory_mib <= MEMORY_MIB[1]:
            raise SimError(f"--memory-mib must be {MEMORY_MIB[0]} to {MEMORY_MIB[1]}")


def digest(path: Path | None) -> str | None:
    """The SHA-256 of a file, if there is one."""
    if path is None:
        return None
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digest_folder(path: Path | None) -> Mapping[str, str | None] | None:
    """Those of the modules below a folder, if there is one."""
    if path is None:
        return None
    return {str(one.relative_to(path)): digest(one) for one in sorted(path.rglob("*.ko*")) if one.is_file()}
