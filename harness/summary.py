"""What a run record says, counted: per target, per bit of Fn8000_000A EDX, per clause. Pure; reports only render it.

The unit of counting is an *outcome*: one parametrised test on one target. Each outcome is in one category:

    new      it deviates and no baseline knows it
    mended   it passes though a baseline says it deviates
    known    it deviates as a baseline says
    passed, skipped
    lost     ERROR or MISS: nothing was learnt about the target

A clause, a bit, a target has the worst of its outcomes. Where a record contradicts itself the worse reading is taken,
and the contradiction is told: a report must not be calmer than its evidence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.record import (
    BAD_VERDICTS,
    LOST_VERDICTS,
    BaselineRef,
    Check,
    ClauseInfo,
    Event,
    Result,
    Run,
    TargetInfo,
    worst,
    worst_news,
)
from harness.svm.cpuid import SVM_BITS, Cpuid

CATEGORIES = ("new", "mended", "known", "lost", "passed", "skipped")
"""Worst first."""
CORE = "core"
NO_CLAUSE = "(no clause)"


def category(verdict: str, news: str) -> str:
    """The one of CATEGORIES that a verdict and its news are."""
    if verdict in LOST_VERDICTS:
        return "lost"
    if verdict == "SKIP":
        return "skipped"
    if news in ("new", "mended", "known"):
        return news
    return "new" if verdict in BAD_VERDICTS else "passed"


@dataclass(frozen=True, slots=True)
class Judged:
    """What one outcome says about one clause. `check` is None where the clause was given the test's verdict."""

    clause: str
    outcome: Outcome
    verdict: str
    news: str
    check: Check | None = None

    @property
    def category(self) -> str:
        return category(self.verdict, self.news)

    @property
    def baseline(self) -> BaselineRef | None:
        return self.check.baseline if self.check else None

    @property
    def summary(self) -> str:
        """One line: what went wrong, or why it was skipped."""
        return (self.check.summary if self.check else "") or self.outcome.result.reason


@dataclass(eq=False, slots=True)
class Outcome:
    """One parametrised test on one target, after the roll-up. `number` is its place in the run."""

    number: int
    result: Result
    verdict: str
    news: str
    judged: list[Judged] = field(default_factory=list)

    @property
    def test(self) -> str:
        return self.result.test

    @property
    def target(self) -> str:
        return self.result.target

    @property
    def category(self) -> str:
        return category(self.verdict, self.news)

    @property
    def fresh_differs(self) -> bool:
        return self.result.fresh is not None and self.result.fresh.state == "differs"


@dataclass(slots=True)
class Tally:
    """Outcomes counted by category, and the worst of them."""

    new: int = 0
    mended: int = 0
    known: int = 0
    lost: int = 0
    passed: int = 0
    skipped: int = 0
    verdict: str = ""
    news: str = ""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why outcomes were skipped."""

    def add(self, verdict: str, news: str, reason: str = "") -> None:
        """Count one outcome."""
        match category(verdict, news):
            case "new":
                self.new += 1
            case "mended":
                self.mended += 1
            case "known":
                self.known += 1
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
    def category(self) -> str:
        """The worst category in it; "" of nothing. "passed" before "skipped"."""
        return next((name for name in CATEGORIES if getattr(self, name)), "")


@dataclass(slots=True)
class UniversalTally:
    """Over how many VMRUNs a universal clause was judged on one target, and in how many it did not hold."""

    checked: int = 0
    failed: int = 0


@dataclass(slots=True)
class ClauseSummary:
    """One clause over all targets. A target that never judged it has no entry."""

    info: ClauseInfo
    per_target: dict[str, Tally] = field(default_factory=dict)
    judged: dict[str, list[Judged]] = field(default_factory=dict)
    universal: dict[str, UniversalTally] = field(default_factory=dict)

    def verdict(self, target: str) -> str:
        """The worst verdict on that target; "" if none. A universal clause that never fired passed."""
        tally = self.per_target.get(target)
        if tally is not None and tally.verdict not in ("", "SKIP"):
            return tally.verdict
        seen = self.universal.get(target)
        if seen is not None and seen.checked:
            return "FAIL" if seen.failed else "PASS"
        return tally.verdict if tally else ""

    def category(self, target: str) -> str:
        tally = self.per_target.get(target)
        found = tally.category if tally else ""
        if found in ("", "skipped") and self.verdict(target) == "PASS":
            return "passed"
        return found


@dataclass(slots=True)
class BitCell:
    """One bit on one target. `offered` is None where the target never booted, or for a row that is no bit."""

    offered: bool | None
    tally: Tally
    clauses_judged: int = 0
    verdict: str = ""
    category: str = ""


@dataclass(slots=True)
class BitSummary:
    """A row of the bit table. `bit` is None for the core row and for groups that belong to no one bit."""

    key: str
    bit: int | None
    title: str
    apm: str
    reserved: bool
    clauses: list[ClauseSummary] = field(default_factory=list)
    cells: dict[str, BitCell] = field(default_factory=dict)


@dataclass(slots=True)
class Machine:
    """What L1 saw: one entry for each distinct machine among a target's workers."""

    target: str
    workers: list[str]
    info: TargetInfo
    facts: dict[str, str]
    """vendor, brand, family, ... in the order to show; only those that CPUID told."""
    commands: list[tuple[str, Sequence[str]]]
    """(worker, command line), one for each that differs."""


@dataclass(slots=True)
class Deviation:
    """All outcomes of one category (new, mended or known) on one clause and target."""

    target: str
    clause: ClauseSummary
    category: str
    judged: list[Judged]

    @property
    def verdict(self) -> str:
        return worst(j.verdict for j in self.judged)

    @property
    def baselines(self) -> list[BaselineRef]:
        """The distinct baseline entries, in order."""
        return list(dict.fromkeys(j.baseline for j in self.judged if j.baseline is not None))


@dataclass(slots=True)
class TargetSummary:
    """One target's share of the run."""

    name: str
    machines: list[Machine]
    tally: Tally
    counts: Counter[str]
    """Outcomes by verdict."""
    clauses_by_category: dict[str, int]
    """How many distinct clauses the outcomes of a category touch."""
    cut_short: bool = False

    @property
    def sentence(self) -> str:
        """This target's verdict in one sentence, without a full stop."""
        tally, clauses = self.tally, self.clauses_by_category
        if tally.tests == tally.skipped:
            told = f"all {_count(tally.tests, 'test')} skipped" if tally.tests else "no test was run"
            return f"{self.name}: nothing was judged; {told}"
        parts = []
        if tally.new:
            parts.append(f"{_count(tally.new, 'new deviation')} in {_count(clauses['new'], 'clause')}")
        elif tally.lost == tally.tests - tally.skipped:
            parts.append("nothing was judged")
        else:
            parts.append("no new deviation" + (" so far" if self.cut_short else ""))
        if tally.mended:
            parts.append(f"{_count(tally.mended, 'known deviation')} mended in {_count(clauses['mended'], 'clause')}")
        if tally.known:
            parts.append(f"{_count(tally.known, 'known deviation')} in {_count(clauses['known'], 'clause')}")
        if tally.lost:
            each = ", ".join(f"{self.counts[v]} {v}" for v in ("ERROR", "MISS") if self.counts[v])
            parts.append(f"{_count(tally.lost, 'test')} without a verdict ({each})")
        return f"{self.name}: " + "; ".join(parts)


@dataclass(slots=True)
class Summary:
    """A whole run, counted."""

    run: Run
    targets: list[TargetSummary]
    bits: list[BitSummary]
    clauses: dict[str, ClauseSummary]
    outcomes: list[Outcome]
    deviations: list[Deviation]
    """New first, then mended, then known; within each in the order of the bit table."""
    contradictions: list[str]
    """Where the record disagrees with itself."""
    cut_short: bool

    @property
    def counts(self) -> dict[str, int]:
        """Outcomes by verdict over all targets."""
        return dict(sum((t.counts for t in self.targets), Counter()))

    def _sum(self, name: str) -> int:
        return sum(int(getattr(t.tally, name)) for t in self.targets)

    @property
    def new(self) -> int:
        return self._sum("new")

    @property
    def mended(self) -> int:
        return self._sum("mended")

    @property
    def known(self) -> int:
        return self._sum("known")

    @property
    def lost(self) -> int:
        return self._sum("lost")

    @property
    def passed(self) -> int:
        return self._sum("passed")

    @property
    def skipped(self) -> int:
        return self._sum("skipped")

    @property
    def tests(self) -> int:
        return len(self.outcomes)

    @property
    def damaged(self) -> bool:
        """The record lost or contradicts something."""
        return bool(self.contradictions) or any(p.grave for p in self.run.problems)

    @property
    def exit_status(self) -> int:
        """1: something new or mended. 3: ERROR or MISS, or a record that is empty, cut short or damaged. Else 0."""
        if self.new or self.mended:
            return 1
        judged = self.tests - self.lost - self.skipped
        return 3 if self.lost or not judged or self.cut_short or self.damaged else 0

    @property
    def sentence(self) -> str:
        """The verdict of the run in one sentence for each target, without a full stop."""
        if not self.targets:
            told = "nothing was judged: the record holds no result"
        else:
            told = ". ".join(t.sentence for t in self.targets)
        return f"Cut short. {told}" if self.cut_short else told


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# ------------------------------------------------------------------------------------------------------------- outcomes


def _judge(number: int, result: Result, contradictions: list[str]) -> Outcome:
    """Roll one result up, worst wins; say where it contradicts itself."""
    verdict = worst([result.verdict, *(c.verdict for c in result.checks if c.verdict != "SKIP")])
    news = worst_news([result.news, *(c.news for c in result.checks)])
    where = f"{result.test} on {result.target}"
    if verdict != result.verdict:
        contradictions.append(f"{where} is recorded as {result.verdict}, but one of its checks as {verdict}")
    if verdict in BAD_VERDICTS and news in ("ok", "skipped", "mended"):
        contradictions.append(f"{where} is a {verdict} that is recorded as {news!r}; it is counted as new")
        news = "new"
    elif news != worst_news([result.news]) and verdict in BAD_VERDICTS | {"PASS"}:
        contradictions.append(f"{where} is recorded as {result.news!r}, but one of its checks as {news!r}")
    if verdict == "PASS" and news in ("new", "known"):
        contradictions.append(f"{where} is a PASS that is recorded as {news!r}; it is counted as {news}")
    outcome = Outcome(number, result, verdict, news)
    for check in result.checks:
        found = check.news
        if check.verdict in BAD_VERDICTS and found in ("ok", "skipped", "mended"):
            found = "known" if news == "known" else "new"
        outcome.judged.append(Judged(check.clause or NO_CLAUSE, outcome, check.verdict, found, check))
    told = {j.clause for j in outcome.judged}
    explained = any(j.verdict == verdict and j.news == news for j in outcome.judged)
    for clause in dict.fromkeys(result.clauses or (() if told else (NO_CLAUSE,))):
        if clause in told:
            continue
        # A clause that the test names but did not judge has the test's verdict, unless a check of another one gave it.
        if verdict not in BAD_VERDICTS or not explained:
            outcome.judged.append(Judged(clause, outcome, verdict, news))
    if verdict in BAD_VERDICTS | {"PASS"} and not any(j.category == outcome.category for j in outcome.judged):
        clause = next(iter(result.clauses), NO_CLAUSE)
        outcome.judged.append(Judged(clause, outcome, verdict, news))
    return outcome


def _outcomes(run: Run, contradictions: list[str]) -> list[Outcome]:
    """One outcome for each test and target; of a test told twice the worse."""
    found: dict[tuple[str, str], Outcome] = {}
    for number, result in enumerate(run.results):
        outcome = _judge(number, result, contradictions)
        key = (result.test, result.target)
        before = found.get(key)
        if before is not None:
            both = f"{before.verdict} and {outcome.verdict}"
            contradictions.append(f"{result.test} on {result.target} is recorded twice ({both}); the worse one counts")
            if _rank(before) <= _rank(outcome):
                continue
        found[key] = outcome
    return list(found.values())


def _rank(outcome: Outcome) -> int:
    return CATEGORIES.index(outcome.category)


# ------------------------------------------------------------------------------------------------------------- machines

_FACTS = (
    ("vendor", "Vendor", 0),
    ("brand", "Processor brand", 0x8000_0002),
    ("family", "Family", 1),
    ("model", "Model", 1),
    ("stepping", "Stepping", 1),
    ("maxphyaddr", "Physical address bits", 0x8000_0008),
    ("svm_rev", "SVM revision", 0x8000_000A),
    ("nasid", "ASIDs (NASID)", 0x8000_000A),
    ("hypervisor", "Hypervisor leaf", 1),
)


def machine_facts(info: TargetInfo) -> dict[str, str]:
    """What CPUID says of the machine, as text by title. What was not recorded is left out."""
    cpuid = Cpuid({(leaf, sub): (a, b, c, d) for leaf, sub, a, b, c, d in info.cpuid})
    facts: dict[str, str] = {}
    for name, title, leaf in _FACTS:
        if (leaf, 0) in cpuid:
            value = getattr(cpuid, name)
            facts[title] = f"{value:X}h" if leaf == 1 and isinstance(value, int) else str(value).strip("\0 ") or "none"
    return facts


def _machines(run: Run, target: str) -> list[Machine]:
    alike: dict[object, list[TargetInfo]] = {}
    for info in run.targets:
        if info.target == target:
            # The APIC id differs from CPU to CPU, OSXSAVE with who asks: neither makes another machine.
            stable = tuple(row[:3] if row[0] == 1 else row for row in info.cpuid if row[0] not in (0xB, 0x8000_001E))
            alike.setdefault((info.version, info.executor_build, info.edx, stable), []).append(info)
    machines = []
    for infos in alike.values():
        commands: dict[tuple[str, ...], str] = {}
        for info in infos:
            commands.setdefault(tuple(info.command), info.worker)
        machines.append(
            Machine(
                target=target,
                workers=[i.worker for i in infos],
                info=infos[0],
                facts=machine_facts(infos[0]),
                commands=[(worker, command) for command, worker in commands.items() if command],
            )
        )
    return machines


# ----------------------------------------------------------------------------------------------------- bits and clauses


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BIT_NUMBERS = {
    _squeezed(name): bit.bit for bit in SVM_BITS for name in (bit.name, *bit.aliases, f"bit{bit.bit}", str(bit.bit))
}


def _row_key(bit: str) -> int | str:
    """The row that a clause's `bit` names: a bit number, or the name of a group that is no bit."""
    name = _squeezed(bit)
    return _BIT_NUMBERS.get(name, name)


def _bit_rows(infos: Iterable[ClauseInfo]) -> dict[int | str, BitSummary]:
    """The rows of the bit table: core, all 32 bits, then the groups that are no bit."""
    rows: dict[int | str, BitSummary] = {CORE: BitSummary(CORE, None, "SVM base (core)", "", reserved=False)}
    for bit in SVM_BITS:
        rows[bit.bit] = BitSummary(bit.name, bit.bit, bit.title, bit.apm, reserved=bit.title == "reserved")
    for info in infos:
        name = info.bit or "(no bit)"
        rows.setdefault(_row_key(info.bit), BitSummary(name, None, "", "", reserved=False))
    return rows


def _offered(run: Run, target: str, bit: int | None, contradictions: list[str]) -> bool | None:
    if bit is None:
        return None
    seen = {bool(info.edx >> bit & 1) for info in run.targets if info.target == target}
    if len(seen) > 1:
        contradictions.append(f"bit {bit} of Fn8000_000A EDX is offered to some workers of {target} and not to others")
    return True in seen if seen else None


def summarise(run: Run, *, ending: bool = False) -> Summary:
    """Count a run. `ending`: its End is about to be written, so that it lacks one does not mean that it was killed."""
    contradictions: list[str] = []
    outcomes = _outcomes(run, contradictions)
    names = dict.fromkeys([*(i.target for i in run.targets), *(o.target for o in outcomes)])

    clauses = {id_: ClauseSummary(info) for id_, info in run.clauses.items()}

    def clause_of(id_: str) -> ClauseSummary:
        if id_ not in clauses:
            text = (
                "The test names no clause." if id_ == NO_CLAUSE else "The record does not say what this clause states."
            )
            clauses[id_] = ClauseSummary(ClauseInfo(id=id_, bit="(unknown)", statement=text, class_=""))
        return clauses[id_]

    for universal in run.universals:
        seen = clause_of(universal.clause).universal.setdefault(universal.target, UniversalTally())
        seen.checked += universal.checked
        seen.failed += universal.failed
        names.setdefault(universal.target)
    for outcome in outcomes:
        for judged in outcome.judged:
            summary = clause_of(judged.clause)
            summary.per_target.setdefault(outcome.target, Tally()).add(judged.verdict, judged.news, judged.summary)
            summary.judged.setdefault(outcome.target, []).append(judged)

    rows = _bit_rows(c.info for c in clauses.values())
    for clause in clauses.values():
        rows[_row_key(clause.info.bit)].clauses.append(clause)
    for row in rows.values():
        for name in names:
            row.cells[name] = _bit_cell(row, name, _offered(run, name, row.bit, contradictions))

    deviations = [
        Deviation(name, clause, wanted, found)
        for wanted in ("new", "mended", "known")
        for row in rows.values()
        for clause in row.clauses
        for name in names
        if (found := [j for j in clause.judged.get(name, ()) if j.category == wanted])
    ]
    cut_short = not (run.complete or ending)
    targets = [_target(run, name, outcomes, cut_short) for name in names]
    _cross_check(run, outcomes, clauses, contradictions)
    return Summary(
        run=run,
        targets=targets,
        bits=list(rows.values()),
        clauses=clauses,
        outcomes=outcomes,
        deviations=deviations,
        contradictions=contradictions,
        cut_short=cut_short,
    )


def _bit_cell(row: BitSummary, target: str, offered: bool | None) -> BitCell:
    """Each outcome once, with the worst that it says of this bit's clauses."""
    per_outcome: dict[int, list[Judged]] = {}
    for clause in row.clauses:
        for judged in clause.judged.get(target, ()):
            per_outcome.setdefault(judged.outcome.number, []).append(judged)
    tally = Tally()
    for number in sorted(per_outcome):
        found = min(per_outcome[number], key=lambda j: CATEGORIES.index(j.category))
        tally.add(found.verdict, found.news, found.summary)
    verdicts = [v for c in row.clauses if (v := c.verdict(target))]
    categories = [c for clause in row.clauses if (c := clause.category(target))]
    return BitCell(
        offered=offered,
        tally=tally,
        clauses_judged=sum(1 for v in verdicts if v not in ("SKIP", *LOST_VERDICTS)),
        verdict=worst(verdicts),
        category=min(categories, key=CATEGORIES.index, default=""),
    )


def _target(run: Run, name: str, outcomes: list[Outcome], cut_short: bool) -> TargetSummary:
    tally = Tally()
    touched: dict[str, set[str]] = {c: set() for c in CATEGORIES}
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.target != name:
            continue
        tally.add(outcome.verdict, outcome.news, outcome.result.reason)
        counts[outcome.verdict] += 1
        touched[outcome.category].update(j.clause for j in outcome.judged if j.category == outcome.category)
    by_category = {c: len(ids) for c, ids in touched.items()}
    return TargetSummary(name, _machines(run, name), tally, counts, by_category, cut_short)


def _cross_check(
    run: Run, outcomes: list[Outcome], clauses: dict[str, ClauseSummary], contradictions: list[str]
) -> None:
    """Hold the record's own sums against its lines."""
    for clause in clauses.values():
        for target, seen in clause.universal.items():
            told = any(j.verdict in BAD_VERDICTS for j in clause.judged.get(target, ()))
            excused = any(o.target == target and o.fresh_differs for o in outcomes)
            if seen.failed and not told and not excused:
                text = f"did not hold after {_count(seen.failed, 'VMRUN')} on {target}, but no result says so"
                contradictions.append(f"{clause.info.id} {text}")
            if seen.failed > seen.checked:
                contradictions.append(f"{clause.info.id} failed more often than it was checked on {target}")
    if run.end is None:
        return
    counted = Counter(r.verdict for r in run.results)
    said = {k: v for k, v in run.end.counts.items() if v}
    if said and said != dict(counted):
        contradictions.append(
            f"the end of the record counts {_spelt(said)}, but its lines are {_spelt(counted)}: results are missing"
            if sum(said.values()) > sum(counted.values())
            else f"the end of the record counts {_spelt(said)}, but its lines are {_spelt(counted)}"
        )
    found = Counter(o.category for o in outcomes)
    for name in ("new", "mended", "known"):
        if getattr(run.end, name) != found[name]:
            contradictions.append(
                f"the end of the record counts {getattr(run.end, name)} {name}, its lines {found[name]}"
            )
    if run.end.exit_status == 0 and (found["new"] or found["mended"] or found["lost"]):
        contradictions.append("the end of the record says that all was well (exit status 0), its results do not")


def _spelt(counts: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "nothing"


def events_of(events: Iterable[Event], *, routine: bool) -> list[Event]:
    """The boots and restarts (routine), or what befell a target otherwise."""
    return [e for e in events if (e.what in ("boot", "restart")) is routine]
