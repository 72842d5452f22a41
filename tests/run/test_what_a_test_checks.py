"""What a test compares decides its verdict: nothing compared is an error, and a failure is its own assert's."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from reports import render_all
from tests.run.test_plugin import TEST, suite  # noqa: F401

pytest_plugins = ["pytester"]

OTHER = """
[[deviation]]
clause = "core.a"
fields = ["exitcode"]
reason = "it is a fake"
reference = "tests"
"""

STALE = """
@clause("core.a")
def test_one(l1):
    if not run(l1, 100).matches(code=VMEXIT.VMMCALL):
        value = 1
    assert value == 2
"""


def test_a_failure_is_not_excused_by_another_comparison(suite):  # noqa: F811
    done, results, _ = suite(STALE, baseline=OTHER)

    assert done.ret == 1
    assert (results["test_one"]["news"], results["test_one"]["evidence"][0]["rows"]) == ("new", [])
    assert "1 == 2" in results["test_one"]["reason"]


NESTED = """
def same(exit):
    assert exit.matches(code=VMEXIT.VMMCALL)

@clause("core.a")
def test_one(l1):
    same(run(l1, 100))
"""


def test_a_failure_shows_its_assert_in_terminal_record_junit_and_page(suite, pytester):  # noqa: F811
    done, results, _ = suite(NESTED)

    first = results["test_one"]["evidence"][0]
    assert first["at"].startswith("suites/core/test_it.py:")
    assert first["source"] == "assert exit.matches(code=VMEXIT.VMMCALL)"
    at = f"{first['at']}: {first['source']}"
    assert at in done.stdout.str()
    rendered = render_all(pytester.path / "out")
    failure = ET.parse(rendered.junit).find(".//failure")
    assert at in failure.text
    page = rendered.html.read_text()
    assert first["at"] in page and "assert exit.matches(code=VMEXIT.VMMCALL)" in page


ERRORS = {
    "never_asked": ("    exit = run(l1)\n    exit.matches(code=VMEXIT.HLT)\n    assert exit.ran", "never asked"),
    "brackets": ("    assert (run(l1).matches(code=VMEXIT.HLT), 'a message')", "never asked"),
    "property": ("    exit = run(l1)\n    exit.is_invalid\n    assert exit.ran", "exit.is_invalid"),
    "nothing": ("    run(l1)", "checks nothing"),
    "empty_loop": ("    run(l1)\n    for exit in ():\n        assert exit.ran", "checks nothing"),
    "constant": ("    run(l1)\n    assert True", "checks nothing"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_a_test_that_checks_nothing_is_an_error(suite, name):  # noqa: F811
    body, said = ERRORS[name]
    done, results, lines = suite(f'\n@clause("core.a")\ndef test_one(l1):\n{body}\n')

    assert done.ret == 1
    assert results["test_one"]["verdict"] == "ERROR"
    assert said in results["test_one"]["reason"]
    assert lines[-1]["exit_status"] != 0


GOOD = {
    "plain": "    assert run(l1).code == VMEXIT.VMMCALL",
    "in_a_block": "    with pytest.MonkeyPatch.context():\n        assert run(l1).regs['rax'] >= 0",
    "or": "    exit = run(l1)\n    assert exit.ran or exit.is_invalid",
    "any": "    exit = run(l1)\n    assert any([exit.ran, exit.is_invalid])",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_test_that_checks_something_passes(suite, name):  # noqa: F811
    _, results, _ = suite(f'\n@clause("core.a")\ndef test_one(l1):\n{GOOD[name]}\n')

    assert (results["test_one"]["verdict"], results["test_one"]["reason"]) == ("PASS", "")


def test_a_test_may_ask_both_ways_round(suite, pytester):  # noqa: F811
    with (pytester.path / "suites" / "core" / "clauses.toml").open("a") as clauses:
        for name, condition in (("there", "NRIPS"), ("not_there", "!NRIPS")):
            clauses.write(
                f'[[clause]]\nid = "core.{name}"\nstatement = "{name}"\napm = "15"\ntrust = ["APM"]\n'
                f'condition = "{condition}"\n'
            )
    source = """
from harness import unwritten

@clause("core.there", "core.not_there")
def test_one(l1):
    expected = l1.either("NRIPS", offered=0, absent=unwritten)
    assert expected in (0, unwritten)
    assert run(l1).reached("here", nrip=l1.either("NRIPS", offered=unwritten, absent=unwritten))

@clause("core.there", "core.avic")
def test_two(l1):
    assert run(l1).reached("here")
"""
    _, results, lines = suite(source)

    offered = next(line["edx"] for line in lines if line["kind"] == "target") >> 3 & 1
    assert results["test_one"]["verdict"] == "PASS"
    assert results["test_one"]["clauses"] == ["core.there" if offered else "core.not_there"]
    assert results["test_two"]["verdict"] == "SKIP"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('condition = "NRPIS"', "condition 'NRPIS': unknown CPU feature 'NRPIS'; did you mean NRIPS?"),
        ('condition = "NP &"', "a feature name is missing"),
        ('bit = "NRIP"', "there is no bit 'NRIP' in Fn8000_000A EDX; did you mean NRIPS"),
    ],
)
def test_a_wrong_clause_is_one_error_before_anything_runs(suite, pytester, wrong, said):  # noqa: F811
    path = pytester.path / "suites" / "core" / "clauses.toml"
    path.write_text(
        path.read_text().replace('condition = ""\n', "")
        + f'[[clause]]\nid = "core.wrong"\nstatement = "x"\napm = "15"\ntrust = ["APM"]\n{wrong}\n'
    )
    done, results, _ = suite(TEST.format(asid=1))

    assert (done.ret, results) == (pytest.ExitCode.USAGE_ERROR, {})
    complaint = [line for line in done.stderr.lines if line.startswith("ERROR")]
    assert len(complaint) == 1
    assert "core/clauses.toml: core.wrong: " in complaint[0] and said in complaint[0]


HOST = """
@clause("core.a")
def test_one(l1):
    first, second = run(l1), run(l1)
    assert second.matches(host={{"{name}": 0x1000}}) and first.host["LSTAR"] == 5
    assert first.host[0xC000_0080] == 0x1D00
"""


def test_what_vmrun_left_alone_is_compared_with_its_real_value(suite):  # noqa: F811
    _, results, _ = suite(HOST.format(name="CR3"))

    assert (results["test_one"]["verdict"], results["test_one"]["reason"]) == ("PASS", "")


def test_a_host_item_that_does_not_exist_is_an_error(suite):  # noqa: F811
    _, results, _ = suite(HOST.format(name="CR33"))

    assert results["test_one"]["verdict"] == "ERROR"
    assert "did you mean CR3" in results["test_one"]["reason"]
