"""What deviations came to, as lines of a baseline entry: `got.ROW = [...]`, or `says` where nothing was compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.cli.baseline_text import answers, entries, replaced, string, texts
from harness.judge.baseline import Deviation, in_range, like, read_all
from harness.record import BAD_VERDICTS
from harness.summary import Judged

ANSWERS_MAX = 8
"""More answers than this in one row become a pattern: what is before and behind that in which they differ."""
SAYS_MAX = 120
_EXECUTORS = re.compile(r"0000_0000_0010_[0-9A-F]{4}h")  # in the executor's own code: every build has another
_NUMBER = re.compile(r"(0x)?\b[0-9a-f]*[0-9][0-9a-f.]*\b", re.IGNORECASE)


def rows_of(judged: Judged) -> list[tuple[str, str]]:
    """The rows that differed, and what came in them."""
    if judged.check is not None and judged.check.rows:
        rows = list(judged.check.rows)
    else:  # a record of before checks had rows: a universal check's evidence begins with its clause
        universal = f"{judged.clause}, " if judged.universal else ""
        rows = [
            row
            for evidence in judged.outcome.result.evidence
            if (evidence.title.startswith(universal) if universal else ", asked of every #VMEXIT" not in evidence.title)
            for row in evidence.rows
        ]
    return list(dict.fromkeys((row.name, row.got) for row in rows if not row.ok))


def lines_for(found: Sequence[Judged]) -> list[str]:
    """The lines of a new entry that say what came."""
    got = _gathered({}, found)
    if got:
        return answers(got)
    said = list(dict.fromkeys(filter(None, (says_of(judged.outcome.result.reason) for judged in found))))
    return [f"says = {string(_pattern(said))}"] if said else []


def says_of(reason: str) -> str:
    """What a reason says of the cause, `*` in place of numbers, which are another version's or another run's."""
    parts = reason.splitlines()[0].split("; ") if reason else [""]
    return re.sub(r"\*(\W\*)+", "*", _NUMBER.sub("*", parts[min(1, len(parts) - 1)]))[:SAYS_MAX].strip()


def with_values(
    text: str, path: Path, found: Iterable[Judged], version: tuple[int, ...], *, anew: bool = False
) -> tuple[str, list[Judged]]:
    """The baseline with what `found` came to in the entries that know it, and what no entry of this file knows.

    An entry gets rows that it names, or any if it names none; answers are added to those that it has. `anew`: they
    take the place of those, but for patterns, and rows come with those that it names.
    """
    known = read_all(path)
    of_entry: dict[int, list[Judged]] = {}
    rest = []
    for judged in found:
        fitting = [(n, entry) for n, entry in enumerate(known) if _speaks_of(entry, judged, version)]
        exact = (n for n, entry in fitting if entry.excuses(rows_of(judged), judged.outcome.result.reason))
        near = (n for n, entry in fitting if _shares_rows(entry, judged, anew=anew))
        at = next(exact, next(near, None))
        if at is None:
            rest.append(judged)
        else:
            of_entry.setdefault(at, []).append(judged)
    lines = text.splitlines(keepends=True)
    for number, (start, end, _) in reversed(list(enumerate(entries(text, path)))):
        if number in of_entry:
            block = _filled("".join(lines[start:end]), known[number], of_entry[number], anew=anew)
            lines[start:end] = [block]
    return "".join(lines), rest


def _speaks_of(entry: Deviation, judged: Judged, version: tuple[int, ...]) -> bool:
    return (
        entry.verdict == judged.verdict
        and entry.covers(judged.clause, judged.outcome.test)
        and in_range(entry.versions, version)
        and (judged.after_others or not entry.after_others)
    )


def _shares_rows(entry: Deviation, judged: Judged, *, anew: bool) -> bool:
    if entry.says:
        return entry.excuses((), judged.outcome.result.reason)
    there, names = {*entry.fields, *entry.got}, {name for name, _ in rows_of(judged)}
    return not there or names <= there or (anew and bool(names & there))


def _filled(block: str, entry: Deviation, found: Sequence[Judged], *, anew: bool) -> str:
    if entry.verdict != "FAIL" or entry.says:
        return block if entry.says else replaced(block, "says", "".join(lines_for(found)))
    kept = entry.got
    if anew:
        patterns = {name: [each for each in came if "*" in each] for name, came in kept.items()}
        kept = {name: tuple(came) for name, came in patterns.items() if came}
    got = _gathered(kept, found)
    if not got:
        return block
    block = replaced(block, "got", "\n".join(answers(got)))
    free = [name for name in entry.fields if name not in got]
    if len(free) < len(entry.fields):
        block = replaced(block, "fields", texts("fields", free) if free else "")
    return block


def _gathered(there: Mapping[str, Sequence[str]], found: Sequence[Judged]) -> dict[str, list[str]]:
    """For each row what came in it, added to what is `there`."""
    got = {name: list(came) for name, came in there.items()}
    for judged in found:
        if judged.verdict not in BAD_VERDICTS:
            continue
        for name, value in rows_of(judged):
            came = _EXECUTORS.sub("0000_0000_0010_*h", value) if name == "rip" or " at " in value else value
            known = got.setdefault(name, [])
            if not any(like(pattern, came) for pattern in known):
                known.append(came)
    return {name: came if len(came) <= ANSWERS_MAX else [_pattern(came)] for name, came in got.items()}


def _pattern(values: Sequence[str]) -> str:
    """One pattern for all: their common beginning and end, and `*` between."""
    first, last = min(values), max(values)
    if first == last:
        return first
    before = next(n for n, (a, b) in enumerate(zip(first + "\0", last + "\1", strict=False)) if a != b)
    room = min(map(len, values)) - before
    turned = [value[::-1][:room] for value in values]
    behind = 0
    while behind < room and len({each[behind] for each in turned}) == 1:
        behind += 1
    return f"{first[:before]}*{first[len(first) - behind :]}"
