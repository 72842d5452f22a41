"""The page: one self-contained HTML file. The template lays out; here its text is chosen, bounded and made harmless.

Whatever came over a console is escaped (jinja2 autoescape), shows its control characters, and has a bounded length.
The page needs no script to be read: the one it has filters the clause tables, and the page's policy admits no other.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.record import BAD_VERDICTS, Evidence
from harness.summary import (
    BitSummary,
    ClauseSummary,
    Deviation,
    Judged,
    Outcome,
    Summary,
    events_of,
)
from reports.text import block, ends, line

EVIDENCE_BUDGET_BYTES = 1_600_000
FULL_EVIDENCE_PER_NEW = 3
ROWS_MAX = 64
CODE_MAX = 64
FRAMES_MAX = 16
EVIDENCES_MAX = 8
EVENTS_MAX = 200
L0_LOG_MAX = 7600
TESTS_LISTED_MAX = 400
COMMANDS_MAX = 12
_PARAMETERS = re.compile(r"\[[^']*\]'$")

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


def anchor(prefix: str, *names: str) -> str:
    """A fragment id made of names; equal names give equal ids, different ones different ids."""
    text = "~".join(names)
    slug = re.sub(r"[^A-Za-z0-9._~-]", "_", text)[:120]
    if slug != text:
        slug += "-" + hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{prefix}-{slug}"


def reference(text: str) -> Markup | str:
    """A link if it is one http(s) URL and nothing else, with the URL as its text, so that paper shows it too."""
    if re.fullmatch(r"https?://[A-Za-z0-9._~:/?#@!$&()*+,;=%-]{3,400}", text):
        return Markup('<a href="{0}" rel="noreferrer">{0}</a>').format(text)
    return line(text, 400)


def split_param(test: str) -> tuple[str, str]:
    """A node id as (function, parameters): "a.py::test_x[y]" is ("a.py::test_x", "y")."""
    head, found, rest = test.partition("[")
    return (head, rest.removesuffix("]")) if found else (test, "")


@dataclass(slots=True)
class ShownEvidence:
    """The evidence of one outcome as it is shown. `left_out` says why there is none or less."""

    outcome: Outcome
    items: list[Evidence] = field(default_factory=list)
    left_out: str = ""


@dataclass(slots=True)
class ShownDeviation:
    """A deviation with the outcomes whose evidence is shown here, and all of them as rows."""

    deviation: Deviation
    anchor: str
    full: list[ShownEvidence]
    elsewhere: list[tuple[str, str]]
    """(test, anchor) of evidence that another deviation shows."""
    commands: list[str]
    alike: list[Alike]


@dataclass(slots=True)
class Alike:
    """The parameters of one test function that deviate in the same words."""

    function: str
    params: list[str]
    verdict: str
    summary: str
    fresh_differs: bool


@dataclass(slots=True)
class TestGroup:
    """The parameters of one test function that came out alike."""

    verdict: str
    news: str
    params: list[str]
    link: str


class _Budget:
    """Shows evidence until the page has enough of it."""

    def __init__(self, limit_bytes: int) -> None:
        self.left = limit_bytes
        self.shown: dict[int, str] = {}

    def show(self, outcome: Outcome, where: str) -> ShownEvidence:
        shown = ShownEvidence(outcome)
        self.shown[outcome.number] = where
        for evidence in outcome.result.evidence[:EVIDENCES_MAX]:
            bounded = _bounded(evidence)
            size = _size(bounded)
            if size > self.left:
                shown.left_out = "More evidence is in run.jsonl; it was left out here to keep the page small."
                break
            self.left -= size
            shown.items.append(bounded)
        if len(outcome.result.evidence) > EVIDENCES_MAX:
            shown.left_out = f"{len(outcome.result.evidence) - EVIDENCES_MAX} more pieces of evidence are in run.jsonl."
        elif not outcome.result.evidence:
            shown.left_out = "The record holds no further evidence for this test."
        return shown


def _bounded(evidence: Evidence) -> Evidence:
    """Rows that differ first, the code around its mark, the last frames, the end of the log, both ends of L0's."""
    rows = sorted(evidence.rows, key=lambda r: r.ok)
    code = list(evidence.code)
    if len(code) > CODE_MAX:
        at = next((i for i, c in enumerate(code) if c.mark), 0)
        first = max(0, min(at - CODE_MAX // 2, len(code) - CODE_MAX))
        code = code[first : first + CODE_MAX]
    return Evidence(
        title=evidence.title,
        rows=tuple(rows[:ROWS_MAX]),
        code=tuple(code),
        frames=tuple(line(f, 240) for f in evidence.frames[-FRAMES_MAX:]),
        log=block(evidence.log),
        l0_log=ends(evidence.l0_log, L0_LOG_MAX),
    )


def _size(evidence: Evidence) -> int:
    """About how many bytes of HTML it takes."""
    rows = sum(160 + sum(min(len(t), 400) for t in (r.name, r.expected, r.got, r.meaning)) for r in evidence.rows)
    code = sum(110 + min(len(c.text), 200) + min(len(c.bytes), 60) for c in evidence.code)
    return 400 + rows + code + sum(len(f) + 8 for f in evidence.frames) + len(evidence.log) + len(evidence.l0_log)


def _deviations(summary: Summary, budget: _Budget) -> list[ShownDeviation]:
    shown = []
    for deviation in summary.deviations:
        where = anchor("d", deviation.category, deviation.target, deviation.clause.info.id)
        full: list[ShownEvidence] = []
        elsewhere: list[tuple[str, str]] = []
        wanted = FULL_EVIDENCE_PER_NEW if deviation.category == "new" else 1
        said: set[tuple[str, str]] = set()
        for judged in sorted(deviation.judged, key=lambda j: not j.outcome.result.evidence):
            if deviation.category == "mended" or len(full) >= wanted:
                break
            if (judged.verdict, judged.summary) in said:
                continue
            said.add((judged.verdict, judged.summary))
            other = budget.shown.get(judged.outcome.number)
            if other is not None:
                if len(elsewhere) < wanted:
                    elsewhere.append((judged.outcome.test, other))
                continue
            if elsewhere and deviation.category == "known":
                break
            full.append(budget.show(judged.outcome, where))
        commands = _few(j.outcome.result.rerun for j in deviation.judged if j.outcome.result.rerun)
        shown.append(ShownDeviation(deviation, where, full, elsewhere, commands, _alike(deviation.judged)))
    return shown


def _alike(judged: Sequence[Judged]) -> list[Alike]:
    found: dict[tuple[str, str, str, bool], Alike] = {}
    for item in judged:
        function, param = split_param(item.outcome.test)
        key = (function, item.verdict, item.summary, item.outcome.fresh_differs)
        found.setdefault(key, Alike(function, [], item.verdict, item.summary, key[3])).params.append(param)
    return list(found.values())


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


def listed(tests: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Node ids as (function, its parameters)."""
    found: dict[str, list[str]] = {}
    for test in tests:
        function, param = split_param(test)
        found.setdefault(function, []).append(param)
    return list(found.items())


def _few(commands: Iterable[str]) -> list[str]:
    """The commands, each once; where they are many, one a test function, which runs all its parameters."""
    each = list(dict.fromkeys(commands))
    return each if len(each) <= COMMANDS_MAX else list(dict.fromkeys(_PARAMETERS.sub("'", text) for text in each))


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


def _status(summary: Summary) -> tuple[str, str]:
    """(kind, words) of the badge beside the title."""
    if summary.new:
        return "new", "new deviations" if summary.new > 1 else "new deviation"
    if summary.mended and not summary.cut_short:
        return "mended", "baseline to be mended"
    if summary.cut_short:
        return "lost", "cut short"
    if summary.exit_status:
        return "lost", "not conclusive"
    return "ok", "nothing new"


def _bit_words(bit: BitSummary) -> str:
    """Why a row has no verdict at all; "" if it has clauses."""
    if bit.clauses:
        return ""
    return "reserved bit, nothing to ask" if bit.reserved else "no clauses yet"


def top_reasons(reasons: Counter[str], most: int = 2) -> list[tuple[str, int]]:
    """The commonest reasons."""
    return reasons.most_common(most)


def _environment() -> Environment:
    def finalize(value: object) -> object:
        if value is None:
            return ""
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return block(value, 8000) if "\n" in value else line(value, 2000)

    env = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(line=line, block=block, ends=ends, reference=reference, listed=listed, top_reasons=top_reasons)
    env.globals.update(anchor=anchor, split_param=split_param)
    return env


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _raw(env: Environment, name: str) -> str:
    assert env.loader is not None
    return env.loader.get_source(env, name)[0].strip()


def render_html(summary: Summary) -> str:
    """The whole page as text."""
    env = _environment()
    budget = _Budget(EVIDENCE_BUDGET_BYTES)
    deviations = _deviations(summary, budget)
    links = {(d.deviation.category, d.deviation.target, d.deviation.clause.info.id): d.anchor for d in deviations}
    events = events_of(summary.run.events, routine=False)
    style, script = _raw(env, "report.css"), _raw(env, "report.js")
    assert "</" not in style and "</" not in script
    clauses = [c for bit in summary.bits for c in bit.clauses]
    page = env.get_template("report.html.j2").render(
        s=summary,
        run=summary.run,
        status=_status(summary),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; base-uri 'none'; "
        "form-action 'none'",
        targets=[t.name for t in summary.targets],
        single=len(summary.targets) == 1,
        deviations=deviations,
        links=links,
        bit_words=_bit_words,
        test_groups=lambda clause, target: _test_groups(clause.judged.get(target, ()), links),
        clause_link=lambda clause, target: _clause_link(clause, target, links),
        fresh=[o for o in summary.outcomes if o.fresh_differs],
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
