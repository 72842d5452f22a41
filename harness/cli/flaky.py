"""`nsvm run --repeat N` and `nsvm flaky RUN RUN ...`: the same run several times, and which tests differ."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.cli.console import EXIT_HARNESS, EXIT_NEW, EXIT_OK, EXIT_USAGE, UserError
from harness.cli.ending import interrupted_status
from harness.cli.merge import worst_status
from harness.cli.plan import Plan
from harness.cli.render import find_run, run_places
from harness.cli.run_folder import short
from harness.cli.signals import Signals
from harness.record import FILE_NAME, load
from harness.summary import summarise
from harness.summary.flaky import REPEAT_NAME, Comparison, compare_repeats

PAGE = "index.html"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "flaky",
        parents=[common],
        help="compare runs, and name the tests whose verdicts differ",
        description="Compares the verdicts of runs that are there already, as `nsvm run --repeat N` does with those "
        "that it makes. Exit status 0 if every test says the same in all of them, 1 if one does not, 3 if there was "
        "nothing to compare.",
    )
    parser.add_argument(
        "folders", metavar="RUN", nargs="+", help="run folders, or one folder with the runs of a --repeat"
    )
    parser.add_argument("--json", action="store_true", help=f"as JSON, like {REPEAT_NAME}")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compares runs."""
    found = _runs(args.folders)
    if len(found) < 2:
        raise UserError(f"{args.folders[0]}: one run alone cannot be compared; give two, or the folder of a --repeat")
    summaries = {name: summarise(load(folder / FILE_NAME)) for name, folder in found.items()}
    statuses = [summary.exit_status for summary in summaries.values()]
    comparison = compare_repeats(summaries, same=len(args.folders) == 1)
    if args.json:
        print(json.dumps(comparison.as_json(statuses), indent=1, ensure_ascii=False))
    else:
        _print(comparison)
    if not comparison.tests:
        return EXIT_HARNESS
    return EXIT_NEW if comparison.flaky else EXIT_OK


def repeat(plan: Plan, out: Path, signals: Signals, times: int) -> int:
    """Runs a plan so many times, each in a folder of its own below `out`, and compares."""
    statuses: list[int] = []
    for number in range(1, times + 1):
        print(f"Run {number} of {times}", flush=True)
        folder = out / str(number)
        folder.mkdir()
        statuses.append(plan.carry_out(folder, signals, brief=True))
        if signals.received or statuses[-1] == EXIT_USAGE:
            break
    made = {str(number): out / str(number) for number in range(1, len(statuses) + 1)}
    summaries = {name: summarise(load(folder / FILE_NAME)) for name, folder in made.items() if _has_record(folder)}
    if not summaries:
        return statuses[-1]
    known = [status for name, status in zip(made, statuses, strict=True) if name in summaries]
    comparison = compare_repeats(summaries)
    _write(out, comparison, known)
    _print(comparison)
    print(f"Report: {short(out / PAGE)} ({REPEAT_NAME} is next to it; each run has a folder of its own)", flush=True)
    status = interrupted_status(signals.received) if signals.received else worst_status(statuses)
    if comparison.flaky and not signals.received:
        status = EXIT_NEW
    why = f"{len(comparison.flaky)} flaky" if comparison.flaky else f"status {status}"
    print(f"nsvm: FAILED {why}" if status else "nsvm: PASSED", flush=True)
    return status


def _runs(given: Sequence[str]) -> Mapping[str, Path]:
    """The runs by a short name; those of a --repeat in the order in which they were made."""
    if len(given) == 1:
        for base in run_places(given[0]):
            below = sorted((each for each in base.glob("*") if each.name.isdecimal()), key=lambda each: int(each.name))
            if runs := {each.name: each for each in below if _has_record(each)}:
                return runs
    folders = list(dict.fromkeys(find_run(text) for text in given))
    names = [folder.name for folder in folders]
    named = {folder: folder.name if names.count(folder.name) == 1 else str(short(folder)) for folder in folders}
    return {name: folder for folder, name in named.items()}


def _has_record(folder: Path) -> bool:
    record = folder / FILE_NAME
    return record.is_file() and record.stat().st_size > 0


def _write(out: Path, comparison: Comparison, statuses: Sequence[int]) -> None:
    from reports.flaky import render_flaky

    told = comparison.as_json(statuses)
    (out / REPEAT_NAME).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / PAGE).write_text(render_flaky(comparison), encoding="utf-8")


def _print(comparison: Comparison) -> None:
    from reports.flaky import flaky_text

    print(flaky_text(comparison), end="", flush=True)
