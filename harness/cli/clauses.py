"""`nsvm clauses`: what is claimed, on whose authority, and which tests check it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.cli.console import EXIT_NEW, EXIT_OK, HarnessError, UserError
from harness.cli.paths import ROOT
from harness.judge.clauses import Clause, ClauseError, load_clauses, load_dropped
from harness.trace.file import SUFFIX, TraceError, read_header

COLLECT_DEADLINE_S = 180


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "clauses",
        parents=[common],
        help="list the clauses with their source, their trust and the tests that check them",
        description="Lists every clause of the suites. Exit status 1 if a clause has no test or a test no clause.",
    )
    parser.add_argument("match", nargs="?", default="", help="only clauses whose id or alias holds this text")
    parser.add_argument(
        "--json", action="store_true", help="as JSON: clauses, clauses_without_test, tests_without_clause"
    )
    parser.add_argument("--short", action="store_true", help="one line for each")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Lists them and judges whether the two sides fit."""
    try:
        clauses = load_clauses(ROOT / "suites")
        undecided = _undecided(clauses.values())
    except ClauseError as error:
        raise UserError(str(error)) from None
    tests = collect()
    hardware = _hardware(ROOT / "traces")
    checking: dict[str, list[str]] = {name: [] for name in clauses}
    without_clause = []
    for entry in tests:
        known = [name for name in entry["clauses"] if name in clauses]
        if not known:
            without_clause.append(str(entry["test"]))
        for name in known:
            checking[name].append(str(entry["test"]))
    open_ones = {name for name, c in clauses.items() if not c.universal and not c.not_tested}
    without_test = [name for name, found in checking.items() if not found and name in open_ones]
    tested_all_the_same = [name for name, found in checking.items() if found and clauses[name].not_tested]
    wanted = [c for c in clauses.values() if any(args.match.lower() in text.lower() for text in (c.id, *c.alias))]
    if args.match and not wanted:
        raise UserError(f"no clause has {args.match!r} in its id or alias")
    if args.json:
        told = {
            "clauses": [_as_json(c, checking[c.id], hardware.get(c.id, [])) for c in wanted],
            "clauses_without_test": without_test,
            "tests_without_clause": without_clause,
            "not_tested_but_has_tests": tested_all_the_same,
            "drafted_and_undecided": undecided,
        }
        json.dump(told, sys.stdout, indent=1)
        print()
    else:
        for c in wanted:
            print(_line(c, checking[c.id]) if args.short else _text(c, checking[c.id], hardware.get(c.id, [])))
        _print_list("clauses without a test", without_test)
        _print_list("tests without a clause", without_clause)
        _print_list("clauses that say why no test asks them, and have one", tested_all_the_same)
        if not args.match:
            _print_list("drafted clauses that nobody has decided", _in_lines(undecided))
        universal = sum(c.universal for c in clauses.values())
        not_tested = sum(bool(c.not_tested) for c in clauses.values())
        print(
            f"{len(clauses)} clauses ({universal} of them checked after every VMRUN), {len(tests)} tests; "
            f"{len(without_test)} clauses without a test, {len(without_clause)} tests without a clause; "
            f"{not_tested} clauses say why no test asks them; {len(undecided)} drafted clauses are not decided"
        )
    return EXIT_NEW if without_test or without_clause or tested_all_the_same else EXIT_OK


def _hardware(folder: Path) -> dict[str, list[str]]:
    """By clause, what the traces of silicon below that folder say of it. Raises UserError."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            header = read_header(path)
        except TraceError as error:
            raise UserError(str(error)) from None
        for clause, (agree, contradict) in header.witnesses.items() if header.silicon else ():
            told = f"{header.cpu} contradicts it in {contradict} of {agree + contradict}" if contradict else header.cpu
            found.setdefault(clause, [])
            if told not in found[clause]:
                found[clause].append(told)
    return found


def _undecided(clauses: Iterable[Clause]) -> list[str]:
    """The ids of suites/drafted-clauses.txt that no clause has as an alias and no [[dropped]] table names."""
    path = ROOT / "suites" / "drafted-clauses.txt"
    drafted = path.read_text().split() if path.exists() else []
    decided = {alias for c in clauses for alias in c.alias}
    decided |= {alias for one in load_dropped(ROOT / "suites") for alias in one.alias}
    return [each for each in drafted if each not in decided]


def _in_lines(names: list[str], a_line: int = 12) -> list[str]:
    return [" ".join(names[at : at + a_line]) for at in range(0, len(names), a_line)]


NOTHING_RAN = 5
"""The status of a pytest that collects and, as it was asked to, runs nothing."""


def collect(deadline_s: float = COLLECT_DEADLINE_S) -> list[dict[str, Any]]:
    """All tests of the suites with the clauses they name, as pytest collects them; raises HarnessError."""
    with tempfile.TemporaryDirectory(prefix="nsvm-") as folder:
        listing = Path(folder) / "tests.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "suites",
            "-q",
            "-p",
            "no:cacheprovider",
            "--nsvm-list",
            str(listing),
        ]
        try:
            done = subprocess.run(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline_s
            )
        except subprocess.TimeoutExpired:
            raise HarnessError(f"collecting the tests was not done after {deadline_s} s") from None
        if not listing.exists() or done.returncode not in (0, NOTHING_RAN):
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raised = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")][-1:]
            where = [line.removeprefix("ERROR").strip(": ") for line in lines if line.startswith("ERROR")][-1:]
            complaint = ": ".join([*where, *raised]) or (lines[-1] if lines else "no output")
            raise HarnessError(f"the suites cannot be collected: {complaint[:300]}")
        read: list[dict[str, Any]] = json.loads(listing.read_text())
        return read


def _functions(tests: Iterable[str]) -> dict[str, int]:
    """Test functions, and how many parameter sets each has."""
    found: dict[str, int] = {}
    for test in tests:
        function = test.partition("[")[0]
        found[function] = found.get(function, 0) + 1
    return found


def _as_json(c: Clause, tests: list[str], hardware: list[str]) -> dict[str, object]:
    return {
        "id": c.id,
        "alias": list(c.alias),
        "bit": c.bit,
        "statement": c.statement,
        "apm": c.apm,
        "class": c.class_,
        "condition": c.condition,
        "trust": list(c.trust),
        "hardware": c.hardware,
        "witnessed": hardware,
        "note": c.note,
        "universal": c.universal,
        "not_tested": c.not_tested,
        "tests": tests,
    }


def _line(c: Clause, tests: list[str]) -> str:
    checked = (
        "every VMRUN"
        if c.universal
        else "not tested"
        if c.not_tested
        else f"{len(tests)} tests"
        if len(tests) != 1
        else "1 test"
    )
    return f"{c.id:50} {c.bit:14} {', '.join(c.alias):10} {checked:12} {c.apm}"


def _text(c: Clause, tests: list[str], hardware: list[str]) -> str:
    alias = f" ({', '.join(c.alias)})" if c.alias else ""
    lines = [f"{c.id}{alias}", f"    {c.statement}"]
    facts = [f"bit {c.bit}", c.class_, *([f"where {c.condition}"] if c.condition else [])]
    lines.append(f"    source: {c.apm}; trust: {', '.join(c.trust)}; {', '.join(facts)}")
    if c.hardware:
        lines.append(f"    hardware: {c.hardware}")
    lines += [f"    hardware: {each}" for each in hardware]
    if c.note:
        lines.append(f"    note: {c.note}")
    if c.universal:
        lines.append("    checked after every VMRUN")
    for function, count in _functions(tests).items():
        lines.append(f"    test: {function}" + (f" ({count} parameter sets)" if count > 1 else ""))
    if c.not_tested:
        lines.append(f"    not tested: {c.not_tested}")
    elif not tests and not c.universal:
        lines.append("    NO TEST")
    return "\n".join(lines) + "\n"


def _print_list(title: str, names: list[str]) -> None:
    if names:
        print(f"{title}:")
        for name in names:
            print(f"    {name}")
