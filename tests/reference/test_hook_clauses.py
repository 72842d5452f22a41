"""The hooks name the clauses that they serve: each must be one of today's, or a pattern that fits some."""

from __future__ import annotations

import fnmatch

from harness.judge.clauses import load_clauses
from harness.reference import recipe
from harness.reference.features import load_all

CLAUSES = load_clauses(recipe.PROJECT / "suites")
GROUND = ("core", "fault")
"""Features that serve no clause: what the others stand on, and the faults."""


def test_every_clause_that_a_hook_names_exists() -> None:
    named = {(f.name, clause) for f in load_all(recipe.OURS / "hooks") for edit in f.edits for clause in edit.clauses}

    assert len(named) > 150
    assert not [(feature, name) for feature, name in sorted(named) if not fnmatch.filter(CLAUSES, name)]


def test_every_feature_says_what_it_is_for() -> None:
    silent = [f.name for f in load_all(recipe.OURS / "hooks") if not any(edit.clauses for edit in f.edits)]

    assert sorted(silent) == sorted(GROUND)
