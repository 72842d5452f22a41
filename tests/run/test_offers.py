"""A bit of Fn8000_000A EDX that a target lost, or gained, is new wherever a result stands."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from harness.record import load
from harness.summary import summarise
from harness.svm.cpuid import SVM_BITS
from reports import render_html, render_junit
from reports.table import render_table
from tests.run.test_plugin import TEST, suite  # noqa: F401  # a fixture

pytest_plugins = ["pytester"]
GOOD = TEST.format(asid=1)
HOW = pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["alone", "xdist"])


def offers(*bits):
    return f"[[offers]]\nbits = [{', '.join(repr(bit) for bit in bits)}]\n".replace("'", '"')


@pytest.fixture
def there(suite, pytester):  # noqa: F811
    """The bits that the fake offers, by name, as a run of its own says."""
    suite(GOOD, "--target", "fake")
    record = pytester.path / "out" / "run.jsonl"
    edx = load(record).targets[0].edx
    record.unlink()
    assert edx
    return [bit.name for bit in SVM_BITS if edx >> bit.bit & 1]


@HOW
def test_bits_as_the_baseline_says_are_no_news(suite, there, how):  # noqa: F811
    done, _, lines = suite(GOOD, "--target", "fake", *how, baseline=offers(*there))

    assert (done.ret, lines[-1]["exit_status"], lines[-1]["new"]) == (0, 0, 0)


@HOW
def test_a_bit_that_is_missing_and_one_that_is_new_are_deviations(suite, pytester, there, how):  # noqa: F811
    assert "AVIC" not in there
    done, results, lines = suite(GOOD, "--target", "fake", *how, baseline=offers(*there[1:], "AVIC"))
    summary = summarise(load(pytester.path / "out" / "run.jsonl"))

    assert (done.ret, lines[-1]["exit_status"], lines[-1]["new"], summary.exit_status) == (1, 1, 2, 1)
    assert results["test_one"]["verdict"] == "PASS"
    for bit, says in (
        (there[0], "is 1; fake.toml says that the target does not offer it"),
        ("AVIC", "is 0; fake.toml"),
    ):
        result = results[f"offers.{bit}"]
        assert (result["verdict"], result["news"]) == ("FAIL", "new")
        assert says in result["reason"]
        assert result["reason"] in render_table(summary, width=300)
        assert result["reason"] in render_html(summary)
        failures = [case.find("failure") for case in ET.fromstring(render_junit(summary)).iter("testcase")]
        messages = [failure.get("message") or "" for failure in failures if failure is not None]
        assert any(result["reason"] in message for message in messages)
    row = next(bit for bit in summary.bits if bit.key == "AVIC")
    assert row.cells["fake"].tally.new == 1
    assert not summary.contradictions


def test_a_bit_that_the_user_took_away_is_told_and_no_deviation(suite, pytester, there):  # noqa: F811
    # The fake takes nothing away: what the run was asked to take away is judged as away.
    _, results, _ = suite(GOOD, "--target", "fake", "--without", "AVIC", baseline=offers(*there, "AVIC"))
    summary = summarise(load(pytester.path / "out" / "run.jsonl"))

    assert [name for name in results if name.startswith("offers.")] == []
    assert "fake (--without AVIC): no new deviation" in summary.sentence


def test_a_wrong_name_is_one_line_before_anything_runs(suite):  # noqa: F811
    done, results, _ = suite(GOOD, "--target", "fake", baseline=offers("NRIP"))

    assert (done.ret, results) == (4, {})
    done.stderr.fnmatch_lines(["ERROR: *fake.toml: offers: *no bit named 'NRIP'; did you mean NRIPS[?]*"])
