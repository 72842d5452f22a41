"""`nsvm compare`: two runs side by side, clause by clause and test by test; and `nsvm run --against`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from harness.cli.console import EXIT_HARNESS, EXIT_NEW, EXIT_OK, UserError
from harness.cli.paths import RUNS
from harness.cli.render import find_run, run_places
from harness.record import FILE_NAME, load
from harness.summary.against import as_json, write_against
from harness.summary.compare import compare_runs
from harness.summary.comparison import Comparison, TargetComparison
from harness.summary.scope import is_part
from harness.targets import file_name

LAST = "last"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "compare",
        parents=[common],
        help="compare two runs: what is new, mended, no longer asked",
        description="Says, clause by clause and test by test, what the second run deviates in and the first did not, "
        "what is mended, what has another answer, and what is no longer asked; which bits are lost or won, and which "
        "versions are others. Exit status 0 if nothing is worse, 1 for a regression, 3 if there was nothing to "
        "compare or something has no verdict.",
    )
    parser.add_argument("first", metavar="BEFORE", help="a run folder")
    parser.add_argument("second", metavar="NOW", help="another")
    parser.add_argument("--all", action="store_true", help="also what deviates in both with the same answer")
    parser.add_argument("--tests", action="store_true", help="each test, with both answers")
    parser.add_argument("--clause", default="", metavar="TEXT", help="only clauses whose names hold this")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compares."""
    from reports.compare import compare_text

    records = [load(find_run(folder) / FILE_NAME) for folder in (args.first, args.second)]
    found = compare_runs(records[0], records[1], (args.first, args.second))
    if args.clause:
        found = replace(found, targets=[_only(target, args.clause) for target in found.targets])
    if args.json:
        json.dump(as_json(found, every=args.all), sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print(compare_text(found, every=args.all, tests=args.tests), end="")
    return status_of(found)


def status_of(found: Comparison) -> int:
    """The exit status that a comparison asks for."""
    return EXIT_NEW if found.worse else EXIT_HARNESS if found.lost else EXIT_OK


def find_before(text: str, names: Sequence[str]) -> Path:
    """The folder of the run to compare with; `last` is the newest whole one of these targets below runs/. Raises
    UserError.
    """
    if text != LAST or any((place / FILE_NAME).exists() for place in run_places(text)):
        return find_run(text).resolve()  # runs/latest will be another one when this run has begun
    for folder in sorted(RUNS.glob(f"*-{'+'.join(map(file_name, names))}"), reverse=True):
        with suppress(OSError):
            run = load(folder / FILE_NAME)
            if run.complete and not run.interrupted and run.results and not any(map(is_part, run.scopes.values())):
                return folder.resolve()
    raise UserError(
        f"--against {LAST}: runs/ holds no whole run of {' and '.join(names)}; name the run to compare with"
    )


def against(out: Path, before: Path) -> Comparison:
    """Compares the run in `out` with an earlier one and keeps what came of it there. Raises OSError."""
    found = compare_runs(load(before / FILE_NAME), load(out / FILE_NAME), (before.name, out.name))
    write_against(out, found)
    return found


def _only(target: TargetComparison, text: str) -> TargetComparison:
    return replace(
        target,
        cells=[cell for cell in target.cells if text in cell.clause],
        clauses_unasked=[clause for clause in target.clauses_unasked if text in clause],
    )
