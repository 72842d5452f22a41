"""`nsvm run`: one pytest for each target, its progress, and what came of it.

The record, `run.jsonl`, is what counts: it is written by the pytest plugin line by line, and everything shown here
is read from it. A run that is
interrupted, killed or hangs still gets its report from the lines there are.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from harness.cli import machine
from harness.cli.command import ROOT
from harness.cli.console import (
    EXIT_HARNESS,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TERMINATED,
    EXIT_USAGE,
    UserError,
    say,
)
from harness.cli.progress import Bar, Counts, Display, Lines, Silent, Tail, planned_tests
from harness.record import FILE_NAME, Interrupted, Writer, load
from harness.summary import summarise

DEFAULT_TARGET = "qemu-tcg"
WORKERS_MAX = 4
STALL_LIMIT_S = 900.0
"""A pytest that says nothing for so long is ended: every scenario has a much shorter deadline of its own."""
STOP_GRACE_S = 30.0
TERMINATE_GRACE_S = 5.0
LOG_NAME = "pytest.log"
LOG_WIDTH = 120

PYTEST_INTERRUPTED, PYTEST_INTERNAL, PYTEST_USAGE, PYTEST_NO_TESTS = 2, 3, 4, 5
_RAW = (
    "-s",
    "--pdb",
    "--trace",
    "--capture=no",
    "--collect-only",
    "--co",
    "--fixtures",
    "--markers",
    "-h",
    "--help",
    "--setup-plan",
)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "run",
        parents=[common],
        help="run suites on targets and write a report",
        usage="nsvm run [options] [paths or test ids ...] [-- pytest arguments]",
        description="Boots the executor on each target, runs the suites, prints a table bit by bit and writes "
        "run.jsonl, junit.xml and "
        "index.html into a run folder. Exit status: 0 no new deviation, 1 new or mended ones, 2 wrong use or a "
        "missing tool, "
        "3 the harness failed, 130 interrupted (Ctrl-C), 143 terminated; the last two also write the report of "
        "what there is.",
    )
    parser.add_argument("paths", nargs="*", help="folders, files or test ids (default: suites)")
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help=f"where to run (default: {DEFAULT_TARGET}); may be repeated",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="the run folder (default: runs/TIME-TARGET, and runs/latest points to it)"
    )
    parser.add_argument(
        "-n", metavar="N", dest="workers", help="workers, each with its own emulator (default: a core each, at most 4)"
    )
    parser.add_argument("-k", metavar="EXPR", dest="keyword", help="only tests whose names match, as pytest's -k")
    parser.add_argument(
        "--fresh-boot",
        choices=("always", "dirty"),
        default="dirty",
        help="boot anew for every test, or only after one that leaves state behind (default)",
    )
    parser.add_argument(
        "--dangerous", action="store_true", help="also run tests that may take the machine under test down for good"
    )
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the suites; see `add` for the exit status."""
    names = machine.check_targets(args.target or [DEFAULT_TARGET])
    programs = machine.programs_of(args)
    workers = _workers(args.workers)
    paths = [_path(path) for path in args.paths] or ["suites"]
    out = _run_folder(args.out, names)
    machine.prepare(names, programs, may_install=not args.no_install)
    out = _make_folder(out, ours=args.out is None)
    if args.out is None:
        _point_latest(out)

    options = ["--fresh-boot", args.fresh_boot, *(["-k", args.keyword] if args.keyword is not None else [])]
    options += ["--dangerous"] if args.dangerous else []
    options += ["--qemu", programs.qemu] if programs.qemu else []
    options += ["--bochs", programs.bochs] if programs.bochs else []
    if not _sets_workers(args.rest):
        options += ["-n", str(workers)]

    status = EXIT_OK
    ended = []
    with _Signals() as signals:
        for name in names:
            folder = out if len(names) == 1 else out / name
            folder.mkdir(exist_ok=True)
            command = [
                sys.executable,
                "-m",
                "pytest",
                *paths,
                "--target",
                name,
                "--nsvm-out",
                str(folder),
                *options,
                *args.rest,
            ]
            ended.append(
                _Pytest(command, name, folder, raw=any(argument in _RAW for argument in args.rest)).run(signals)
            )
            if signals.received:
                break
    if len(names) > 1:
        merge([out / name / FILE_NAME for name in names], out / FILE_NAME)
    status = _tell(out, ended, signals.received)
    return status


def _workers(asked: str | None) -> int:
    if asked is None:
        return max(1, min(len(os.sched_getaffinity(0)), WORKERS_MAX))
    if not asked.isdigit():
        raise UserError(f"-n {asked}: not a number of workers")
    if int(asked) > 64:
        raise UserError(f"-n {asked}: at most 64 workers, each runs an emulator")
    return int(asked)


def _sets_workers(rest: Sequence[str]) -> bool:
    """True if the pytest arguments say how many workers, or ask for what needs one process."""
    return any(
        argument.startswith("-n")
        or argument.startswith("--numprocesses")
        or argument in ("--pdb", "--trace", "-s", "--capture=no")
        for argument in rest
    )


def _path(text: str) -> str:
    """A path or test id as pytest, started in the project's folder, understands it."""
    file, separator, test = text.partition("::")
    for base in (Path.cwd(), ROOT):
        if (base / file).exists():
            resolved = (base / file).resolve()
            return (
                (str(resolved.relative_to(ROOT)) if resolved.is_relative_to(ROOT) else str(resolved)) + separator + test
            )
    raise UserError(f"{file}: no such file or folder (use -k to choose tests by name)")


def _run_folder(asked: str | None, names: Sequence[str]) -> Path:
    """The folder of the run; raises UserError if it holds one already."""
    if asked is not None:
        out = Path(asked).absolute()
        if (out / FILE_NAME).exists() or any((out / name / FILE_NAME).exists() for name in names):
            raise UserError(f"--out {asked}: there is a run in it already; give another folder, or remove it")
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {asked}: is a file")
        return out
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    base = ROOT / "runs" / f"{stamp}-{'+'.join(names)}"
    return next(out for out in _numbered(base) if not out.exists())


def _numbered(base: Path) -> Iterator[Path]:
    """BASE, BASE-2, BASE-3 ..."""
    yield base
    for number in range(2, 1000):
        yield base.with_name(f"{base.name}-{number}")


def _make_folder(out: Path, *, ours: bool) -> Path:
    """Makes the run folder; one of our own naming gets another number if a run at the same moment took it."""
    for folder in _numbered(out):
        try:
            folder.mkdir(parents=True, exist_ok=not ours)
            return folder
        except FileExistsError:
            if not ours:
                raise UserError(f"--out {out}: is a file") from None
        except OSError as error:
            raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from None
    raise UserError(f"no name is left for a run folder like {out}")


def _point_latest(out: Path) -> None:
    """runs/latest -> this run."""
    fresh = out.parent / f".latest-{os.getpid()}"
    with suppress(OSError):
        fresh.symlink_to(out.name)
        fresh.replace(out.parent / "latest")


class _Signals:
    """While a run lasts, Ctrl-C and SIGTERM are noted, and passed on by who waits for pytest."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.times = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = self.received or number
        self.times += 1


@dataclass
class _Ended:
    """How one pytest ended."""

    target: str
    status: int
    folder: Path
    complaint: str = ""


class _Pytest:
    """One pytest process: its output goes to a file, its record is watched."""

    def __init__(self, command: Sequence[str], target: str, folder: Path, *, raw: bool) -> None:
        self._command = command
        self._target = target
        self._folder = folder
        self._raw = raw
        self._head = bytearray()
        self._heard = time.monotonic()

    def run(self, signals: _Signals) -> _Ended:
        """Runs it to its end, or ends it."""
        log = self._folder / LOG_NAME
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "PY_COLORS": "1" if self._raw and sys.stdout.isatty() else "0",
        }
        for name in ("PYTEST_ADDOPTS", "PYTHONPATH"):
            environment.pop(name, None)
        process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=environment,
            stdin=None if self._raw else subprocess.DEVNULL,
            stdout=None if self._raw else subprocess.PIPE,
            stderr=None if self._raw else subprocess.STDOUT,
            # A group of its own, so that Ctrl-C reaches pytest once, and a stuck one can be ended with its workers.
            # With --pdb the terminal must stay pytest's.
            process_group=None if self._raw else 0,
        )
        reader = threading.Thread(target=self._keep, args=(process, log), daemon=True)
        if not self._raw:
            reader.start()
        counts = Counts(self._target)
        tail = Tail(self._folder / FILE_NAME)
        display: Display = Silent() if self._raw else Bar() if sys.stderr.isatty() else Lines(sys.stderr)
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
                if not self._raw and time.monotonic() - self._heard > STALL_LIMIT_S:
                    complaint = f"pytest said nothing for {STALL_LIMIT_S:.0f} s and was ended"
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
        return _Ended(self._target, process.returncode, self._folder, complaint)

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
        with open(log, "wb", buffering=0) as file:
            while data := os.read(process.stdout.fileno(), 65536):
                self._heard = time.monotonic()
                if len(self._head) < 1 << 20:
                    self._head += data
                with suppress(OSError):  # a full disk: the run goes on
                    file.write(data)

    def _stop(self, process: subprocess.Popen[bytes], signals: _Signals) -> str:
        """Asks pytest to end its run, then insists."""
        already = signals.times
        if signals.times:
            say("ending the run; once more ends it at once")
        for number, grace_s in (
            (signal.SIGINT, STOP_GRACE_S),
            (signal.SIGTERM, TERMINATE_GRACE_S),
            (signal.SIGKILL, 5.0),
        ):
            _kill_group(process, number)
            deadline = time.monotonic() + grace_s
            while time.monotonic() < deadline and signals.times <= already:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                    return "" if number == signal.SIGINT else f"pytest had to be ended with {number.name}"
            already = signals.times
        return "pytest could not be ended"


def _kill_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


def merge(records: Iterable[Path], into: Path) -> None:
    """One record of several: one run line, each clause once, and one end if all of them ended."""
    seen: set[str] = set()
    started = False
    ends: list[dict[str, object]] = []
    parts = 0
    with open(into, "w", encoding="utf-8") as out:
        for path in records:
            parts += 1
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue
            for line in lines:
                try:
                    record = json.loads(line)
                    kind = record["kind"]
                except (ValueError, KeyError, TypeError):
                    out.write(line + "\n")  # readers say what they make of it
                    continue
                if kind == "end":
                    ends.append(record)
                elif (kind == "run" and started) or (kind == "clause" and record.get("id") in seen):
                    continue
                else:
                    started = started or kind == "run"
                    if kind == "clause":
                        seen.add(str(record.get("id")))
                    out.write(line + "\n")
        if ends and len(ends) == parts:
            out.write(json.dumps(_merge_ends(ends)) + "\n")


def _merge_ends(ends: list[dict[str, object]]) -> dict[str, object]:
    def number(end: dict[str, object], key: str) -> float:
        value = end.get(key, 0)
        return value if isinstance(value, int | float) else 0

    counts: dict[str, int] = {}
    for end in ends:
        part = end.get("counts")
        for verdict, count in part.items() if isinstance(part, dict) else ():
            counts[verdict] = counts.get(verdict, 0) + int(count)
    statuses = {int(number(end, "exit_status")) for end in ends}
    return {
        "kind": "end",
        "finished": max(str(end.get("finished", "")) for end in ends),
        "duration_s": round(sum(number(end, "duration_s") for end in ends), 3),
        "exit_status": next((status for status in (1, 3) if status in statuses), max(statuses)),
        "counts": counts,
        **{key: int(sum(number(end, key) for end in ends)) for key in ("new", "known", "mended")},
    }


def _tell(out: Path, ended: Sequence[_Ended], received: int | None) -> int:
    """Writes the reports, prints the summary, and gives the exit status."""
    record = out / FILE_NAME
    if received is not None:
        _note_interruption(record, received)
    status = EXIT_OK
    if record.exists() and record.stat().st_size:
        status = _report(out)
    problem = _problem(ended, have_results=record.exists())
    if received is not None:
        return EXIT_INTERRUPTED if received == signal.SIGINT else EXIT_TERMINATED
    if problem is not None:
        problem_status, text = problem
        say(text)
        return problem_status
    if not record.exists() or (status == EXIT_OK and any(end.status for end in ended)):
        if any(argument in _RAW for argument in sys.argv) and not record.exists():
            return EXIT_OK
        worst = next((end for end in ended if end.status), ended[0])
        say(
            f"{worst.target}: pytest ended with status {worst.status}, but the record says nothing of it: "
            f"{worst.folder / LOG_NAME}"
        )
        return EXIT_HARNESS
    return status


def _note_interruption(record: Path, number: int) -> None:
    """The plugin writes it where it can; where pytest had to be killed it could not."""
    with suppress(OSError):
        if record.exists():
            run_ = load(record)
            if not run_.interrupted and run_.end is None:
                with Writer(record) as writer:
                    writer.write(Interrupted(reason=signal.Signals(number).name))


def _report(out: Path) -> int:
    """Renders, unless pytest did already and nothing came since, and prints; the exit status is the record's."""
    from reports import render_all
    from reports.table import print_summary

    record = out / FILE_NAME
    html, junit = out / "index.html", out / "junit.xml"
    done = all(path.exists() and path.stat().st_mtime_ns > record.stat().st_mtime_ns for path in (html, junit))
    summary = summarise(load(record)) if done else render_all(out, html=html, junit=junit).summary
    print_summary(summary, file=sys.stdout, width=None if sys.stdout.isatty() else LOG_WIDTH)
    print(f"Report: {_short(html)} (junit.xml and the record, {record.name}, beside it)", flush=True)
    return summary.exit_status


def _short(path: Path) -> Path:
    """Relative to where the user is, where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _problem(ended: Sequence[_Ended], *, have_results: bool) -> tuple[int, str] | None:
    """What went wrong with pytest itself: a status and one line."""
    for end in ended:
        if end.complaint:
            return EXIT_HARNESS, f"{end.target}: {end.complaint}; its output: {end.folder / LOG_NAME}"
        if end.status == PYTEST_USAGE:
            return EXIT_USAGE, f"{end.target}: pytest: {_said(end.folder, 'ERROR')}"
        if end.status == PYTEST_NO_TESTS:
            return EXIT_USAGE, f"{end.target}: no test was chosen: nothing matches the paths and -k given"
        if end.status == PYTEST_INTERNAL:
            return (
                EXIT_HARNESS,
                f"{end.target}: pytest: {_said(end.folder, 'INTERNALERROR')} (all of it: {end.folder / LOG_NAME})",
            )
        if end.status == PYTEST_INTERRUPTED:
            return (
                EXIT_HARNESS,
                f"{end.target}: {_said(end.folder, 'ERROR', 'Exit:', '!!!')} (all of it: {end.folder / LOG_NAME})",
            )
        if end.status < 0:
            return EXIT_HARNESS, f"{end.target}: pytest was killed by {signal.Signals(-end.status).name}"
    return None


def _said(folder: Path, *words: str) -> str:
    """The last line of pytest's output that says most."""
    try:
        lines = [line.strip() for line in (folder / LOG_NAME).read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no output"
    for word in words:
        chosen = [line for line in lines if word in line]
        if chosen:
            return chosen[-1].removeprefix("ERROR: ")[:300]
    return lines[-1][:300] if lines else "no output"
