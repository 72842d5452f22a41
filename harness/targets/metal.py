"""A bare AMD machine as target: the CPU itself is L0.

The executor is booted over the network, by kexec or GRUB from the machine's own Linux, or from virtual media. A fresh
boot is a reset by the executor, or a power cycle where it does not answer, and takes as long as the firmware does.
docs/bare-metal.md says how a machine is described.
"""

from __future__ import annotations

import atexit
import contextlib
from mmap import mmap

from harness.machine.base import Capabilities, Console, Missing, TargetError, TargetOptions
from harness.metal.error import MetalError
from harness.metal.machine import Machine, load_of
from harness.metal.spec import MetalSpec, find

LOG_KEPT = 64 * 1024
CPUS_MAX = 2  # the executor takes one more, whatever a boot was asked for


class Metal:
    """One boot of one machine."""

    workers = 1
    cpus_fixed = True

    def __init__(self, name: str, options: TargetOptions, spec: MetalSpec | None = None) -> None:
        self.name = name
        self.spec = spec or find(name.removeprefix("metal:"))
        self._options = options
        if self.spec.name not in _machines:
            _machines[self.spec.name] = Machine(self.spec)
        self.machine = _machines[self.spec.name]
        self._running = False
        self._lost = False
        self._reason: str | None = None
        if options.without or options.cpu_model:
            raise MetalError(
                f"{name}: a bare machine's CPU is what it is: --cpu and --without are for emulators and hosts"
            )

    @property
    def emulated(self) -> bool:
        """Whether the lab file says that it is no silicon."""
        return self.spec.emulated

    @property
    def baselines(self) -> tuple[str, ...]:
        """Hardware deviates from nothing; a file of that name is for errata."""
        return ("metal",)

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """There is none."""
        return ()

    def start(self) -> Console:
        """Boots afresh."""
        if not self._options.executor_elf.is_file():
            raise TargetError(f"{self._options.executor_elf} is not built")
        self.stop()
        self._reason, self._lost = None, False
        console = self.machine.start(load_of(self.spec, self._options.executor_elf, self._options.bundle))
        self._running = True
        return console

    def stop(self) -> None:
        """The boot is over; the machine stays ours, and keeps what runs on it until the next start."""
        console = self.machine.console
        if self._running and console is not None and console.now and not console.closed and not self._lost:
            self.machine.answered()
        self._running = False

    def claim(self) -> None:
        """Takes the machine and opens its console, as a run does before it begins. Raises MetalError."""
        self.machine.claim()

    def close(self) -> None:
        """Gives the machine back with its own OS up."""
        self.stop()
        self.machine.close()
        _machines.pop(self.spec.name, None)

    def alive(self) -> bool:
        """Whether its console stands."""
        console = self.machine.console
        return self._running and console is not None and not console.closed

    def exit_reason(self) -> str | None:
        """What the console shows of why it does not answer."""
        console = self.machine.console
        if not self._running or console is None:
            return None
        if self._reason is None:
            self._lost = True  # it is asked when something has failed
            self.machine.lost()
            if console.closed:
                self._reason = console.reason
            elif not console.now:
                self._reason = self.machine.looks.in_words(self.spec.baud)
        return self._reason

    def way_lost(self) -> bool:
        """See Distant: whether the console was cut, which says nothing of the machine."""
        console = self.machine.console
        return console is not None and console.reason.startswith("the console was cut")

    def log_tail(self) -> str:
        """What happened to the machine, and what came before the executor's hello."""
        story = "\n".join(self.machine.story)
        return f"{story}\n{self.machine.looks.text()}".strip()[-LOG_KEPT:]

    def lane_memory(self) -> mmap | None:
        """There is none."""
        return None

    def capabilities(self) -> Capabilities:
        """What a serial line allows."""
        return Capabilities(
            shared_memory=False,
            cpus_max=CPUS_MAX,
            disposable=False,  # somebody's machine: dangerous scenarios ask for --dangerous
            boot_deadline_s=self.spec.boot_deadline_s,
            round_trip_s=self.spec.round_trip_s + 1000 / self.spec.baud,
        )

    def version(self) -> str:
        """Hardware has none: what it is, CPUID says."""
        return f"bare machine {self.spec.name}{' (emulated)' if self.spec.emulated else ''}"

    def command_line(self) -> list[str]:
        """How a person would have it booted."""
        return ["./nsvm", "run", "--target", self.name]

    def missing(self) -> list[Missing]:
        """Nothing that can be known without asking the machine; `nsvm doctor --target metal:NAME` asks."""
        return []


_machines: dict[str, Machine] = {}


@atexit.register
def close_all() -> None:
    """Gives back the machines of this process."""
    for machine in list(_machines.values()):
        with contextlib.suppress(Exception):
            machine.close()
