"""The targets there are, by name. A new one is a file here and a line in `_FACTORIES` (docs/writing-a-target.md)."""

from __future__ import annotations

import re
from collections.abc import Callable

from harness.targets.base import Target, TargetOptions
from harness.targets.bochs import Bochs
from harness.targets.qemu import QemuTcg

Factory = Callable[[TargetOptions], Target]

_FACTORIES: dict[str, Factory] = {QemuTcg.name: QemuTcg, Bochs.name: Bochs}


def names() -> tuple[str, ...]:
    """The names of all targets."""
    return tuple(_FACTORIES)


def create(name: str, options: TargetOptions) -> Target:
    """Makes a target, without starting it. Raises KeyError, which names those that are known."""
    if name not in _FACTORIES:
        raise KeyError(f"no target named {name!r}; there are {', '.join(names())}")
    return _FACTORIES[name](options)


def register(name: str, factory: Factory) -> None:
    """Adds a target, or puts another in its place."""
    _FACTORIES[name] = factory


def file_name(name: str) -> str:
    """The target's name as a part of a file's name: `sim:kvm@6.12` is sim-kvm@6.12."""
    return re.sub(r"[^A-Za-z0-9@.+_]+", "-", name).strip("-.") or "target"
