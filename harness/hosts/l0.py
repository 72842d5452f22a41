"""What a kind of L0 is to a host: which files it needs there, how a guest is started, ended, and what it died of.

kvm.py and xen.py have the two kinds. All that they give is shell text for `sh` on the host (POSIX, as busybox has it);
who runs it is harness/targets/ssh_host.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.hosts.connection import Connection

GUEST_PREFIX = "nsvm-"
"""Every guest's name begins with it: what does not is nobody of ours and never ended."""


@dataclass(frozen=True)
class GuestPlan:
    """One guest to start. `bundle` and `workdir` are paths on the host; `without` are bits of Fn8000_000A EDX."""

    name: str
    workdir: str
    cpus: int = 1
    memory_mib: int = 64
    cpu: str | None = None
    without: tuple[str, ...] = ()
    bundle: str | None = None
    extra_args: tuple[str, ...] = field(default=())


class L0(Protocol):
    """A kind of L0, made for one HostSpec."""

    kind: str
    """`kvm` or `xen`."""

    def files(self) -> Mapping[str, bytes | Path]:
        """What must lie in the workdir before a guest can start: name to content. Uploaded executable."""

    def version(self, host: Connection) -> tuple[str, tuple[int, ...]]:
        """As in ("KVM of Linux 6.1.192-2 (Debian ...)", (6, 1, 192)). Raises HostError."""

    def start_command(self, guest: GuestPlan) -> str:
        """Shell text whose stdin and stdout are the guest's console, raw; what L0 says goes to stderr.

        It ends, with the guest destroyed, when its stdin closes or the connection dies. Raises TargetError if the
        plan cannot be done, with what cannot be by name.
        """

    def stop_script(self, name: str) -> str:
        """Shell text that ends the guest and waits until it is gone; nothing to end is no error."""

    def leftovers_script(self) -> str:
        """Shell text that prints the names of the guests that run and begin with GUEST_PREFIX, one a line.

        By what runs (processes, domains): when a dead run is cleaned up after, the workdir has been emptied before.
        """

    def exit_reason(self, log: str, status: int | None) -> str | None:
        """One line on why a guest ended by itself, from its stderr and exit status; None if nothing is known."""

    def missing(self, host: Connection) -> list[str]:
        """What the host lacks, one line each, with the command that mends it. Empty: a guest can be started."""
