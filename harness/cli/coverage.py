"""`nsvm coverage`: which clauses ran on which machine, and how; and which never ran."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.cli.console import EXIT_OK, UserError
from harness.cli.paths import ROOT
from harness.cli.render import find_run
from harness.cli.run_folder import short
from harness.cli.runs import age, newest
from harness.judge.clauses import Clause, ClauseError, load_clauses
from harness.record import FILE_NAME, read
from harness.summary.coverage import Coverage, Machine, Row, State, cover, machines_of
from harness.text import line

_SHORT_COLUMNS = (
    ("ran", (State.PASSED, State.KNOWN, State.NEW)),
    ("deviates", (State.KNOWN, State.NEW)),
    ("not offered", (State.NOT_OFFERED,)),
    ("other side", (State.OTHER_SIDE,)),
    ("did not run", (State.SKIPPED, State.LOST, State.NOT_ASKED)),
)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "coverage",
        parents=[common],
        help="say clause by clause on which machines it ran, and which clauses never ran",
        description="Of each clause and machine: passed, deviates, not offered (with the bit that is missing), other "
        "side (the machine has what the clause wants absent), skipped, or not asked. Without RUN the newest run of "
        "each target in runs/ is taken. Exit status 0.",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run folder")
    parser.add_argument("--clause", default="", metavar="TEXT", help="only clauses whose id or alias holds this text")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--short", action="store_true", help="counts for each suite and machine")
    either.add_argument("--never", action="store_true", help="the clauses that never ran, each with the reason")
    either.add_argument("--json", action="store_true", help="as JSON: machines, clauses, never")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reads the runs and prints what they cover."""
    clauses = chosen_clauses(args.clause)
    machines = read_machines([find_run(each) for each in args.runs]) if args.runs else newest_machines()
    if not machines:
        raise UserError("runs/ holds no run; make one with ./nsvm run, or name the folders of runs")
    found = cover(clauses, machines)
    if args.json:
        json.dump(as_json(found), sys.stdout, indent=1)
        print()
        return EXIT_OK
    if not args.never:
        print("\n".join(heading(machines)) + "\n")
    if args.never:
        for row in found.never:
            print(f"{row.clause.id}\n    {line(row.why_never(machines), 1000)}")
    else:
        print("\n".join(_short(found) if args.short else _long(found)))
    print(f"\n{found.sentence}" + ("" if args.never or not found.never else " (--never: which, and why)"))
    return EXIT_OK


def chosen_clauses(text: str = "") -> list[Clause]:
    """The clauses of the suites whose id or alias holds the text. Raises UserError."""
    try:
        every = load_clauses(ROOT / "suites").values()
    except ClauseError as error:
        raise UserError(str(error)) from None
    found = [c for c in every if any(text.lower() in name.lower() for name in (c.id, *c.alias))]
    if not found:
        raise UserError(f"no clause has {text!r} in its id or alias")
    return found


def read_machines(folders: Iterable[Path]) -> list[Machine]:
    """The machines of these runs, in order."""
    return [
        machine
        for folder in dict.fromkeys(folders)
        for machine in machines_of(str(short(folder)), read(folder / FILE_NAME, brief=True))
    ]


def newest_machines() -> list[Machine]:
    """The machine of the newest run of each target in runs/."""
    chosen = newest()
    wanted = {(str(short(run.folder)), name) for name, run in chosen.items()}
    machines = read_machines(run.folder for run in chosen.values())
    return sorted((m for m in machines if (m.run, m.name) in wanted), key=lambda machine: machine.name)


def heading(machines: Sequence[Machine]) -> list[str]:
    """One line for each machine: its column's number, its name, its run and how old that is."""
    lines = []
    for number, machine in enumerate(machines, 1):
        part = f", a part: {machine.part}" if machine.part else ""
        when = age(machine.started)
        told = f"{number:2}  {machine.name}, {machine.version}: {machine.run}, {machine.tests} tests{part}"
        lines.append(line(told + (f", {when}" if when else "")))
    return lines


def _long(found: Coverage) -> list[str]:
    """A row for each clause, a column for each machine."""
    cells = [[line(cell.words, 24) for cell in row.cells] for row in found.rows]
    widths = [max(len(str(n + 1)), *(len(row[n]) for row in cells)) for n in range(len(found.machines))]
    name = max(len(row.clause.id) for row in found.rows)
    head = "  ".join(f"{n + 1:<{width}}" for n, width in enumerate(widths))
    lines = [f"{'':{name}}  {head}".rstrip()]
    for row, words in zip(found.rows, cells, strict=True):
        told = "  ".join(f"{word:<{width}}" for word, width in zip(words, widths, strict=True))
        lines.append(f"{row.clause.id:{name}}  {told}".rstrip())
    return lines


def _short(found: Coverage) -> list[str]:
    """Counts for each suite and machine."""
    lines = []
    suites: dict[str, list[Row]] = {}
    for row in found.rows:
        suites.setdefault(row.suite, []).append(row)
    heads = "  ".join(title for title, _ in _SHORT_COLUMNS)
    for suite, rows in suites.items():
        never = sum(not row.ran for row in rows)
        lines.append(f"{suite}: {len(rows)} clauses, {never} never ran")
        lines.append(f"  {'machine':28}  {heads}")
        for number, machine in enumerate(found.machines):
            states = Counter(row.cells[number].state for row in rows)
            counts = [(title, sum(states[state] for state in kinds)) for title, kinds in _SHORT_COLUMNS]
            told = "  ".join(f"{count:{len(title)}}" for title, count in counts)
            lines.append(f"  {line(machine.name, 28):28}  {told}")
        lines.append("")
    return lines[:-1]


def as_json(found: Coverage) -> dict[str, object]:
    """The machines, each clause on each of them, and those that never ran."""
    machines = [
        {
            "name": m.name, "target": m.target, "options": list(m.options), "version": m.version, "run": m.run,
            "started": m.started, "age": age(m.started), "tests": m.tests, "part": m.part,
        }
        for m in found.machines
    ]  # fmt: skip
    clauses = [
        {
            "id": row.clause.id,
            "condition": row.clause.condition,
            "ran": row.ran,
            "machines": [
                {"machine": m.name, "run": m.run, "state": cell.state.value, "why": cell.why, "tests": cell.tests}
                for m, cell in zip(found.machines, row.cells, strict=True)
            ],
        }
        for row in found.rows
    ]
    never = [{"id": row.clause.id, "why": row.why_never(found.machines)} for row in found.never]
    return {"machines": machines, "clauses": clauses, "never": never, "sentence": found.sentence}
