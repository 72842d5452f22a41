"""`python -m reports RUNDIR`: render the reports of a run again from its record."""

from __future__ import annotations

import argparse
import sys

from harness.record import FILE_NAME
from reports import render_all
from reports.table import print_summary


def main(argv: list[str] | None = None) -> int:
    """Returns the run's exit status (0, 1 or 3), or 2 when there is nothing to read."""
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    parser.add_argument("run_dir", metavar="RUNDIR", help=f"the directory that holds {FILE_NAME}")
    parser.add_argument("--html", metavar="PATH", help="where the page goes (RUNDIR/index.html)")
    parser.add_argument("--junit", metavar="PATH", help="where the JUnit XML goes (RUNDIR/junit.xml)")
    parser.add_argument("--quiet", action="store_true", help="print no table")
    options = parser.parse_args(argv)
    try:
        done = render_all(options.run_dir, html=options.html or True, junit=options.junit or True)
    except OSError as error:
        print(f"reports: {error}", file=sys.stderr)
        return 2
    if not options.quiet:
        print_summary(done.summary)
        for path in (done.html, done.junit):
            print(path)
    return done.exit_status


if __name__ == "__main__":
    sys.exit(main())
