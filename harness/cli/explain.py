"""`nsvm explain`: a page about a clause, a test, or a name of the architecture."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from harness.cli import explain_field
from harness.cli.collected import collected
from harness.cli.console import EXIT_OK, UserError
from harness.cli.explain_pages import clause_page, test_page
from harness.cli.one_test import function_of, is_named
from harness.cli.paths import ROOT
from harness.judge.clauses import Clause, ClauseError, load_clauses
from harness.names import near
from harness.text import block

PAGE_MAX = 100_000


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "explain",
        parents=[common],
        help="say what a clause, a test, a VMCB field, an exit code, an MSR or a CPUID bit is about",
        description="Prints a page. Of a clause: its sentence, source, class and condition, who agrees, its tests, the "
        "machines on which it ran and what the baselines know of it. Of a test: its clauses, its prose and its code. "
        "Of a name of the architecture: where it lies and what concerns it. Exit status 2 for an unknown one.",
    )
    parser.add_argument(
        "name",
        help="a clause's id or alias; a test, with or without its file and parameters; a VMCB field, an intercept, an "
        "exit code, an MSR, a bit of CPUID (nrip, EXITINFO1, 58h, NPF, C0000080h, VGIF)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the page, or several where the name means several things."""
    try:
        clauses = load_clauses(ROOT / "suites")
    except ClauseError as error:
        raise UserError(str(error)) from None
    print(block("\n\n".join(pages(args.name, clauses)), PAGE_MAX))
    return EXIT_OK


def pages(name: str, clauses: dict[str, Clause]) -> list[str]:
    """What the name means. Raises UserError where it means nothing."""
    by_alias = {alias.casefold(): each for each in clauses.values() for alias in (each.id, *each.alias)}
    if name.casefold() in by_alias:
        return _clause_pages([by_alias[name.casefold()]])
    found = explain_field.pages(name, clauses, lambda: _counts(collected()))
    if found:
        return found
    ending = [each for each in clauses.values() if each.id.casefold().endswith(f".{name.casefold()}")]
    if ending:
        return _clause_pages(ending)
    tests = collected()
    matching = [test for test in tests if is_named(test["test"], name)]
    if matching:
        functions = dict.fromkeys(function_of(test["test"]) for test in matching)
        return [
            test_page(function, [test for test in matching if function_of(test["test"]) == function], clauses)
            for function in functions
        ]
    known = [
        *by_alias,
        *(each.rpartition(".")[2] for each in clauses),
        *explain_field.names(),
        *(function_of(t["test"]).rpartition("::")[2] for t in tests),
    ]
    raise UserError(
        f"{name}: no clause, test, VMCB field, intercept, exit code, MSR or CPUID bit has this name{near(name, known)}"
    )


def _clause_pages(stated: Iterable[Clause]) -> list[str]:
    tests = collected()
    return [clause_page(one, [test["test"] for test in tests if one.id in test["clauses"]]) for one in stated]


def _counts(tests: list[dict[str, list[str]]]) -> Callable[[str], int]:
    """How many tests name a clause."""
    found: dict[str, int] = {}
    for test in tests:
        for clause in test["clauses"]:
            found[clause] = found.get(clause, 0) + 1
    return lambda clause: found.get(clause, 0)
