"""Names that somebody misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnknownName(KeyError):
    """A name that does not exist. One line for people, which says which one is near."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # a KeyError shows its text in quotes


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean cr0_read?`, or "" where no known name is near. Upper and lower case are alike."""
    by_fold = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), by_fold, n=1, cutoff=0.6)
    return f"; did you mean {by_fold[found[0]]}?" if found else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """As `near`, or which names there are."""
    there = list(known)
    return near(name, there) or f"; there are {', '.join(sorted(there))}"
