"""The run in a terminal: what is new and how to run it again, the bits one by one, and the verdict last.

Plain text of 80 columns when the output is no terminal; what came from a target cannot send it escape sequences.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.summary import Deviation, Summary, TargetSummary
from harness.text import line

PLAIN_WIDTH = 80
DEVIATIONS_MAX = 12
LOST_MAX = 8
NUMBER_DIGITS = 4
_STYLES = {
    "PASS": "green",
    "FAIL": "red",
    "CRASH": "bold red",
    "HANG": "magenta",
    "SKIP": "dim",
    "ERROR": "yellow",
    "MISS": "yellow",
    "new": "bold red",
    "mended": "blue",
    "known": "",
}


def render_table(summary: Summary, *, width: int = PLAIN_WIDTH, colour: bool = False) -> str:
    """The same as text, with ANSI colours if asked."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    )
    for target in summary.targets:
        _print_target(console, summary, target)
    for title, wanted in (("New deviations", "new"), ("Mended", "mended")):
        _print_deviations(console, title, [d for d in summary.deviations if d.category == wanted], summary)
    _print_lost(console, summary)
    _print_record(console, summary)
    console.print(Text(line(summary.sentence, 2000) + "."), style="bold", soft_wrap=True)
    return "".join(f"{text.rstrip()}\n" for text in out.getvalue().splitlines())


def print_summary(
    summary: Summary, file: TextIO | None = None, *, width: int | None = None, colour: bool | None = None
) -> None:
    """Print it on `file` (standard output). Width and colour are the terminal's; NO_COLOR is heeded."""
    file = file or sys.stdout
    terminal = file.isatty()
    if colour is None:
        colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if width is None:
        width = max(PLAIN_WIDTH, shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns) if terminal else PLAIN_WIDTH
    text = render_table(summary, width=width, colour=colour)
    encoding = getattr(file, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        text = text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")
    file.write(text)
    file.flush()


_ASCII = str.maketrans({"\u2500": "-", "\u2501": "-", "\u2026": "...", "\u2013": "-", "\u2014": "-"})


def _print_target(console: Console, summary: Summary, target: TargetSummary) -> None:
    for machine in target.machines:
        facts = machine.facts
        about = [machine.info.version, facts.get("Vendor", ""), facts.get("Processor brand", "")]
        if machine.info.booted:
            about.append(f"Fn8000_000A EDX {machine.info.edx:08X}h")
        told = "; ".join(line(a, 120) for a in about if a and a != "none")
        console.print(Text(f"{line(target.name, 60)}: {told}"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, show_edge=False)
    table.add_column("bit", justify="right", no_wrap=True, min_width=3)
    table.add_column("name", no_wrap=True, overflow="ellipsis", max_width=24)  # alone gives way where room is short
    table.add_column("offer", no_wrap=True, min_width=5)
    apart = target.tally.universal > 0
    for title in ("tests", "pass", *(("univ",) if apart else ()), "known", "new", "mend", "skip", "lost"):
        table.add_column(title, justify="right", no_wrap=True, min_width=max(len(title), NUMBER_DIGITS))
    table.add_column("verdict", no_wrap=True, min_width=len("CRASH mended"))
    unasked = 0
    for bit in summary.bits:
        cell = bit.cells[target.name]
        if not cell.tally.tests:
            unasked += bool(bit.clauses)
            continue
        tally = cell.tally
        universal = ((tally.universal, ""),) if apart else ()
        numbers = (
            (tally.tests, ""), (tally.passed, ""), *universal, (tally.known_named, ""), (tally.new, "bold red"),
            (tally.mended, "blue"), (tally.skipped, ""), (tally.lost, "yellow"),
        )  # fmt: skip
        table.add_row(
            "" if bit.bit is None else str(bit.bit),
            Text(line(bit.title if bit.bit is None and bit.title else bit.key, 60)),
            {None: "" if bit.bit is None else "?", True: "yes", False: "no"}[cell.offered],
            *(Text(str(n), style=style if n else "dim") for n, style in numbers),
            _verdict(cell.verdict, cell.category),
        )
    console.print(table)
    if apart:
        text = "univ: known deviations of universal checks only; what these tests name themselves holds."
        console.print(Text(text), style="dim")
    if unasked:
        rows = "One row has" if unasked == 1 else f"{unasked} rows have"
        console.print(Text(f"{rows} clauses, and no test of them in this run."), style="dim")
    offered = [b for b in summary.bits if b.bit is not None and not b.clauses and b.cells[target.name].offered]
    if offered:
        told = ", ".join(f"{b.bit} {b.key}" for b in offered)
        console.print(Text(f"Offered, but no clauses yet: {told}"), style="yellow")
    console.print()


def _verdict(verdict: str, category: str) -> Text:
    text = Text(verdict or "not run", style=_STYLES.get(verdict, "dim"))
    if category in ("new", "mended", "known"):
        text.append(f" {category}", style=_STYLES[category])
    return text


def _print_deviations(console: Console, title: str, deviations: list[Deviation], summary: Summary) -> None:
    if not deviations:
        return
    console.print(Text(f"{title} ({len(deviations)})"), style="bold")
    for deviation in deviations[:DEVIATIONS_MAX]:
        clause = deviation.clause.info
        where = f" on {line(deviation.target, 60)}" if len(summary.targets) > 1 else ""
        head = Text("  ")
        head.append(deviation.word, style=_STYLES.get(deviation.verdict, ""))
        head.append(f" {line(clause.id, 120)}{where}", style="bold")
        more = len(deviation.judged) - 1
        head.append(f" ({line(clause.apm, 40)})" if clause.apm else "")
        console.print(head, soft_wrap=True)
        if clause.statement:
            _indented(console, line(clause.statement, 400))
        first = deviation.judged[0]
        if first.summary and deviation.category == "new":
            _indented(console, line(first.summary, 300))
        for known in deviation.baselines[:1] if deviation.category == "mended" else ():
            _indented(console, f"the baseline says: {line(known.reason, 300)}")
        console.print(
            Text(f"    {line(first.outcome.test, 300)}" + (f" and {more} more" if more else "")), soft_wrap=True
        )
        if first.after_others and first.outcome.result.fresh:
            for text in first.outcome.result.fresh.words:
                console.print(Text(f"    {line(text, 300)}"), soft_wrap=True)
        if first.outcome.result.rerun:
            console.print(Text(f"    {line(first.outcome.result.rerun, 400)}"), soft_wrap=True)
    if len(deviations) > DEVIATIONS_MAX:
        console.print(f"  and {len(deviations) - DEVIATIONS_MAX} more: see the report")
    console.print()


def _indented(console: Console, text: str) -> None:
    for part in Text(text).wrap(console, console.width - 4):
        console.print(Text("    ") + part)


def _print_lost(console: Console, summary: Summary) -> None:
    lost = [o for o in summary.outcomes if o.category == "lost"]
    if not lost:
        return
    console.print(Text(f"Without a verdict ({len(lost)})"), style="bold")
    for outcome in lost[:LOST_MAX]:
        text = f"  {outcome.verdict} {line(outcome.test, 300)}: {line(outcome.result.reason, 200)}"
        console.print(Text(text), soft_wrap=True)
    if len(lost) > LOST_MAX:
        console.print(f"  and {len(lost) - LOST_MAX} more: see the report")
    console.print()


def _print_record(console: Console, summary: Summary) -> None:
    told = [f"Interrupted: {i.reason}" for i in summary.run.interrupted]
    if summary.cut_short:
        told.append("The record has no end: the run was killed, or is still going.")
    told += [p.text for p in summary.run.problems if p.grave]
    told += summary.contradictions
    for text in told[:10]:
        console.print(Text(f"! {line(text, 300)}"), style="yellow", soft_wrap=True)
    if len(told) > 10:
        console.print(f"! and {len(told) - 10} more")
    differ = [o for o in summary.outcomes if o.fresh_differs or o.after_others]
    if differ:
        one = "One test" if len(differ) == 1 else f"{len(differ)} tests"
        console.print(Text(f"{one} came out otherwise on a fresh boot:"))
        for outcome in differ[:LOST_MAX]:
            fresh = outcome.result.fresh
            said = line(fresh.words[0] if fresh and fresh.words else "", 300)
            _indented(console, f"{line(outcome.test, 300)}: {said}")
        if len(differ) > LOST_MAX:
            console.print(f"  and {len(differ) - LOST_MAX} more: see the report")
    if told or differ:
        console.print()
