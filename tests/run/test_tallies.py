"""What universal checks came to is counted where a result speaks of it: a test that has no verdict, or skips itself
half-way, leaves no count behind that no result explains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[2]

CONFTEST = """
import sys
sys.path.insert(0, {root!r})
pytest_plugins = ["harness.plugin"]
from harness.targets import register
from tests.fake_executor import FakeTarget
from tests.fake_l1 import FakeL1, Outcome, vmmcall_exit

class Odd(FakeL1):
    def __init__(self):
        super().__init__(lambda vmcb: Outcome(vmmcall_exit(vmcb).fields | {{"exitcode": 0x7777}}))

class Target(FakeTarget):
    needs_executor = False

    def start(self):
        self.respond = Odd().respond
        return super().start()

register("fake", Target)
"""

CLAUSES = '[[clause]]\nid = "core.a"\nstatement = "a holds."\napm = "15.5.1"\ntrust = ["APM"]\ncondition = ""\n'
SUITE = """
import pytest
from harness import clause

@clause("core.a")
def test_one(l1):
    exit = l1.guest("vmmcall").run()
    {then}
"""


@pytest.mark.parametrize(
    "then, verdict, failed",
    [
        ("assert exit.matches(code=0x7777)", "FAIL", 1),
        ("pytest.skip('half-way')", "SKIP", 0),
        ("raise ValueError('half-way')", "ERROR", 0),
    ],
)
def test_only_where_a_result_says_so(pytester, monkeypatch, then, verdict, failed):
    monkeypatch.chdir(pytester.path)
    pytester.makeini("[pytest]\naddopts = --strict-markers\n")
    pytester.makeconftest(CONFTEST.format(root=str(ROOT)))
    folder = pytester.mkdir("suites") / "core"
    folder.mkdir()
    (folder / "clauses.toml").write_text(CLAUSES)
    (folder / "test_it.py").write_text(SUITE.format(then=then))

    arguments = ("suites", "--target", "fake", "--fresh-boot", "never", "--nsvm-out", "out", "-p", "no:cacheprovider")
    pytester.runpytest_subprocess(*arguments, timeout=60)

    lines = [json.loads(line) for line in (pytester.path / "out" / "run.jsonl").read_text().splitlines()]
    counted = {line["clause"]: line["failed"] for line in lines if line["kind"] == "universal"}
    assert [line["verdict"] for line in lines if line["kind"] == "result"] == [verdict]
    assert counted.get("core.exit.exitcode_known", 0) == failed
