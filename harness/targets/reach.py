"""A host by its target's name, connected for as long as a block lasts, to look at it; nothing is taken or changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.hosts.connection import Connection
from harness.hosts.lab import LabError, find
from harness.hosts.spec import HostSpec, SpecError, from_url
from harness.machine.base import TargetError

SIM_DEADLINE_S = 60.0


def spec_of(name: str) -> HostSpec:
    """The host that `host:NAME` or `ssh://...` names. Raises TargetError."""
    try:
        return from_url(name) if name.startswith("ssh://") else find(name.removeprefix("host:"))
    except (LabError, SpecError) as error:
        raise TargetError(str(error)) from None


@contextmanager
def reached(name: str) -> Iterator[tuple[Connection, HostSpec]]:
    """The connection and what is known of the host; a simulated host is restored for it. Raises TargetError."""
    if not name.startswith("sim:"):
        spec = spec_of(name)
        with Connection(spec) as connection:
            yield connection, spec
        return
    from harness.sim.machine import OuterMachine
    from harness.sim.state import load

    machine = OuterMachine(load(name.removeprefix("sim:")))
    try:
        spec = machine.start(SIM_DEADLINE_S)
        with Connection(spec) as connection:
            yield connection, spec
    finally:
        machine.stop()
