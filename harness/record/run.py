"""A whole record in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.record.kinds import (
    ClauseInfo,
    End,
    Event,
    Interrupted,
    Line,
    Problem,
    Result,
    RunStart,
    Scope,
    TargetInfo,
    Universal,
)
from harness.record.reader import read


@dataclass
class Run:
    """A whole run record in memory."""

    start: RunStart | None = None
    clauses: dict[str, ClauseInfo] = field(default_factory=dict)
    targets: list[TargetInfo] = field(default_factory=list)
    scopes: dict[str, Scope] = field(default_factory=dict)
    """By target."""
    results: list[Result] = field(default_factory=list)
    universals: list[Universal] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    interrupted: list[Interrupted] = field(default_factory=list)
    end: End | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the run came to its end by itself or by its user's wish; without an End it was killed."""
        return self.end is not None


def collect(records: Iterable[Line | Problem]) -> Run:
    """Sort records into a Run."""
    run = Run()
    targets: dict[tuple[str, str], TargetInfo] = {}
    for record in records:
        match record:
            case RunStart():
                if run.start is None:
                    run.start = record
                elif run.start.run_id != record.run_id:
                    text = (
                        f"the file holds a second run ({record.run_id!r}); its results are mixed with the first one's"
                    )
                    run.problems.append(Problem(0, text))
            case ClauseInfo():
                run.clauses[record.id] = record
            case TargetInfo():
                targets[record.target, record.worker] = record
            case Scope():
                run.scopes[record.target] = record
            case Result():
                run.results.append(record)
            case Universal():
                run.universals.append(record)
            case Event():
                run.events.append(record)
            case Interrupted():
                run.interrupted.append(record)
            case End():
                run.end = record
            case Problem():
                run.problems.append(record)
    run.targets = list(targets.values())
    return run


def load(path: str | os.PathLike[str]) -> Run:
    """The whole record of a run. Raises OSError if there is no such file."""
    return collect(read(path))
