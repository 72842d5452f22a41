"""`nsvm sensitivity --machine`: runs the suites on the reference machine under each of its faults."""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.cli import machine, plan
from harness.cli.console import HarnessError, UserError, say
from harness.cli.ending import interrupted_status
from harness.cli.paths import ROOT, STATE
from harness.cli.signals import Signals
from harness.record import FILE_NAME, load
from harness.reference.faults import Fault
from harness.sensitivity import machine as judging
from harness.sensitivity.machine import NOTICED, UNDECIDED, UNNOTICED, Outcome

KEPT = STATE / "faults"
LIMIT_S = 1800
TARGET = "reference"
PYTEST_RAN = (0, 1)
ONE = 1  # pytest's --maxfail


@dataclass
class Campaign:
    """The runs of one command. `stop`: an interruption; a run under way is ended then."""

    paths: Sequence[str]
    options: Sequence[str]
    limit_s: float
    hints: dict[str, str]
    runs: Path
    """Where the runs' own folders are: of these suites and this machine."""
    stop: threading.Event = field(default_factory=threading.Event)

    def try_fault(self, fault: Fault) -> Outcome:
        """Runs tests under one fault until one deviates."""
        began = time.monotonic()
        ran: list[str] = []
        for paths in judging.steps(fault, ROOT, self.paths, self.hints.get(fault.name, "")):
            left_s = self.limit_s - (time.monotonic() - began)
            folder = self.runs / fault.name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            status = self._pytest(fault, paths, folder, left_s)
            ran += paths
            seconds = round(time.monotonic() - began, 1)
            with suppress(OSError):
                if found := judging.first_deviation(load(folder / FILE_NAME)):
                    return Outcome(fault.name, NOTICED, *found, paths=ran, seconds=seconds)
            if self.stop.is_set():
                return Outcome(fault.name, UNDECIDED, why="interrupted", paths=ran, seconds=seconds)
            if status is None:
                why = f"its run took more than {self.limit_s:.0f} s ({folder})"
                return Outcome(fault.name, UNDECIDED, why=why, paths=ran, seconds=seconds)
            if status not in PYTEST_RAN:
                why = f"pytest ended with status {status} ({folder / 'pytest.log'})"
                return Outcome(fault.name, UNDECIDED, why=why, paths=ran, seconds=seconds)
        return Outcome(fault.name, UNNOTICED, paths=ran, seconds=round(time.monotonic() - began, 1))

    def deviate_anyway(self, tests: Sequence[str]) -> set[str]:
        """Those of the tests that deviate without a fault, too: they have noticed nothing. Raises HarnessError."""
        folder = self.runs / "without-a-fault"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        status = self._pytest(None, tests, folder, self.limit_s)
        try:
            run = load(folder / FILE_NAME)
        except OSError:
            run = None
        if status not in PYTEST_RAN or run is None:
            raise HarnessError(f"the tests could not be run without a fault (see {folder / 'pytest.log'})")
        return {result.test for result in run.results if result.news not in ("ok", "known", "mended")}

    def _pytest(self, fault: Fault | None, paths: Sequence[str], folder: Path, limit_s: float) -> int | None:
        """One pytest, in a process group of its own; None if it had to be ended."""
        command = [plan.PYTHON, "-m", "pytest", *paths, "--target", TARGET, "--nsvm-out", str(folder), *self.options]
        command += ["-n", "0", "-q", "-p", "no:cacheprovider"]
        command += ["--fault", fault.name, f"--maxfail={ONE}"] if fault is not None else []
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PYTEST_ADDOPTS", "PYTHONPATH")
        }
        with open(folder / "pytest.log", "wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
            deadline = time.monotonic() + limit_s
            while time.monotonic() < deadline and not self.stop.is_set():
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(0.5)
            for number in (signal.SIGINT, signal.SIGKILL):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                    break
        return None


def run(args: argparse.Namespace) -> int:
    """Tries the faults of which nothing is known yet, prints the report; the exit status."""
    from harness.reference import faults as table
    from harness.reference.error import ReferenceMachineError

    programs = machine.programs_of(args)
    try:
        known = table.load()
        reasons = judging.load_reasons(table.PATH.with_name(judging.MISSED), known)
    except ReferenceMachineError as error:
        raise UserError(str(error)) from None
    chosen = [f for f in known if any(fnmatch.fnmatchcase(f.name, g) or f.area == g for g in args.faults or ["*"])]
    if not chosen:
        raise UserError(
            f"--faults {' '.join(args.faults)}: no fault has such a name; ./nsvm reference faults lists them"
        )
    paths = [str(path) for path in args.answers]
    machine.prepare([TARGET], programs, may_install=not args.no_install)
    key = judging.content_key(ROOT, _program_key(programs.qemu), paths)
    file = KEPT / f"{key}.jsonl"
    options = ["--qemu", programs.qemu] if programs.qemu else []
    campaign = Campaign(paths, options, args.limit, judging.hints(KEPT), KEPT / "runs" / key)
    outcomes = {} if args.again else judging.read_outcomes(file)
    todo = [fault for fault in chosen if fault.name not in outcomes]
    say(f"{len(chosen)} faults, {len(todo)} to be tried; what comes of them stays in {file}")
    with Signals() as signals:
        received = _carry_out(campaign, todo, args.processes, file, outcomes, signals)
    if received is None:
        _take_back(campaign, outcomes)
    report = judging.Report(chosen, outcomes, reasons)
    print(json.dumps(judging.as_json(report), indent=1) if args.json else judging.render(report))
    return interrupted_status(received) if received is not None else report.exit_status


def _carry_out(
    campaign: Campaign,
    todo: Sequence[Fault],
    processes: int,
    file: Path,
    outcomes: dict[str, Outcome],
    signals: Signals,
) -> int | None:
    """Tries them, some at a time; the signal that ended it, if one did."""
    waiting = list(reversed(todo))
    with ThreadPoolExecutor(processes) as pool:
        running: set[Future[Outcome]] = set()
        while waiting or running:
            while waiting and len(running) < processes and not campaign.stop.is_set():
                running.add(pool.submit(campaign.try_fault, waiting.pop()))
            done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for one in done:
                outcome = one.result()
                outcomes[outcome.fault] = outcome
                judging.keep(file, outcome)
                say(f"{outcome.fault}: {outcome.state} {outcome.by or outcome.why} ({outcome.seconds:.0f} s)")
            if signals.times and not campaign.stop.is_set():
                campaign.stop.set()
                waiting.clear()
    return signals.received


def _take_back(campaign: Campaign, outcomes: dict[str, Outcome]) -> None:
    """A test that deviates without the fault as well has not noticed it."""
    tests = sorted({outcome.by for outcome in outcomes.values() if outcome.by})
    wrong = campaign.deviate_anyway(tests) if tests else set()
    for outcome in list(outcomes.values()):
        if outcome.by in wrong:
            why = f"{outcome.by} deviates without the fault, too: mend that first"
            outcomes[outcome.fault] = Outcome(outcome.fault, UNDECIDED, why=why)


def _program_key(qemu: str | None) -> str:
    """What names the machine's content."""
    from harness.reference import store

    return hashlib.sha256(Path(qemu).read_bytes()).hexdigest() if qemu else store.current().key
