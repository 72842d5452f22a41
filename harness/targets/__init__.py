"""The targets there are, by name. A new one is a file here and a line in `_FACTORIES` (docs/writing-a-target.md).

Hosts are not listed: `host:NAME` is one of the lab file, `ssh://user@host?l0=kvm` says where it is, `sim:NAME` is a
simulated one, `metal:NAME` a bare machine of the lab file. `trace:PATH` is no machine: a trace answers as the one did
that it was recorded on.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from harness.machine.base import Target, TargetError, TargetOptions
from harness.targets.bochs import Bochs
from harness.targets.qemu import QemuTcg
from harness.targets.reference import Reference

Factory = Callable[[TargetOptions], Target]

_FACTORIES: dict[str, Factory] = {QemuTcg.name: QemuTcg, Bochs.name: Bochs}
_BUILT: dict[str, Factory] = {Reference.name: Reference}
PREFIXES = ("host:", "ssh://", "sim:", "metal:", "trace:")
FORMS = ("host:NAME", "ssh://USER@HOST?l0=kvm", "sim:NAME", "metal:NAME")


def names() -> tuple[str, ...]:
    """The names of the targets that packages bring."""
    return tuple(_FACTORIES)


def built_names() -> tuple[str, ...]:
    """The names of those that nsvm has to build first."""
    return tuple(_BUILT)


def is_name(name: str) -> bool:
    """Whether it can be a target's name; a host of that name need not be there."""
    return name in _FACTORIES or name in _BUILT or name.startswith(PREFIXES)


def file_name(name: str) -> str:
    """A target's name as that of a file or folder: `host:zen3-a` is `host-zen3-a`."""
    return re.sub(r"[^A-Za-z0-9.@_]+", "-", name).strip("-.")[:80] or "target"


def create(name: str, options: TargetOptions) -> Target:
    """Makes a target, without starting or reaching it.

    Raises KeyError, which names those that are known, and TargetError for a host that is badly described.
    """
    if name in _FACTORIES:
        return _FACTORIES[name](options)
    if name in _BUILT:
        return _BUILT[name](options)
    if name.startswith("sim:"):
        from harness.targets.sim_host import SimHost

        return SimHost(name, options)
    if name.startswith("metal:"):
        from harness.targets.metal import Metal

        return Metal(name, options)
    if name.startswith("trace:"):
        from harness.targets.replay import Replay

        return Replay(name, options)
    if name.startswith(PREFIXES):
        return _host(name, options)
    raise KeyError(f"no target named {name!r}; there are {', '.join((*_FACTORIES, *_BUILT, *FORMS))}")


def register(name: str, factory: Factory) -> None:
    """Adds a target, or puts another in its place."""
    _FACTORIES[name] = factory


def _host(name: str, options: TargetOptions) -> Target:
    from harness.hosts.lab import LabError, find
    from harness.hosts.spec import SpecError, from_url
    from harness.targets.ssh_host import SshHost

    try:
        spec = from_url(name) if name.startswith("ssh://") else find(name.removeprefix("host:"))
    except (LabError, SpecError) as error:
        raise TargetError(str(error)) from None
    return SshHost(spec, options, name=name)
