"""The words of a verdict, as types, and which of several is the worst."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

Verdict = Literal["CRASH", "HANG", "FAIL", "ERROR", "MISS", "PASS", "SKIP"]
News = Literal["new", "mended", "known", "ok", "skipped"]

VERDICTS: Final[tuple[Verdict, ...]] = ("CRASH", "HANG", "FAIL", "ERROR", "MISS", "PASS", "SKIP")
"""Worst first. PASS stands before SKIP: a clause that one test passes and another skips has been judged."""
NEWS: Final[tuple[News, ...]] = ("new", "mended", "known", "ok", "skipped")
"""Worst first."""

BAD_VERDICTS: Final[frozenset[Verdict]] = frozenset({"CRASH", "HANG", "FAIL"})
"""A deviation of the target."""
LOST_VERDICTS: Final[frozenset[Verdict]] = frozenset({"ERROR", "MISS"})


def worst(verdicts: Iterable[Verdict]) -> Verdict | Literal[""]:
    """The worst verdict of them; "" of none. One that is not in VERDICTS counts as ERROR."""
    return min((v if v in VERDICTS else "ERROR" for v in verdicts), key=VERDICTS.index, default="")


def worst_news(news: Iterable[News]) -> News | Literal[""]:
    """The news that most needs a reader; "" of none. One that is not in NEWS counts as new."""
    return min((n if n in NEWS else "new" for n in news), key=NEWS.index, default="")
