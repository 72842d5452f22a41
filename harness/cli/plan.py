"""What `nsvm run` was asked for, as pytests to start."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.cli import ending, machine, several
from harness.cli.host_run import recovery_s
from harness.cli.merge import merge
from harness.cli.pytest_process import SILENCE_S, Ended, PytestProcess
from harness.cli.signals import Signals
from harness.record import FILE_NAME
from harness.run.options import TYPED
from harness.targets import file_name

PYTHON = sys.executable
_RAW = (
    "-s", "--pdb", "--trace", "--capture=no", "--collect-only", "--co", "--fixtures", "--markers", "-h", "--help",
    "--setup-plan",
)  # fmt: skip
_ONE_PROCESS = ("--pdb", "--trace", "-s", "--capture=no")


@dataclass(frozen=True)
class Plan:
    """One pytest for each target. `rest` are the user's own pytest arguments."""

    names: Sequence[str]
    paths: Sequence[str]
    options: Sequence[str]
    workers: int | None = None
    """None: as many as suit the target."""
    rest: Sequence[str] = ()
    environments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What the pytest of a target has besides our environment."""
    typed: Sequence[str] = ()
    """The user's own command, which the record keeps."""
    fail_fast: bool = False
    """Whether a target that cannot be run ends it all."""
    before: Path | None = None
    """The folder of the run to compare with."""

    @property
    def raw(self) -> bool:
        """Whether the terminal is pytest's."""
        return any(argument in _RAW for argument in self.rest)

    def command(self, name: str, folder: Path) -> list[str]:
        """The pytest for one target."""
        command = [PYTHON, "-m", "pytest", *self.paths, "--target", name, "--nsvm-out", str(folder), *self.options]
        if not self._rest_sets_workers():
            command += ["-n", str(self._workers(name))]
        return [*command, *self.rest]

    def carry_out(self, out: Path, signals: Signals, *, brief: bool = False) -> int:
        """Runs them, tells of it, and gives the exit status."""
        several_ = len(self.names) > 1

        def run(name: str, meanwhile: bool) -> Ended:
            folder = out / file_name(name) if several_ else out
            folder.mkdir(exist_ok=True)
            process = PytestProcess(
                self.command(name, folder),
                name,
                folder,
                raw=self.raw,
                environment={**self.environments.get(name, {}), TYPED: shlex.join(self.typed)},
                silence_s=SILENCE_S + recovery_s(name),
                among_others=meanwhile,
            )
            return process.run(signals)

        ended = several.carry_out(self.names, run, signals, ending.not_run, fail_fast=self.fail_fast)
        if several_:
            merge([out / file_name(name) / FILE_NAME for name in self.names], out / FILE_NAME)
        return ending.tell(out, ended, signals.received, brief=brief, raw=self.raw, before=self.before)

    def _workers(self, name: str) -> int:
        """How many workers; 0 where one test is named: pytest runs it itself, and starts one machine."""
        if self.workers is not None:
            return self.workers
        if len(self.paths) == 1 and "::" in self.paths[0]:
            return 0
        return machine.default_workers(name)

    def _rest_sets_workers(self) -> bool:
        """True if the pytest arguments say how many workers, or ask for what needs one process."""
        return any(argument.startswith(("-n", "--numprocesses")) or argument in _ONE_PROCESS for argument in self.rest)
