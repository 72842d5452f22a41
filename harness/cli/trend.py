"""`nsvm trend`: the runs of a folder over time, who broke when, and the targets beside each other."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from harness.cli.console import EXIT_HARNESS, EXIT_OK, UserError, say
from harness.cli.paths import RUNS
from harness.cli.runs import runs_below
from harness.record import FILE_NAME, load
from harness.summary import summarise
from harness.summary.trend import Trend, points_of, trend_of

PAGE = "trend.html"
SHOWN_MAX = 20


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "trend",
        parents=[common],
        help="many runs over time: who broke when, and the targets beside each other",
        description="Finds the runs in a folder and writes trend.html there: each target over time, what changed from "
        "one whole run to the next, and a matrix of clauses and targets with links to the answers. Exit status 0, or 3 "
        "if there is no run.",
    )
    parser.add_argument("folder", nargs="?", metavar="DIR", help="where the run folders are (default: runs)")
    parser.add_argument("--last", metavar="N", default="30", help="only the newest N runs (default: 30)")
    parser.add_argument("--json", action="store_true", help="as JSON, and no page")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reads the runs, writes the page, prints what changed."""
    from reports.trend import render_trend, trend_text

    folder = Path(args.folder) if args.folder else RUNS
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not (args.last.isascii() and args.last.isdigit() and 0 < int(args.last) < 100_000):
        raise UserError(f"--last {args.last[:20]}: not a number of runs")
    trend = _read(folder, int(args.last))
    if not trend.points:
        say(f"{folder} holds no run")
        return EXIT_HARNESS
    if args.json:
        json.dump(_as_json(trend), sys.stdout, indent=1, ensure_ascii=False)
        print()
        return EXIT_OK
    page = folder / PAGE
    try:
        page.write_text(render_trend(trend), "utf-8")
    except OSError as error:
        raise UserError(f"{page}: {error.strerror}") from None
    print(trend_text(trend, SHOWN_MAX), end="")
    print(f"Page: {page}", flush=True)
    return EXIT_OK


def _read(folder: Path, last: int) -> Trend:
    """Each run once: where a run is on several targets, the folder above holds them all, too."""
    found = [each.folder for each in runs_below(folder)]
    alone = [each for each in found if not any(each in other.parents for other in found)]
    points = []
    for each in reversed(alone[:last]):
        points += points_of(summarise(load(each / FILE_NAME)), each.relative_to(folder).as_posix())
    return trend_of(points)


def _as_json(trend: Trend) -> dict[str, object]:
    return {
        "targets": {
            name: [
                {"run": p.run, "started": p.started, "version": p.version, "part": p.part, "whole": p.whole,
                 "counts": dict(p.counts)}
                for p in points
            ]
            for name, points in trend.points.items()
        },
        "changes": [
            {"clause": c.clause, "target": c.target, "word": c.word, "was": c.was, "verdict": c.verdict,
             "before": c.before.run, "now": c.now.run, "version_before": c.before.version, "version": c.now.version}
            for c in trend.changes
        ],
        "matrix": {
            clause: {name: point.clauses.get(clause, "") for name, point in trend.latest.items()}
            for clause in trend.clauses
        },
    }  # fmt: skip
