"""An L0 whose guests are fake_guest.py: all of SSH is real, only what runs on the host is not."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from harness.hosts.connection import Connection
from harness.hosts.l0 import GuestPlan
from harness.machine.base import TargetError

PROGRAM = Path(__file__).with_name("fake_guest.py")
RUN = shlex.join([sys.executable, str(PROGRAM)])


class FakeL0:
    """Its guests write themselves down in `registry`."""

    kind = "kvm"

    def __init__(self, registry: Path, *, payload: bytes = b"#!/bin/sh\n" * 1000) -> None:
        self.registry = registry
        self.payload = payload
        self.lacks: list[str] = []
        registry.mkdir(parents=True, exist_ok=True)

    def order(self, *orders: dict[str, object]) -> None:
        """What goes wrong in the next boots."""
        (self.registry / "orders").write_text("".join(f"{json.dumps(order)}\n" for order in orders))

    def guests(self) -> list[str]:
        """Those that run."""
        return sorted(path.name for path in self.registry.glob("nsvm-*"))

    def pid(self, name: str) -> int:
        """The process of a guest."""
        return int((self.registry / name).read_text())

    def files(self) -> Mapping[str, bytes | Path]:
        """See L0."""
        return {"executor": self.payload}

    def version(self, host: Connection) -> tuple[str, tuple[int, ...]]:
        """See L0."""
        return f"fake 1.2 on {host.run('echo here').text}", (1, 2)

    def start_command(self, guest: GuestPlan) -> str:
        """See L0."""
        if guest.without:
            raise TargetError(f"the fake cannot hide {', '.join(guest.without)}")
        return f"[ -s {guest.workdir}/executor ] && exec {RUN} {guest.name} {self.registry}"

    def stop_script(self, name: str) -> str:
        """See L0."""
        return (
            f"f={self.registry}/{name}; [ ! -e $f ] || {{ kill $(cat $f) 2>/dev/null; "
            f"n=0; while [ -d /proc/$(cat $f) ] && [ $n -lt 30 ]; do sleep 0.1; n=$((n+1)); done; rm -f $f; }}"
        )

    def leftovers_script(self) -> str:
        """See L0."""
        return f"cd {self.registry} && ls | grep ^nsvm- || :"

    def exit_reason(self, log: str, status: int | None) -> str | None:
        """See L0."""
        return "the fake: triple fault" if status == 33 else None

    def missing(self, host: Connection) -> list[str]:
        """See L0."""
        return self.lacks
