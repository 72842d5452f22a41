"""What a run record says, counted: per target, per bit of Fn8000_000A EDX, per clause. Pure; reports only render it.

The unit of counting is an *outcome*: one parametrised test on one target. Each outcome is in one category:

    new      it deviates and no baseline knows it
    mended   it passes though a baseline says it deviates
    known    it deviates as a baseline says
    passed, skipped
    lost     ERROR or MISS: nothing was learnt about the target

Of those known, the outcomes in which nothing deviates but universal checks are counted apart: one such deviation of an
L0 shows in every test, and would hide what the tests name themselves.

A clause, a bit, a target has the worst of its outcomes. Where a record contradicts itself the worse reading is taken,
and the contradiction is reported: a report must not be calmer than its evidence.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.record import Event
from harness.summary.bits import CORE, BitCell, BitSummary, ClauseSummary
from harness.summary.category import CATEGORIES, Tally, UniversalTally, category
from harness.summary.count import summarise
from harness.summary.machine import Machine, machine_facts
from harness.summary.outcome import NO_CLAUSE, OF_BASELINE, Judged, Outcome
from harness.summary.whole import Deviation, Summary, TargetSummary

__all__ = [
    "CATEGORIES",
    "CORE",
    "NO_CLAUSE",
    "OF_BASELINE",
    "BitCell",
    "BitSummary",
    "ClauseSummary",
    "Deviation",
    "Judged",
    "Machine",
    "Outcome",
    "Summary",
    "Tally",
    "TargetSummary",
    "UniversalTally",
    "category",
    "events_of",
    "machine_facts",
    "summarise",
]


def events_of(events: Iterable[Event], *, routine: bool) -> list[Event]:
    """The boots and restarts (routine), or what else happened to a target."""
    return [e for e in events if (e.what in ("boot", "restart")) is routine]
