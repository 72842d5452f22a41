"""Clause files: what may stand in them, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judge.clauses import ClauseError, load_clauses, load_dropped

CLAUSE = """\
[[clause]]
id = "core.a"
statement = "A."
apm = "15.5"
trust = ["APM"]
"""


def suites(tmp_path: Path, text: str) -> Path:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "clauses.toml").write_text(text)
    return tmp_path


def test_a_clause_may_say_why_no_test_asks_it(tmp_path: Path) -> None:
    root = suites(tmp_path, CLAUSE + 'not_tested = "nothing shows it"\n')

    assert load_clauses(root)["core.a"].not_tested == "nothing shows it"


def test_drafted_clauses_are_dropped_with_a_reason(tmp_path: Path) -> None:
    root = suites(tmp_path, CLAUSE + '[[dropped]]\nalias = ["DA-024"]\nreason = "a use, not a behaviour"\n')

    assert [(one.alias, one.reason) for one in load_dropped(root)] == [(("DA-024",), "a use, not a behaviour")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[[dropped]]\nalias = ["DA-024"]\n', "alias and reason"),
        ('[[clauze]]\nid = "x"\n', "what is clauze"),
    ],
)
def test_a_wrong_table_is_one_line_with_the_file(tmp_path: Path, text: str, complaint: str) -> None:
    root = suites(tmp_path, text)

    with pytest.raises(ClauseError, match=complaint) as raised:
        load_dropped(root)

    assert "core/clauses.toml" in str(raised.value)
