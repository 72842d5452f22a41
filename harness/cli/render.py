"""`nsvm render`: writes a run's report again from its record."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.cli.console import UserError
from harness.cli.paths import ROOT
from harness.record import FILE_NAME


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "render",
        parents=[common],
        help="write a run's report again from its record",
        description="Reads RUN/run.jsonl, writes index.html, junit.xml and summary.json next to it and prints the "
        "summary. The exit status is the run's.",
    )
    parser.add_argument("folder", metavar="RUN", help="a run folder, for example runs/latest")
    parser.set_defaults(run=run)


def run_places(text: str) -> tuple[Path, ...]:
    """Where a person may mean that a run is."""
    return Path(text), ROOT / text, ROOT / "runs" / text


def find_run(text: str) -> Path:
    """The folder of a run: as given, below runs/, or the folder of a record; raises UserError."""
    for folder in run_places(text):
        if folder.name == FILE_NAME and folder.is_file():
            folder = folder.parent
        if (folder / FILE_NAME).is_file():
            return folder.absolute()
    raise UserError(f"{text}: holds no {FILE_NAME}; give the folder of a run, for example runs/latest")


def run(args: argparse.Namespace) -> int:
    """Renders one run."""
    from reports import render_all
    from reports.brief import last_line
    from reports.compare import compare_text
    from reports.table import print_summary

    rendered = render_all(find_run(args.folder))
    print_summary(rendered.summary, file=sys.stdout)
    if rendered.against is not None:
        print(compare_text(rendered.against))
    print(f"Report: {rendered.html} (junit.xml and summary.json are next to it)")
    print(last_line(rendered.summary, rendered.against, rendered.exit_status), flush=True)
    return rendered.exit_status
