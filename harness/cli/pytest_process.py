"""One pytest process of a run: its output goes to a file, its record is watched, and it is ended when it must be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.cli.console import say
from harness.cli.paths import ROOT
from harness.cli.progress import Bar, Counts, Display, Lines, Silent, Tail, planned_tests
from harness.cli.signals import Signals
from harness.record import FILE_NAME, Interrupted, Writer, load

LOG_NAME = "pytest.log"
SILENCE_S = 900.0
"""How long a pytest may say nothing before it is ended: every scenario has a much shorter deadline of its own."""
STOP_GRACE_S = 30.0
TERMINATE_GRACE_S = 5.0
KILL_GRACE_S = 5.0
HEAD_MAX = 1 << 20
RUN_ID = "NSVM_RUN_ID"
"""In the environment of a pytest and its workers: which run they belong to, for what they share on a host."""


@dataclass(frozen=True)
class Ended:
    """How one pytest ended."""

    target: str
    status: int
    folder: Path
    complaint: str = ""


class PytestProcess:
    """One pytest on one target. `raw`: the terminal is pytest's. `environment`: what it has besides ours."""

    def __init__(
        self,
        command: Sequence[str],
        target: str,
        folder: Path,
        *,
        raw: bool,
        environment: Mapping[str, str] | None = None,
        silence_s: float = SILENCE_S,
        among_others: bool = False,
    ) -> None:
        self._command = command
        self._target = target
        self._folder = folder
        self._raw = raw
        self._more = environment or {}
        self._silence_s = silence_s
        self._among_others = among_others
        self._head = bytearray()
        self._heard = time.monotonic()

    def run(self, signals: Signals) -> Ended:
        """Runs it to its end, or ends it."""
        process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment(),
            stdin=None if self._raw else subprocess.DEVNULL,
            stdout=None if self._raw else subprocess.PIPE,
            stderr=None if self._raw else subprocess.STDOUT,
            # A group of its own, so that Ctrl-C reaches pytest once, and a stuck one can be ended with its workers.
            # With --pdb the terminal must stay pytest's.
            process_group=None if self._raw else 0,
        )
        reader = threading.Thread(target=self._keep, args=(process, self._folder / LOG_NAME), daemon=True)
        if not self._raw:
            reader.start()
        counts = Counts(self._target)
        tail = Tail(self._folder / FILE_NAME)
        if self._among_others:
            display: Display = Lines(sys.stderr, f"{self._target}: ")
        else:
            display = Silent() if self._raw else Bar() if sys.stderr.isatty() else Lines(sys.stderr)
        complaint = ""
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                self._show(tail, counts, display)
                if process.poll() is not None:
                    break
                if signals.times:
                    complaint = self._stop(process, signals)
                    break
                if not self._raw and time.monotonic() - self._heard > self._silence_s:
                    complaint = f"pytest said nothing for {self._silence_s:.0f} s and was ended"
                    self._stop(process, signals)
                    break
            if not self._raw:
                reader.join(5.0)
            self._show(tail, counts, display)
        finally:
            display.close()
            if process.poll() is None:
                _kill_group(process, signal.SIGKILL)
                process.wait()
        return Ended(self._target, process.returncode, self._folder, complaint)

    def _environment(self) -> dict[str, str]:
        environment = {
            **os.environ,
            **self._more,
            "PYTHONUNBUFFERED": "1",
            "PY_COLORS": "1" if self._raw and sys.stdout.isatty() else "0",
            RUN_ID: uuid.uuid4().hex[:12],
        }
        for name in ("PYTEST_ADDOPTS", "PYTHONPATH"):
            environment.pop(name, None)
        return environment

    def _show(self, tail: Tail, counts: Counts, display: Display) -> None:
        for record in tail.poll():
            self._heard = time.monotonic()
            line = counts.take(record)
            if line:
                display.line(line)
        if counts.total is None:
            counts.total = planned_tests(bytes(self._head))
        display.show(counts)

    def _keep(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Writes pytest's output to the log; its beginning says how many tests there are."""
        assert process.stdout is not None
        try:
            kept = open(log, "wb", buffering=0)  # noqa: SIM115
        except OSError:  # whatever becomes of the log, what pytest says must be read, or it stops at a full pipe
            kept = open(os.devnull, "wb", buffering=0)  # noqa: SIM115
        with kept as file:
            while data := os.read(process.stdout.fileno(), 65536):
                self._heard = time.monotonic()
                if len(self._head) < HEAD_MAX:
                    self._head += data
                with suppress(OSError):  # a full disk: the run goes on
                    file.write(data)

    def _stop(self, process: subprocess.Popen[bytes], signals: Signals) -> str:
        """Asks pytest to end its run, then insists."""
        already = signals.times
        if signals.received is not None:
            say("ending the run; once more ends it at once")
            note_interruption(self._folder / FILE_NAME, signals.received)
        for number, grace_s in (
            (signal.SIGINT, STOP_GRACE_S),
            (signal.SIGTERM, TERMINATE_GRACE_S),
            (signal.SIGKILL, KILL_GRACE_S),
        ):
            _kill_group(process, number)
            deadline = time.monotonic() + grace_s
            while time.monotonic() < deadline and signals.times <= already:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                    return "" if number == signal.SIGINT else f"pytest had to be ended with {number.name}"
            already = signals.times
        return "pytest could not be ended"


def note_interruption(record: Path, number: int) -> None:
    """Writes down what ended a run before pytest is asked to end: that hears of a SIGINT, whatever it was here."""
    with suppress(OSError):
        if record.exists():
            run = load(record)
            if not run.interrupted and run.end is None:
                reason = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
                with Writer(record) as writer:
                    writer.write(Interrupted(reason=reason))


def _kill_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
