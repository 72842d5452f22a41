"""What both kinds of simulated host have in common: what there is to say about an image and its machine."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

from harness.sim.kernel import Kernel
from harness.sim.keys import KeyPair
from harness.sim.packages import Choice, Package
from harness.sim.root import INITTAB, RC_BEGIN, RC_NETWORK, Packages, Root


class Image(ABC):
    """A kind of image, with what the user said about it."""

    paused = False
    """Whether the machine must be stopped before its state is saved."""

    def __init__(self, append: str, memory_mib: int, cpu: str) -> None:
        self.append = append
        self.memory_mib = memory_mib
        self.cpu = cpu

    @abstractmethod
    def packages(self, *, own_kernel: bool) -> list[Choice]:
        """What to ask apt for."""

    @abstractmethod
    def files(self, kernel: Kernel, packages: Packages, suite: str, user: KeyPair, host: KeyPair) -> dict[str, bytes]:
        """The files of the state's folder."""

    @abstractmethod
    def boot(self) -> list[str]:
        """What the outer QEMU boots. Paths are relative to the state's folder."""

    @abstractmethod
    def version(self, packages: Sequence[Package]) -> str:
        """The L0's version among these packages, as in 6.12, for a name."""

    @abstractmethod
    def fingerprint(self) -> list[str]:
        """What changes the image besides the packages and the machine."""

    def argv(self) -> list[str]:
        """The outer QEMU's arguments. `{qmp}` and `{console}` are filled in at start."""
        argv = ["-accel", "tcg", "-M", "pc", "-cpu", self.cpu, "-m", f"{self.memory_mib}M"]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"]
        argv += ["-chardev", "socket,id=serial,fd={console}", "-serial", "chardev:serial"]
        argv += ["-chardev", "socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"]
        # The system chooses the port; the host reaches nothing outside.
        argv += ["-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"]
        return [*argv, "-device", "virtio-net-pci,netdev=net,romfile=", *self.boot()]


COMMON = (INITTAB, RC_BEGIN, RC_NETWORK)
"""Texts that every image has."""


def new_root(packages: Packages, hostname: str, suite: str, user: KeyPair, host: KeyPair) -> Root:
    """A root file system with keys."""
    root = Root(packages, hostname, suite)
    root.keys(user, host)
    return root


def short_version(packages: Sequence[Package], name: str) -> str:
    """The first two numbers of a package's version."""
    versions = [package.version for package in packages if package.name == name]
    found = re.match(r"\d+\.\d+", versions[0]) if versions else None
    return found[0] if found else "unknown"
