"""`nsvm show`: what a test set, field by field, and what came of it in a run."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.anatomy.page import code_text
from harness.cli.console import EXIT_OK, UserError
from harness.cli.one_test import find, find_one, is_named, run_pytest
from harness.cli.render import find_run, run_places
from harness.names import near
from harness.record import FILE_NAME, Evidence, Result, TargetInfo, read
from harness.record.packed import unpack
from harness.svm import VMCB_SIZE, Vmcb
from harness.svm.vmcb_words import whole
from harness.text import block, visible

PAGE_MAX = 400_000
RESULTS_MAX = 8


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "show",
        parents=[common],
        help="print what a test sets: VMCB, intercepts, memory, L1's steps, L2's code; with a RUN what came of it",
        description="Without RUN the test's function is called on a machine that is only pretended, so that no target "
        "is needed: each comparison is taken to hold. With RUN it prints all that the record keeps of a test that "
        "deviated: what was set, what came, and the whole VMCB after the exit. Exit status 0.",
    )
    parser.add_argument("names", nargs="+", metavar="[RUN] TEST", help="a run folder, if any, and a test")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the page."""
    match args.names:
        case [test]:
            lines = pretended(find_one(test))
        case [folder, test]:
            lines = of_run(folder, test)
        case _:
            raise UserError("show takes a test, or a run folder and a test; see ./nsvm show --help")
    print(visible(block("\n".join(lines), PAGE_MAX), keep="\n\t"))
    return EXIT_OK


def pretended(test: str) -> list[str]:
    """What the test sets, seen on a pretended machine. Raises HarnessError."""
    with tempfile.TemporaryDirectory(prefix="nsvm-") as folder:
        out = Path(folder) / "show.jsonl"
        printed = run_pytest([test, "--nsvm-show", str(out)])
        told = [json.loads(line) for line in out.read_text().splitlines()]
    if not told:
        return [test, "", *printed.splitlines()[-3:]]
    shown = told[0]
    lines = [test, *(f"clause {clause}" for clause in shown["clauses"]), ""]
    lines += ["on a pretended machine that offers what the clauses ask for; no target was asked", "", *shown["page"]]
    if shown["expected"]:
        width = max(len(name) for name, _ in shown["expected"])
        lines += ["what is compared:", *(f"  {name:<{width}}  {expected}" for name, expected in shown["expected"])]
    if shown["ended"]:
        lines += ["", f"note: {shown['ended']}"]
    return lines


def of_run(folder: str, name: str) -> list[str]:
    """What a record keeps of the test."""
    if not any((place / FILE_NAME).is_file() or place.name == FILE_NAME for place in run_places(folder)):
        raise UserError(f"{folder}: holds no {FILE_NAME}; to show a test without a run give its name alone")
    path = find_run(folder) / FILE_NAME
    results: list[Result] = []
    names: list[str] = []
    versions: dict[str, str] = {}
    for record in read(path):
        if isinstance(record, TargetInfo):
            versions[record.target] = record.version
        elif isinstance(record, Result):
            names.append(record.test)
            if is_named(record.test, name):
                results.append(record)
    if not results:
        raise UserError(f"{folder}: the run has no test {name}{near(name, names)}")
    with_evidence = [each for each in results if each.evidence]
    lines: list[str] = []
    for result in (with_evidence or results)[:RESULTS_MAX]:
        lines += [*result_text(result, versions.get(result.target, "")), ""]
    left = len(with_evidence or results) - RESULTS_MAX
    if left > 0:
        lines += [f"... and {left} more of {name}; name one", ""]
    if not with_evidence:
        lines += ["The record keeps what was set of tests that deviate only. The test sets:", ""]
        lines += pretended(find(results[0].test)[0])
    return lines


def result_text(result: Result, version: str) -> Iterator[str]:
    """One result with all its evidence."""
    yield result.test
    yield (
        f"{result.verdict}{f' ({result.news})' if result.news not in ('ok', 'skipped') else ''} on {result.target}"
        + (f", {version}" if version else "")
    )
    if result.reason:
        yield result.reason
    for check in result.checks:
        if check.news in ("new", "known", "mended"):
            yield f"clause {check.clause}: {check.verdict} ({check.news}) {check.summary}".rstrip()
            if check.baseline is not None:
                yield f"  baseline: {check.baseline.reason} [{check.baseline.reference}]"
    if result.fresh is not None:
        yield from result.fresh.words
    for evidence in result.evidence:
        yield from _evidence(evidence)
    if result.rerun:
        yield from ("", f"again: {result.rerun}")


def _evidence(evidence: Evidence) -> Iterator[str]:
    yield from ("", evidence.title)
    if evidence.at:
        yield f"  {evidence.at}: {evidence.source}"
    width = max((len(row.name) for row in evidence.rows), default=0)
    for row in evidence.rows:
        meaning = f"   {row.meaning}" if row.meaning else ""
        yield f"  {'ok ' if row.ok else 'NOT'} {row.name:<{width}}  expected {row.expected}  got {row.got}{meaning}"
    setup = evidence.setup
    if setup is not None:
        yield ""
        yield from setup.words(len(setup.steps))
    if evidence.code:
        yield from ("", "L2's code:", *code_text(evidence.code))
    yield from _vmcb(setup.vmcb_after if setup is not None else "")
    yield from _block("last frames", evidence.frames)
    yield from _block("log", evidence.log.splitlines())
    yield from _block("L0", evidence.l0_log.splitlines())


def _vmcb(packed: str) -> Iterator[str]:
    data = unpack(packed, VMCB_SIZE) if packed else None
    if data is None:
        return
    rows = whole(Vmcb(data))
    width = max(len(name) for name, _, _ in rows)
    yield from ("", "the whole VMCB after the last exit, fields that are not 0:")
    for name, value, meaning in rows:
        yield f"  {name:<{width}}  {value}  {meaning}".rstrip()


def _block(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield from ("", f"{title}:", *(f"  {line}" for line in lines))
