"""An L2 that the executor's own watchdog ended: the test says so, and is tried again before that counts.

On a machine under load the first VMRUN of a boot has been ended before L2's first instruction. It looked like a
deviation ("expected EXCP_GP; got INTR"), on a fresh boot, where nothing was tried again.
"""

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
from harness.scenario.steps import VmrunResult
from harness.targets import register
from tests.fake_executor import FakeTarget
from tests.fake_l1 import FakeL1, Outcome, vmmcall_exit

class Busy(FakeL1):
    # ASID 1: L2 needs a second. ASID 2: it runs for ever. ASID 3: as 2, and what L1 takes is wrong too.
    def __init__(self):
        super().__init__(self.decide)

    def decide(self, vmcb):
        good = vmmcall_exit(vmcb)
        if vmcb["asid"] == 1 and self.watchdog_us > 1_000_000 or vmcb["asid"] > 3:
            return good
        return Outcome(good.fields | {{"exitcode": 0x60}}, VmrunResult.PROBED | VmrunResult.WATCHDOG)

class Target(FakeTarget):
    needs_executor = False

    def start(self):
        self.respond = Busy().respond
        return super().start()

register("fake", Target)
"""

CLAUSES = '[[clause]]\nid = "core.a"\nstatement = "a holds."\napm = "15.5.1"\ntrust = ["APM"]\ncondition = ""\n'
SUITE = """
from harness import VMEXIT, clause

@clause("core.a")
def test_one(l1):
    assert l1.guest("vmmcall", vmcb={{"asid": {asid}}}).run({run}).matches(code=VMEXIT.{code})
"""


@pytest.fixture
def result(pytester, monkeypatch):
    """Runs a suite of one test; gives its record."""
    monkeypatch.chdir(pytester.path)
    pytester.makeini("[pytest]\naddopts = --strict-markers\n")
    pytester.makeconftest(CONFTEST.format(root=str(ROOT)))
    folder = pytester.mkdir("suites") / "core"
    folder.mkdir()
    (folder / "clauses.toml").write_text(CLAUSES)

    def run(*, asid, code="VMMCALL", run=""):
        (folder / "test_it.py").write_text(SUITE.format(asid=asid, code=code, run=run))
        arguments = ("suites", "--target", "fake", "--nsvm-out", "out", "-p", "no:cacheprovider")
        pytester.runpytest_subprocess(*arguments, timeout=60)
        lines = map(json.loads, (pytester.path / "out" / "run.jsonl").read_text().splitlines())
        return next(line for line in lines if line["kind"] == "result")

    return run


def test_first_scenario_of_a_boot_is_tried_again_with_patience(result):
    told = result(asid=1)

    assert (told["verdict"], told["news"]) == ("PASS", "ok")


def test_endless_guest_deviates_and_says_so_first(result):
    told = result(asid=2)

    assert (told["verdict"], told["news"]) == ("FAIL", "new")
    assert told["reason"].startswith("the watchdog ended L2 after 2000 ms, at RIP 0x820000: L2 runs for ever, or")
    assert "exitcode: expected" in told["reason"]


def test_watchdog_that_the_test_sets_is_the_tests_own(result):
    told = result(asid=2, run="watchdog_us=50_000")

    assert told["verdict"] == "FAIL"
    assert "watchdog" not in told["reason"]


def test_test_that_passes_all_the_same_is_not_tried_again(result):
    assert result(asid=2, code="INTR")["verdict"] == "PASS"
