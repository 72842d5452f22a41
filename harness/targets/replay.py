"""A trace in place of a machine: `trace:PATH` answers each test as the machine did on which it was recorded."""

from __future__ import annotations

from functools import lru_cache
from mmap import mmap
from pathlib import Path

from harness.machine.base import Capabilities, Console, Missing, TargetError, TargetOptions
from harness.trace.file import Trace, TraceError, read_header, read_trace

CPUS_MAX = 64  # how many there were, the recorded hello says


class Replay:
    """One trace. Nothing is started: the session asks `trace` (harness/trace/replaying.py)."""

    needs_executor = False

    def __init__(self, name: str, options: TargetOptions) -> None:
        self.name = name
        self._path = Path(name.removeprefix("trace:"))
        try:
            self.header = read_header(self._path)
        except TraceError as error:
            raise TargetError(str(error)) from None

    @property
    def trace(self) -> Trace:
        """All answers; read once a process. Raises TargetError."""
        try:
            return _read(self._path)
        except TraceError as error:
            raise TargetError(str(error)) from None

    @property
    def baselines(self) -> tuple[str, ...]:
        """Those of the machine that was recorded."""
        return tuple(self.header.baselines)

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """That machine's."""
        return tuple(self.header.l0_version)

    def start(self) -> Console:
        """There is no machine. Raises TargetError."""
        raise TargetError(f"{self.name} is a trace, and no machine")

    def stop(self) -> None:
        """Nothing runs."""

    def alive(self) -> bool:
        """Nothing runs."""
        return False

    def exit_reason(self) -> str | None:
        """Nothing ended."""
        return None

    def log_tail(self) -> str:
        """What it is."""
        return f"{self.header.l0}, recorded {self.header.recorded}"

    def lane_memory(self) -> mmap | None:
        """There is none."""
        return None

    def capabilities(self) -> Capabilities:
        """All that was recorded can be replayed."""
        return Capabilities(False, CPUS_MAX, disposable=True, boot_deadline_s=1.0, round_trip_s=0.001)

    def version(self) -> str:
        """Of the machine that was recorded."""
        about = self.header
        return f"{about.l0} ({about.nature}, {about.cpu}, recorded on {about.target}, {about.recorded})"

    def command_line(self) -> list[str]:
        """How a person replays it."""
        return ["./nsvm", "replay", str(self._path)]

    def missing(self) -> list[Missing]:
        """It needs nothing but itself."""
        return []


@lru_cache(maxsize=4)
def _read(path: Path) -> Trace:
    return read_trace(path)
