"""What a person needs to find the cause of a failure: compared values, the guest's code, the last frames, the
target's log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.anatomy.code import disassemble
from harness.anatomy.setup import gather as gather_setup
from harness.guest.l1 import L1
from harness.judge import expect
from harness.judge.clauses import Clause
from harness.judge.verdict import Attempt, ClauseVerdict
from harness.record import AFTER_OTHERS, Evidence, Fresh, Row
from harness.text import visible

L0_LINES = 8  # of the beginning and of the end of what L0 said, on a terminal


def gather(attempt: Attempt, l1: L1, root: Path, l0_log: str = "") -> list[Evidence]:
    """The evidence of an attempt that deviated, the test's own mismatch first. `l0_log` stands with the first.

    Files are named as seen from `root`.
    """
    gathered = []
    code = disassemble(l1.guests[-1], l1.last_exit) if l1.guests else []
    title = attempt.mismatch.title if attempt.mismatch is not None else attempt.reason
    rows = rows_of(attempt.mismatch.rows) if attempt.mismatch is not None else []
    setup = gather_setup(l1)
    if attempt.verdict != "PASS":
        at, source = (attempt.place.below(root), attempt.place.source) if attempt.place else ("", "")
        gathered.append(
            Evidence(
                title=title,
                at=at,
                source=source,
                rows=rows,
                code=code,
                setup=setup,
                frames=attempt.frames,
                log=attempt.log,
            )
        )
    for match in attempt.universal.values():
        shown = (code, setup) if not gathered else ([], None)
        gathered.append(Evidence(title=match.title, rows=rows_of(match.rows), code=shown[0], setup=shown[1]))
    if gathered and l0_log:
        gathered[0] = replace(gathered[0], l0_log=l0_log)
    return gathered


def without_steps(evidence: Evidence) -> Evidence:
    """The evidence of a known deviation, of which a run may have thousands: what was set, and not how."""
    if evidence.setup is None:
        return evidence
    return replace(evidence, setup=replace(evidence.setup, steps=(), vmcb_after=""))


def rows_of(rows: Sequence[expect.Row]) -> list[Row]:
    """Rows of a comparison as the run record keeps them."""
    return [Row(name=row.name, expected=row.expected, got=row.got, meaning=row.meaning, ok=row.ok) for row in rows]


def failure_text(
    verdicts: Sequence[ClauseVerdict],
    fresh: Fresh,
    clauses: dict[str, Clause],
    evidence: Sequence[Evidence],
    machine: str,
    rerun: str,
) -> str:
    """The failure as text for a terminal: what was expected and got, the code, the clause with its source, how to
    run it again."""
    lines = []
    for verdict in verdicts:
        if verdict.news not in ("new", "mended", "known"):
            continue
        stated = clauses.get(verdict.clause)
        excused = verdict.deviation is not None and not verdict.deviation.after_others
        after = " after others" if fresh.state == AFTER_OTHERS and not excused else ""
        lines.append(f"{verdict.verdict}{after} ({verdict.news})  {verdict.clause}")
        if stated:
            lines += [f"  {stated.statement}", f"  {source_of(stated)}"]
        if verdict.deviation:
            lines.append(f"  baseline: {verdict.deviation.reason} [{verdict.deviation.reference}]")
    lines += fresh.words
    for item in evidence:
        lines += ["", item.title, *([f"  {item.at}: {item.source}"] if item.at else [])]
        width = max((len(row.name) for row in item.rows), default=0)
        for row in item.rows:
            mark = "  ok " if row.ok else "  NOT"
            meaning = f"   {row.meaning}" if row.meaning else ""
            lines.append(f"{mark} {row.name:<{width}}  expected {row.expected}  got {row.got}{meaning}")
        if item.setup is not None:
            lines += [f"  {line}" for line in item.setup.words()]
        if item.code:
            lines.append("  L2 code:")
            lines += [f"    {line.addr}  {line.bytes:<24} {line.text:<36} {line.mark}".rstrip() for line in item.code]
        if item.frames:
            lines += ["  last frames:", *(f"    {frame}" for frame in item.frames[-6:])]
        if item.log:
            lines += ["  log:", *(f"    {line}" for line in item.log.splitlines()[-12:])]
        if item.l0_log:
            lines += ["  L0:", *(f"    {line}" for line in _ends(item.l0_log.split("\n")))]
    # What a target said, and its CPUID, may hold anything.
    return visible("\n".join([*lines, "", f"machine: {machine}", f"again:   {rerun}"]), keep="\n")


def _ends(lines: list[str]) -> list[str]:
    """The first and the last of many lines."""
    left_out = len(lines) - 2 * L0_LINES
    if left_out <= 1:
        return lines
    return [*lines[:L0_LINES], f"[... {left_out} lines are in the report ...]", *lines[-L0_LINES:]]


def source_of(clause: Clause) -> str:
    """Where a clause stands and who agrees."""
    hardware = f"; only hardware decides: {clause.hardware}" if clause.hardware else ""
    return f"AMD64 APM {clause.apm}; {clause.class_}; agree: {', '.join(clause.trust)}{hardware}"
