"""`nsvm test`: the project's own tests. Makes tox, calls its environments one by one, and adds up what they counted."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from harness.cli import machine, reference
from harness.cli.bootstrap import BootstrapError, ensure_venv, told
from harness.cli.console import EXIT_NEW, EXIT_OK, EXIT_TERMINATED, UserError, say
from harness.cli.debian import Need, ensure, missing_build_tools, missing_test_tools
from harness.cli.paths import LOG, ROOT, STATE

TOX_REQUIREMENTS = "requirements/tox.txt"
TOTAL_DEADLINE_S = 24 * 60
"""All of it, so that a CI with 25 minutes still sees the closing line."""
STOP_GRACE_S = 15


@dataclass(frozen=True)
class Environment:
    """One tox environment: what it needs from the machine, and how long it may take."""

    name: str
    deadline_s: int
    builds: bool
    emulates: bool = False


ENVIRONMENTS = (
    Environment("lint", 300, builds=True),
    Environment("types", 420, builds=False),
    Environment("units", 720, builds=True),
    Environment("emulators", 1080, builds=True, emulates=True),
)


@dataclass(frozen=True)
class Counts:
    """What an environment counted."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "test",
        parents=[common],
        help="run the project's own tests",
        usage="nsvm test [options] [-- pytest arguments]",
        description="Runs tox environments: lint (ruff; the executor with warnings as errors, reproducible), "
        "types (mypy), units (tests without "
        "an emulator), emulators (tests with one, and the suites on QEMU TCG, Bochs, the reference machine and "
        "simulated hosts). "
        "Exit status 0 if nothing failed, 1 if something did, 2 if something is missing.",
    )
    names = [environment.name for environment in ENVIRONMENTS]
    parser.add_argument("--env", action="append", default=[], choices=names, help="only this one; may be repeated")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs them; the last line printed has the sum."""
    started = time.monotonic()
    chosen = [environment for environment in ENVIRONMENTS if not args.env or environment.name in args.env]
    if args.rest and any(environment.name in ("lint", "types") for environment in chosen):
        raise UserError("pytest arguments after '--' need --env units or --env emulators")
    with _alone(), _ended_by_signals():
        return _run_all(chosen, args, started)


def _run_all(chosen: Sequence[Environment], args: argparse.Namespace, started: float) -> int:
    needs: list[Need] = []
    if any(environment.builds for environment in chosen):
        needs += missing_build_tools() + missing_test_tools()
    if any(environment.emulates for environment in chosen):
        for name in machine.known_targets():
            needs += machine.missing_for(name, machine.Programs())
        needs += reference.missing_needs()
    ensure(needs, may_install=not args.no_install, log=LOG / "apt.log")
    if any(environment.builds for environment in chosen):
        machine.build_executor()
        machine.build_host_program()
    try:
        tox = ensure_venv("tox-venv", TOX_REQUIREMENTS)
    except BootstrapError as error:
        raise UserError(str(error)) from None
    folder = STATE / "test"
    folder.mkdir(parents=True, exist_ok=True)
    results: list[tuple[str, Counts, float]] = []
    for environment in chosen:
        left_s = TOTAL_DEADLINE_S - (time.monotonic() - started)
        begun = time.monotonic()
        counts = _run(environment, tox, folder, min(environment.deadline_s, left_s), args.rest)
        results.append((environment.name, counts, time.monotonic() - begun))
    print()
    for name, counts, took_s in results:
        print(f"{name:10} {counts} ({took_s:.0f} s)")
    total = sum((counts for _, counts, _ in results), Counts())
    print(total, flush=True)
    return EXIT_NEW if total.failed else EXIT_OK


@contextmanager
def _alone() -> Iterator[None]:
    """Two at once in a clone would take each other's folders and falsify each other's counts."""
    lock = STATE / "test.lock"
    try:
        STATE.mkdir(parents=True, exist_ok=True)
        file = open(lock, "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot run the tests: {told(error, STATE)}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            why = "another nsvm test runs in this clone: wait for its end"
            raise UserError(f"{why if isinstance(error, BlockingIOError) else error.strerror} ({lock})") from None
        yield


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what was started, as Ctrl-C does."""

    def end(number: int, _frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        say(f"ended by {signal.Signals(number).name}")
        raise SystemExit(EXIT_TERMINATED)

    asked = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, end) for number in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(environment: Environment, tox: Path, folder: Path, deadline_s: float, rest: Sequence[str]) -> Counts:
    """One environment; whatever goes wrong with it counts as one failure at least."""
    print(f"\n== {environment.name} ==", flush=True)
    if deadline_s <= 0:
        say(f"{environment.name}: no time left of {TOTAL_DEADLINE_S} s; not run")
        return Counts(failed=1)
    counted = folder / f"{environment.name}.json"
    counted.unlink(missing_ok=True)
    command = [
        str(tox),
        "-m",
        "tox",
        "run",
        "-q",
        "-c",
        str(ROOT / "tox.ini"),
        "-e",
        environment.name,
        *(["--", *rest] if rest else []),
    ]
    env = {**os.environ, "NSVM_COUNTS": str(counted)}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, process_group=0)
    try:
        status = process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        say(f"{environment.name}: not done after {deadline_s:.0f} s; ended")
        status = -1
    finally:
        _end(process)
    counts = _read(counted)
    if counts is None:
        say(f"{environment.name}: ended with status {status} before it counted anything")
        return Counts(failed=1)
    return counts + Counts(failed=1) if status and not counts.failed else counts


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the environment and what it started, if any of it still runs: tox may be gone before its pytest is.

    Ctrl-C meanwhile insists, and is passed on when all is ended.
    """
    interrupted = False
    for number in (None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            if number is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            if _gone(process, 0 if number is None else STOP_GRACE_S):
                break
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt


def _gone(process: subprocess.Popen[bytes], deadline_s: float) -> bool:
    """Whether it and its whole process group have ended, or do so by then."""
    end = time.monotonic() + deadline_s
    while process.poll() is None or _runs(process.pid):
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True


def _runs(group: int) -> bool:
    """Whether a process of the group is more than a zombie."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _parent, its_group, *_ = path.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state not in "ZX":
                return True
    return False


def _read(path: Path) -> Counts | None:
    try:
        data = json.loads(path.read_text())
        return Counts(int(data["passed"]), int(data["failed"]), int(data["skipped"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
