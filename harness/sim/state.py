"""What is kept of a simulated host: a folder with its kernel, initramfs, keys, saved state and machine.json."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.home import STATE as KEPT
from harness.sim.error import SimError

IMAGE_FORMAT = 1
"""Raised when an old image would not do what newer code expects of it."""
MACHINE = "machine.json"
STATE = "state"
NAME = re.compile(r"(kvm|xen)([@+._-][A-Za-z0-9@+._-]{0,60})?\Z")
PREFIX = "sim:"
USUAL = {
    "kvm": "",
    "xen": "",
    "kvm@6.12": " --suite trixie",
    "xen@4.20": " --suite trixie",
    "kvm-qemu": " --with-qemu",
    "xen-hvm": " --with-qemu",
    "kvm-on-qemu-10.0": " --outer-suite trixie",
    "kvm-on-reference": " --outer reference",
    "xen-on-reference": " --outer reference",
    "kvm@6.12-on-reference": " --suite trixie --outer reference",
    "xen@4.20-on-reference": " --suite trixie --outer reference",
}
"""What is said to `sim build` for names that it gives by itself."""


@dataclass(frozen=True)
class State:
    """One simulated host, as built. `directory` is where; the rest is in its machine.json."""

    directory: Path
    kind: str
    suite: str
    inputs: str
    """A hash of all that it was made of."""
    argv: tuple[str, ...]
    """The outer QEMU; paths relative to `directory`; `{qmp}`, `{console}` and the incoming state come at start."""
    qemu_version: str
    qemu_stamp: tuple[int, int]
    """Size and time of the QEMU program: if it is another one now, its version is asked again."""
    l0_version: str
    l0_version_tuple: tuple[int, ...]
    host_key: str
    paused: bool
    """Whether the machine was stopped when saved and must be started again."""
    vmm: str = ""
    """The VMM that its guests run under, if not the usual one."""
    available: bool = True
    reason: str = ""
    """Why no nested guest can be started there."""
    edx: int | None = None
    """CPUID Fn8000_000A EDX that its guests see, where a probe could tell."""
    built: str = ""
    made_of: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    command: str = ""
    """What built it, as a person types it."""
    append: str = ""
    """Arguments for its kernel or Xen, besides the usual ones."""
    on_restore: str = ""
    """A shell command that is run on it each time it has been restored."""
    vmm_args: tuple[str, ...] = ()
    """More arguments for the VMM of its guests."""

    @property
    def own(self) -> list[str]:
        """What is not the suite's: kernel, modules or Xen, with the beginning of their hash; and what was added."""
        words = []
        if digest := self.made_of.get("kernel"):
            words.append(f"own kernel {digest[:8]}")
        if modules := self.made_of.get("modules"):
            together = hashlib.sha256(json.dumps(modules, sort_keys=True).encode()).hexdigest()
            words.append(f"own modules {together[:8]}")
        if digest := self.made_of.get("xen"):
            words.append(f"own Xen {digest[:8]}")
        if self.append:
            words.append(f"started with {self.append}")
        if self.on_restore:
            words.append(f"after each restore: {self.on_restore}")
        if self.vmm_args:
            words.append(f"guests with {shlex.join(self.vmm_args)}")
        return words

    @property
    def synthetic(self) -> bool:
        """Whether the outer machine is the reference machine: its answers are our reading of the manual."""
        return "nsvm reference machine" in self.qemu_version

    @property
    def again(self) -> str:
        """What has it built again, whatever has changed."""
        return f"{self.command or build_command(self.name)} --force"

    @property
    def name(self) -> str:
        """As in sim:NAME."""
        return self.directory.name

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_blocks * 512 for path in self.directory.rglob("*") if path.is_file())

    def save(self) -> None:
        """Writes machine.json, whole or not at all: somebody may read it now."""
        content = dataclasses.asdict(self) | {"format": IMAGE_FORMAT}
        del content["directory"]
        draft = self.directory / f"{MACHINE}.new"
        draft.write_text(json.dumps(content, indent=1) + "\n")
        draft.replace(self.directory / MACHINE)


def home() -> Path:
    """Where simulated hosts are kept: $NSVM_SIM, or .nsvm/sim in the clone."""
    given = os.environ.get("NSVM_SIM")
    return Path(given).expanduser().absolute() if given else KEPT / "sim"


def check_name(name: str) -> str:
    """The name, without `sim:`; raises SimError for one that cannot be."""
    bare = name.removeprefix(PREFIX)
    if not NAME.match(bare):
        raise SimError(f"{name!r} cannot name a simulated host: kvm, xen, kvm@6.12, xen-mine can")
    return bare


def load(name: str) -> State:
    """A state by name; raises SimError if it is not built or cannot be used."""
    bare = check_name(name)
    directory = home() / bare
    if not (directory / MACHINE).is_file():
        raise SimError(f"{PREFIX}{bare} is not built: run {build_command(bare)}")
    try:
        content = json.loads((directory / MACHINE).read_text())
        if content.pop("format", None) != IMAGE_FORMAT:
            raise SimError(f"{PREFIX}{bare} was built by another version of nsvm: run {build_command(bare)}")
        state = State(directory=directory, **content)
    except (OSError, ValueError, TypeError) as error:
        raise SimError(f"{directory / MACHINE}: {error}; run {build_command(bare)} --force") from None
    return dataclasses.replace(
        state,
        argv=tuple(state.argv),
        qemu_stamp=(state.qemu_stamp[0], state.qemu_stamp[1]),
        l0_version_tuple=tuple(state.l0_version_tuple),
        vmm_args=tuple(state.vmm_args),
    )


def build_command(name: str) -> str:
    """What a person types to build it; `...` where the name does not say all."""
    kind = name[:3]
    options = USUAL.get(name, f" --name {name} ...")
    return f"./nsvm sim build {kind}{options}"


def built() -> list[str]:
    """The names of all states that are there, usable or not."""
    return sorted(path.parent.name for path in home().glob(f"*/{MACHINE}") if NAME.match(path.parent.name))


def remove(name: str) -> int:
    """Removes a state; gives how many bytes that freed. Machines that run from it go on."""
    bare = check_name(name)
    directory = home() / bare
    if not directory.is_dir():
        raise SimError(f"{PREFIX}{bare} is not built: there is nothing to remove")
    size = sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
    shutil.rmtree(directory)
    return size
