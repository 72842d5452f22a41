"""What the commands need from Debian, and how it gets there.

A need names a tool, the package that has it and why it is wanted. Nothing is installed before that is said, and
without root, or with `--no-install`, the command that would do it is printed instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from harness.cli.bootstrap import lock, told
from harness.cli.console import UserError, say

APT_DEADLINE_S = 900
LOCK = Path("/run/nsvm-apt.lock")
"""Held from update to install: apt-get itself does not wait for whoever fetches the lists. ./nsvm holds it, too."""
LISTS = Path("/var/lib/apt/lists")
LISTS_AGE_MAX_S = 7 * 86400
INSTALL = ("apt-get", "install", "-y", "--no-install-recommends")


@dataclass(frozen=True)
class Need:
    """A tool that is missing: what it is called, the Debian packages that have it (blank-separated), and why it is
    wanted.
    """

    what: str
    package: str
    why: str


BUILD_TOOLS = (
    (("gcc", "clang"), Need("gcc", "gcc", "compiles the executor, the payload that runs as L1")),
    (("make",), Need("make", "make", "builds the executor")),
    (("as",), Need("as", "binutils", "assembles the guests of the scenarios")),
    (("ld",), Need("ld", "binutils", "links the executor")),
    (("objcopy",), Need("objcopy", "binutils", "makes the executor's boot images")),
)


STATIC_LIBC = Need("libc.a", "libc6-dev", "links the small VMM that is put onto hosts")
TEST_TOOLS = (
    (("/usr/lib/x86_64-linux-gnu/libc.a",), STATIC_LIBC),
    (("clang",), Need("clang", "clang", "the second compiler that the executor must build with")),
    (("grub-mkrescue",), Need("grub-mkrescue", "grub-common grub-pc-bin", "boots the executor by multiboot2")),
    (("xorriso",), Need("xorriso", "xorriso", "makes the CD image that GRUB boots from")),
    (
        ("/usr/sbin/sshd",),
        Need("sshd", "openssh-server", "a real SSH server on loopback, to which hosts are simulated"),
    ),
    (("ssh-keygen",), Need("ssh-keygen", "openssh-client", "makes the keys of that server")),
    (("busybox",), Need("busybox", "busybox-static", "a second shell for the scripts that run on hosts")),
    (("mformat",), Need("mformat", "mtools", "makes the CD image that GRUB boots from")),
)


def missing_build_tools() -> list[Need]:
    """Which of the tools that build the executor are not on PATH."""
    return missing_of(BUILD_TOOLS)


def missing_test_tools() -> list[Need]:
    """Which of the tools that only the project's own tests need are not on PATH."""
    return missing_of(TEST_TOOLS)


def missing_of(wanted: tuple[tuple[tuple[str, ...], Need], ...]) -> list[Need]:
    """Which needs are not met: none of their tools is here."""
    return [need for tools, need in wanted if not any(_is_here(tool) for tool in tools)]


def _is_here(tool: str) -> bool:
    """A program on PATH, or a file by its whole path."""
    return Path(tool).exists() if tool.startswith("/") else shutil.which(tool) is not None


def packages_of(needs: Iterable[Need]) -> list[str]:
    """The packages, each once, in a stable order."""
    return sorted({package for need in needs for package in need.package.split()})


def install_command(packages: Sequence[str], *, root: bool) -> str:
    """The exact command a person would type."""
    return " ".join([*([] if root else ["sudo"]), *INSTALL, *packages])


def ensure(needs: Sequence[Need], *, may_install: bool, log: Path) -> None:
    """Installs what is missing, saying what and why first; raises UserError where that is not possible or not
    wanted.
    """
    if not needs:
        return
    for package in packages_of(needs):
        reasons = "; ".join(
            dict.fromkeys(f"{need.what}: {need.why}" for need in needs if package in need.package.split())
        )
        say(f"missing: Debian package {package} ({reasons})")
    unpackaged = [need for need in needs if not need.package]
    if unpackaged:
        raise UserError(
            "; ".join(f"{need.what} is missing and no Debian package has it: {need.why}" for need in unpackaged)
        )
    packages = packages_of(needs)
    root = os.geteuid() == 0
    command = install_command(packages, root=root)
    if shutil.which("apt-get") is None:
        raise UserError(f"there is no apt-get here: install {' '.join(packages)} with your system's package manager")
    if not may_install:
        raise UserError(f"--no-install given, nothing is installed; run: {command}")
    if not root:
        raise UserError(f"without root nothing is installed; run: {command}")
    say(f"running: {command}")
    _install(packages, log)


def _install(packages: Sequence[str], log: Path) -> None:
    """Has apt-get install them, one nsvm at a time."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(LOCK, "w") as file, open(log, "w") as output:
            waiting = "another nsvm is installing Debian packages; waiting for it"
            lock(file.fileno(), waiting, APT_DEADLINE_S)
            status = _update_and_install(packages, output)
    except OSError as error:
        raise UserError(f"cannot install {' '.join(packages)}: {told(error, LOCK)}") from None
    if status:
        complaint = _complaint(log.read_text(errors="replace").splitlines())
        raise UserError(f"apt-get could not install {' '.join(packages)}: {complaint} (all of it: {log})")


def _update_and_install(packages: Sequence[str], output: TextIO) -> int:
    """apt-get install, after an update where the lists are missing or old, or where the first try fails."""
    deadline = time.monotonic() + APT_DEADLINE_S
    install = [*INSTALL, "-o", "DPkg::Lock::Timeout=300", *packages]
    updated = _lists_are_old() and _apt(["apt-get", "update"], output, deadline) == 0
    status = _apt(install, output, deadline)
    if status and not updated:
        _apt(["apt-get", "update"], output, deadline)
        status = _apt(install, output, deadline)
    return status


def _complaint(lines: Sequence[str]) -> str:
    """What says most of apt-get's output. Without a network an update is well, and the packages are just not found."""
    errors = [line for line in lines if line.startswith("E:")] or [line for line in lines if line.strip()]
    complaint = errors[-1][:300] if errors else "no output"
    unfetched = [line for line in lines if "Failed to fetch" in line]
    return f"{complaint}; no network? {unfetched[-1][:300]}" if unfetched else complaint


def _lists_are_old() -> bool:
    try:
        newest = max((path.stat().st_mtime for path in LISTS.glob("*_Packages*")), default=0.0)
    except OSError:
        return True
    return time.time() - newest > LISTS_AGE_MAX_S


def _apt(command: Sequence[str], output: TextIO, deadline: float) -> int:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    left_s = max(deadline - time.monotonic(), 1.0)
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=left_s,
        ).returncode
    except subprocess.TimeoutExpired:
        raise UserError(f"'{' '.join(command)}' was not done after {APT_DEADLINE_S} s") from None
    except OSError as error:
        raise UserError(f"cannot run {command[0]}: {error.strerror}") from None
