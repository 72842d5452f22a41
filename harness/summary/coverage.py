"""Which clauses ran on which machine, and which never ran on any. Pure.

A clause ran where a test that asks it came to an answer. One whose tests were all skipped did not, nor one whose
condition does not hold on the machine: then a test of the other side may have run, and that is another clause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

from harness.judge.clauses import Clause
from harness.record import BAD_VERDICTS, LOST_VERDICTS, Line, Problem, Result, RunStart, Scope, TargetInfo, Universal
from harness.svm.condition import evaluate, features_of
from harness.svm.cpuid import Cpuid
from harness.svm.features import known

PART_MAX = 60
"""So much is shown of what chose the tests."""


class State(Enum):
    """How a clause stands on a machine."""

    PASSED = "passed"
    KNOWN = "deviates"
    NEW = "deviates (new)"
    NOT_OFFERED = "not offered"
    OTHER_SIDE = "other side"
    SKIPPED = "skipped"
    LOST = "no verdict"
    NOT_ASKED = "not asked"

    @property
    def ran(self) -> bool:
        """Whether the machine answered."""
        return self in (State.PASSED, State.KNOWN, State.NEW)


@dataclass(frozen=True, slots=True)
class Cell:
    """One clause on one machine. `why` says in a few words why it did not run; `tests` came to an answer."""

    state: State
    why: str = ""
    tests: int = 0

    @property
    def words(self) -> str:
        """For a narrow column: `passed`, `no NRIPS`, `has NRIPS`."""
        return self.why if self.state in (State.NOT_OFFERED, State.OTHER_SIDE) else self.state.value


@dataclass(slots=True)
class _Tally:
    passed: int = 0
    known: int = 0
    new: int = 0
    failed_checks: int = 0
    """Of a universal clause, also those that only a shared boot showed."""
    lost: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Machine:
    """A target as one run found it. `options` make it another machine than the target alone is (`--without NRIPS`)."""

    target: str
    run: str
    started: str = ""
    version: str = ""
    options: tuple[str, ...] = ()
    chosen_by: tuple[str, ...] = ()
    ended_by: str = ""
    tests: int = 0
    cpuid: Cpuid | None = None
    _tallies: dict[str, _Tally] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`reference --without NRIPS`."""
        return " ".join((self.target, *self.options))

    @property
    def part(self) -> str:
        """By what a part of the tests was chosen, or what ended the run; "" of a run of all."""
        chosen = " ".join(self.chosen_by)
        if len(chosen) > PART_MAX:
            chosen = f"{chosen[:PART_MAX]}…"
        return chosen or (f"ended by {self.ended_by}" if self.ended_by else "")

    def cell(self, clause: Clause) -> Cell:
        """How the clause stands here."""
        tally = self._tallies.get(clause.id, _Tally())
        answered = tally.passed + tally.known + tally.new
        known_ones = tally.known or tally.failed_checks
        for count, state in ((tally.new, State.NEW), (known_ones, State.KNOWN), (tally.passed, State.PASSED)):
            if count:
                return Cell(state, tests=answered or count)
        absent, there = self._against(clause.condition)
        if absent:
            return Cell(State.NOT_OFFERED, f"no {', '.join(absent)}")
        if there:
            return Cell(State.OTHER_SIDE, f"has {', '.join(there)}")
        if tally.lost:
            return Cell(State.LOST, "the target or the harness was lost over each of its tests")
        if tally.skipped:
            return Cell(State.SKIPPED, "; ".join(reason for reason, _ in tally.skipped.most_common(2)))
        if clause.universal:
            return Cell(State.NOT_ASKED, "no VMRUN gave it an occasion")
        return Cell(State.NOT_ASKED, f"not among the tests of {self.part}" if self.part else "no test of it ran")

    def _against(self, condition: str) -> tuple[list[str], list[str]]:
        """Features whose absence, or presence, makes the condition not hold here; both empty where it holds."""
        cpuid = self.cpuid
        if not condition or cpuid is None or cpuid.evaluate_condition(condition)[0]:
            return [], []
        named = sorted(features_of(condition))
        alone = [name for name in named if _holds_flipped(cpuid, condition, name)] or named
        return [n for n in alone if not cpuid.has(n)], [n for n in alone if cpuid.has(n)]


def _holds_flipped(cpuid: Cpuid, condition: str, name: str) -> bool:
    """Whether the condition would hold if this one feature were otherwise."""
    return evaluate(condition, lambda each: cpuid.has(each) != (known(each).name == name), str)[0]


def machines_of(run: str, records: Iterable[Line | Problem]) -> list[Machine]:
    """The machines of a record, each with what it answered. `run` is what a person calls the run."""
    found: dict[str, Machine] = {}
    started = ""

    def machine(target: str) -> Machine:
        return found.setdefault(target, Machine(target, run))

    for record in records:
        match record:
            case RunStart():
                started = started or record.started
            case TargetInfo():
                here = machine(record.target)
                here.version = here.version or record.version
                with suppress(ValueError):  # a damaged record
                    here.cpuid = here.cpuid or _cpuid_of(record)
            case Scope():
                here = machine(record.target)
                here.options, here.chosen_by = tuple(record.options), tuple(record.chosen_by)
                here.ended_by = record.ended_by
            case Result():
                _count(machine(record.target), record)
            case Universal():
                tally = machine(record.target)._tallies.setdefault(record.clause, _Tally())
                tally.passed += max(0, record.checked - record.failed)
                tally.failed_checks += record.failed
    for each in found.values():
        each.started = started
    return list(found.values())


def _cpuid_of(info: TargetInfo) -> Cpuid | None:
    leaves = {(leaf, sub): (eax, ebx, ecx, edx) for leaf, sub, eax, ebx, ecx, edx in info.cpuid}
    return Cpuid(leaves) if leaves else None


def _count(machine: Machine, result: Result) -> None:
    machine.tests += 1
    judged = {check.clause: (check.verdict, check.news, check.summary) for check in result.checks}
    for clause in result.clauses:
        judged.setdefault(clause, (result.verdict, result.news, result.reason))
    for clause, (verdict, news, reason) in judged.items():
        tally = machine._tallies.setdefault(clause, _Tally())
        if verdict == "SKIP":
            tally.skipped[reason or result.reason or "no reason given"] += 1
        elif verdict in LOST_VERDICTS:
            tally.lost += 1
        elif verdict in BAD_VERDICTS:
            tally.known += news == "known"
            tally.new += news != "known"
        else:
            tally.passed += 1


@dataclass(frozen=True, slots=True)
class Row:
    """One clause on all machines, in their order."""

    clause: Clause
    cells: tuple[Cell, ...]

    @property
    def ran(self) -> bool:
        """Whether any machine answered."""
        return any(cell.state.ran for cell in self.cells)

    @property
    def suite(self) -> str:
        """The first part of the clause's name."""
        return self.clause.id.partition(".")[0]

    def why_never(self, machines: Sequence[Machine]) -> str:
        """Why no machine answered, in one line."""
        if self.clause.not_tested:
            return f"no test: {self.clause.not_tested}"
        by_why: dict[tuple[State, str], list[str]] = {}
        for machine, cell in zip(machines, self.cells, strict=True):
            by_why.setdefault((cell.state, cell.why), []).append(machine.name)
        told = [f"{_told(state, why)} ({', '.join(names)})" for (state, why), names in by_why.items()]
        condition = f"asks for {self.clause.condition}; " if self.clause.condition else ""
        return condition + ("; ".join(told) or "there is no run")


def _told(state: State, why: str) -> str:
    match state:
        case State.OTHER_SIDE:
            return f"only its other side can run: {why}"
        case State.NOT_OFFERED:
            return f"not offered: {why}"
        case State.SKIPPED:
            return f"skipped: {why}"
    return why


@dataclass(frozen=True, slots=True)
class Coverage:
    """All clauses on some machines."""

    machines: tuple[Machine, ...]
    rows: tuple[Row, ...]

    @property
    def never(self) -> list[Row]:
        """Clauses that no machine answered; those that say why no test asks them are among them."""
        return [row for row in self.rows if not row.ran]

    @property
    def sentence(self) -> str:
        """`41 of 723 clauses never ran on any machine: 34 have no test and say why, 7 ...`."""
        counts = Counter(_kind(row) for row in self.never)
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: -item[1]))
        total = f"{sum(counts.values())} of {len(self.rows)} clauses never ran on any of these machines"
        return f"{total}: {told}" if told else total


def _kind(row: Row) -> str:
    states = {cell.state for cell in row.cells}
    if row.clause.not_tested:
        return "have no test and say why"
    if not states or states == {State.NOT_ASKED}:
        return "were not asked in these runs"
    if State.OTHER_SIDE in states and State.NOT_OFFERED not in states:
        return "want absent what all of them have"
    if State.NOT_OFFERED in states:
        return "need what none of them offers"
    return "were skipped or got no verdict"


def cover(clauses: Iterable[Clause], machines: Sequence[Machine]) -> Coverage:
    """Each clause on each machine."""
    rows = [Row(each, tuple(machine.cell(each) for machine in machines)) for each in clauses]
    return Coverage(tuple(machines), tuple(rows))
