"""What a test compares decides its verdict: nothing compared is an error, and a failure is its own assert's."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from reports import render_all
from tests.run.test_plugin import suite  # noqa: F401

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
    "never_asked": ("    exit = run(l1)\n    exit.matches(code=VMEXIT.HLT)\n    assert exit.is_invalid or exit.ran", "never asked"),
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
    "in_a_block": "    import contextlib\n    with contextlib.suppress(ValueError):\n        assert run(l1).regs['rax'] >= 0",
    "or": "    exit = run(l1)\n    assert exit.ran or exit.is_invalid",
    "any": "    exit = run(l1)\n    assert any([exit.ran, exit.is_invalid])",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_test_that_checks_something_passes(suite, name):  # noqa: F811
    _, results, _ = suite(f'\n@clause("core.a")\ndef test_one(l1):\n{GOOD[name]}\n')

    assert (results["test_one"]["verdict"], results["test_one"]["reason"]) == ("PASS", "")
