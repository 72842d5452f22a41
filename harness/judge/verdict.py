"""From what a test did to a verdict, clause by clause, and whether that verdict is news. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from harness.judge.baseline import Baseline, Deviation
from harness.judge.expect import Match
from harness.record import News, Verdict, worst, worst_news

DEVIATES: Final[tuple[Verdict, ...]] = ("FAIL", "CRASH", "HANG")


@dataclass(frozen=True)
class Attempt:
    """One run of a test's function: its own verdict, and the universal checks that fired meanwhile."""

    verdict: Verdict  # PASS FAIL CRASH HANG SKIP ERROR MISS
    reason: str = ""
    mismatch: Match | None = None
    universal: Mapping[str, Match] = field(default_factory=dict)
    frames: tuple[str, ...] = ()
    log: str = ""
    error: BaseException | None = None

    def signature(self) -> tuple[str, tuple[str, ...]]:
        """What two attempts must share to count as the same."""
        return self.verdict, tuple(sorted(self.universal))


@dataclass(frozen=True)
class ClauseVerdict:
    """The verdict of one clause in one test."""

    clause: str
    verdict: Verdict
    news: News  # ok, new, known, mended, skipped
    universal: bool
    summary: str
    deviation: Deviation | None = None


def judge(attempt: Attempt, clauses: Sequence[str], test: str, baseline: Baseline) -> list[ClauseVerdict]:
    """The verdict of each of the test's own clauses, then of each universal clause that fired."""
    verdicts = []
    for name in clauses:
        if attempt.verdict in DEVIATES:
            known = baseline.known(name, test, attempt.verdict, _fields(attempt.mismatch), attempt.reason)
            news: News = "known" if known else "new"
            verdicts.append(ClauseVerdict(name, attempt.verdict, news, False, attempt.reason, known))
        elif attempt.verdict == "PASS" and (promised := baseline.promised(name, test)):
            verdicts.append(
                ClauseVerdict(name, "PASS", "mended", False, "passes, but the baseline says it deviates", promised)
            )
        else:
            news = "skipped" if attempt.verdict == "SKIP" else "ok"
            verdicts.append(ClauseVerdict(name, attempt.verdict, news, False, attempt.reason))
    for name, match in attempt.universal.items():
        known = baseline.known(name, test, "FAIL", _fields(match))
        summary = next((f"{row.name}: expected {row.expected}, got {row.got}" for row in match.rows if not row.ok), "")
        verdicts.append(ClauseVerdict(name, "FAIL", "known" if known else "new", True, summary, known))
    return verdicts


def _fields(match: Match | None) -> list[str]:
    return [] if match is None else [row.name for row in match.rows if not row.ok]


def overall(verdicts: Sequence[ClauseVerdict]) -> tuple[Verdict | Literal[""], News | Literal[""]]:
    """The test's verdict and news: the worst of its clauses'; "" where it has none."""
    return worst(v.verdict for v in verdicts), worst_news(v.news for v in verdicts)


def needs_fresh_boot(verdicts: Sequence[ClauseVerdict]) -> bool:
    """True if a new deviation is among them, which is repeated on a fresh boot before it is reported."""
    return any(v.news == "new" for v in verdicts)
