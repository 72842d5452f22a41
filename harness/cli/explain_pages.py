"""The pages of `nsvm explain` about a clause and about a test."""

from __future__ import annotations

import ast
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from harness.cli.coverage import heading, newest_machines
from harness.cli.one_test import function_of
from harness.cli.paths import ROOT
from harness.cli.run_folder import short
from harness.cli.runs import age, newest
from harness.judge.baseline import BaselineError, Deviation, read_all
from harness.judge.clauses import Clause
from harness.judge.trust import TRUST
from harness.record import FILE_NAME, Result, read
from harness.summary.category import counted

WIDTH = 110
PARAMETERS_MAX = 24
TESTS_MAX = 40


def clause_page(clause: Clause, tests: Sequence[str]) -> str:
    """All that is known of a clause."""
    alias = f"   (alias {', '.join(clause.alias)})" if clause.alias else ""
    lines = [f"{clause.id}{alias}", "", *wrapped(clause.statement), ""]
    lines.append(f"source     AMD64 APM volume 2, {clause.apm}")
    lines.append(f"bit        {clause.bit}")
    lines.append(f"class      {clause.class_}")
    if clause.condition:
        lines.append(f"condition  {clause.condition}, judged against the CPUID that L1 sees")
    if clause.universal:
        lines.append("asked      after every VMRUN, whatever the test is about")
    agree = wrapped("; ".join(TRUST.get(word, word) for word in clause.trust), 11, 11)
    lines += [f"agree      {agree[0].strip()}", *agree[1:]]
    for title, text in (("hardware", clause.hardware), ("note", clause.note), ("not tested", clause.not_tested)):
        if text:
            lines += ["", f"{title}:", *wrapped(text, 2, 2)]
    lines += ["", *_tests_lines(clause, tests), "", *_machine_lines(clause), "", *_baseline_lines(clause.id)]
    return "\n".join(lines).rstrip()


def test_page(function: str, tests: Sequence[Mapping[str, Any]], clauses: Mapping[str, Clause]) -> str:
    """What a test function is about. `tests` are its parameter sets that are meant."""
    path, _, name = function.partition("::")
    lines = [function, ""]
    prose, doc, source = _code_of(path, name)
    if prose:
        lines += [*wrapped(prose), ""]
    if doc:
        lines += [*wrapped(doc), ""]
    for clause in dict.fromkeys(each for test in tests for each in test["clauses"]):
        stated = clauses.get(clause)
        lines.append(f"clause {clause}")
        lines += wrapped(f"{stated.statement} (APM {stated.apm})", 2, 2) if stated else []
    ids = [test["test"].removeprefix(function) for test in tests if test["test"] != function]
    if ids:
        shown = ids[:PARAMETERS_MAX]
        more = f" and {len(ids) - len(shown)} more" if len(ids) > len(shown) else ""
        lines += ["", f"{len(ids)} parameter sets:", *wrapped(" ".join(shown) + more, 2, 2)]
    if source:
        lines += ["", *(f"  {line}" for line in source.rstrip().split("\n"))]
    lines += ["", *_result_lines({test["test"] for test in tests})]
    lines += ["", f"./nsvm show '{tests[0]['test']}' prints what it sets; ./nsvm run '{function}' runs it"]
    return "\n".join(lines)


def wrapped(text: str, hang: int = 0, indent: int = 0) -> list[str]:
    """Paragraphs as lines of a terminal."""
    found: list[str] = []
    for paragraph in text.split("\n\n"):
        told = " ".join(paragraph.split())
        found += textwrap.wrap(
            told, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * hang, break_long_words=False
        )
        found.append("")
    return found[:-1]


def _tests_lines(clause: Clause, tests: Sequence[str]) -> list[str]:
    if not tests:
        return ["no test names it" + (", it is asked after each VMRUN of every test" if clause.universal else "")]
    counts = Counter(function_of(test) for test in tests)
    lines = [f"tests ({len(tests)}):"]
    for function, count in list(counts.items())[:TESTS_MAX]:
        lines.append(f"  {function}" + (f"  ({count} parameter sets)" if count > 1 else ""))
    if len(counts) > TESTS_MAX:
        lines.append(f"  ... and {len(counts) - TESTS_MAX} more functions: ./nsvm clauses {clause.id}")
    return lines


def _machine_lines(clause: Clause) -> list[str]:
    machines = newest_machines()
    if not machines:
        return ["machines: runs/ holds no run"]
    lines = ["machines (the newest run of each in runs/):"]
    for machine, head in zip(machines, heading(machines), strict=True):
        cell = machine.cell(clause)
        answers = f", {counted(cell.tests, 'answer')}" if cell.state.ran else f": {cell.why}" if cell.why else ""
        lines += wrapped(f"{head[4:]}: {cell.state.value}{answers}", 6, 2)
    return lines


def _baseline_lines(clause: str) -> list[str]:
    lines: list[str] = []
    for name, entry in baseline_entries():
        if entry.clause == clause:
            versions = f" {entry.versions}" if entry.versions else ""
            where = f" in {', '.join(entry.tests[:3])}{' ...' if len(entry.tests) > 3 else ''}" if entry.tests else ""
            lines += wrapped(f"{name}{versions}: {entry.verdict}{where}", 6, 2)
            lines += [*wrapped(entry.reason, 6, 6), *wrapped(f"[{entry.reference}]", 6, 6)]
    return ["known deviations (baselines/):", *lines] if lines else ["known deviations: none in baselines/"]


def baseline_entries() -> Iterator[tuple[str, Deviation]]:
    """All entries of the baselines, each with its target. A file that is wrong has none here: a run complains of it."""
    for path in sorted((ROOT / "baselines").glob("*.toml")):
        try:
            entries = read_all(path)
        except BaselineError:
            continue
        yield from ((path.stem, entry) for entry in entries)


def _result_lines(tests: set[str]) -> list[str]:
    chosen = newest()
    if not chosen:
        return ["machines: runs/ holds no run"]
    lines = ["machines (the newest run of each in runs/):"]
    for run in {each.folder: each for each in chosen.values()}.values():
        counts: dict[str, Counter[str]] = {}
        reasons: dict[str, str] = {}
        for record in read(run.folder / FILE_NAME, brief=True):
            if isinstance(record, Result) and record.test in tests:
                news = f" ({record.news})" if record.news in ("new", "known", "mended") else ""
                counts.setdefault(record.target, Counter())[record.verdict + news] += 1
                if record.verdict != "PASS":
                    reasons.setdefault(record.target, record.reason)
        for target, found in counts.items():
            told = ", ".join(f"{count} {verdict}" for verdict, count in found.most_common())
            why = f"; {reasons[target][:200]}" if target in reasons else ""
            lines += wrapped(f"{target}: {told}{why}  -- {short(run.folder)}, {age(run.started)}", 6, 2)
    return lines if len(lines) > 1 else ["machines: it is in none of the newest runs in runs/"]


@cache
def _code_of(path: str, name: str) -> tuple[str, str, str]:
    """The prose at the head of a test file, the function's own, and its source with the decorators."""
    try:
        text = Path(ROOT / path).read_text()
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError):
        return "", "", ""
    function = name.rpartition("::")[2]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            source = textwrap.dedent("\n".join(text.split("\n")[first - 1 : node.end_lineno]))
            return ast.get_docstring(tree) or "", ast.get_docstring(node) or "", source
    return ast.get_docstring(tree) or "", "", ""
