"""A guest on a simulated host as target: real KVM or real Xen on an emulated AMD machine, reached over real SSH.

Each target restores an outer machine of its own (0.3 to 0.7 s) and keeps it for its boots; after a panic of the host,
or when its emulator has died, the next boot restores it again. All else is what any host over SSH does. A round trip
takes 15 to 20 ms: the host's SSH server runs on an emulated CPU.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import time
import weakref
from mmap import mmap

from harness.hosts.errors import HostError
from harness.hosts.hold import Hold
from harness.hosts.lease import run_id
from harness.hosts.spec import HostSpec
from harness.machine.base import Capabilities, Console, ConsoleClosed, Missing, TargetError, TargetOptions
from harness.sim import state as states
from harness.sim.error import SimError
from harness.sim.machine import OuterMachine
from harness.sim.outer_qemu import check_unchanged
from harness.targets.ssh_host import SshHost

PREFIX = states.PREFIX
RESTORE_DEADLINE_S = 30.0
BOOT_DEADLINE_S = 30.0
ROUND_TRIP_S = 0.03
ENDED_WAIT_S = 1.0
LOOK_EVERY_S = 0.5
EVIDENCE_MAX = 60_000


class SimHost:
    """`sim:NAME`. Nothing is started before start()."""

    def __init__(self, name: str, options: TargetOptions) -> None:
        self.name = name
        self._options = options
        self._state: states.State | None = None
        self._machine: OuterMachine | None = None
        self._host: SshHost | None = None
        self._log = ""
        self._last_words = ""  # of a host that broke since the mark
        _open.add(self)

    @property
    def baselines(self) -> tuple[str, ...]:
        """What is true of the kind of L0, and what comes from the emulated CPU below it."""
        kind = states.check_name(self.name)[:3]
        try:
            synthetic = self._built().synthetic
        except TargetError:
            synthetic = False
        return (kind, f"{kind}-on-reference" if synthetic else f"{kind}-on-tcg")

    @property
    def spec(self) -> HostSpec:
        """The host, as of the last start; where none is running, without its port."""
        return self._host.spec if self._host is not None else HostSpec(name=self._built().name, l0=self._built().kind)

    def start(self) -> Console:
        """Boots a guest afresh, on the machine that runs or on a restored one. Raises TargetError."""
        try:
            if self._host is not None and self._machine is not None and self._machine.alive():
                with contextlib.suppress(HostError):  # then the host hangs: another is cheaper than to wait for it
                    return HostConsole(self._host.start(), self._machine)
            host, machine = self._restore()
            return HostConsole(host.start(), machine)
        except SimError as error:
            raise TargetError(str(error), error.log) from None
        except HostError as error:
            raise self._explained(error) from None

    def stop(self) -> None:
        """Ends the guest; the outer machine stays for the next, unless its host is broken."""
        if self._host is None or self._machine is None:
            return
        reason = self._machine.exit_reason()
        if reason is None:
            self._host.stop()
            return
        # The guest need not be ended on a host that does not answer: that would be waited for.
        self._last_words = f"{reason}\n{self._machine.console_tail()}"[-EVIDENCE_MAX:]
        self.close()

    def close(self) -> None:
        """Ends the outer machine too; may be called again."""
        host, machine = self._host, self._machine
        self._host = self._machine = None
        if host is not None:
            self._log = host.log_tail()
        if machine is not None:
            machine.stop()  # first: nothing on it need be cleaned up, so the host need not be asked
        if host is not None:
            host.close()

    def discard(self) -> None:
        """Ends the outer machine too: what a test did to its CPU would outlive the guest."""
        self.close()

    def alive(self) -> bool:
        """Whether the guest and its host run."""
        return self._host is not None and self._machine is not None and self._machine.alive() and self._host.alive()

    def exit_reason(self) -> str | None:
        """What happened to the host, else why the guest ended."""
        if self._host is None or self._machine is None:
            return None
        if (reason := self._machine_ended()) is not None:
            return reason
        said = self._host.exit_reason()
        return self._machine_ended() or said  # it may have died meanwhile

    def way_lost(self) -> bool:
        """See Distant."""
        return self._host is not None and self._machine is not None and self._machine.alive() and self._host.way_lost()

    def _machine_ended(self) -> str | None:
        """Why the machine ended. Waits for it where the line is cut: its sockets close before it is gone."""
        assert self._host is not None and self._machine is not None
        connection = self._host.hold.connection
        lost = connection is not None and not connection.alive()
        deadline = time.monotonic() + (ENDED_WAIT_S if lost else 0)
        while (reason := self._machine.exit_reason()) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return reason

    def log_tail(self) -> str:
        """What the VMM said; after a panic the host's console."""
        if self._host is None or self._machine is None:
            return self._log
        if self._machine.alive():
            return self._host.log_tail()
        return f"{self._host.log_tail()}\n{self._machine.log()}\n{self._machine.console_tail()}".strip()[-65536:]

    def mark_evidence(self, *, trace: bool = False) -> None:
        """See Watched."""
        self._last_words = ""
        if self._host is not None:
            self._host.mark_evidence(trace=trace)

    def l0_failure(self) -> str | None:
        """See Watched."""
        if self._host is None or self._machine is None:
            return None
        return self._machine.exit_reason() or self._host.l0_failure()

    def evidence(self) -> str:
        """See Watched."""
        if self._host is None or self._machine is None:
            return self._last_words
        if (reason := self._machine.exit_reason()) is not None:
            return f"{reason}\n{self._machine.console_tail()}"[-EVIDENCE_MAX:]
        return self._host.evidence()

    def console_tail(self) -> str:
        """The end of the outer machine's serial port: the host's kernel, or Xen."""
        return self._machine.console_tail() if self._machine is not None else ""

    def lane_memory(self) -> mmap | None:
        """There is none."""
        return None

    def capabilities(self) -> Capabilities:
        """What an emulated machine over SSH can do."""
        baud = self._options.throttle_baud
        return Capabilities(
            shared_memory=False,
            cpus_max=2,
            disposable=True,
            boot_deadline_s=BOOT_DEADLINE_S,
            round_trip_s=ROUND_TRIP_S + (1000 / baud if baud else 0),
        )

    def version(self) -> str:
        """The L0's, and what it runs on."""
        try:
            state = self._built()
        except TargetError as error:
            return str(error)
        own = f" ({'; '.join(state.own)})" if state.own else ""
        return f"{state.l0_version}{own} on {state.qemu_version}, {state.argv[state.argv.index('-cpu') + 1]}"

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """The L0's."""
        try:
            return self._built().l0_version_tuple
        except TargetError:
            return ()

    def command_line(self) -> list[str]:
        """How a person gets a shell on the same host, and starts the guest there."""
        guest = self._host.command_line()[-1:] if self._host is not None else []
        return ["./nsvm", "sim", "ssh", self._built().name, *guest]

    def missing(self) -> list[Missing]:
        """Not built, not restorable, or no nested guests there."""
        try:
            state = self._built()
            check_unchanged(state)
        except (TargetError, SimError) as error:
            return [Missing(str(error), "", "a simulated host")]
        if not state.available:
            return [Missing(f"{self.name} is not available: {state.reason}", "", "a simulated host")]
        return []

    def _restore(self) -> tuple[SshHost, OuterMachine]:
        self._state = None  # it may have been built again meanwhile, with other keys
        state = self._built()
        self.close()
        if not state.available:
            raise TargetError(f"{self.name} is not available: {state.reason}")
        self._machine = OuterMachine(state)
        spec = self._machine.start(RESTORE_DEADLINE_S)
        spec = dataclasses.replace(spec, boot_deadline_s=BOOT_DEADLINE_S, round_trip_s=ROUND_TRIP_S)
        hold = Hold(spec, "main", run_id())  # a host of its own: no other worker is there
        hold.stalls_fatal, hold.untouched = False, True
        self._host = SshHost(spec, self._options, name=self.name, hold=hold)
        return self._host, self._machine

    def _built(self) -> states.State:
        if self._state is None:
            try:
                self._state = states.load(self.name)
            except SimError as error:
                raise TargetError(str(error), error.log) from None
        return self._state

    def _explained(self, error: TargetError) -> TargetError:
        """The error with the reason why the host died, if it did."""
        reason = self._machine.exit_reason() if self._machine is not None else None
        if reason is None:
            return error
        log = f"{error.log}\n{self.console_tail()}".strip()
        return TargetError(f"{self.name}: {reason} ({error})", log)


class HostConsole:
    """The guest's console, closed as soon as its host is broken: after a panic nobody would answer until a deadline."""

    def __init__(self, inner: Console, machine: OuterMachine) -> None:
        self._inner = inner
        self._machine = machine

    def read(self, timeout_s: float) -> bytes:
        """See Console."""
        end = time.monotonic() + timeout_s
        while True:
            data = self._inner.read(min(max(end - time.monotonic(), 0), LOOK_EVERY_S))
            if data:
                return data
            if (reason := self._machine.exit_reason()) is not None:
                raise ConsoleClosed(reason)
            if time.monotonic() >= end:
                return b""

    def write(self, data: bytes, deadline_s: float) -> None:
        """See Console."""
        self._inner.write(data, deadline_s)

    def close(self) -> None:
        """See Console."""
        self._inner.close()


_open: weakref.WeakSet[SimHost] = weakref.WeakSet()


@atexit.register
def close_all() -> None:
    """Ends the outer machines of this process."""
    for target in list(_open):
        target.close()
