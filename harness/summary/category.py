"""The categories in which outcomes are counted, and the sums."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from harness.record import BAD_VERDICTS, LOST_VERDICTS, News, Verdict, worst, worst_news

Category = Literal["new", "mended", "known", "lost", "passed", "skipped"]
CATEGORIES: Final[tuple[Category, ...]] = ("new", "mended", "known", "lost", "passed", "skipped")
"""Worst first."""


def category(verdict: Verdict, news: News) -> Category:
    """The one of CATEGORIES that a verdict and its news are."""
    if verdict in LOST_VERDICTS:
        return "lost"
    if verdict == "SKIP":
        return "skipped"
    if news in ("new", "mended", "known"):
        return news
    return "new" if verdict in BAD_VERDICTS else "passed"


def severity(name: Category) -> int:
    """The place of a category among CATEGORIES: the worst is 0."""
    return CATEGORIES.index(name)


@dataclass(slots=True)
class Tally:
    """Outcomes counted by category, and the worst of them."""

    new: int = 0
    mended: int = 0
    known: int = 0
    universal: int = 0
    """Of those known, where nothing deviates but universal checks: all that the test names itself holds."""
    lost: int = 0
    passed: int = 0
    skipped: int = 0
    verdict: Verdict | Literal[""] = ""
    news: News | Literal[""] = ""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why outcomes were skipped."""

    def add(self, verdict: Verdict, news: News, reason: str = "", *, universal: bool = False) -> None:
        """Count one outcome. `universal`: it is known, and nothing but universal checks deviates in it."""
        match category(verdict, news):
            case "new":
                self.new += 1
            case "mended":
                self.mended += 1
            case "known":
                self.known += 1
                self.universal += universal
            case "lost":
                self.lost += 1
            case "skipped":
                self.skipped += 1
                self.reasons[reason or "no reason given"] += 1
            case _:
                self.passed += 1
        self.verdict = worst(v for v in (self.verdict, verdict) if v)
        self.news = worst_news(n for n in (self.news, news) if n)

    @property
    def tests(self) -> int:
        return self.new + self.mended + self.known + self.lost + self.passed + self.skipped

    @property
    def known_named(self) -> int:
        """Known deviations in what the tests name themselves."""
        return self.known - self.universal

    @property
    def category(self) -> Category | Literal[""]:
        """The worst category in it; "" of nothing. "passed" before "skipped"."""
        return next((name for name in CATEGORIES if getattr(self, name)), "")


@dataclass(slots=True)
class UniversalTally:
    """Over how many VMRUNs a universal clause was judged on one target, and in how many it did not hold."""

    checked: int = 0
    failed: int = 0


def counted(number: int, noun: str) -> str:
    """As in "1 test", "2 tests"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
