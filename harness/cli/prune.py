"""`nsvm prune`: removes old run folders, only those that nsvm named itself, and only when told to."""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

from harness.cli.console import EXIT_HARNESS, EXIT_OK, UserError, say
from harness.cli.defaults import read_defaults
from harness.cli.paths import RUNS
from harness.cli.run_folder import in_use

NAMED = re.compile(r"\d{8}T\d{6}Z-(.+?)(-\d+)?")
"""A run folder of our naming: when, and on what."""
KEEP = 10


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "prune",
        parents=[common],
        help="remove old run folders",
        description="Says which folders of runs/ it would remove: all but the newest of each target. Takes none that a "
        "person named, none that a run writes into, and not the one that runs/latest points to. Removes them with "
        "--yes only. Exit status 0, or 3 if a folder could not be removed.",
    )
    parser.add_argument("--keep", metavar="N", default=str(KEEP), help=f"runs to keep of each target (default: {KEEP})")
    parser.add_argument("--yes", action="store_true", help="remove them")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Lists or removes."""
    if not (args.keep.isascii() and args.keep.isdigit()):
        raise UserError(f"--keep {args.keep[:20]}: not a number of runs")
    runs = read_defaults().out or RUNS
    old = old_runs(runs, int(args.keep))
    status = EXIT_OK
    for folder in old:
        print(f"{'removed' if args.yes else 'would remove'} {folder}", flush=True)
        if args.yes:
            try:
                shutil.rmtree(folder)
            except OSError as error:
                say(f"{folder}: {error.strerror}")
                status = EXIT_HARNESS
    print(f"{len(old)} of the runs in {runs}" + ("" if args.yes or not old else "; --yes removes them"))
    return status


def old_runs(runs: Path, keep: int) -> list[Path]:
    """The folders that go, oldest first."""
    latest = (runs / "latest").resolve()
    by_target: dict[str, list[Path]] = {}
    for folder in sorted(runs.iterdir() if runs.is_dir() else (), reverse=True):
        named = NAMED.fullmatch(folder.name)
        if named and folder.is_dir() and not folder.is_symlink():
            by_target.setdefault(named[1], []).append(folder)
    old = [folder for folders in by_target.values() for folder in folders[keep:]]
    return sorted(folder for folder in old if folder.resolve() != latest and not in_use(folder))
