"""A host that is lost: waited for, power-cycled once if the lab file says how, waited for again."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.hosts.local_command import run_here
from harness.hosts.spec import HostSpec

POWER_DEADLINE_S = 120.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 10.0


@dataclass(frozen=True)
class Back:
    """A host that is there again. `story`: what it took, one line; `output`: what the power command said."""

    connection: Connection
    story: str
    output: str = ""


def recover(
    spec: HostSpec,
    *,
    connect: Callable[[HostSpec], Connection] = Connection,
    tell: Callable[[str], None] = lambda _line: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Back:
    """Brings a lost host back. Raises HostError: it stays away, or does not let us in any more."""
    began = clock()
    connection, last = _wait(spec, connect, clock, sleep)
    output = ""
    took = "came back by itself"
    if connection is None and spec.power_command is not None:
        program = "".join(spec.power_command.split()[:1])  # there may be a password behind it
        tell(f"host {spec.name} is not back after {spec.grace_s:.0f} s: power_command ({program} ...)")
        output = power_cycle(spec)
        connection, last = _wait(spec, connect, clock, sleep)
        took = "came back after its power command"
    if connection is None:
        also = "" if spec.power_command is None else ", and not after its power command either"
        raise HostError(f"{last} (waited {clock() - began:.0f} s for host {spec.name}{also})", output, passing=True)
    return Back(connection, f"host {spec.name} {took}, after {clock() - began:.0f} s", output)


def longest_recovery_s(spec: HostSpec) -> float:
    """What recover() may take, with all that it waits for."""
    waits = 1 if spec.power_command is None else 2
    return waits * (spec.grace_s + spec.connect_deadline_s) + (POWER_DEADLINE_S if spec.power_command else 0.0)


def power_cycle(spec: HostSpec) -> str:
    """Runs the lab file's power command here, and gives what it printed. Raises HostError."""
    assert spec.power_command is not None
    try:
        argv = shlex.split(spec.power_command)
        status, said = run_here(argv, POWER_DEADLINE_S)
    except (ValueError, IndexError) as error:
        raise HostError(f"host {spec.name}: power_command is no command: {error}") from None
    except subprocess.TimeoutExpired:
        raise HostError(f"host {spec.name}: power_command did not end within {POWER_DEADLINE_S:.0f} s") from None
    except OSError as error:
        raise HostError(f"host {spec.name}: power_command: {argv[0]}: {error.strerror}") from None
    if status != 0:
        last = said.strip().splitlines()[-1:] or [""]
        raise HostError(f"host {spec.name}: power_command ended with {status}: {last[0][:200]}", said)
    return said


def _wait(
    spec: HostSpec,
    connect: Callable[[HostSpec], Connection],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> tuple[Connection | None, str]:
    """Tries to connect for the grace time, at least once."""
    end = clock() + spec.grace_s
    pause_s = FIRST_WAIT_S
    while True:
        try:
            return connect(spec), ""
        except HostError as error:
            if not error.passing:
                raise
            if clock() + pause_s >= end:
                return None, str(error)
        sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_WAIT_S)
