"""The user's command that a simulated host runs each time it has been restored."""

from __future__ import annotations

from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.hosts.spec import HostSpec
from harness.sim.error import Refused


def run_on(spec: HostSpec, command: str, deadline_s: float) -> None:
    """Runs it in the host's shell. Raises Refused with its status and what it said last."""
    connection = Connection(spec)
    try:
        ran = connection.run(command, deadline_s=max(deadline_s, 1.0))
    except HostError as error:
        raise Refused(f"sim:{spec.name}: --on-restore {command!r}: {error}", error.log) from None
    finally:
        connection.close()
    if ran.status:
        said = ran.complaint or (ran.text.strip().splitlines() or ["it says nothing"])[-1][:200]
        raise Refused(f"sim:{spec.name}: --on-restore {command!r} ended with {ran.status}: {said}")
