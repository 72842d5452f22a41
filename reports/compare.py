"""Two runs side by side in a terminal: the verdict first, then only what differs, the worst first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from harness.summary.comparison import Cell, Comparison, Kind, TargetComparison
from harness.text import line

CLAUSES_MAX = 12
TESTS_MAX = 3
WIDTH = 160
_ASKS = re.compile(r"(?<=^SKIP: )\S+ asks for ")
_BY_REASON = (Kind.LOST, Kind.NOT_ASKED, Kind.GONE)
"""Where the clause says little: hundreds are skipped for one missing bit."""


def compare_text(found: Comparison, *, every: bool = False, tests: bool = False) -> str:
    """Lines for a terminal. `every`: also what deviates as before, and versions that are the same; `tests`: each test
    with both answers.
    """
    told = [f"Against {line(found.before)}{f' ({line(found.started_before, 40)})' if found.started_before else ''}"]
    told += [f"note: {line(note)}" for note in found.notes]
    for target in found.targets:
        told += _target(target, every=every, tests=tests)
    told += [f"  {line(name)}: in this run only" for name in found.targets_added]
    told += [f"  {line(name)}: no longer asked at all" for name in found.targets_gone]
    return "\n".join([*told, verdict_of(found)]) + "\n"


def verdict_of(found: Comparison) -> str:
    """The last line: one sentence."""
    return f"{found.status.capitalize()}: {line(found.sentence, 2000)}."


def groups(target: TargetComparison, *, every: bool = False) -> list[tuple[str, str, list[Cell]]]:
    """The cells by word and what they share, the worst first: (word, clause or reason, cells)."""
    found: list[tuple[str, str, list[Cell]]] = []
    for kind in Kind:
        cells = target.of(kind) if every or kind is not Kind.STILL else []
        key: Callable[[Cell], str] = _reason if kind in _BY_REASON else (lambda c: c.clause)
        alike: dict[tuple[str, str], list[Cell]] = {}
        for cell in cells:
            alike.setdefault((cell.word, key(cell)), []).append(cell)
        found += [(word, what, each) for (word, what), each in alike.items()]
    return found


def _reason(cell: Cell) -> str:
    """Why it was not asked, without the clause that asks for the bit: many are skipped for the same one."""
    return _ASKS.sub("", cell.now)


def _target(target: TargetComparison, *, every: bool, tests: bool) -> Iterable[str]:
    yield f"  {line(target.name)}"
    for change in target.changes:
        if change.differs:
            yield f"    {change.what}: {line(change.before, WIDTH) or 'none'} -> {line(change.now, WIDTH) or 'none'}"
        elif every:
            yield f"    {change.what}: {line(change.now, WIDTH)}"
    for words, bits in (("bits lost", target.bits_lost), ("bits won", target.bits_won)):
        if bits:
            yield f"    {words}: {', '.join(bits)}"
    if target.clauses_unasked:
        number = len(target.clauses_unasked)
        yield f"    clauses that no test answers any more: {_some(target.clauses_unasked, number if tests else 6)}"
    found = groups(target, every=every)
    left = 0
    shown: dict[str, int] = {}
    for word, what, cells in found:
        shown[word] = shown.get(word, 0) + 1
        if shown[word] > CLAUSES_MAX and not (every or tests):
            left += 1
            continue
        yield from _group(word, what, cells, tests=tests)
    if left:
        yield f"    and {left} more such lines: --tests or the report shows them"


def _group(word: str, what: str, cells: Sequence[Cell], *, tests: bool) -> Iterable[str]:
    names = list(dict.fromkeys(cell.test for cell in cells))
    yield f"    {word:16} {line(what, WIDTH)} ({len(names)} {'test' if len(names) == 1 else 'tests'})"
    if not tests:
        yield f"      {_some(names, TESTS_MAX if cells[0].kind in _BY_REASON else 1)}"
        if cells[0].kind not in _BY_REASON:
            yield f"      before: {line(cells[0].before, WIDTH)}"
            yield f"      now:    {line(cells[0].now, WIDTH)}"
        return
    for cell in cells:
        yield f"      {line(cell.test, 300)}"
        yield f"        before: {line(cell.before, WIDTH)}"
        yield f"        now:    {line(cell.now, WIDTH)}"


def _some(names: Sequence[str], most: int) -> str:
    told = ", ".join(line(name, 300) for name in names[:most])
    return told + (f" and {len(names) - most} more" if len(names) > most else "")
