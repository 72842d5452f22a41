"""What of the evidence a page shows: enough of each deviation to believe it, bounded, and each test's once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from harness.record import Evidence, Setup
from harness.record.packed import unpack
from harness.summary import Deviation, Judged, Outcome, Summary
from harness.svm.fields import VMCB_SIZE
from harness.svm.vmcb import Vmcb
from harness.svm.vmcb_words import whole
from harness.text import block, ends, line
from reports.page import anchor, split_param

EVIDENCE_BUDGET_BYTES = 1_600_000
FULL_EVIDENCE_PER_NEW = 3
ROWS_MAX = 64
CODE_MAX = 64
STEPS_MAX = 64
VMCB_TEXT_MAX = 8000
VMCB_HTML_BYTES = 8000  # about what a VMCB takes as a table
FRAMES_MAX = 16
EVIDENCES_MAX = 8
L0_LOG_MAX = 7600
COMMANDS_MAX = 12
_PARAMETERS = re.compile(r"\[[^']*\]'$")


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
    after_others: bool


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
        at=line(evidence.at, 240),
        source=line(evidence.source, 400),
        rows=tuple(rows[:ROWS_MAX]),
        code=tuple(code),
        setup=_bounded_setup(evidence.setup),
        frames=tuple(line(f, 240) for f in evidence.frames[-FRAMES_MAX:]),
        log=block(evidence.log),
        l0_log=ends(evidence.l0_log, L0_LOG_MAX),
    )


def _bounded_setup(setup: Setup | None) -> Setup | None:
    if setup is None:
        return None
    return replace(
        setup,
        fields=tuple(setup.fields[:ROWS_MAX]),
        later=tuple(setup.later[:ROWS_MAX]),
        intercepts=tuple(line(each, 60) for each in setup.intercepts[:ROWS_MAX]),
        steps=tuple(line(each, 240) for each in setup.steps[-STEPS_MAX:]),
        vmcb_after=setup.vmcb_after if len(setup.vmcb_after) <= VMCB_TEXT_MAX else "",
    )


def vmcb_rows(packed: str) -> list[tuple[str, str, str]]:
    """The whole VMCB of a record, field by field; nothing where it cannot be read."""
    data = unpack(packed, VMCB_SIZE) if packed else None
    return whole(Vmcb(data)) if data is not None else []


def _size(evidence: Evidence) -> int:
    """About how many bytes of HTML it takes."""
    rows = sum(160 + sum(min(len(t), 400) for t in (r.name, r.expected, r.got, r.meaning)) for r in evidence.rows)
    code = sum(110 + min(len(c.text), 200) + min(len(c.bytes), 60) for c in evidence.code)
    setup = evidence.setup
    if setup is not None:
        code += sum(150 + len(f.name) + len(f.good) + len(f.now) + len(f.bits) for f in (*setup.fields, *setup.later))
        code += sum(len(step) + 1 for step in setup.steps) + (VMCB_HTML_BYTES if setup.vmcb_after else 0)
    words = len(evidence.source) + len(evidence.log) + len(evidence.l0_log)
    return 400 + words + rows + code + sum(len(f) + 8 for f in evidence.frames)


def shown_deviations(summary: Summary) -> list[ShownDeviation]:
    """Each deviation with what is shown of it."""
    budget = _Budget(EVIDENCE_BUDGET_BYTES)
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
    found: dict[tuple[str, str, str, bool, bool], Alike] = {}
    for item in judged:
        function, param = split_param(item.outcome.test)
        key = (function, item.verdict, item.summary, item.outcome.fresh_differs, item.after_others)
        found.setdefault(key, Alike(function, [], item.verdict, item.summary, key[3], key[4])).params.append(param)
    return list(found.values())


def _few(commands: Iterable[str]) -> list[str]:
    """The commands, each once; where they are many, one a test function, which runs all its parameters."""
    each = list(dict.fromkeys(commands))
    return each if len(each) <= COMMANDS_MAX else list(dict.fromkeys(_PARAMETERS.sub("'", text) for text in each))
