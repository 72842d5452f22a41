"""What cannot be collected is a result of its own, and loses no other test: with a process of its own and with xdist.

A file that vanishes without a word makes a green run of whatever is left.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from harness.record import load
from harness.run.collection import reason_of
from harness.summary import summarise
from reports import render_html, render_junit
from reports.table import render_table
from tests.run.test_plugin import TEST, suite  # noqa: F401  # a fixture

pytest_plugins = ["pytester"]
GOOD = TEST.format(asid=1)
BOTH = pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["alone", "xdist"])


def broken(pytester, source):
    """A second file in the suite."""
    (pytester.path / "suites" / "core" / "test_broken.py").write_text(source)


@BOTH
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def test_two(l1:\n    pass\n", "test_broken.py:1: SyntaxError: '(' was never closed"),
        ("import pytest\n\nimport no_such_module\n", "test_broken.py:3: ModuleNotFoundError: No module named 'no_su"),
        (
            "import pytest\nfrom harness.svm import intercept_exit_code\n\nCODE = intercept_exit_code('cr0_raed')\n",
            "test_broken.py:4: UnknownName: no such intercept: cr0_raed; did you mean cr0_read?",
        ),
    ],
    ids=["syntax", "import", "intercept"],
)
def test_a_file_that_cannot_be_imported_is_an_error_and_the_others_run(suite, pytester, how, source, reason):  # noqa: F811
    broken(pytester, source)
    done, results, lines = suite(GOOD, "--target", "fake", *how)

    assert results["test_one"]["verdict"] == "PASS"
    error = results["suites/core/test_broken.py"]
    assert (error["verdict"], error["reason"][: len(f"suites/core/{reason}")]) == ("ERROR", f"suites/core/{reason}")
    assert error["rerun"] == "./nsvm run --target fake suites/core/test_broken.py"
    assert (done.ret, lines[-1]["kind"], lines[-1]["exit_status"]) == (1, "end", 3)
    assert not [line for line in lines if line["kind"] == "interrupted"]


@BOTH
@pytest.mark.parametrize(
    ("source", "test", "reason"),
    [
        ("def test_two(l1):\n    pass\n", "test_two", "names no clause"),
        (
            '@clause("core.exit.control_area_untuched")\n@pytest.mark.parametrize("a", [1, 2])\n'
            "def test_two(l1, a):\n    pass\n",
            "test_two",
            "core.exit.control_area_untuched; did you mean core.exit.control_area_untouched?",
        ),
        (
            '@clause("core.a")\n@pytest.mark.parametrize("a", ["cr0_raed", "cr0_read"])\ndef test_two(l1, a):\n'
            '    assert l1.guest("vmmcall", intercept=(a,)).run().ran\n',
            "test_two[cr0_raed]",
            "no such intercept: cr0_raed; did you mean cr0_read?",
        ),
    ],
    ids=["no clause", "clause", "intercept"],
)
def test_a_test_that_names_what_does_not_exist_is_an_error_and_the_others_run(
    suite,  # noqa: F811
    how,
    source,
    test,
    reason,
):
    done, results, lines = suite(GOOD + source, "--target", "fake", *how)

    assert results["test_one"]["verdict"] == "PASS"
    assert [name for name, result in results.items() if result["verdict"] == "ERROR"] == [test]
    assert results[test]["reason"].startswith("suites/core/test_it.py:")
    assert reason in results[test]["reason"]
    assert (done.ret, lines[-1]["exit_status"]) == (1, 3)
    done.stdout.fnmatch_lines([f"*{reason[:40]}*"])


def test_it_stands_in_terminal_page_and_junit(suite, pytester):  # noqa: F811
    broken(pytester, "import no_such_module\n")
    suite(GOOD, "--target", "fake")
    summary = summarise(load(pytester.path / "out" / "run.jsonl"))
    reason = "suites/core/test_broken.py:1: ModuleNotFoundError: No module named 'no_such_module'"

    assert f"ERROR suites/core/test_broken.py: {reason}" in render_table(summary, width=200)
    assert reason in render_html(summary).replace("&#39;", "'")
    errors = [case.find("error") for case in ET.fromstring(render_junit(summary)).iter("testcase")]
    assert [error.get("message") for error in errors if error is not None] == [reason]
    assert summary.exit_status == 3


@BOTH
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("-k", "asid and"), "Wrong expression passed to '-k': asid and"),
        (("suites/core/test_none.py",), "test_none.py"),
    ],
    ids=["k", "file"],
)
def test_what_pytest_refuses_is_its_own_complaint_and_a_usage_error(suite, how, arguments, complaint):  # noqa: F811
    done, results, lines = suite(GOOD, "--target", "fake", *how, *arguments)

    assert (done.ret, results) == (4, {})
    done.stderr.fnmatch_lines([f"ERROR: *{complaint}*"])
    assert "INTERNALERROR" not in done.stdout.str() + done.stderr.str()
    assert not [line for line in lines if line["kind"] == "interrupted" and "Ctrl-C" in line["reason"]]


def test_the_line_is_where_the_collected_file_stood(tmp_path):
    path = tmp_path / "suites" / "t.py"
    path.parent.mkdir()
    path.write_text("import json\n\njson.loads('{')\n")
    with pytest.raises(ValueError) as caught:
        exec(compile(path.read_text(), str(path), "exec"))

    assert reason_of(caught.value, path, tmp_path).startswith("suites/t.py:3: JSONDecodeError: Expecting property")
