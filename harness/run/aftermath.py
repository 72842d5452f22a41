"""A deviation that only a shared boot shows: after which of the tests before it?

What a boot ran is data: it is run again in order on a fresh boot, then ever less of it, found by halving.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from harness.link.session import ExecutorRefused, Past, Session, TargetLost

TRIES_MAX = 32
"""Boots that one deviation may take."""
SEARCH_S = 120.0
"""How long one search may take, and"""
SEARCHES_S = 600.0
"""how long all those of a worker: an L0 that keeps much behind must not make a run endless."""
NAMED_MAX = 16

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """The fewest earlier tests that were found; `shown`: it was seen again at all; `whole`: no less shows it."""

    tests: Sequence[str]
    shown: bool
    whole: bool
    tries: int


class Spent(Exception):
    """The search may take no more boots, or no more time."""


def fewest(earlier: Sequence[T], shows: Callable[[Sequence[T]], bool]) -> tuple[list[T], bool, bool]:
    """The fewest of `earlier`, in order, after which `shows` is true; whether it was ever, and whether no less is.

    `shows` raises Spent to end the search: what is left then is the answer.
    """
    rest = list(earlier)
    needed: list[T] = []
    left = rest
    try:
        if not shows(left):
            return left, False, False
        while rest and not (needed and shows(needed)):
            # The shortest end of the rest that shows it begins with one that it needs.
            without, enough = 0, len(rest)
            while enough - without > 1:
                half = (without + enough) // 2
                if shows([*needed, *rest[-half:]]):
                    enough = half
                    left = [*needed, *rest[-half:]]
                else:
                    without = half
            needed, rest = [*needed, rest[-enough]], rest[len(rest) - enough + 1 :]
    except Spent:
        return left, True, False
    return needed, True, True


class Aftermath:
    """Searches on one worker's target, within what all of them together may take."""

    def __init__(self) -> None:
        self._left_s = SEARCHES_S

    def search(self, session: Session, history: Iterable[Past], shows: Callable[[], bool]) -> Found | None:
        """After which tests of `history` (in order) `shows`, which runs the test once more, is true; None if there is
        no time left for it. Leaves a boot behind that must not be used.
        """
        tests = [list(each) for _, each in groupby(history, key=lambda past: past.test)]
        if self._left_s <= 0 or not tests:
            return None
        started = time.monotonic()
        deadline = started + min(SEARCH_S, self._left_s)
        tries = 0

        def after(some: Sequence[list[Past]]) -> bool:
            nonlocal tries
            if tries and (tries >= TRIES_MAX or time.monotonic() > deadline):
                raise Spent
            tries += 1
            session.restart("what ran before is run again")
            return _run_again(session, [past for test in some for past in test]) and shows()

        left, shown, whole = fewest(tests, after)
        self._left_s -= time.monotonic() - started
        return Found([test[0].test for test in left], shown, whole, tries)


def _run_again(session: Session, pasts: Sequence[Past]) -> bool:
    """False if the target was lost over it."""
    for past in pasts:
        session.test = past.test
        try:
            session.run(past.scenario, past.deadline_s)
        except TargetLost:
            return False
        except ExecutorRefused:
            continue
    return True


def in_words(found: Found | None, before: int) -> str:
    """What came of a search, for people."""
    tests = f"{before} earlier test" + "s" * (before != 1)
    if found is None:
        return f"not searched: after {tests} of its boot"
    if not found.shown:
        return f"flaky: not seen again after the {tests} of its boot"
    more = "" if found.whole else f"; the search ended after {found.tries} boots, it may be fewer"
    return f"seen again after {len(found.tests)} of the {tests} of its boot{more}"
