"""Tests that cannot be collected: each is a result of its own, with the file, the line and the reason's last line.

A failed report of pytest's carries them; under xdist it travels from the worker to the process that owns the run.
"""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from harness.names import near
from harness.record import Result

REASON = "nsvm_reason"
CLAUSES = "nsvm_clauses"


class CannotRun(Exception):
    """A test that is written wrong: it names what does not exist."""


def add_reason(report: pytest.CollectReport, collector: pytest.Collector, error: BaseException) -> None:
    """Puts file, line and last line of the reason into a report of a collector that failed."""
    setattr(report, REASON, reason_of(error, Path(collector.path), collector.config.rootpath))


def reason_of(error: BaseException, path: Path, root: Path) -> str:
    """`suites/core/test_x.py:12: NameError: name 'x' is not defined`.

    The line is where the collected file itself stood, whoever raised. pytest wraps what importing a file raised.
    """
    cause = error.__cause__ or error
    line: int | None = None
    where = path
    if isinstance(cause, SyntaxError) and cause.filename:
        where, line = Path(cause.filename), cause.lineno
        text = f"{type(cause).__name__}: {cause.msg}"
    else:
        frames = traceback.extract_tb(cause.__traceback__)
        own = [frame for frame in frames if frame.filename == str(path)]
        ours = own or [frame for frame in frames if Path(frame.filename).is_relative_to(root / "suites")]
        if ours:
            where, line = Path(ours[-1].filename), ours[-1].lineno
        text = _last_line(str(cause))
        if not isinstance(cause, pytest.Collector.CollectError | pytest.UsageError | CannotRun):
            text = f"{type(cause).__name__}: {text}" if text else type(cause).__name__
    named = where.relative_to(root) if where.is_relative_to(root) else where
    return f"{named}:{line}: {text}" if line else f"{named}: {text}"


def result_of(report: pytest.CollectReport, target: str, again: str) -> Result:
    """The result that a failed collection is. `again`: the command that runs a target, without a test."""
    reason = getattr(report, REASON, "") or f"{report.nodeid}: {_last_line(str(report.longrepr or 'no reason given'))}"
    return Result(
        test=report.nodeid or "suites",
        target=target,
        verdict="ERROR",
        clauses=list(getattr(report, CLAUSES, ())),
        reason=reason[:600],
        rerun=f"{again} {shlex.quote(report.nodeid)}" if report.nodeid else again,
    )


def refuse(item: pytest.Item, name: str, reason: str, clauses: Sequence[str] = ()) -> None:
    """Reports a test that was collected and cannot be run; the caller takes it out of the run."""
    place = item.location[0], (item.location[1] or 0) + 1
    told = f"{place[0]}:{place[1]}: {reason}"
    # The name is in the text since xdist takes two reports with one text for one.
    report = pytest.CollectReport(nodeid=name, outcome="failed", longrepr=f"{told} ({name})", result=[])
    setattr(report, REASON, told)
    setattr(report, CLAUSES, list(clauses))
    item.config.hook.pytest_collectreport(report=report)


def without_clause(items: Iterable[pytest.Item], known: Iterable[str]) -> dict[str, str]:
    """What is wrong with the clauses of test functions, by function: none, or one that does not exist."""
    there = list(known)
    names = set(there)
    wrong: dict[str, str] = {}
    for item in items:
        ids = clauses_of(item)
        unknown = [name for name in ids if name not in names]
        if not ids:
            wrong[function_of(item)] = "names no clause; see README, how to add a clause"
        elif unknown:
            told = ", ".join(f"{name}{near(name, there)}" for name in unknown)
            wrong[function_of(item)] = f"names no clause that exists: {told}"
    return wrong


def clauses_of(item: pytest.Item) -> list[str]:
    """The clauses that a test names, in its order, each once."""
    return list(dict.fromkeys(str(name) for mark in item.iter_markers("clause") for name in mark.args))


def function_of(item: pytest.Item) -> str:
    """A test's node id without its parameters."""
    name = getattr(item, "originalname", None) or item.name
    return item.nodeid.removesuffix(item.name) + name


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
