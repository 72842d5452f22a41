"""What the lab file says of a bare machine: `[metal.NAME]`, `[metal.NAME.power]`, `[metal.NAME.boot]`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.hosts.lab import FILE_NAME, LabError, lab_path
from harness.hosts.spec import NAME
from harness.metal.error import MetalError
from harness.metal.table import checked


@dataclass(frozen=True)
class MetalSpec:
    """One machine.

    `host` names a [host.NAME]: its own operating system, over SSH. `own_os` is a text that its own OS writes on the
    console when it is up. `boot_deadline_s`: from power on to the executor's hello. `grace_s`: how long its own OS may
    take to come up. `off_s`: how long it stays off in a power cycle. `quiet_s`: the executor resets the machine when it
    has heard nothing for so long.
    """

    name: str
    console: str
    power: Mapping[str, Any]
    boot: Mapping[str, Any]
    base: Path = field(default_factory=Path.cwd)
    baud: int = 115200
    host: str = ""
    own_os: str = "login:"
    boot_deadline_s: float = 300.0
    grace_s: float = 300.0
    off_s: float = 5.0
    quiet_s: int = 900
    round_trip_s: float = 0.03
    uart: str = ""
    emulated: bool = False

    @property
    def what(self) -> str:
        """How complaints begin."""
        return f"machine {self.name}"


_KINDS = {
    "console": "str", "baud": "int", "host": "str", "own_os": "str", "boot_deadline_s": "float", "grace_s": "float",
    "off_s": "float", "quiet_s": "int", "round_trip_s": "float", "uart": "str", "emulated": "bool",
}  # fmt: skip
_LIMITS = {"boot_deadline_s": (1, 3600), "grace_s": (0, 7200), "off_s": (0, 600), "quiet_s": (0, 65535),
           "round_trip_s": (0.0001, 10), "baud": (300, 4_000_000)}  # fmt: skip


def from_table(name: str, table: Mapping[str, Any], base: Path) -> MetalSpec:
    """A machine from its table in a lab file, whose folder is `base`. Raises MetalError."""
    what = f"machine {name}"
    if not NAME.match(name):
        raise MetalError(f"{name!r} is no name for a machine (letters, digits, '.', '_', '-', '@', '+')")
    values: dict[str, Any] = {"name": name, "base": base}
    for key, value in table.items():
        if key in ("power", "boot"):
            if not isinstance(value, dict) or "driver" not in value:
                raise MetalError(f'{what}: write [metal.{name}.{key}] with driver = "..."')
            values[key] = value
        elif key in _KINDS:
            values[key] = checked(what, key, value, _KINDS[key])
        else:
            raise MetalError(f"{what}: {key!r} is no key; there are power, boot, {', '.join(_KINDS)}")
        least, most = _LIMITS.get(key, (0, 0))
        if most and not least <= values[key] <= most:
            raise MetalError(f"{what}: {key} must be {least} to {most}")
    for key in ("console", "power", "boot"):
        if key not in values:
            raise MetalError(f"{what}: {key} is missing (docs/bare-metal.md)")
    return MetalSpec(**values)


def machines() -> dict[str, MetalSpec]:
    """The machines of the lab file; none without one. Raises MetalError."""
    try:
        path = lab_path()
        content = tomllib.loads(path.read_text()) if path is not None else {}
    except LabError as error:
        raise MetalError(str(error)) from None
    except (OSError, ValueError) as error:
        raise MetalError(f"{path}: {error}") from None
    tables = content.get("metal", {})
    if path is None or not isinstance(tables, dict):
        return {}
    try:
        return {name: from_table(name, table, path.absolute().parent) for name, table in tables.items()}
    except MetalError as error:
        raise MetalError(f"{path}: {error}") from None


def find(name: str) -> MetalSpec:
    """A machine of the lab file. Raises MetalError."""
    there = machines()
    if name not in there:
        known = ", ".join(sorted(there)) or "none"
        raise MetalError(f"no machine {name!r} in a lab file; there are: {known} (./{FILE_NAME}, docs/bare-metal.md)")
    return there[name]
