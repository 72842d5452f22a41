"""A guest on a lab host as target: KVM or Xen as L0, reached over SSH.

The executor and, where one is needed, the VMM are put into a folder on the host; the guest's console is the stdin and
stdout of one SSH channel. A round trip costs what the network takes and 0.3 ms. The host is held under a lease from the
first start() to close(), and left as it was found.
"""

from __future__ import annotations

import contextlib
import time
from mmap import mmap

from harness.hosts.console import ChannelConsole
from harness.hosts.errors import HostError
from harness.hosts.hold import Hold, hold_of
from harness.hosts.kinds import make_l0
from harness.hosts.l0 import L0, GuestPlan
from harness.hosts.spec import HostSpec
from harness.hosts.ssh_config import resolve
from harness.hosts.watch import Mark
from harness.machine.base import Capabilities, Console, Missing, TargetError, TargetOptions
from harness.machine.console import ThrottledConsole

ENDED_WAIT_S = 1.0
HANG_UP_S = 1.5
STOP_S = 3.0
PROBE_S = 3.0
NOTICE_S = 16.0  # by then the keeper has noticed that a host is silent
LOG_KEPT = 64 * 1024


class SshHost:
    """One guest a boot, on one host."""

    def __init__(
        self, spec: HostSpec, options: TargetOptions, *, name: str = "", l0: L0 | None = None, hold: Hold | None = None
    ) -> None:
        self.name = name or f"host:{spec.name}"
        self.spec = spec
        self.l0 = l0 or make_l0(spec, options)
        self.hold = hold or hold_of(spec)
        self._options = options
        self._console: ChannelConsole | None = None
        self._unsure = True  # whether a guest of our name may be there
        self._log = ""
        self._reason: str | None = None
        self._way_lost = False
        self._version: tuple[str, tuple[int, ...]] | None = None
        self._mark: Mark | None = None

    @property
    def baselines(self) -> tuple[str, ...]:
        """The baselines that hold for it."""
        return (self.l0.kind,)

    @property
    def workers(self) -> int:
        """See Sized."""
        return self.spec.workers

    def start(self) -> Console:
        """Boots afresh, after bringing the host back if it was lost."""
        self.stop()
        options = self._options
        if options.cpus > self.spec.cpus_max:
            raise TargetError(f"host {self.spec.name}: {options.cpus} CPUs, at most {self.spec.cpus_max} (cpus_max)")
        before = self.hold.connection
        stood = before is not None and before.alive()
        try:
            self._start()
        except HostError as error:
            if not (error.passing and stood and before is not None and not before.alive()):
                raise
            self._start()  # it was lost meanwhile: now it is brought back first
        assert self._console is not None
        return ThrottledConsole(self._console, options.throttle_baud) if options.throttle_baud else self._console

    def stop(self) -> None:
        """Ends the guest; the host stays ours."""
        console, self._console = self._console, None
        self._reason, self._way_lost = None, False
        if console is None:
            return
        connection = self.hold.connection
        ended = None
        if connection is not None and connection.alive():
            console.hang_up()
            ended = console.wait(HANG_UP_S)
        self._log = console.log()
        console.close()
        self._unsure = ended is None
        if ended is None and connection is not None and connection.alive():
            with contextlib.suppress(HostError):
                self._end_guest(STOP_S)

    def claim(self) -> None:
        """Takes the host, as a run does before it begins. Raises HostError, which names who has it."""
        self.hold.ready(self.l0)

    def close(self) -> None:
        """Ends the guest, gives the host back as it was, disconnects."""
        self.stop()
        self.hold.close()

    def alive(self) -> bool:
        """Whether the guest runs, as far as is known."""
        connection = self.hold.connection
        return self._console is not None and not self._console.ended() and connection is not None and connection.alive()

    def exit_reason(self) -> str | None:
        """Why the guest ended by itself. If the host is lost, waits for it, to say whether it rebooted."""
        console, connection = self._console, self.hold.connection
        if console is None or connection is None:
            return None
        if self._reason is None:
            if connection.alive() and not console.ended() and not console.closed:
                self._await_silence()
            status = console.wait(ENDED_WAIT_S if console.closed or console.ended() else 0)
            if status == -1 and connection.alive():
                self._await_silence()  # no status came: where the line is lost its channels end before alive() does
            if not connection.alive():
                self._reason = self._loss()
            elif status is not None or console.ended():
                self._reason = self.l0.exit_reason(console.log(), status) or _plain_reason(console.log(), status)
            if failed := self._l0_failure():
                self._way_lost = False  # it is L0's doing after all
                self._reason = f"{failed}; {self._reason}" if self._reason else failed
        return self._reason

    def way_lost(self) -> bool:
        """See Distant."""
        return self._way_lost

    def mark_evidence(self, *, trace: bool = False) -> None:
        """See Watched. Costs nothing, or one round trip where the tracing changes."""
        if self.hold.watch is not None:
            self._mark = self.hold.watch.begin(self.hold.guest_name if trace and self.spec.tracepoints else None)

    def l0_failure(self) -> str | None:
        """See Watched."""
        return self.hold.watch.fatal(self._mark) if self.hold.watch is not None and self._mark is not None else None

    def evidence(self) -> str:
        """See Watched."""
        if self.hold.watch is None or self._mark is None:
            return ""
        return self.hold.watch.evidence(self._mark)

    def log_tail(self) -> str:
        """The end of what the VMM said, and what happened to the host."""
        log = self._console.log() if self._console is not None else self._log
        story = "\n".join(self.hold.story)
        return f"{story}\n{log}"[-LOG_KEPT:] if story else log

    def lane_memory(self) -> mmap | None:
        """There is none."""
        return None

    def capabilities(self) -> Capabilities:
        """What the lab file says, and what SSH allows."""
        baud = self._options.throttle_baud
        return Capabilities(
            shared_memory=False,
            cpus_max=self.spec.cpus_max,
            disposable=False,  # somebody's machine: dangerous scenarios ask for --dangerous
            boot_deadline_s=self.spec.boot_deadline_s,
            round_trip_s=self.spec.round_trip_s + (1000 / baud if baud else 0),
        )

    def version(self) -> str:
        """The L0's version; the host is asked once. Raises TargetError."""
        return self._ask_version()[0]

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """The same, to compare."""
        return self._ask_version()[1]

    def command_line(self) -> list[str]:
        """How a person would start the guest, with the files in place."""
        return [*resolve(self.spec).ssh(), "--", self.l0.start_command(self._plan())]

    def missing(self) -> list[Missing]:
        """What the host lacks; a host that cannot be reached lacks that. Nothing is installed there."""
        try:
            lines = self.l0.missing(self.hold.look())
        except HostError as error:
            lines = [str(error)]
        return [Missing(line, "", f"on host {self.spec.name}") for line in lines]

    def _start(self) -> None:
        connection = self.hold.ready(self.l0)
        if self._unsure and not self.hold.untouched:
            self._end_guest(STOP_S + self.spec.boot_deadline_s)
        self.hold.untouched = False
        plan = self._plan()
        if self._options.bundle is not None and plan.bundle is not None:
            connection.upload(self._options.bundle.read_bytes(), plan.bundle)
        self._log = ""
        self._unsure = True
        self.mark_evidence()
        self._console = ChannelConsole(connection.open(self.l0.start_command(plan)))

    def _plan(self) -> GuestPlan:
        options = self._options
        return GuestPlan(
            name=self.hold.guest_name,
            workdir=self.spec.workdir,
            cpus=options.cpus,
            memory_mib=self.spec.memory_mib,
            cpu=options.cpu_model or self.spec.cpu,
            without=options.without,
            bundle=f"{self.spec.workdir}/bundle-{self.hold.worker}" if options.bundle is not None else None,
            extra_args=options.extra_args,
        )

    def _end_guest(self, deadline_s: float) -> None:
        connection = self.hold.connection
        assert connection is not None
        ran = connection.run(self.l0.stop_script(self.hold.guest_name), deadline_s=deadline_s)
        if ran.status != 0:
            raise HostError(f"host {self.spec.name}: the guest before cannot be ended: {ran.complaint}", ran.text)
        self._unsure = False

    def _await_silence(self) -> None:
        """A guest that hangs and a host that is gone look alike: asks the host, and gives the keeper its time."""
        connection = self.hold.connection
        assert connection is not None
        try:
            connection.run(":", deadline_s=PROBE_S)
        except HostError:
            deadline = time.monotonic() + NOTICE_S
            while connection.alive() and time.monotonic() < deadline:
                time.sleep(0.05)

    def _loss(self) -> str:
        connection = self.hold.connection
        assert connection is not None
        reason = f"the SSH connection was lost: {connection.why_lost()}"
        reboots = self.hold.reboots
        try:
            self.hold.ready(self.l0)
        except HostError as error:
            return f"{reason}; {error}"
        if self.hold.reboots != reboots:
            return f"the host rebooted ({reason})"
        self._way_lost = True
        return f"{reason}; the host is back, in the same boot"

    def _l0_failure(self) -> str | None:
        watch = self.hold.watch
        if watch is None or self._mark is None:
            return None
        watch.look()
        failed = watch.fatal(self._mark)
        return f"L0 failed: {failed}" if failed else None

    def _ask_version(self) -> tuple[str, tuple[int, ...]]:
        if self._version is None:
            self._version = self.l0.version(self.hold.look())
        return self._version


def _plain_reason(log: str, status: int | None) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = f": {lines[-1][:200]}" if lines else ""
    how = "its VMM died of a signal" if status in (None, -1) else f"its VMM ended with {status}"
    return f"the guest ended, {how}{said}"
