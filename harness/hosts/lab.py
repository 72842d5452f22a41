"""The lab file: which hosts there are. docs/hosts.md has all keys and an example."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from harness.hosts.spec import HostSpec, SpecError, from_table

VARIABLE = "NSVM_LAB"
FILE_NAME = "lab.toml"


class LabError(ValueError):
    """The lab file, or a name in it, is wrong. The text is one line for people."""


def lab_path() -> Path | None:
    """$NSVM_LAB, ./lab.toml or ~/.config/nsvm/lab.toml; None if there is none. Raises LabError."""
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise LabError(f"{VARIABLE} says {named}, and there is no such file")
        return Path(named)
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = (Path.cwd() / FILE_NAME, config / "nsvm" / FILE_NAME)
    return next((path for path in places if path.is_file()), None)


def read_lab(path: Path) -> dict[str, HostSpec]:
    """The hosts of a lab file, by name. Raises LabError."""
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LabError(f"{path} is no TOML: {error}") from None
    for key in content:
        if key not in ("host", "defaults", "metal"):  # harness/metal/spec.py reads those
            raise LabError(f"{path}: {key!r} is no key; there are [host.NAME], [metal.NAME] and [defaults]")
    defaults, hosts = _table(path, "defaults", content), _table(path, "host", content)
    try:
        return {
            name: from_table(name, {**defaults, **_table(path, name, hosts)}, path.absolute().parent) for name in hosts
        }
    except SpecError as error:
        raise LabError(f"{path}: {error}") from None


def find(name: str) -> HostSpec:
    """A host of the lab file by its name. Raises LabError."""
    path = lab_path()
    if path is None:
        raise LabError(
            f"host {name}: there is no lab file; write ./{FILE_NAME} (docs/hosts.md), or name the host itself: "
            f"--target 'ssh://root@ADDRESS?l0=kvm'"
        )
    hosts = read_lab(path)
    if name not in hosts:
        there = ", ".join(sorted(hosts)) or "none"
        raise LabError(f"{path} has no host {name!r}; there are: {there}")
    return hosts[name]


def _table(path: Path, key: str, content: dict[str, Any]) -> dict[str, Any]:
    table = content.get(key, {})
    if not isinstance(table, dict):
        raise LabError(f"{path}: {key} must be a table, [host.NAME]")
    return table
