"""The baselines speak of what there is: an entry whose clause or test is gone excuses nothing and misleads a reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.cli.clauses import collect
from harness.judge.baseline import Deviation, read_all
from harness.judge.clauses import load_clauses

ROOT = Path(__file__).resolve().parents[2]
BASELINES = sorted((ROOT / "baselines").glob("*.toml"))


@pytest.fixture(scope="module")
def collected() -> Sequence[dict[str, Any]]:
    return collect()


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_every_entry_names_a_clause_and_tests_that_there_are(path: Path, collected: Sequence[dict[str, Any]]) -> None:
    clauses = load_clauses(ROOT / "suites")
    gone = []
    for entry in read_all(path):
        if entry.clause not in clauses:
            gone.append(entry.clause)
            continue
        universal = clauses[entry.clause].universal
        nodes = [each["test"] for each in collected if universal or entry.clause in each["clauses"]]
        for pattern in entry.tests:
            alone = Deviation(entry.clause, "", "", tests=(pattern,))
            if not any(alone.covers(entry.clause, node) for node in nodes):
                gone.append(f"{entry.clause}: {pattern}")

    assert gone == []


def test_there_are_baselines() -> None:
    of_l0s = {f"{kind}{below}" for kind in ("kvm", "xen") for below in ("", "-on-tcg", "-on-reference")}
    assert {path.stem for path in BASELINES} >= {"qemu-tcg", "bochs", "reference", *of_l0s}
