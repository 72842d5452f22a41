"""`nsvm render`: writes a run's report again from its record."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from harness.cli.console import UserError
from harness.cli.paths import ROOT, RUNS
from harness.record import FILE_NAME, load
from harness.summary import summarise


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
    parser.add_argument(
        "--as", dest="form", choices=("ktap", "kcidb"), help="write nothing, and print the run in this form instead"
    )
    parser.add_argument("--origin", default="nsvm", metavar="NAME", help="with kcidb: who reports (default: nsvm)")
    parser.add_argument("--build", default="", metavar="ID", help="with kcidb: the id of a build that KCIDB knows")
    parser.set_defaults(run=run)


def run_places(text: str) -> tuple[Path, ...]:
    """Where a person may mean that a run is."""
    return Path(text), ROOT / text, RUNS / text


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
    from reports.kcidb import render_kcidb
    from reports.ktap import render_ktap
    from reports.table import print_summary

    if args.form is None and (args.origin != "nsvm" or args.build):
        raise UserError("--origin and --build go with --as kcidb")
    if not re.fullmatch(r"[a-z0-9_]+", args.origin):
        raise UserError(f"--origin {args.origin[:40]}: small letters, digits and _ only")
    if args.build and not args.build.partition(":")[2]:
        raise UserError(f"--build {args.build[:40]}: the id of a build is ORIGIN:NAME")
    if args.form is not None:
        summary = summarise(load(find_run(args.folder) / FILE_NAME))
        text = (
            render_ktap(summary) if args.form == "ktap" else render_kcidb(summary, origin=args.origin, build=args.build)
        )
        print(text, end="", flush=True)
        return summary.exit_status
    rendered = render_all(find_run(args.folder))
    print_summary(rendered.summary, file=sys.stdout)
    if rendered.against is not None:
        print(compare_text(rendered.against))
    print(f"Report: {rendered.html} (junit.xml and summary.json are next to it)")
    print(last_line(rendered.summary, rendered.against, rendered.exit_status), flush=True)
    return rendered.exit_status
