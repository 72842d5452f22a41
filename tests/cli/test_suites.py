"""`nsvm new` and `nsvm clauses` on suites made up for it."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import clauses, new, paths
from harness.command import main
from harness.judge.clauses import load_clauses

CLAUSES = """\
[[clause]]
id = "core.asid_zero"
alias = ["CHK-033"]
bit = "core"
statement = "VMRUN with ASID 0 ends with VMEXIT_INVALID."
apm = "15.5.1"
trust = ["APM", "KVM61"]

[[clause]]
id = "core.host_state"
statement = "#VMEXIT restores host state."
apm = "15.6"
trust = ["APM"]
universal = true
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    suite = tmp_path / "suites" / "core"
    suite.mkdir(parents=True)
    (suite / "clauses.toml").write_text(CLAUSES)
    monkeypatch.setattr(new, "ROOT", tmp_path)
    monkeypatch.setattr(clauses, "ROOT", tmp_path)
    return tmp_path


def tests_are(monkeypatch: pytest.MonkeyPatch, *tests: tuple[str, list[str]]) -> None:
    """What collecting would find."""
    found = [{"test": test, "clauses": ids} for test, ids in tests]
    monkeypatch.setattr(clauses, "collect", lambda: found)


def test_a_new_test_is_python_and_its_clause_is_one(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "core", "asid_reuse"]) == 0

    source = (clone / "suites" / "core" / "test_asid_reuse.py").read_text()
    ast.parse(source)
    assert source.startswith('"""')
    assert '@clause("core.asid_reuse")\ndef test_asid_reuse(l1):' in source
    listing = (clone / "suites" / "core" / "clauses.toml").read_text()
    assert listing.startswith(CLAUSES)
    assert load_clauses(clone / "suites")["core.asid_reuse"].bit == "core"
    assert "./nsvm run suites/core/test_asid_reuse.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("suite", "name", "complaint"),
    [
        ("coree", "x", "no suite is called 'coree'; is core meant?"),
        ("Core", "x", "'Core' cannot name a suite"),
        ("../vax", "x", "cannot name a suite"),
        ("class", "x", "'class' cannot name a suite"),
        ("lib", "x", "suites/lib is there and is no suite; there are core"),
        ("file", "x", "suites/file is there and is no suite"),
        ("elsewhere", "x", "a clause elsewhere.x of another suite begins with 'elsewhere'"),
        ("core", "asid zero", "'asid zero' cannot name a test"),
        ("core", "../x", "cannot name a test"),
        ("core", "asid_zero", "a clause core.asid_zero exists already"),
        ("core", "there", "suites/core/test_there.py exists already"),
    ],
)
def test_it_overwrites_nothing(
    clone: Path, suite: str, name: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there = clone / "suites" / "core" / "test_there.py"
    there.write_text("mine")
    (clone / "suites" / "lib").mkdir()
    (clone / "suites" / "file.py").write_text("")
    more = clone / "suites" / "core" / "clauses-more.toml"
    more.write_text('[[clause]]\nid = "elsewhere.x"\nstatement = "x"\napm = "15.5"\ntrust = ["APM"]\n')

    assert main(["new", suite, name]) == 2

    assert complaint in capsys.readouterr().err
    assert there.read_text() == "mine"
    assert (clone / "suites" / "core" / "clauses.toml").read_text() == CLAUSES
    assert sorted(path.name for path in (clone / "suites").iterdir()) == ["core", "file.py", "lib"]
    assert len(list((clone / "suites" / "core").iterdir())) == 3


@pytest.mark.parametrize(
    ("suite", "bit", "class_"),
    [("nrips", "NRIPS", "conditional"), ("lbrvirt", "LbrVirt", "conditional"), ("vax", "vax", "mandatory")],
)
def test_a_suite_that_is_not_there_is_made(clone: Path, suite: str, bit: str, class_: str) -> None:
    assert main(["new", suite, "prefixes"]) == 0

    folder = clone / "suites" / suite
    assert sorted(path.name for path in folder.iterdir()) == ["__init__.py", "clauses.toml", "test_prefixes.py"]
    made = load_clauses(clone / "suites")[f"{suite}.prefixes"]
    assert (made.bit, made.class_, made.condition) == (bit, class_, bit if class_ == "conditional" else "")
    assert main(["new", suite, "more"]) == 0
    assert load_clauses(clone / "suites")[f"{suite}.more"].bit == bit


def test_a_test_that_was_just_made_fits_its_clause(clone: Path) -> None:
    """What the template says is what the plugin understands: `nsvm clauses` finds no fault in it."""
    (clone / "suites" / "core" / "clauses.toml").unlink()
    (clone / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    start = f"import sys\nsys.path.insert(0, {str(paths.ROOT)!r})\npytest_plugins = ['harness.plugin']\n"
    (clone / "conftest.py").write_text(start)

    assert main(["new", "vax", "thing"]) == 0

    assert clauses.collect() == [{"test": "suites/vax/test_thing.py::test_thing", "clauses": ["vax.thing"]}]
    assert main(["clauses"]) == 0


def test_clauses_and_tests_that_fit_are_0(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tests_are(
        monkeypatch,
        ("suites/core/test_c.py::test_asid[0]", ["core.asid_zero"]),
        ("suites/core/test_c.py::test_asid[1]", ["core.asid_zero"]),
    )

    assert main(["clauses"]) == 0

    told = capsys.readouterr().out
    assert "core.asid_zero (CHK-033)" in told
    assert "source: 15.5.1; trust: APM, KVM61" in told
    assert "test: suites/core/test_c.py::test_asid (2 parameter sets)" in told
    assert "checked after every VMRUN" in told
    assert told.splitlines()[-1].startswith(
        "2 clauses (1 of them checked after every VMRUN), 2 tests; 0 clauses without"
    )


def test_what_does_not_fit_is_listed_and_is_1(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tests_are(monkeypatch, ("suites/core/test_c.py::test_lost", ["core.gone"]))

    assert main(["clauses", "--json"]) == 1

    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["clauses_without_test"] == ["core.asid_zero"]
    assert told["tests_without_clause"] == ["suites/core/test_c.py::test_lost"]
    assert [each["id"] for each in told["clauses"]] == ["core.asid_zero", "core.host_state"]


def test_clauses_can_be_looked_up_by_alias(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tests_are(monkeypatch, ("suites/core/test_c.py::test_asid", ["core.asid_zero"]))

    assert main(["clauses", "chk-033", "--short"]) == 0
    told = capsys.readouterr().out
    assert "core.asid_zero" in told
    assert "core.host_state" not in told

    assert main(["clauses", "CHK-999"]) == 2


def test_a_clause_file_that_is_wrong_is_a_line(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clone / "suites" / "core" / "clauses.toml").write_text('[[clause]]\nid = "core.x"\n')

    assert main(["clauses"]) == 2
    assert "statement is missing" in capsys.readouterr().err
