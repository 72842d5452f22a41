"""What a reference machine is made of: reference_machine/ as it stands, and the key that its builds are kept by."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.reference import faults, generate
from harness.reference.error import ReferenceMachineError
from harness.reference.faults import Fault
from harness.reference.features import Feature, load_all

PROJECT = Path(__file__).resolve().parents[2]
OURS = PROJECT / "reference_machine"
KEY_LENGTH = 12
ENGINE = 2
"""Counted up when the same reference_machine/ would become another program."""


@dataclass(frozen=True)
class Firmware:
    """Files of a Debian package that QEMU needs next to it."""

    package: str
    folder: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """reference_machine/ as read. `versions`: a pattern that the source package's version must match."""

    folder: Path
    package: str
    suite: str
    versions: str
    options: tuple[str, ...]
    devices: tuple[str, ...]
    firmware: tuple[Firmware, ...]
    features: tuple[Feature, ...]
    faults: tuple[Fault, ...]
    key: str

    @property
    def bits(self) -> list[str]:
        """The bits of Fn8000_000A EDX that the features bring."""
        return [bit for feature in self.features for bit in feature.bits]


def load(folder: Path = OURS) -> Recipe:
    """Reads all of it. Raises ReferenceMachineError, which names the file that is wrong."""
    path = folder / "qemu.toml"
    try:
        content = tomllib.loads(path.read_text())
        source: Mapping[str, Any] = content["source"]
        configure: Mapping[str, Any] = content["configure"]
        features = tuple(load_all(folder / "hooks"))
        known = faults.load(there) if (there := folder / faults.FILE_NAME).is_file() else ()
        return Recipe(
            folder=folder,
            package=source["package"],
            suite=source["suite"],
            versions=source["versions"],
            options=tuple(configure["options"]),
            devices=tuple(configure["devices"]),
            firmware=tuple(Firmware(f["package"], f["folder"], tuple(f["files"])) for f in content["firmware"]),
            features=features,
            faults=known,
            key=_key(folder, content, features, known),
        )
    except (OSError, ValueError) as error:
        raise ReferenceMachineError(f"{path.name}: {error}") from None
    except (KeyError, TypeError) as error:
        raise ReferenceMachineError(f"{path.name}: {error} is missing, or is of the wrong kind") from None


def _key(folder: Path, content: Mapping[str, Any], features: tuple[Feature, ...], known: tuple[Fault, ...]) -> str:
    """A hash of all that makes the program what it is, but QEMU's own version, which stands in the build's record.

    What an edit is for (`what`, `clauses`) is not compiled and does not count.
    """
    bare = [
        replace(feature, what="", edits=tuple(replace(edit, what="", clauses=()) for edit in feature.edits))
        for feature in features
    ]
    whole = hashlib.sha256(repr((ENGINE, content, bare, generate.files(features, known))).encode())
    for path in sorted(folder.glob("src/*.[ch]")):
        whole.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return whole.hexdigest()[:KEY_LENGTH]
