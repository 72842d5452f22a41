"""`against.json`: the comparison of a run with an earlier one, next to its record. With it the report shows what the
comparison came to also where the earlier run is gone. docs/record.md says what stands in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from harness.summary.comparison import Cell, Change, Comparison, Kind, TargetComparison

AGAINST_NAME: Final = "against.json"
SCHEMA: Final = 1


def as_json(found: Comparison, *, every: bool = True) -> dict[str, Any]:
    """As JSON has it. `every`: also the cells that deviate as before."""
    return {
        "schema": SCHEMA,
        "verdict": "worse" if found.worse else "not conclusive" if found.lost else "not worse",
        "in_part": found.in_part,
        "sentence": found.sentence,
        "before": {"name": found.before, "started": found.started_before},
        "now": {"name": found.now, "started": found.started_now},
        "targets_gone": found.targets_gone,
        "targets_added": found.targets_added,
        "notes": found.notes,
        "targets": [_target(target, every=every) for target in found.targets],
    }


def _target(target: TargetComparison, *, every: bool) -> dict[str, Any]:
    plain = ("before", "now", "compared", "asked", "bits_lost", "bits_won", "part_before", "part_now", "otherwise",
             "clauses_unasked")  # fmt: skip
    return {
        **{name: getattr(target, name) for name in plain},
        "sentence": target.sentence,
        "worse": target.worse,
        "tests": {kind.value: number for kind in Kind if (number := target.by_test[kind])},
        "changes": [{"what": c.what, "before": c.before, "now": c.now} for c in target.changes],
        "cells": [
            {
                "clause": cell.clause, "test": cell.test, "word": cell.word, "kind": cell.kind.name,
                "regression": target.is_regression(cell), "before": cell.before, "now": cell.now,
                "known": cell.known, "heisenbug": cell.heisenbug,
            }
            for cell in target.cells
            if every or cell.kind is not Kind.STILL
        ],
    }  # fmt: skip


def write_against(folder: Path, found: Comparison) -> None:
    """Writes it into a run folder. Raises OSError."""
    (folder / AGAINST_NAME).write_text(json.dumps(as_json(found), indent=0, ensure_ascii=False) + "\n", "utf-8")


def read_against(folder: Path) -> Comparison | None:
    """What stands in a run folder; None where there is none, or where it cannot be read."""
    try:
        told = json.loads((folder / AGAINST_NAME).read_text("utf-8"))
        if told["schema"] != SCHEMA:
            return None
        return Comparison(
            str(told["before"]["name"]),
            str(told["now"]["name"]),
            str(told["before"]["started"]),
            str(told["now"]["started"]),
            [_read_target(each) for each in told["targets"]],
            *([str(each) for each in told[key]] for key in ("targets_gone", "targets_added", "notes")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read_target(told: Mapping[str, Any]) -> TargetComparison:
    simple: dict[str, Any] = {}
    for each in fields(TargetComparison):
        if each.name in ("cells", "changes"):
            continue
        value = told[each.name]
        simple[each.name] = [str(text) for text in value] if isinstance(value, list) else value
    if not all(isinstance(simple[name], int) for name in ("compared", "asked")):
        raise TypeError
    return TargetComparison(
        **simple,
        cells=[
            Cell(str(c["test"]), str(c["clause"]), Kind[c["kind"]], str(c["before"]), str(c["now"]),
                 known=bool(c["known"]), heisenbug=bool(c["heisenbug"]))
            for c in told["cells"]
        ],
        changes=[Change(str(c["what"]), str(c["before"]), str(c["now"])) for c in told["changes"]],
    )  # fmt: skip
