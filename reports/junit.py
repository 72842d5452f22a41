"""JUnit XML: one testsuite a target, one testcase a parametrised test. A run that was cut short is never green."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import datetime

from harness.summary import ClauseSummary, Machine, Outcome, Summary, TargetSummary
from harness.summary.comparison import Comparison
from harness.text import block, ends, line, visible
from reports.compare import compare_text

_REASON_MAX = 600
_MESSAGE_MAX = 1000
_BODY_MAX = 20_000


def render_junit(summary: Summary, against: Comparison | None = None) -> bytes:
    """The run as UTF-8 XML. New deviations are failures, mended ones failures of type "mended", known ones skipped."""
    root = ET.Element("testsuites", name="nsvm")
    suites = [_suite(summary, target) for target in summary.targets]
    suites.append(_run_suite(summary, against))
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(s.get(key, "0")) for s in suites)))
    root.set("time", f"{sum(o.result.duration_s for o in summary.outcomes):.3f}")
    root.extend(suites)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _suite(summary: Summary, target: TargetSummary) -> ET.Element:
    suite = ET.Element("testsuite", name=line(target.name), hostname=_hostname(summary))
    outcomes = [o for o in summary.outcomes if o.target == target.name]
    _date(suite, summary)
    properties = ET.SubElement(suite, "properties")
    for key, value in _suite_properties(summary, target):
        ET.SubElement(properties, "property", name=key, value=line(value, 2000))
    counts = {"failures": 0, "errors": 0, "skipped": 0}
    for outcome in outcomes:
        case = _case(outcome, summary.clauses)
        suite.append(case)
        for tag, key in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            counts[key] += case.find(tag) is not None
    suite.set("tests", str(len(outcomes)))
    suite.set("time", f"{sum(o.result.duration_s for o in outcomes):.3f}")
    for key, number in counts.items():
        suite.set(key, str(number))
    return suite


def _hostname(summary: Summary) -> str:
    """Of the machine that nsvm ran on."""
    return line(summary.run.start.host.name, 200) if summary.run.start and summary.run.start.host.name else "unknown"


def _date(suite: ET.Element, summary: Summary) -> None:
    started = summary.run.start.started if summary.run.start else ""
    try:
        suite.set("timestamp", datetime.fromisoformat(started).isoformat(timespec="seconds"))
    except ValueError:
        return


def _suite_properties(summary: Summary, target: TargetSummary) -> list[tuple[str, str]]:
    found = [("target", target.name), ("verdict", target.sentence)]
    found += [("part", target.part)] if target.part else []
    start = summary.run.start
    if start is not None:
        dirty = " (modified)" if start.nsvm.dirty else ""
        found += [
            ("run_id", start.run_id),
            ("nsvm", f"{start.nsvm.version} {start.nsvm.commit or ''}{dirty}"),
            ("python", start.python),
            ("host", f"{start.host.os}; {start.host.cpu}"),
        ]
    for number, machine in enumerate(target.machines):
        prefix = "machine" if len(target.machines) == 1 else f"machine{number}"
        found += _machine_properties(prefix, machine)
    return found


def _machine_properties(prefix: str, machine: Machine) -> list[tuple[str, str]]:
    found = [
        (f"{prefix}.version", machine.info.version),
        (f"{prefix}.executor_build", machine.info.executor_build),
        (f"{prefix}.svm_bits", f"{machine.info.edx:08x}"),
        (f"{prefix}.workers", ", ".join(machine.workers)),
    ]
    found += [(f"{prefix}.{title}", value) for title, value in machine.facts.items()]
    found += [(f"{prefix}.command", " ".join(command)) for _, command in machine.commands[:1]]
    return found


def split_test(test: str) -> tuple[str, str]:
    """(module, name) of a node id: "suites/np/test_x.py::test_y[z]" is ("suites.np.test_x", "test_y[z]")."""
    head, found, name = test.partition("::")
    if not found:
        return "", test
    return head.removesuffix(".py").replace("/", "."), name


def _case(outcome: Outcome, clauses: Mapping[str, ClauseSummary]) -> ET.Element:
    module, name = split_test(outcome.test)
    result = outcome.result
    case = ET.Element("testcase", classname=line(module), name=line(name), time=f"{result.duration_s:.3f}")
    if module:
        case.set("file", line(outcome.test.partition("::")[0]))
    if result.line:
        case.set("line", str(result.line))
    properties = ET.SubElement(case, "properties")
    told = [
        ("verdict", outcome.verdict),
        ("news", outcome.news),
        ("clauses", ", ".join(dict.fromkeys(j.clause for j in outcome.judged))),
        ("scenario", result.scenario),
        ("worker", result.worker),
    ]
    baselines = list(dict.fromkeys(j.baseline for j in outcome.judged if j.baseline))
    told += [("baseline", f"{b.reason} {b.reference}".strip()) for b in baselines]
    if outcome.fresh_differs or outcome.after_others:
        told.append(("fresh_boot", outcome.result.fresh.state if outcome.result.fresh else ""))
    for key, value in told:
        if value:
            ET.SubElement(properties, "property", name=key, value=line(value, _REASON_MAX))
    reason = line(next((j.summary for j in outcome.judged if j.category == outcome.category), "") or result.reason, 600)
    match outcome.category:
        case "new":
            stated = _stated(outcome, clauses)
            message = line(f"{stated} -- {reason}" if stated else reason, _MESSAGE_MAX)
            ET.SubElement(case, "failure", type=outcome.word, message=message).text = _body(outcome, clauses)
        case "mended":
            message = f"mended: the baseline says that this deviates, and it passes. {reason}".strip()
            ET.SubElement(case, "failure", type="mended", message=message).text = _body(outcome, clauses)
        case "known":
            why = line("; ".join(b.reason for b in baselines), _REASON_MAX) or reason
            ET.SubElement(case, "skipped", message=f"known deviation: {why}")
        case "lost":
            ET.SubElement(case, "error", type=outcome.verdict, message=reason).text = _body(outcome, clauses)
        case "skipped":
            ET.SubElement(case, "skipped", message=reason)
    return case


def _stated(outcome: Outcome, clauses: Mapping[str, ClauseSummary]) -> str:
    """The sentence of the clause that the test is about, or of the first one that is new."""
    new = [judged.clause for judged in outcome.judged if judged.category == outcome.category]
    return _sentence(clauses.get(new[0])) if new else ""


def _sentence(clause: ClauseSummary | None) -> str:
    """A clause's sentence with its section of the APM."""
    if clause is None or not clause.info.statement:
        return ""
    return line(clause.info.statement, 400) + (f" (APM2 {line(clause.info.apm, 60)})" if clause.info.apm else "")


def _body(outcome: Outcome, clauses: Mapping[str, ClauseSummary]) -> str:
    """The evidence as text."""
    out = [f"{outcome.word} on {outcome.target}"]
    out += [line(text, 600) for text in outcome.result.fresh.words] if outcome.result.fresh else []
    for judged in (j for j in outcome.judged if j.category == "mended"):
        said = f"; the baseline said: {line(judged.baseline.reason)}" if judged.baseline else ""
        out.append(f"clause {judged.clause}: mended{said}")
    for judged in (j for j in outcome.judged if j.verdict != "PASS"):
        out.append(f"clause {judged.clause}: {judged.verdict} {line(judged.summary)}")
        out += [f"  {text}" for text in [_sentence(clauses.get(judged.clause))] if text]
    for evidence in outcome.result.evidence:
        out += ["", line(evidence.title)] if evidence.title else [""]
        if evidence.at:
            out.append(f"  {line(evidence.at)}: {line(evidence.source)}")
        for row in evidence.rows:
            if not row.ok:
                meaning = f"  ({line(row.meaning)})" if row.meaning else ""
                out.append(f"  {line(row.name)}: expected {line(row.expected)}, got {line(row.got)}{meaning}")
        if evidence.setup is not None:
            out += [f"  {line(each)}" for each in evidence.setup.words()]
        for code in evidence.code:
            mark = f"   <-- {line(code.mark)}" if code.mark else ""
            out.append(f"  {line(code.addr)}  {line(code.bytes):<24} {line(code.text)}{mark}")
        out += [f"  {line(frame)}" for frame in evidence.frames[-12:]]
        if evidence.log:
            out.append(block(evidence.log, 4000))
        if evidence.l0_log:
            out += ["L0:", ends(evidence.l0_log, 4000)]
    if outcome.result.rerun:
        out += ["", f"again: {line(outcome.result.rerun)}"]
    text = visible("\n".join(out), keep="\n\t")
    return text if len(text) <= _BODY_MAX else f"{text[:_BODY_MAX]}\n[cut: the whole is in run.jsonl]"


def _run_suite(summary: Summary, against: Comparison | None) -> ET.Element:
    """The record itself as a testcase, so that nothing cut short, damaged or empty looks like
    success, and no part like the whole."""
    wrong = []
    if summary.cut_short:
        wrong.append("the record has no end: the run was killed or is still going")
    wrong += [f"interrupted: {i.reason}" for i in summary.run.interrupted]
    if not summary.outcomes:
        wrong.append("the record holds no result")
    wrong += [p.text for p in summary.run.problems if p.grave]
    wrong += summary.contradictions
    parts = [(target.name, target.part) for target in summary.targets if target.part]
    worse = against is not None and against.worse
    number = 1 + len(parts) + (against is not None)
    suite = ET.Element("testsuite", name="nsvm.run", hostname=_hostname(summary))
    suite.set("tests", str(number))
    suite.set("failures", str(int(worse)))
    suite.set("errors", str(int(bool(wrong))))
    suite.set("skipped", str(len(parts)))
    _date(suite, summary)
    case = ET.SubElement(suite, "testcase", classname="nsvm.run", name="the record is whole and agrees with itself")
    case.set("time", "0.000")
    if wrong:
        text = block("\n".join(wrong), _BODY_MAX)
        ET.SubElement(case, "error", type="record", message=line(wrong[0], _REASON_MAX)).text = text
    if against is not None:
        name = f"not worse than {line(against.before)}"
        case = ET.SubElement(suite, "testcase", classname="nsvm.run", name=name, time="0.000")
        if worse:
            failure = ET.SubElement(case, "failure", type="regression", message=line(against.sentence, _REASON_MAX))
            failure.text = block(compare_text(against), _BODY_MAX)
        else:
            ET.SubElement(case, "system-out").text = line(against.sentence, 2000)
    for target, part in parts:
        name = f"all suites on {line(target)}"
        case = ET.SubElement(suite, "testcase", classname="nsvm.run", name=name, time="0.000")
        ET.SubElement(case, "skipped", message=line(f"this run is a part: {part}", _REASON_MAX))
    return suite
