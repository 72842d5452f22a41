"""The reference machines that are built: a folder each, with the program, its firmware and what it was made of."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.home import STATE
from harness.reference import recipe
from harness.reference.error import ReferenceMachineError

PROGRAM = "bin/qemu-system-x86_64"
RECORD = "built.json"
BUILD_COMMAND = "./nsvm reference build"
_KEY = re.compile(rf"[0-9a-f]{{{recipe.KEY_LENGTH}}}\Z")


@dataclass(frozen=True)
class Built:
    """One that is built. `source` is QEMU's source package with its version, `bits` what the features bring."""

    directory: Path
    source: str
    built: str = ""
    bits: tuple[str, ...] = ()
    made_of: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What it is kept by."""
        return self.directory.name

    @property
    def program(self) -> Path:
        """The QEMU."""
        return self.directory / PROGRAM

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_blocks * 512 for path in self.directory.rglob("*") if path.is_file())

    def save(self) -> None:
        """Writes the record; the last thing done, so that half a build is none."""
        content: dict[str, Any] = {"source": self.source, "built": self.built, "bits": self.bits}
        content |= {"made_of": dict(self.made_of), "measured": dict(self.measured)}
        (self.directory / RECORD).write_text(json.dumps(content, indent=1) + "\n")


def home() -> Path:
    """Where they are kept: $NSVM_REFERENCE, or .nsvm/reference in the clone."""
    given = os.environ.get("NSVM_REFERENCE")
    return Path(given).expanduser().absolute() if given else STATE / "reference"


def find(key: str) -> Built | None:
    """The one of that key, if it is built."""
    directory = home() / key
    try:
        content = json.loads((directory / RECORD).read_text())
        built = Built(directory=directory, **{**content, "bits": tuple(content["bits"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return built if built.program.is_file() else None


def current() -> Built:
    """The one of reference_machine/ as it stands. Raises ReferenceMachineError, which says how to have it built."""
    wanted = recipe.load().key
    if (there := find(wanted)) is not None:
        return there
    if builds := everything():
        why = f"reference_machine/ has changed since the machine was built ({builds[-1].key}, now {wanted})"
    else:
        why = "the reference machine is not built"
    raise ReferenceMachineError(f"{why}: run {BUILD_COMMAND}")


def everything() -> list[Built]:
    """All that are built, the newest last."""
    found = [find(path.name) for path in home().glob("*") if _KEY.match(path.name)]
    return sorted((one for one in found if one is not None), key=lambda one: one.built)


def remove(built: Built) -> int:
    """Removes one; gives how many bytes that freed. Machines that run go on."""
    size = built.size
    shutil.rmtree(built.directory)
    return size
