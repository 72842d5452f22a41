"""In words: which part of the suites a run was about, so that a part never looks like the whole."""

from __future__ import annotations

from harness.record import Scope
from harness.summary.category import counted


def is_part(scope: Scope) -> bool:
    """Whether it is of less than all suites, or on a machine other than the baseline speaks of."""
    return bool(scope.chosen_by or scope.ended_by or scope.options)


def part(scope: Scope | None, ran: int) -> str:
    """`12 of 4613 tests, chosen by -k asid_zero; --without NRIPS`; "" of a run of everything.

    `ran` is how many tests ended.
    """
    if scope is None:
        return ""
    told = []
    if scope.chosen_by:
        told.append(f"{_of(scope.chosen, scope.there)}, chosen by {' '.join(scope.chosen_by)}")
    if scope.ended_by:
        told.append(f"{ran} of {counted(scope.chosen, 'test')} run, then ended by {scope.ended_by}")
    return "; ".join([*told, *scope.options])


def short(scope: Scope | None, ran: int) -> str:
    """The same for a badge: `12 of 4613 tests`, `with --without NRIPS`; "" of a run of everything."""
    if scope is None:
        return ""
    if scope.ended_by or scope.chosen_by:
        number, there = (ran, scope.there or scope.chosen) if scope.ended_by else (scope.chosen, scope.there)
        return _of(number, there) + ("" if there else " only")
    return " ".join(["with", *scope.options]) if scope.options else ""


def _of(number: int, there: int) -> str:
    return f"{number} of {counted(there, 'test')}" if there else counted(number, "test")
