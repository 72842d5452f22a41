"""`nsvm run`: one pytest for each target, its progress, and what came of it.

The record, `run.jsonl`, is what counts: it is written by the pytest plugin line by line, and everything shown here
is read from it. A run that is interrupted, killed or hangs still gets its report from the lines there are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.cli import flaky, machine, run_folder, several
from harness.cli.compare import find_before
from harness.cli.console import UserError
from harness.cli.defaults import read_defaults
from harness.cli.host_run import password_for
from harness.cli.paths import ROOT
from harness.cli.plan import Plan
from harness.cli.signals import Signals
from harness.judge.expected import ExpectError, policy_of
from harness.run.options import DIGITS_MAX, OptionError, RunOptions, add_options

DEFAULT_TARGET = "qemu-tcg"
WORKERS_MAX = 64
REPEAT_MAX = 1000


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "run",
        parents=[common],
        help="run suites on targets and write a report",
        usage="nsvm run [options] [paths or test ids ...] [-- pytest arguments]",
        description="Boots the executor on each target, runs the suites, prints a table bit by bit and writes "
        "run.jsonl, junit.xml and index.html into a run folder. Exit status: 0 no new deviation, 1 new or mended "
        "ones, or with --repeat flaky tests, 2 wrong use or a missing tool, 3 the harness failed, 130 interrupted "
        "(Ctrl-C), 143 terminated; the last two also write the report of what there is.",
    )
    parser.add_argument("paths", nargs="*", help="folders, files or test ids (default: suites)")
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help=f"where to run (default: {DEFAULT_TARGET}); may be repeated: hosts are run at once",
    )
    parser.add_argument(
        "--fail-fast", action="store_true", help="with several targets: end at the first one that cannot be run"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="the run folder (default: runs/TIME-TARGET, and runs/latest points to it)"
    )
    parser.add_argument(
        "-n",
        metavar="N",
        dest="workers",
        help="workers, each with a machine of its own (default: a core each, at most 4; on a host 1)",
    )
    parser.add_argument("-k", metavar="EXPR", dest="keyword", help="only tests whose names match, as pytest's -k")
    parser.add_argument(
        "--repeat", metavar="N", help="run it all N times, and name the tests whose verdicts are not the same each time"
    )
    parser.add_argument(
        "--against",
        metavar="RUN",
        help="compare with this run, as `nsvm compare` does; `last`: the newest whole run of these targets in runs/",
    )
    add_options(parser.add_argument)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the suites; see `add` for the exit status."""
    defaults = read_defaults()
    args.policy = args.policy or defaults.policy
    args.workers = defaults.n if args.workers is None else args.workers
    names = machine.check_targets(args.target or defaults.target or [DEFAULT_TARGET])
    programs = machine.programs_of(args)
    plan = Plan(
        names=names,
        paths=[run_folder.given_path(path) for path in args.paths] or ["suites"],
        options=[*_options(args, programs, names).words(), *(["-k", args.keyword] if args.keyword is not None else [])],
        workers=_number("-n", args.workers, WORKERS_MAX, "workers, each runs a machine of its own", least=0),
        rest=args.rest,
        typed=args.typed,
        fail_fast=args.fail_fast,
    )
    repeat = _number("--repeat", args.repeat, REPEAT_MAX, "times, to have something to compare", least=2)
    if plan.raw and len(several.lanes(names)) > 1:
        raise UserError("several hosts at once cannot share the terminal with pytest: name one target")
    if repeat is not None and plan.raw:
        raise UserError("--repeat cannot leave the terminal to pytest: say it without -s, --pdb and the like")
    plan = replace(plan, before=None if args.against is None else find_before(args.against, names))
    out = run_folder.choose(args.out, names, defaults.out)
    machine.prepare(names, programs, may_install=not args.no_install)
    # Before the run's own handling of Ctrl-C: at a prompt that must end the command.
    plan = replace(plan, environments={name: password_for(name) for name in names})
    out = run_folder.make(out, ours=args.out is None)
    with Signals() as signals:
        status = plan.carry_out(out, signals) if repeat is None else flaky.repeat(plan, out, signals, repeat)
    if args.out is None and run_folder.judged_something(out):
        run_folder.point_latest(out)
    return status


def _options(args: argparse.Namespace, programs: machine.Programs, names: list[str]) -> RunOptions:
    """The run's options; raises UserError for one that makes no sense."""
    try:
        given = RunOptions.of(args)
    except OptionError as error:
        raise UserError(str(error)) from None
    if given.baseline is not None and not given.baseline.is_file():
        raise UserError(f"--baseline {given.baseline}: no such file")
    if given.fault is not None:
        check_fault(given.fault, names)
    if both := set(given.without) & set(given.expect):
        raise UserError(f"--expect and --without both name {', '.join(sorted(both))}")
    baseline = None if given.baseline is None else given.baseline.absolute()
    policy = _policy(given.policy)
    return replace(given, qemu=programs.qemu, bochs=programs.bochs, baseline=baseline, policy=policy)


def _policy(name: str | None) -> str | None:
    """The policy's name, or its file's path from wherever pytest is started. Raises UserError."""
    if name is None:
        return None
    given = str(Path(name).absolute()) if name.endswith(".toml") else name
    try:
        policy_of(given, ROOT / "policies")
    except ExpectError as error:
        raise UserError(f"--policy: {error}") from None
    return given


def check_fault(name: str, targets: Sequence[str]) -> None:
    """Raises UserError unless all targets can be told to misbehave, and in that way."""
    from harness.reference import faults
    from harness.reference.error import ReferenceMachineError

    if any(target != "reference" for target in targets):
        raise UserError("--fault: only the reference machine can be told to misbehave; say --target reference")
    try:
        faults.find(name)
    except ReferenceMachineError as error:
        raise UserError(f"--fault: {error}") from None


def _number(option: str, text: str | None, most: int, what: str, *, least: int = 1) -> int | None:
    """A number from `least` to `most`, or None where none is given; raises UserError."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > DIGITS_MAX:
        raise UserError(f"{option} {text[:40]}: not a number of {what.partition(',')[0]}")
    number = int(text)
    if number < least:
        raise UserError(f"{option} {text}: at least {least} {what}")
    if number > most:
        raise UserError(f"{option} {text}: at most {most} {what}")
    return number
