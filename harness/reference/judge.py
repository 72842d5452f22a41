"""Judges from outside: software that was not written for the reference machine, run on it.

Linux with KVM and Xen boot on it as L0, and use NRIPS, decode assists, clean bits, LbrVirt and FlushByAsid as they do
on silicon: a wrong nRIP or a stale translation crashes their guests. Linux steps by blocks and reads branch records.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.reference.error import ReferenceMachineError
from harness.sim.error import SimError
from harness.sim.machine import OuterMachine
from harness.sim.state import State, built, load

OUTER = "reference"
SUITES = ("bookworm", "trixie")
"""The Debian suites whose Linux and Xen are judges."""
PARTS = (
    "suites/core/test_enable.py",
    "suites/core/test_exit_rip.py",
    "suites/core/test_intercept_exits.py",
    "suites/core/test_tlb_asid.py",
    "suites/np/test_walks.py",
)
"""What L1, itself a guest, has its own guests do."""
BRANCHES = Path(__file__).resolve().parents[2] / "tests" / "reference" / "branches.c"
COMPILE_DEADLINE_S = 60
RESTORE_DEADLINE_S = 60.0
JUDGE_DEADLINE_S = 180.0
KVM_SAYS = """\
cd /sys/module/kvm_amd/parameters && for name in *; do echo "$name=$(cat $name)"; done | tr '\\n' ' '; echo
dmesg | grep -E 'SVM|kvm_amd|KVM' | tail -n 12
"""
XEN_SAYS = "xl dmesg | grep -A 20 'SVM: Supported' | grep ' - '; xl info virt_caps"


@dataclass(frozen=True)
class Said:
    """What a judge's program wrote, and its exit status."""

    status: int
    lines: tuple[str, ...]


def hosts(kind: str) -> list[State]:
    """The simulated hosts of that kind on the reference machine that `sim build` has named itself."""
    states = [load(name) for name in built() if name.startswith(kind) and name.endswith(f"-on-{OUTER}")]
    return [state for state in states if not state.own and not state.vmm]


def what_l0_uses(state: State) -> Said:
    """What KVM's module or Xen says that it uses of the CPU. Raises ReferenceMachineError."""
    with _host(state) as host:
        ran = host.run(KVM_SAYS if state.kind == "kvm" else XEN_SAYS, deadline_s=JUDGE_DEADLINE_S)
    return Said(ran.status, tuple(ran.text.splitlines()))


def branches(state: State, heard: Callable[[str], None]) -> Said:
    """Compiles the judge of branch records and runs it in Linux as L0. Raises ReferenceMachineError."""
    with tempfile.TemporaryDirectory(prefix="nsvm-") as folder:
        program = Path(folder) / "branches"
        command = ["cc", "-O1", "-static", "-o", str(program), str(BRANCHES)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_DEADLINE_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ReferenceMachineError(f"{BRANCHES.name} cannot be compiled: {error}") from None
        if done.returncode:
            raise ReferenceMachineError(f"{BRANCHES.name} does not compile: {(done.stderr.splitlines() or ['?'])[0]}")
        content = program.read_bytes()
    with _host(state) as host:
        host.upload(content, "/tmp/branches", 0o700)
        ran = host.run("/tmp/branches", deadline_s=JUDGE_DEADLINE_S)
    lines = tuple(ran.text.splitlines())
    for line in lines:
        heard(line)
    return Said(ran.status, lines)


@contextmanager
def _host(state: State) -> Iterator[Connection]:
    machine = OuterMachine(state)
    try:
        connection = Connection(machine.start(RESTORE_DEADLINE_S))
        try:
            yield connection
        finally:
            connection.close()
    except (SimError, HostError) as error:
        raise ReferenceMachineError(f"sim:{state.name}: {error}") from None
    finally:
        machine.stop()
