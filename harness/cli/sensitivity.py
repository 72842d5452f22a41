"""`nsvm sensitivity`: shows that every test of the suites can fail, by replaying recorded answers with lies in them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.cli import machine
from harness.cli.command import ROOT, STATE
from harness.cli.console import HarnessError, UserError, say

RECORD_DEADLINE_S = 3600
PYTEST_RAN = (0, 1)  # all passed, or some failed: a new deviation is not this command's to judge


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "sensitivity",
        parents=[common],
        help="show that every test can fail: replay recorded answers, one altered at a time",
        description="Calls each test with the answers that a target once gave it, and then with one of them altered "
        "at a time, without a target. Without ANSWERS they are recorded first. Exit status 1 if a test notices no "
        "alteration or cannot be replayed, or if a universal check never fires.",
    )
    parser.add_argument(
        "answers", nargs="*", type=Path, metavar="ANSWERS", help="files that pytest --nsvm-answers FILE wrote"
    )
    parser.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="record on this one (default: qemu-tcg)"
    )
    add_arguments(parser)
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `python -m harness.sensitivity` has, too."""
    parser.add_argument("--full", action="store_true", help="tell every test every lie, and print the table of fields")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("-n", type=int, default=os.cpu_count() or 1, metavar="N", dest="processes", help="processes")


def run(args: argparse.Namespace) -> int:
    """Records if need be, then judges."""
    from harness.replay import AnswersError
    from harness.sensitivity import judge

    if args.answers and args.target:
        raise UserError("sensitivity: either files of answers or --target, not both")
    if args.processes < 1:
        raise UserError("-n: at least 1")
    paths = args.answers or _record(args)
    try:
        return judge(paths, root=ROOT, processes=args.processes, full=args.full, as_data=args.json)
    except AnswersError as error:
        raise UserError(str(error)) from None


def _record(args: argparse.Namespace) -> list[Path]:
    names = machine.check_targets(args.target or ["qemu-tcg"])
    programs = machine.programs_of(args)
    machine.prepare(names, programs, may_install=not args.no_install)
    more = [
        *(["--qemu", programs.qemu] if programs.qemu else []),
        *(["--bochs", programs.bochs] if programs.bochs else []),
    ]
    paths = []
    for name in names:
        path = STATE / "answers" / f"{name}.jsonl"
        say(f"recording the answers of {name} into {path}")
        with tempfile.TemporaryDirectory(prefix="nsvm-sensitivity-") as out:
            command = [sys.executable, "-m", "pytest", "suites", "-q", "--target", name, "-n", str(args.processes)]
            command += ["-p", "no:cacheprovider", "--nsvm-out", out, "--nsvm-answers", str(path), *more]
            try:
                done = subprocess.run(
                    command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                    timeout=RECORD_DEADLINE_S,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise HarnessError(f"recording on {name} was not done after {RECORD_DEADLINE_S} s") from None
        if done.returncode not in PYTEST_RAN:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["no output"]
            complaint = next((line for line in lines if line.startswith(("ERROR", "E "))), lines[-1])
            raise HarnessError(f"recording on {name} failed: {complaint.removeprefix('ERROR: ')[:300]}")
        paths.append(path)
    return paths
