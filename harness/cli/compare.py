"""`nsvm compare`: two runs side by side, clause by clause."""

from __future__ import annotations

import argparse
import json
import sys

from harness.cli.console import EXIT_OK, UserError
from harness.cli.render import find_run
from harness.record import FILE_NAME, Run, load
from harness.summary.compare import ClauseDifference, Kind, compare_runs
from harness.targets import file_name
from harness.text import line

WIDTH = 160


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "compare",
        parents=[common],
        help="compare two runs: which deviations they share",
        description="Says for each clause that deviates in one of two runs in how many tests both deviate alike, "
        "differ, or only one does. With an L0 in an emulated machine as the first and that machine itself as the "
        "second, what both share comes from the emulator. Exit status 0.",
    )
    parser.add_argument("first", metavar="RUN", help="a run folder")
    parser.add_argument("second", metavar="RUN", help="another")
    parser.add_argument("--tests", action="store_true", help="each test, with both answers")
    parser.add_argument("--clause", default="", metavar="TEXT", help="only clauses whose names hold this")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compares."""
    records = [_load(folder) for folder in (args.first, args.second)]
    found = [each for each in compare_runs(records[0].results, records[1].results) if args.clause in each.clause]
    if args.json:
        json.dump([_as_json(each) for each in found], sys.stdout, indent=1)
        print()
        return EXIT_OK
    names = [", ".join(_targets(record)) or "?" for record in records]
    print(line(f"first: {names[0]} ({args.first}); second: {names[1]} ({args.second})") + "\n")
    for name, record in zip(("first", "second"), records, strict=True):
        if not record.complete or record.interrupted:
            print(f"note: the {name} run was cut short: what it did not come to counts as not answered\n")
    for each in found:
        counts = "; ".join(f"{kind.value}: {len(each.of(kind))}" for kind in Kind if each.of(kind))
        print(f"{line(each.clause)}\n  {counts}")
        for cell in each.cells if args.tests else ():
            print(f"    {line(cell.test.rpartition('::')[2])}  [{cell.kind.name}]")
            print(f"      first:  {line(cell.left, WIDTH)}\n      second: {line(cell.right, WIDTH)}")
    print()
    for kind in Kind:
        cells = sum(len(each.of(kind)) for each in found)
        print(f"{cells:6}  {kind.value} ({sum(bool(each.of(kind)) for each in found)} clauses)")
    return EXIT_OK


def _load(folder: str) -> Run:
    """The record of a run on one target; raises UserError for one on several, whose tests have the same names."""
    found = find_run(folder)
    run = load(found / FILE_NAME)
    if len(names := _targets(run)) > 1:
        below = f"{folder.rstrip('/')}/{file_name(names[0])}"
        raise UserError(f"{folder}: holds runs on {', '.join(names)}; give the folder of one of them, as {below}")
    return run


def _targets(run: Run) -> list[str]:
    return list(dict.fromkeys([*(info.target for info in run.targets), *(result.target for result in run.results)]))


def _as_json(each: ClauseDifference) -> dict[str, object]:
    cells = [{"test": c.test, "kind": c.kind.name, "first": c.left, "second": c.right} for c in each.cells]
    return {"clause": each.clause, "tests": cells}
