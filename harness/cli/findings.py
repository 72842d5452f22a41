"""`nsvm findings`: docs/findings.md, made from the baselines of real hypervisors."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.cli.clauses import collect
from harness.cli.console import EXIT_NEW, EXIT_OK, UserError, say
from harness.cli.paths import ROOT
from harness.judge.baseline import BaselineError, read_all
from harness.judge.clauses import ClauseError, load_clauses
from harness.judge.offers import names, read_offers
from harness.summary.findings import NAMES, find, page

PAGE = ROOT / "docs" / "findings.md"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "findings",
        parents=[common],
        help="make the page of true deviations of real hypervisors from the baselines",
        description="Prints docs/findings.md as the baselines have it. Exit status 0; with --check 1 if the page that "
        "is there is not the one they give.",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--write", action="store_true", help="write docs/findings.md")
    either.add_argument("--check", action="store_true", help="say whether docs/findings.md is up to date")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Makes the page."""
    text = make(ROOT)
    if args.check:
        same = PAGE.exists() and PAGE.read_text() == text
        say("docs/findings.md is up to date" if same else "docs/findings.md is out of date: ./nsvm findings --write")
        return EXIT_OK if same else EXIT_NEW
    if args.write:
        PAGE.write_text(text)
        print(f"wrote {PAGE.relative_to(ROOT)}")
    else:
        sys.stdout.write(text)
    return EXIT_OK


def make(root: Path) -> str:
    """The page's text. Raises UserError if a baseline is wrong."""
    try:
        clauses = load_clauses(root / "suites")
        collected = collect()
        baselines = root / "baselines"
        found = {name: find(read_all(baselines / f"{name}.toml"), clauses, collected) for name in NAMES}
        usual = {name: read_offers(baselines / f"{name}-on-tcg.toml") for name in NAMES}
        return page(found, {name: names(offers[0].edx) for name, offers in usual.items() if offers})
    except (BaselineError, ClauseError) as error:
        raise UserError(str(error)) from None
