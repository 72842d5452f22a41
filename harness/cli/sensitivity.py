"""`nsvm sensitivity`: shows that every test of the suites can fail, by replaying recorded answers with lies in them."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from harness.cli import machine
from harness.cli.console import HarnessError, UserError, say
from harness.cli.debian import ensure, missing_build_tools
from harness.cli.ending import interrupted_status
from harness.cli.host_run import password_for, recovery_s
from harness.cli.paths import LOG, ROOT, STATE
from harness.cli.plan import Plan
from harness.cli.pytest_process import LOG_NAME, SILENCE_S, Ended, PytestProcess
from harness.cli.signals import Signals
from harness.record import FILE_NAME, LOST_VERDICTS, load
from harness.run.options import RunOptions
from harness.targets import file_name
from harness.text import visible

PYTEST_RAN = (0, 1)  # all passed, or some failed: a new deviation is not this command's to judge
ANSWERS = STATE / "answers"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "sensitivity",
        parents=[common],
        help="show that every test can fail: replay recorded answers, one altered at a time",
        description="Calls each test with the answers that a target once gave it, and then with one of them altered "
        "at a time, without a target. Without ANSWERS they are recorded first. Exit status 1 if a test notices no "
        "alteration or cannot be replayed, if an assert cannot fail or never runs, if a universal check never fires, "
        "or if the answers are those of tests that are gone; 3 if tests could not be run to record them.",
    )
    parser.add_argument(
        "answers", nargs="*", type=Path, metavar="ANSWERS", help="files that pytest --nsvm-answers FILE wrote"
    )
    parser.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="record on this one (default: qemu-tcg)"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="go on when a test has noticed something, and print the table of what was altered",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "-n", type=int, default=os.cpu_count() or 1, metavar="N", dest="processes", help="processes that replay"
    )
    group = parser.add_argument_group(
        "with --machine", "run the suites on the reference machine under each of its faults"
    )
    group.add_argument("--machine", action="store_true", help="ANSWERS are then folders, files or tests to run")
    group.add_argument(
        "--faults", action="append", metavar="GLOB", help="only these, or those of this area; may be repeated"
    )
    group.add_argument("--limit", type=float, default=1800, metavar="S", help="seconds that one fault may take (1800)")
    group.add_argument("--again", action="store_true", help="also those that have been tried on this machine")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)  # other suites than ours
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Records if need be, then judges."""
    from harness.sensitivity.sensitivity import WorkerDied, judge
    from harness.trace.answers import AnswersError

    if args.processes < 1:
        raise UserError("-n: at least 1")
    if args.machine:
        from harness.cli import machine_faults

        return machine_faults.run(args)
    if args.faults or args.again:
        raise UserError("sensitivity: --faults and --again go with --machine")
    if args.answers and args.target:
        raise UserError("sensitivity: either files of answers or --target, not both")
    if args.answers:
        needs = [need for need in missing_build_tools() if need.package == "binutils"]
        ensure(needs, may_install=not args.no_install, log=LOG / "apt.log")
    paths, why = (args.answers, {}) if args.answers else _record(args)
    try:
        return judge(
            paths, root=args.root.resolve(), processes=args.processes, full=args.full, as_data=args.json, why=why
        )
    except AnswersError as error:
        raise UserError(str(error)) from None
    except WorkerDied as error:
        raise HarnessError(str(error)) from None


def _record(args: argparse.Namespace) -> tuple[list[Path], dict[str, str]]:
    """Runs the suites; the files of answers, and what came of each test that was run."""
    names = machine.check_targets(args.target or ["qemu-tcg"])
    programs = machine.programs_of(args)
    machine.prepare(names, programs, may_install=not args.no_install)
    # Before Ctrl-C is handled here: at a prompt that must end the command.
    environments = {name: password_for(name) for name in names}
    options = RunOptions(qemu=programs.qemu, bochs=programs.bochs).words()
    paths, told = list[Path](), dict[str, str]()
    with Signals() as signals:
        for name in names:
            path, folder = ANSWERS / f"{file_name(name)}.jsonl", ANSWERS / file_name(name)
            say(f"recording the answers of {name} into {path}")
            path.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            plan = Plan([name], ["suites"], ["-p", "no:cacheprovider", "--nsvm-answers", str(path), *options])
            ended = _pytest(plan, folder, environments[name]).run(signals)
            if signals.received is not None:
                say("interrupted")
                raise SystemExit(interrupted_status(signals.received))
            told |= _outcomes(ended)
            if not path.exists() or not path.stat().st_size:
                raise HarnessError(f"recording on {name}: no test ended so that its answers can be used; see {folder}")
            paths.append(path)
    return paths, told


def _pytest(plan: Plan, folder: Path, environment: Mapping[str, str]) -> PytestProcess:
    """What `nsvm run` would start, with as many workers and as much patience."""
    (name,) = plan.names
    silence_s = SILENCE_S + recovery_s(name)
    command = plan.command(name, folder)
    return PytestProcess(command, name, folder, raw=False, environment=environment, silence_s=silence_s)


def _outcomes(ended: Ended) -> dict[str, str]:
    """What came of each test, in a few words. Raises HarnessError if some could not be run."""
    where = f"(its output: {ended.folder / LOG_NAME})"
    failed = f"recording on {ended.target} failed"
    if ended.complaint or ended.status not in PYTEST_RAN:
        raise HarnessError(f"{failed}: {ended.complaint or _complaint(ended)} {where}")
    try:
        run = load(ended.folder / FILE_NAME)
    except OSError as error:
        raise HarnessError(f"{failed}: there is no record of it: {error.strerror} {where}") from None
    lost = [result for result in run.results if result.verdict in LOST_VERDICTS]
    if lost:
        first = lost[0]
        more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise HarnessError(f"{failed}: {first.test} ended with {first.verdict}{more}: {first.reason} {where}")
    if run.interrupted or not run.complete:
        why = run.interrupted[0].reason if run.interrupted else "the record has no end"
        raise HarnessError(f"{failed}: {why} {where}")
    news = {"new": " (new)"}
    return {
        result.test: visible(f"{result.verdict}{news.get(result.news, '')} on {ended.target}: {result.reason}")
        for result in run.results
    }


def _complaint(ended: Ended) -> str:
    """The line of pytest's output that says most."""
    try:
        lines = (ended.folder / LOG_NAME).read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    lines = [line for line in lines if line.strip()] or ["no output"]
    said = next((line for line in lines if line.startswith(("ERROR", "E ", "INTERNALERROR"))), lines[-1])
    return f"pytest ended with status {ended.status}: {said.removeprefix('ERROR: ')[:300]}"
