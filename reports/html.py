"""The page: one self-contained HTML file. The template lays out; here its text is chosen, bounded and made harmless.

Whatever came over a console is escaped (jinja2 autoescape), shows its control characters, and has a bounded length.
The page needs no script to be read: the one it has filters the clause tables, and the page's policy admits no other.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.record import BAD_VERDICTS, News, Verdict
from harness.summary import (
    BitSummary,
    ClauseSummary,
    Judged,
    Summary,
    events_of,
)
from harness.summary.comparison import Comparison
from reports.compare import groups
from reports.page import digest, environment, raw, split_param
from reports.shown import shown_deviations, vmcb_rows

EVENTS_MAX = 200
TESTS_LISTED_MAX = 400

TRUST = (
    ("APM", "AMD64 Architecture Programmer's Manual, volume 2: the text states it or directly implies it"),
    ("KVM", "Linux KVM source (KVM61: 6.1; KVMn: newer)"),
    ("XEN", "Xen source"),
    ("KUT", "kvm-unit-tests"),
    ("KST", "Linux KVM selftests"),
    ("XTF", "Xen Test Framework"),
    ("BOCHS", "Bochs source"),
    ("QEMU", "QEMU TCG source"),
    ("VBOX", "VirtualBox IEM source"),
    ("BHYVE", "bhyve source"),
)

CLASSES = {
    "mandatory": "mandatory",
    "conditional": "holds under its condition",
    "any-of": "one of several outcomes is right",
    "implementation-defined": "implementation-defined: what is seen is recorded, nothing fails",
    "survive": "any outcome is right as long as L0 survives",
    "reserved-unpredictable": "unpredictable: any outcome is right as long as L0 survives",
}

NEWS_TEXT = {"new": "new", "known": "known", "mended": "mended", "ok": "", "skipped": ""}

VERDICT_TEXT = (
    ("PASS", "the target did what the clause states"),
    ("FAIL", "it did something else"),
    ("CRASH", "L0 or the whole target died"),
    ("HANG", "no answer by the deadline"),
    ("SKIP", "not asked, for the reason given"),
    ("ERROR", "our fault: nothing was learnt about the target"),
    ("MISS", "the target was lost or never reached: nothing was learnt"),
)


@dataclass(slots=True)
class TestGroup:
    """The parameters of one test function that came out alike."""

    verdict: Verdict
    news: News
    params: list[str]
    link: str


def _test_groups(judged: Sequence[Judged], links: dict[tuple[str, str, str], str]) -> dict[str, list[TestGroup]]:
    """What one clause's tests came out as, by test function: parameters that came out alike stand together."""
    found: dict[str, dict[tuple[str, str], TestGroup]] = {}
    for item in judged:
        function, param = split_param(item.outcome.test)
        link = links.get((item.category, item.outcome.target, item.clause), "")
        alike = found.setdefault(function, {})
        group = alike.setdefault((item.verdict, item.news), TestGroup(item.verdict, item.news, [], link))
        group.params.append(param)
    return {function: list(alike.values()) for function, alike in found.items()}


@dataclass(slots=True)
class SkipGroup:
    """The tests that one target skipped for one reason."""

    target: str
    reason: str
    tests: list[str]


def _skips(summary: Summary) -> list[SkipGroup]:
    groups: dict[tuple[str, str], SkipGroup] = {}
    for outcome in summary.outcomes:
        if outcome.category == "skipped":
            reason = outcome.result.reason or "no reason given"
            key = (outcome.target, reason)
            groups.setdefault(key, SkipGroup(outcome.target, reason, [])).tests.append(outcome.test)
    return sorted(groups.values(), key=lambda g: (g.target, -len(g.tests)))


def _cut_short(summary: Summary) -> list[str]:
    """What a reader must know about a record that has no end."""
    run = summary.run
    told = [
        "The record of this run has no end: the run was killed, or it is still going. "
        f"What it holds is shown; it holds {len(run.results)} results."
    ]
    for target in summary.targets:
        missing = sum(1 for c in summary.clauses.values() if not c.verdict(target.name))
        told.append(f"{target.name}: {missing} of {len(summary.clauses)} clauses have no verdict.")
    if run.results:
        last = run.results[-1]
        told.append(f"The last result is of {last.test} on {last.target}, worker {last.worker or 'unnamed'}.")
    told += [p.text[:1].upper() + p.text[1:] + "." for p in run.problems if p.torn]
    told.append("What was still to come is not known, and the sums of the universal exit checks may be missing.")
    return told


def _status(summary: Summary, against: Comparison | None) -> tuple[str, str]:
    """(kind, words) of the badge next to the title. A part never has the colour of the whole, nor has a run that is
    worse than the one before.
    """
    kind, words = _status_of_all(summary)
    if against is not None and against.worse:
        kind, words = "new", f"{words}, worse than before"
    elif against is not None and against.lost and kind == "ok":
        kind = "lost"
    if not summary.part_short:
        return kind, words
    return "part" if kind == "ok" else kind, f"{words}, {summary.part_short}"


def _status_of_all(summary: Summary) -> tuple[str, str]:
    if summary.new:
        return "new", "new deviations" if summary.new > 1 else "new deviation"
    if summary.mended and not summary.unfinished:
        return "mended", "baseline to be mended"
    if summary.cut_short:
        return "lost", "cut short"
    if summary.unfinished:
        return "lost", "interrupted"
    if summary.exit_status:
        return "lost", "not conclusive"
    return "ok", "nothing new"


def _tiles(summary: Summary) -> list[tuple[str, int, str, str]]:
    """(words, number, where they stand on the page, colour where there are any)."""
    return [
        ("tests", summary.tests, "bits", ""),
        ("passed", summary.passed, "clauses", ""),
        ("new deviations", summary.new, "new", "new"),
        ("mended", summary.mended, "mended", "mended"),
        ("known deviations", summary.known, "known", ""),
        ("skipped", summary.skipped, "skips", ""),
        ("without a verdict", summary.lost, "lost", "lost"),
    ]


def _shown_bit(bit: BitSummary) -> bool:
    """Whether a row of the bit table has something to say: a test that ran, on whatever target."""
    return any(cell.tally.tests for cell in bit.cells.values())


def _folded_bits(summary: Summary) -> list[tuple[str, list[str]]]:
    """The rows that say nothing, in a line for each reason."""
    silent = [bit for bit in summary.bits if not _shown_bit(bit)]
    unasked = [bit for bit in silent if not bit.clauses and not bit.reserved]
    offered = [bit for bit in unasked if any(cell.offered for cell in bit.cells.values())]
    told = [
        ("Offered, and nothing here judges them", offered),
        ("No clauses yet, and not offered", [bit for bit in unasked if bit not in offered]),
        ("No test of them has a result", [bit for bit in silent if bit.clauses]),
        ("Reserved bits, nothing to ask", [bit for bit in silent if not bit.clauses and bit.reserved]),
    ]
    return [(words, [_named(bit) for bit in bits]) for words, bits in told if bits]


def _named(bit: BitSummary) -> str:
    if bit.bit is None:
        return bit.title or bit.key
    return str(bit.bit) if bit.reserved else f"{bit.bit} {bit.key}"


def render_html(summary: Summary, against: Comparison | None = None) -> str:
    """The whole page as text; what the run was compared with stands first."""
    env = environment()
    deviations = shown_deviations(summary)
    links = {(d.deviation.category, d.deviation.target, d.deviation.clause.info.id): d.anchor for d in deviations}
    events = events_of(summary.run.events, routine=False)
    style, script = raw(env, "report.css"), raw(env, "report.js")
    assert "</" not in style and "</" not in script
    clauses = [c for bit in summary.bits for c in bit.clauses]
    page = env.get_template("report.html.j2").render(
        s=summary,
        against=against,
        groups=groups,
        run=summary.run,
        status=_status(summary, against),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src {digest(style)}; script-src {digest(script)}; base-uri 'none'; "
        "form-action 'none'",
        targets=[t.name for t in summary.targets],
        single=len(summary.targets) == 1,
        deviations=deviations,
        vmcb_rows=vmcb_rows,
        links=links,
        command=shlex.join(summary.run.start.argv) if summary.run.start else "",
        tiles=_tiles(summary),
        shown_bit=_shown_bit,
        folded_bits=_folded_bits(summary),
        test_groups=lambda clause, target: _test_groups(clause.judged.get(target, ()), links),
        clause_link=lambda clause, target: _clause_link(clause, target, links),
        fresh=[o for o in summary.outcomes if o.fresh_differs or o.after_others],
        lost=[o for o in summary.outcomes if o.category == "lost"],
        events=events[:EVENTS_MAX],
        events_left_out=max(0, len(events) - EVENTS_MAX),
        event_counts=_event_counts(summary),
        universals=[c for c in clauses if c.universal],
        cut_short=_cut_short(summary) if summary.cut_short else [],
        skips=_skips(summary),
        trust=TRUST,
        classes=CLASSES,
        verdict_text=VERDICT_TEXT,
        news_text=NEWS_TEXT,
        bad=BAD_VERDICTS,
        most_tests=TESTS_LISTED_MAX,
    )
    return page.lstrip()


def _clause_link(clause: ClauseSummary, target: str, links: dict[tuple[str, str, str], str]) -> str:
    """The anchor of the worst deviation of a clause on a target, or ""."""
    found = (links.get((category, target, clause.info.id), "") for category in ("new", "mended", "known"))
    return next((link for link in found if link), "")


def _event_counts(summary: Summary) -> dict[tuple[str, str], Counter[str]]:
    """How often what befell which worker of which target."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for event in summary.run.events:
        found.setdefault((event.target, event.worker), Counter())[event.what] += 1
    return found
