"""The outer machine: an emulated AMD computer on which a simulated host runs.

QEMU gets everything handed down: its monitor and the serial port are socket pairs, the saved state is an open file,
the port that leads to the host's SSH is chosen by the system. Nothing to race for, nothing to leave behind but a
file with the host's key, which the next run removes if this one cannot.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness.hosts.spec import HostSpec
from harness.machine.base import TargetError
from harness.machine.process import Child, reap_leftovers, signal_name, state_directory
from harness.sim import outer_qemu
from harness.sim.error import Refused, SimError
from harness.sim.on_restore import run_on
from harness.sim.qmp import Qmp
from harness.sim.serial_log import SerialLog
from harness.sim.state import STATE, State

ENDED_WAIT_S = 1.0
FIRST_PATIENCE_S = 2.0


class OuterMachine:
    """One running outer machine. start() may follow stop()."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._child: Child | None = None
        self._qmp: Qmp | None = None
        self._console: SerialLog | None = None
        self._known_hosts: Path | None = None
        self._last_log = ""
        self.port = 0

    def start(self, deadline_s: float = 20.0) -> HostSpec:
        """Restores the saved state and waits for the host's SSH server. Raises SimError."""
        outer_qemu.check_unchanged(self._state)
        deadline = time.monotonic() + deadline_s
        try:
            saved = os.open(self._state.directory / STATE, os.O_RDONLY)
        except OSError as error:
            raise SimError(f"sim:{self._state.name} has no saved state ({error}): run {self._state.again}") from None
        try:
            self.launch(saved, deadline - time.monotonic())
            if self._state.paused:
                self.qmp.wait_status(("paused",), deadline - time.monotonic())
                self.qmp.execute("cont")
            self.qmp.wait_status(("running",), deadline - time.monotonic())
            spec = self.reach(deadline - time.monotonic())
            if self._state.on_restore:
                run_on(spec, self._state.on_restore, deadline - time.monotonic())
            return spec
        except Refused:
            self.stop()
            raise
        except SimError as error:
            told = self.failed(error) if self._child is not None else error
            # A QEMU of the same version may have been built otherwise, and then does not take the state.
            raise SimError(f"{told} (if it happens again, run {self._state.again})", told.log) from None
        finally:
            os.close(saved)

    def launch(self, saved: int | None, deadline_s: float) -> None:
        """Starts QEMU, from a saved state or from power-on, and connects to its monitor."""
        self.stop()
        reap_leftovers()
        ours, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)
        try:
            fds = [end.fileno() for end in theirs]
            argv = fill(self._state.argv, qmp=fds[0], console=fds[1], incoming=saved)
            more = [] if saved is None else [saved]
            handle, name = tempfile.mkstemp(prefix="known-hosts-", dir=state_directory())
            os.close(handle)
            self._known_hosts = Path(name)
            files = [self._known_hosts]
            self._child = Child(argv, cwd=self._state.directory, files=files, pass_fds=[*fds, *more])
        except (TargetError, OSError) as error:
            for end in ours:
                end.close()
            raise SimError(str(error), error.log if isinstance(error, TargetError) else "") from None
        finally:
            for end in theirs:
                end.close()
        self._console = SerialLog(ours[1])
        try:
            self._qmp = Qmp(ours[0], min(deadline_s, 10.0))
        except SimError as error:
            ours[0].close()
            raise self.failed(error) from None

    @property
    def qmp(self) -> Qmp:
        """The monitor of the running machine."""
        if self._qmp is None:
            raise SimError(f"sim:{self._state.name} is not running")
        return self._qmp

    def await_console(self, text: str, deadline_s: float) -> None:
        """Waits until the host has written that to its serial port.

        A connection made before the host can answer would wait for the outer machine's TCP, which asks again after
        6, 12 and 24 seconds.
        """
        deadline = time.monotonic() + deadline_s
        while text not in self.console_tail():
            if not self.alive():
                raise SimError("it ended while it booted")
            if time.monotonic() >= deadline:
                raise SimError(f"it has not come up after {deadline_s:.0f} s")
            time.sleep(0.05)

    def reach(self, deadline_s: float) -> HostSpec:
        """Waits until the host's SSH server greets, and says how to reach it."""
        found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", self.qmp.human("info usernet"))
        if found is None:
            raise SimError("the outer machine has no port that leads to its SSH")
        self.port = int(found[1])
        self._await_greeting(deadline_s)
        assert self._known_hosts is not None
        self._known_hosts.write_text(f"[127.0.0.1]:{self.port} {self._state.host_key}\n")
        return HostSpec(
            name=self._state.name,
            address="127.0.0.1",
            port=self.port,
            user="root",
            l0=self._state.kind,
            vmm=self._state.vmm,
            vmm_args=self._state.vmm_args,
            identity_files=(self._state.directory / "id",),
            known_hosts=(self._known_hosts,),
            connect_deadline_s=10.0,
            grace_s=0.0,
            use_agent=False,
            use_ssh_config=False,
        )

    def stop(self) -> None:
        """Ends it within seconds; may be called again."""
        if self._child is not None:
            self._child.stop(term_s=0.3)  # nothing in it is worth a slower end
            self._last_log = self._child.log()
            self._child = None
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        if self._console is not None:
            self._console.close()
        self._known_hosts = None  # removed with the child

    def alive(self) -> bool:
        """Whether it runs, and nothing is broken in its kernel or Xen."""
        return self._child is not None and self._child.alive() and self._broken() is None

    def console_tail(self) -> str:
        """The end of what the host's kernel or Xen wrote to the serial port."""
        return self._console.text() if self._console is not None else ""

    def log(self) -> str:
        """What the outer QEMU itself said."""
        return self._child.log() if self._child is not None else self._last_log

    def exit_reason(self) -> str | None:
        """What happened to the host: a panic or an oops on its console, or its emulator's end. None if nothing did."""
        if self._child is None:
            return None
        status = self._child.wait(0)
        said = self._broken()
        if said is not None:
            return said
        if status is None:
            return None
        if status < 0:
            return f"the outer QEMU died of {signal_name(-status)}"
        if status == 0:
            return "the outer machine reset or switched itself off"
        lines = [line for line in self.log().splitlines() if line.strip()]
        return f"the outer QEMU ended with {status}" + (f": {lines[-1].strip()[:200]}" if lines else "")

    def failed(self, error: SimError) -> SimError:
        """Ends the machine; gives the error with what the machine said."""
        if self._child is not None:
            self._child.wait(ENDED_WAIT_S if "gone" in str(error) else 0)
        reason = self.exit_reason()
        log = f"{self.log()}\n{self.console_tail()}".strip()
        self.stop()
        return SimError(f"sim:{self._state.name} did not come up: {reason or error}", log)

    def _broken(self) -> str | None:
        return self._console.fatal() if self._console is not None else None

    def _await_greeting(self, deadline_s: float) -> None:
        """Waits for the SSH server; asks again, as a busy machine may lose what comes first."""
        deadline = time.monotonic() + deadline_s
        why, patience_s = "nothing", FIRST_PATIENCE_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=left) as connection:
                    connection.settimeout(min(patience_s, left))
                    greeting = connection.recv(64)
                if greeting.startswith(b"SSH-"):
                    return
                why = f"{greeting[:32]!r}"
                time.sleep(0.02)
            except OSError as error:
                why = str(error)
            patience_s *= 1.5
            if not self.alive():
                break
        raise SimError(f"its SSH server says {why}")


def fill(argv: Sequence[str], *, qmp: int, console: int, incoming: int | None) -> list[str]:
    """The command line of one start."""
    filled = [word.replace("{qmp}", str(qmp)).replace("{console}", str(console)) for word in argv]
    return filled if incoming is None else [*filled, "-incoming", f"fd:{incoming}"]
