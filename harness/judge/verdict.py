"""From what a test did to a verdict, clause by clause, and whether that verdict is news. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from harness.judge.baseline import Baseline, Deviation
from harness.judge.comparisons import Place
from harness.judge.expect import Match, Row
from harness.record import News, Verdict, worst, worst_news

_NUMBER = re.compile(r"[0-9.]+")

DEVIATES: Final[tuple[Verdict, ...]] = ("FAIL", "CRASH", "HANG")


@dataclass(frozen=True)
class Attempt:
    """One run of a test's function: its own verdict, and the universal checks that fired meanwhile."""

    verdict: Verdict  # PASS FAIL CRASH HANG SKIP ERROR MISS
    reason: str = ""
    mismatch: Match | None = None  # what the failed assert had compared
    place: Place | None = None  # where that assert stands
    universal: Mapping[str, Match] = field(default_factory=dict)
    frames: tuple[str, ...] = ()
    log: str = ""
    error: BaseException | None = None

    def signature(self) -> tuple[object, ...]:
        """What two attempts must share to be the same: the verdict, each row that differs, and what came in it."""
        own: list[object] = [*_said(differing(self.mismatch))] or [_NUMBER.sub("", self.reason)]
        return self.verdict, *own, *((name, *_said(differing(match))) for name, match in sorted(self.universal.items()))

    def shape(self) -> tuple[object, ...]:
        """The signature without what came, which may be what an earlier test has left behind."""
        own = tuple(row.name for row in differing(self.mismatch))
        return self.verdict, own, tuple(sorted(self.universal))


@dataclass(frozen=True)
class ClauseVerdict:
    """The verdict of one clause in one test."""

    clause: str
    verdict: Verdict
    news: News  # ok, new, known, mended, skipped
    universal: bool
    summary: str
    deviation: Deviation | None = None
    rows: tuple[Row, ...] = ()
    """What differs."""


def judge(
    attempt: Attempt, clauses: Sequence[str], test: str, baseline: Baseline, *, after_others: bool = False
) -> list[ClauseVerdict]:
    """The verdict of each of the test's own clauses, then of each universal clause that fired. `after_others`: the
    attempt was seen in a shared boot, and a fresh one does not show it.
    """
    verdicts = []
    rows = differing(attempt.mismatch)
    for name in clauses:
        if attempt.verdict in DEVIATES:
            known = baseline.known(name, test, attempt.verdict, _said(rows), attempt.reason, after_others=after_others)
            news: News = "known" if known else "new"
            summary = attempt.reason if known else _headline(attempt.reason, rows, baseline, name, test)
            verdicts.append(ClauseVerdict(name, attempt.verdict, news, False, summary, known, rows))
        elif attempt.verdict == "PASS" and (promised := baseline.promised(name, test)):
            verdicts.append(
                ClauseVerdict(name, "PASS", "mended", False, "passes, but the baseline says it deviates", promised)
            )
        else:
            news = "skipped" if attempt.verdict == "SKIP" else "ok"
            verdicts.append(ClauseVerdict(name, attempt.verdict, news, False, attempt.reason))
    for name, match in attempt.universal.items():
        rows = differing(match)
        known = baseline.known(name, test, "FAIL", _said(rows), after_others=after_others)
        summary = _telling(rows[0]) if rows else ""
        summary = summary if known else _headline(summary, rows, baseline, name, test)
        verdicts.append(ClauseVerdict(name, "FAIL", "known" if known else "new", True, summary, known, rows))
    return verdicts


def _headline(reason: str, rows: Sequence[Row], baseline: Baseline, clause: str, test: str) -> str:
    """The reason of a new deviation, with the first row that the baseline does not know in place of the first one."""
    unknown = baseline.news_among(clause, test, _said(rows))
    new = next((row for row in rows if (row.name, row.got) in unknown), None)
    return reason.replace(_telling(rows[0]), _telling(new)) if new is not None else reason


def _telling(row: Row) -> str:
    return f"{row.name}: expected {row.expected}, got {row.got}"


def differing(match: Match | None) -> tuple[Row, ...]:
    """The rows of a comparison that disagree."""
    return () if match is None else tuple(row for row in match.rows if not row.ok)


def _said(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return [(row.name, row.got) for row in rows]


def overall(verdicts: Sequence[ClauseVerdict]) -> tuple[Verdict | Literal[""], News | Literal[""]]:
    """The test's verdict and news: the worst of its clauses'; "" where it has none."""
    return worst(v.verdict for v in verdicts), worst_news(v.news for v in verdicts)


def needs_fresh_boot(verdicts: Sequence[ClauseVerdict]) -> bool:
    """True if a new deviation is among them, which is repeated on a fresh boot before it is reported."""
    return any(v.news == "new" for v in verdicts)
