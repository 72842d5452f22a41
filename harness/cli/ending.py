"""What came of a run: its reports, its summary, and its exit status."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.compare import against, status_of
from harness.cli.console import EXIT_HARNESS, EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED, EXIT_USAGE, say
from harness.cli.merge import worst_status
from harness.cli.pytest_process import LOG_NAME, Ended, note_interruption
from harness.cli.run_folder import short
from harness.record import FILE_NAME, load
from harness.summary import summarise

if TYPE_CHECKING:
    from harness.summary import Summary
    from harness.summary.comparison import Comparison

LOG_WIDTH = 120
PYTEST_INTERRUPTED, PYTEST_INTERNAL, PYTEST_USAGE, PYTEST_NO_TESTS = 2, 3, 4, 5


def tell(
    out: Path,
    ended: Sequence[Ended],
    received: int | None,
    *,
    brief: bool = False,
    raw: bool = False,
    before: Path | None = None,
) -> int:
    """Compares with the run `before`, writes the reports, prints the summary (`brief`: a sentence), and gives the exit
    status.
    """
    if received is not None:
        for end in ended:
            note_interruption(end.folder / FILE_NAME, received)
    problem = _problem(ended)
    record = out / FILE_NAME
    if problem is not None and problem[0] == EXIT_USAGE and received is None:
        if all(not_run(end) for end in ended):
            say(problem[1])
            return EXIT_USAGE
        problem = None  # some were run: the others are MISS in the record, and were named
    if raw and not record.exists():
        return EXIT_OK
    told = _Told()
    if record.exists() and record.stat().st_size:
        told = _report(out, brief=brief, before=before)
    status = _status(record, ended, received, problem, told.status)
    if not brief:
        from reports.brief import last_line

        print(last_line(told.summary, told.against, status), flush=True)
    return status


@dataclass(frozen=True)
class _Told:
    """What the reports said."""

    status: int = EXIT_OK
    summary: Summary | None = None
    against: Comparison | None = None


def _status(
    record: Path, ended: Sequence[Ended], received: int | None, problem: tuple[int, str] | None, reported: int
) -> int:
    """The exit status; says what the reports do not."""
    if received is not None:
        return interrupted_status(received)
    if problem is not None:
        status, text = problem
        say(text)
        return status
    if not record.exists() or (reported == EXIT_OK and any(end.status for end in ended)):
        worst = next((end for end in ended if end.status), ended[0])
        say(
            f"{worst.target}: pytest ended with status {worst.status}, but the record says nothing of it: "
            f"{worst.folder / LOG_NAME}"
        )
        return EXIT_HARNESS
    return reported


def interrupted_status(received: int) -> int:
    """The exit status of a run that a signal ended."""
    return EXIT_INTERRUPTED if received == signal.SIGINT else EXIT_TERMINATED


def _report(out: Path, *, brief: bool, before: Path | None) -> _Told:
    """Compares, renders and prints; the exit status is the record's, or 1 where the comparison shows a regression."""
    from reports import render_all
    from reports.compare import compare_text, verdict_of
    from reports.table import print_summary

    record, html = out / FILE_NAME, out / "index.html"
    status = EXIT_OK
    written = True
    found: Comparison | None = None
    if before is not None:
        try:
            found = against(out, before)
        except OSError as error:
            say(f"the run cannot be compared with {before}: {error}")
            status = EXIT_HARNESS
    try:
        summary: Summary = render_all(out).summary
    except OSError as error:  # what is known is printed all the same
        full = f"the disk is full ({out}): what came after that is not in the record, and there is no report"
        say(full if error.errno == errno.ENOSPC else f"the report cannot be written: {error}")
        summary, status, written = summarise(load(record)), EXIT_HARNESS, False
    if brief:
        print(f"{summary.sentence}. Report: {short(html) if written else 'none'}", flush=True)
        if found is not None:
            print(verdict_of(found), flush=True)
    else:
        print_summary(summary, file=sys.stdout, width=None if sys.stdout.isatty() else LOG_WIDTH)
        if found is not None:
            print(compare_text(found), flush=True)
        where = f"Report: {short(html)} (there, too: junit.xml, summary.json, and the record, {record.name})"
        print(where if written else f"No report. The record: {short(record)}; ./nsvm render {short(out)}", flush=True)
    if found is not None:
        status = worst_status([status, status_of(found)])
    return _Told(worst_status([summary.exit_status, status]), summary, found)


def not_run(end: Ended) -> str:
    """Why a target was not run at all, in one line; "" where it was, or where a signal ended it."""
    if end.status == PYTEST_USAGE:
        return f"pytest: {_said(end.folder, ': error: ', 'ERROR')}"
    if end.status == PYTEST_NO_TESTS and not _has_results(end.folder):
        return "no test was chosen: nothing matches the paths and -k given"
    if end.status == PYTEST_INTERRUPTED and (why := _never_started(end.folder)):
        return why
    return ""


def _problem(ended: Sequence[Ended]) -> tuple[int, str] | None:
    """What went wrong with pytest itself: a status and one line."""
    for end in ended:
        log = end.folder / LOG_NAME
        if end.complaint:
            return EXIT_HARNESS, f"{end.target}: {end.complaint}; its output: {log}"
        if why := not_run(end):
            return EXIT_USAGE, f"{end.target}: {why}"
        if end.status == PYTEST_INTERNAL:
            return EXIT_HARNESS, f"{end.target}: pytest: {_said(end.folder, 'INTERNALERROR')} (all of it: {log})"
        if end.status == PYTEST_INTERRUPTED and (why := _why_interrupted(end.folder)):
            return EXIT_HARNESS, f"{end.target}: {why} (all of it: {log})"
        if end.status < 0:
            return EXIT_HARNESS, f"{end.target}: pytest was killed by {signal.Signals(-end.status).name}"
    return None


def _never_started(folder: Path) -> str:
    """The last reason why a target never booted: it was tried as often as there is sense in; "" if it did boot."""
    try:
        run = load(folder / FILE_NAME)
    except OSError:
        return ""
    tried = [event.detail for event in run.events if event.what == "missing"]
    if not tried or any(event.what == "boot" for event in run.events) or any(info.booted for info in run.targets):
        return ""
    return tried[-1] + (f" (tried {len(tried)} times)" if len(tried) > 1 else "")


def _has_results(folder: Path) -> bool:
    try:
        return bool(load(folder / FILE_NAME).results)
    except OSError:
        return False


def _why_interrupted(folder: Path) -> str:
    """Why pytest ended before its tests were run; "" if it was meant to: `-x`."""
    try:
        run = load(folder / FILE_NAME)
    except OSError:
        return _said(folder, "ERROR", "Exit:", "!!!")
    if run.interrupted:
        return run.interrupted[0].reason
    return "" if run.complete else _said(folder, "ERROR", "Exit:", "!!!")


def _said(folder: Path, *words: str) -> str:
    """The last line of pytest's output that says most."""
    try:
        lines = [line.strip() for line in (folder / LOG_NAME).read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no output"
    for word in words:
        chosen = [line for line in lines if word in line]
        if chosen:
            return chosen[-1].rpartition(": error: ")[2].removeprefix("ERROR: ")[:300]
    return lines[-1][:300] if lines else "no output"
