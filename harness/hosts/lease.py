"""Who has a host: one run at a time, all its workers together.

A folder on the host, the workdir, holds all that a run puts there. In it, `lease` says whose it is, and each worker
keeps a file `beat.WORKER.CONNECTION` with the host's uptime at its last sign of life. What changes the lease is done
under a lock in one script. A run whose workers all gave no sign of life for STALE_S, have hung up, or come from before
the host's last boot has no lease any more: the next one takes over and cleans up.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import secrets
import shlex
import socket
from collections.abc import Callable

import paramiko

from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.hosts.lease_scripts import ACQUIRE, BEAT, RELEASE
from harness.machine.process import start_time
from harness.text import printable

BOOT_ID = "/proc/sys/kernel/random/boot_id"


def run_id() -> str:
    """What names this run, the same in all its workers."""
    named = os.environ.get("NSVM_RUN_ID") or os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if named:
        return re.sub(r"[^A-Za-z0-9.]", "", named)[:24] or "run"
    group = os.getpgrp()
    return f"{group}.{start_time(group) or 0}"


def holder_text() -> str:
    """Who we are, for those who find the host taken."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = f"uid {os.getuid()}"
    return printable(f"{user}@{socket.gethostname()}".encode(), 100).replace("\n", " ")


class Lease:
    """A worker's share of its run's hold on a host."""

    def __init__(self, host: Connection, worker: str, run: str | None = None, holder: str | None = None) -> None:
        self.run = run or run_id()
        self.worker = re.sub(r"[^A-Za-z0-9_.-]", "_", worker)[:40] or "main"
        self.host = host
        self.boot_id = ""
        self.took_over: str | None = None
        self._holder = holder or holder_text()
        self._beat: paramiko.Channel | None = None
        self._me = f"{self.worker}.{secrets.token_hex(4)}"  # a new one for each connection, see BEAT

    @property
    def held(self) -> bool:
        """Whether it is ours, as far as is known: its sign of life is still taken, which needs the folder as it was."""
        return self._beat is not None and not self._beat.closed and not self._beat.exit_status_ready()

    def acquire(self, clean: Callable[[], object] = lambda: None) -> None:
        """Takes the host, or joins the other workers of the run. `clean` is called if a dead run had it, or nobody.

        Raises HostError, which names the holder.
        """
        ran = self.host.run(self._with_names(ACQUIRE), deadline_s=30)
        said, *rest = ran.text.splitlines() or [""]
        if said == "HELD" and rest:
            raise HostError(f"host {self.host.name} is in use by {rest[0]}")
        if said == "TROUBLE":
            why = " ".join(rest).replace("I/O error", "no space left on device")  # dash says it so
            raise HostError(f"host {self.host.name}: {why}", ran.complaint)
        if said not in ("FREE", "JOIN", "TAKEN") or not rest:
            raise HostError(f"host {self.host.name}: the lease script failed there: {ran.complaint}", ran.text)
        self.boot_id = rest[0]
        self.took_over = rest[1] if said == "TAKEN" and len(rest) > 1 else None
        self._beat = self.host.open(self._with_names(BEAT))
        self.host.on_beat = self.beat
        if said != "JOIN":
            try:
                clean()
            except HostError:
                with contextlib.suppress(HostError):  # or the next try would join us, and clean nothing
                    self.release()
                raise

    def beat(self) -> None:
        """A sign of life. Called by the connection's keeper."""
        if self._beat is not None and not self._beat.closed:
            self._beat.settimeout(0.0)
            self._beat.sendall(b"\n")

    def release(self, clean: Callable[[], object] = lambda: None) -> None:
        """Gives the host back; the run's last worker leaves nothing there. `clean` goes before. Raises HostError."""
        self.host.on_beat = None
        clean()
        beat, self._beat = self._beat, None
        if beat is not None:
            with contextlib.suppress(Exception):  # it must have ended before its file is removed
                beat.shutdown_write()
                beat.status_event.wait(2)
                beat.close()
        ran = self.host.run(self._with_names(RELEASE), deadline_s=10)
        if ran.text not in ("NONE", "SHARED", "LAST"):
            said = ran.complaint or ran.text
            raise HostError(f"host {self.host.name}: {self.host.spec.workdir} cannot be removed: {said}")

    def _with_names(self, script: str) -> str:
        names = {"w": self.host.spec.workdir, "run": self.run, "worker": self.worker, "me": self._me}
        names |= {"holder": self._holder, "boot_file": BOOT_ID}
        return "\n".join(f"{key}={shlex.quote(value)}" for key, value in names.items()) + script
