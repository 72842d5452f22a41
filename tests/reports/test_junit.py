"""JUnit XML: what a CI server shows must not be greener than the run."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from junitparser import JUnitXml

from harness.record import AFTER_OTHERS, Check, Fresh, Line, Result, collect, load
from harness.summary import summarise
from reports.junit import render_junit, split_test
from tests.reports.synthetic import HOSTILE, Maker, interrupted, quiet, summary_of, write


def _parse(data: bytes) -> ET.Element:
    return ET.fromstring(data)


def test_each_test_is_one_case_with_its_outcome(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", Maker())

    root = _parse(render_junit(summary))

    suite = root.find("testsuite[@name='qemu-tcg']")
    assert suite is not None
    cases = suite.findall("testcase")
    assert len(cases) == summary.tests == int(suite.get("tests", ""))
    failures = Counter(f.get("type") for f in suite.iter("failure"))
    assert failures == {"FAIL": 2, "CRASH": 1, "mended": 1}
    assert Counter(e.get("type") for e in suite.iter("error")) == {"ERROR": 1, "MISS": 1}
    skipped = [s.get("message", "") for s in suite.iter("skipped")]
    assert sum(s.startswith("known deviation: ") for s in skipped) == summary.known
    assert len(skipped) == summary.known + summary.skipped
    for key in ("failures", "errors", "skipped"):
        assert int(suite.get(key, "")) == sum(
            1 for _ in suite.iter({"failures": "failure", "errors": "error"}.get(key, key))
        )


def test_a_case_says_its_clause_and_its_news(tmp_path: Path) -> None:
    root = _parse(render_junit(summary_of(tmp_path / "run.jsonl", Maker())))

    case = root.find(".//testcase[@name='test_field_is_not_written[case2]']")
    assert case is not None and case.get("classname") == "suites.nrips.test_off"
    told = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert told["clauses"] == "nrips.off.field_is_not_written" and told["news"] == "new"
    body = case.findtext("failure") or ""
    assert "exitcode: expected FFFFFFFF_FFFFFFFF" in body and "<-- exit here" in body and "again: ./nsvm run" in body
    known = root.find(".//testcase[@name='test_exitcode_is_64_bit']/properties/property[@name='baseline']")
    assert known is not None and "32 bits" in known.get("value", "")


def test_a_failure_has_its_place_and_says_the_clause_with_its_section(tmp_path: Path) -> None:
    def place(records: list[Line]) -> None:
        at = next(n for n, r in enumerate(records) if isinstance(r, Result) and r.news == "new")
        records[at] = replace(records[at], line=17)  # type: ignore[type-var]

    root = _parse(render_junit(summary_of(tmp_path / "run.jsonl", Maker(), place)))

    case = root.find(".//testcase[@name='test_field_is_not_written[case2]']")
    assert case is not None and (case.get("file"), case.get("line")) == ("suites/nrips/test_off.py", "17")
    failure = case.find("failure")
    assert failure is not None
    statement, _, reason = failure.get("message", "").partition(" -- ")
    assert "(APM2 15." in statement and reason.startswith("0C8h was written")
    assert statement in (failure.text or "")
    assert all(suite.get("hostname") for suite in root.findall("testsuite"))


def test_the_machine_is_in_the_properties(tmp_path: Path) -> None:
    root = _parse(render_junit(summary_of(tmp_path / "run.jsonl", quiet())))

    told = {p.get("name"): p.get("value") for p in root.findall("testsuite[@name='qemu-tcg']/properties/property")}
    assert told["machine.Vendor"] == "AuthenticAMD"
    assert told["machine.svm_bits"] == "10010001"
    assert told["verdict"].startswith("qemu-tcg: no new deviation")


def test_hostile_text_leaves_it_valid(tmp_path: Path) -> None:
    results = [
        Result(test=f"a.py::t[{t}]", target=t[:50], verdict=v, news="new", reason=t, rerun=t, clauses=(t,), worker=t)
        for t in HOSTILE
        for v in ("FAIL", "ERROR", "SKIP")
    ]
    data = render_junit(summarise(load(write(tmp_path / "run.jsonl", results))))

    _parse(data)
    text = data.decode("utf-8")
    assert all(c.isprintable() or c in "\n\t" for c in text)
    assert r"\x1b[31;5mred" in text and "<script>" not in text


def test_other_readers_take_it(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_bytes(render_junit(summary_of(tmp_path / "run.jsonl", Maker(hostile=True))))

    xml = JUnitXml.fromfile(str(path))

    assert (xml.tests, xml.failures, xml.errors) == (489, 4, 2)
    assert sum(len(list(suite)) for suite in xml) == 489


@pytest.mark.parametrize("what", ["killed", "empty", "interrupted", "torn"])
def test_a_run_that_is_not_whole_is_an_error(tmp_path: Path, what: str) -> None:
    path = tmp_path / "run.jsonl"
    match what:
        case "killed":
            summary = summarise(load(write(path, quiet().records(end=False))))
        case "empty":
            summary = summarise(collect([]), ending=True)
        case "interrupted":
            summary = summary_of(path, quiet(), lambda r: r.insert(-1, interrupted()))
        case _:
            write(path, quiet().records())
            with path.open("ab") as handle:
                handle.write(b'{"kind":"resu')
            summary = summarise(load(path))

    root = _parse(render_junit(summary))

    assert int(root.get("errors", "0")) == 1
    assert root.find("testsuite[@name='nsvm.run']/testcase/error") is not None


def test_a_quiet_run_is_green(tmp_path: Path) -> None:
    root = _parse(render_junit(summary_of(tmp_path / "run.jsonl", quiet())))

    assert (root.get("failures"), root.get("errors")) == ("0", "0")


def test_split_test() -> None:
    assert split_test("suites/np/test_x.py::test_y[a::b.py]") == ("suites.np.test_x", "test_y[a::b.py]")
    assert split_test("odd") == ("", "odd")


def test_a_deviation_after_others_says_so_and_names_them() -> None:
    fresh = Fresh(
        state=AFTER_OTHERS, shared_verdict="FAIL", fresh_verdict="PASS", after=["s/a.py::first"], how="seen again"
    )
    check = Check(clause="core.a", verdict="FAIL", news="new")
    result = Result(test="s/a.py::t", target="t", verdict="FAIL", news="new", checks=[check], fresh=fresh)

    failure = _parse(render_junit(summarise(collect([result])))).find(".//failure")

    assert failure is not None and failure.get("type") == "FAIL after others"
    assert "PASS on a fresh boot" in (failure.text or "") and "s/a.py::first" in (failure.text or "")
