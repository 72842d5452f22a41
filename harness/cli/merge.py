"""One record of several: a run on several targets has a record for each, and one that holds them all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path


def merge(records: Iterable[Path], into: Path) -> None:
    """One run line, each clause once, and one end if all of them ended."""
    seen: set[str] = set()
    started = False
    ends: list[dict[str, object]] = []
    parts = 0
    with open(into, "w", encoding="utf-8") as out:
        for path in records:
            parts += 1
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue
            for line in lines:
                try:
                    record = json.loads(line)
                    kind = record["kind"]
                except (ValueError, KeyError, TypeError):
                    out.write(line + "\n")  # readers say what they make of it
                    continue
                if kind == "end":
                    ends.append(record)
                elif (kind == "run" and started) or (kind == "clause" and record.get("id") in seen):
                    continue
                else:
                    started = started or kind == "run"
                    if kind == "clause":
                        seen.add(str(record.get("id")))
                    out.write(line + "\n")
        if ends and len(ends) == parts:
            out.write(json.dumps(_merge_ends(ends)) + "\n")


def _merge_ends(ends: list[dict[str, object]]) -> dict[str, object]:
    def number(end: dict[str, object], key: str) -> float:
        value = end.get(key, 0)
        return value if isinstance(value, int | float) else 0

    counts: dict[str, int] = {}
    for end in ends:
        part = end.get("counts")
        for verdict, count in part.items() if isinstance(part, dict) else ():
            counts[verdict] = counts.get(verdict, 0) + int(count)
    return {
        "kind": "end",
        "finished": max(str(end.get("finished", "")) for end in ends),
        "duration_s": round(sum(number(end, "duration_s") for end in ends), 3),
        "exit_status": worst_status(int(number(end, "exit_status")) for end in ends),
        "counts": counts,
        **{key: int(sum(number(end, key) for end in ends)) for key in ("new", "known", "mended")},
    }


def worst_status(statuses: Iterable[int]) -> int:
    """The exit status of several runs: something new before a failure of the harness, that before anything else."""
    found = set(statuses)
    return next((status for status in (1, 3) if status in found), max(found, default=0))
