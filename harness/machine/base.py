"""What a target is: one way to have an executor running on one L0, with a console to it and a way to reset it.

docs/writing-a-target.md says how to write one. All times are durations in seconds from the call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import Protocol, runtime_checkable


class ConsoleClosed(Exception):
    """The other end of a console is gone."""


class ConsoleTimeout(Exception):
    """A console took no more bytes by the deadline."""


class TargetError(Exception):
    """A target could not be started. `log` is the end of what it said, bounded and printable."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class Console(Protocol):
    """A line of bytes to and from the executor. It may lose, change and invent bytes; the link copes."""

    def read(self, timeout_s: float) -> bytes:
        """What has come, waiting up to `timeout_s` for the first byte; b"" if none did. Raises ConsoleClosed."""

    def write(self, data: bytes, deadline_s: float) -> None:
        """Sends all of `data`. Raises ConsoleClosed, ConsoleTimeout."""

    def close(self) -> None:
        """Ends it; may be called again."""


@dataclass(frozen=True)
class Capabilities:
    """What a target can do.

    `cpus_max`: how many CPUs a boot may have (TargetOptions.cpus). `disposable`: the machine is the run's own,
    so scenarios marked dangerous may run. `round_trip_s`: a small request there and back; `boot_deadline_s`:
    start to hello.
    """

    shared_memory: bool
    cpus_max: int
    disposable: bool
    boot_deadline_s: float
    round_trip_s: float


@dataclass(frozen=True)
class Missing:
    """Something a target needs and the machine lacks. `package` (Debian) brings it; `why` says what it unlocks."""

    what: str
    package: str
    why: str


@dataclass(frozen=True)
class TargetOptions:
    """What a run says about its target. `workdir` is the target's own, on a local file system."""

    workdir: Path
    executor_elf: Path
    disk_image: Path
    qemu_path: str | None = None
    bochs_path: str | None = None
    cpus: int = 1
    memory_mib: int = 64
    extra_args: tuple[str, ...] = field(default=())
    bundle: Path | None = None
    throttle_baud: int | None = None
    cpu_model: str | None = None
    without: tuple[str, ...] = ()
    """Bits of Fn8000_000A EDX that L1 shall not see (harness/machine/feature_mask.py)."""
    fault: str | None = None
    """How the reference machine shall misbehave (reference_machine/faults.toml)."""


@runtime_checkable
class Watched(Protocol):
    """A target whose L0 can be asked what it said, by another way than the guest's console."""

    def mark_evidence(self, *, trace: bool = False) -> None:
        """From here on L0's words are the matter of the test that begins; with `trace` in detail. Never raises."""

    def l0_failure(self) -> str | None:
        """The first line since the mark that says that L0 itself failed (an oops, a panic). Costs nothing."""

    def evidence(self) -> str:
        """What L0 said since the mark; a few seconds at most, bounded, printable, never raises."""


@runtime_checkable
class Distant(Protocol):
    """A target that can be lost without having ended: the way there may be cut."""

    def way_lost(self) -> bool:
        """Whether exit_reason() speaks of the way alone: the machine ran on, and no test has deviated."""


@runtime_checkable
class Held(Protocol):
    """A target that holds something beyond its boots: a host's lease, an outer machine."""

    def close(self) -> None:
        """Ends the machine and gives all of it back; takes the place of the last stop(). May be called again."""


@runtime_checkable
class Claimable(Protocol):
    """A target that others may have."""

    def claim(self) -> None:
        """Takes it before the run begins. Raises TargetError, which names who has it."""


@runtime_checkable
class Replaceable(Protocol):
    """A target that can be had on another machine, where a reboot of the guest does not mend what a test did."""

    def discard(self) -> None:
        """Ends the machine; the next start() is on another one."""


@runtime_checkable
class Sized(Protocol):
    """A target whose machine says how many guests it carries at once."""

    @property
    def workers(self) -> int:
        """How many workers a run should use where the user does not say."""


@runtime_checkable
class Imageless(Protocol):
    """A target that may do without the executor's image, as the ones that tests pretend."""

    needs_executor: bool


@runtime_checkable
class CpusFixed(Protocol):
    """A target whose machine has the CPUs that it has, whatever a boot asks for."""

    cpus_fixed: bool


def release(target: Target) -> None:
    """Ends a target for good, with all that it holds beyond its boots."""
    if isinstance(target, Held):
        target.close()
    else:
        target.stop()


@runtime_checkable
class Tried(Protocol):
    """A target that can be asked, within a second and without a guest, whether it takes its options."""

    def try_options(self) -> None:
        """Raises TargetError where what the user chose (a program, a CPU model) cannot start. One line for people."""


class Target(Protocol):
    """One machine. start() may follow stop(): a fresh boot."""

    name: str

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """The L0's version, to compare; empty if unknown."""

    @property
    def baselines(self) -> tuple[str, ...]:
        """The files of known deviations, without `.toml`: L0's own, and those of what lies below it."""

    def start(self) -> Console: ...
    def stop(self) -> None: ...
    def alive(self) -> bool: ...
    def exit_reason(self) -> str | None: ...
    def log_tail(self) -> str: ...
    def lane_memory(self) -> mmap | None: ...
    def capabilities(self) -> Capabilities: ...
    def version(self) -> str: ...
    def command_line(self) -> list[str]: ...
    def missing(self) -> list[Missing]: ...
