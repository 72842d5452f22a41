"""The plugin, run as a user runs it: each way that a test can end gets its verdict, its record and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[2]

CONFTEST = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {root!r})
pytest_plugins = ["harness.plugin"]
from harness.targets import register
from harness.machine.base import TargetError
from tests.fake_executor import FakeTarget, Fault, Script
from tests.fake_l1 import FakeL1, vmmcall_exit

L0_LOG = []

class Scripted(FakeL1):
    # What the machine does is chosen by the ASID of the VMCB.
    def __init__(self, stopping):
        super().__init__(self.decide)
        self.stopping = stopping
        self.stale = False

    def decide(self, vmcb):
        asid, good = vmcb["asid"], vmmcall_exit(vmcb)
        if asid == 100:
            good.fields["exitcode"] = 0x78
        if asid == 101:
            raise SystemExit  # the fake's thread ends, and the console with it
        if asid == 102:
            self.stopping.wait(60)  # a hang, until somebody ends it
        if asid == 103 and self.vmruns > 1:
            good.fields["exitcode"] = 0x78
        if asid == 104:
            good.fields["tlb_control"] = 3
        if asid == 106:
            L0_LOG.append("BUG: unable to handle page fault")
        if asid == 107:
            good.fields["tsc_offset"] = 3
        if asid == 108:
            good.fields |= {{"exitcode": 0x78, "tlb_control": 3}}
        if asid == 0:
            good.fields["exitcode"] = (1 << 64) - 1
        if asid == 110:
            self.stale = True  # until the machine boots
        if asid == 111 and self.stale:
            good.fields["exitcode"] = 0x78
        if asid == 112 and self.vmruns > 1 and not Path("once").exists():
            Path("once").touch()
            good.fields["exitcode"] = 0x78
        if asid == 113:
            good.fields["exitcode"] = 0x60 + min(self.vmruns, 2)
        return good

class Target(FakeTarget):
    needs_executor = False

    def start(self):
        self.respond = Scripted(self._stopping).respond
        return super().start()

class Host(Target):
    # Somebody's machine, whose kernel can be heard.
    name = "fake-host"
    baselines = ("fake",)

    def capabilities(self):
        return replace(super().capabilities(), disposable=False)

    def mark_evidence(self, *, trace=False):
        L0_LOG.clear()
        if trace:
            L0_LOG.append("traced")

    def l0_failure(self):
        return next((line for line in L0_LOG if line.startswith("BUG")), None)

    def evidence(self):
        return "L0 said: " + ", ".join(L0_LOG)

class Cut(Host):
    # The way there is cut during the first scenario of the first boots.
    name = "fake-cut"
    cuts = 1

    def start(self):
        if self.starts < self.cuts:
            self._scripts = [Script(messages={{1: (Fault.CLOSE, 0)}})]
        return super().start()

    def way_lost(self):
        return self.starts <= self.cuts

class Late(Target):
    # The first start fails.
    def __init__(self, options):
        super().__init__(options, start_failures=1)

class CutForEver(Cut):
    cuts = 9

class OneBoot(Target):
    # It does not come up a second time.
    def start(self):
        if self.starts:
            raise TargetError("it is gone")
        return super().start()

    def stop(self):
        Path("stopped").touch()
        super().stop()

register("fake", Target)
register("fake-host", Host)
register("fake-late", Late)
register("fake-cut", Cut)
register("fake-cut-for-ever", CutForEver)
register("one-boot", OneBoot)
"""

CLAUSES = "".join(
    f'[[clause]]\nid = "core.{name}"\nstatement = "{name} holds."\n'
    f'apm = "15.5.1"\ntrust = ["APM"]\ncondition = "{condition}"\n'
    for name, condition in [("a", ""), ("b", ""), ("avic", "AVIC"), ("exit.control_area_untouched", "")]
)

HEAD = """
import pytest
from harness import VMEXIT, clause

def run(l1, asid=1):
    return l1.guest("here: vmmcall", vmcb={"asid": asid}).run()

"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """A project of its own with one suite; call it with the test's source to run it."""
    monkeypatch.chdir(pytester.path)
    pytester.makeini("[pytest]\naddopts = --strict-markers\n")
    pytester.makeconftest(CONFTEST.format(root=str(ROOT)))
    folder = pytester.mkdir("suites") / "core"
    folder.mkdir()
    (folder / "clauses.toml").write_text(CLAUSES)

    def run(source, *arguments, baseline=""):
        (folder / "test_it.py").write_text(HEAD + source)
        if baseline:
            pytester.mkdir("baselines").joinpath("fake.toml").write_text(baseline)
        arguments = arguments or ("--target", "fake")
        done = pytester.runpytest_subprocess(
            "suites", "--nsvm-out", "out", "-p", "no:cacheprovider", *arguments, timeout=60
        )
        path = pytester.path / "out" / "run.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return done, {line["test"].rpartition("::")[2]: line for line in lines if line["kind"] == "result"}, lines

    return run


TEST = """
@clause("core.a")
def test_one(l1):
    assert run(l1, {asid}).matches(code=VMEXIT.VMMCALL)
"""
BASELINE = """
[[deviation]]
clause = "core.a"
tests = ["test_one"]
reason = "it is a fake"
reference = "tests"
"""


def test_pass(suite):
    done, results, lines = suite(TEST.format(asid=1))

    assert done.ret == 0
    assert (results["test_one"]["verdict"], results["test_one"]["news"]) == ("PASS", "ok")
    assert lines[0]["kind"] == "run"
    assert lines[-1]["kind"] == "end"
    assert (lines[-1]["exit_status"], lines[-1]["counts"]["PASS"]) == (0, 1)
    assert [line["clause"] for line in lines if line["kind"] == "universal" and line["checked"] == 1]


def test_new_deviation_is_told_in_full(suite):
    done, results, lines = suite(TEST.format(asid=100))

    assert done.ret == 1
    assert (results["test_one"]["verdict"], results["test_one"]["news"]) == ("FAIL", "new")
    assert lines[-1]["exit_status"] == 1
    for text in ("*FAIL (new)*core.a*", "*a holds.*", "*15.5.1*agree: APM*", "*exitcode*expected*0081h*got*0078h*HLT*"):
        done.stdout.fnmatch_lines([text])
    done.stdout.fnmatch_lines(["*vmmcall*here:*", "*again:*./nsvm run --target fake*test_one*"])
    rows = results["test_one"]["evidence"][0]["rows"]
    assert any(row["name"] == "exitcode" and not row["ok"] for row in rows)


def test_known_deviation_is_expected(suite):
    done, results, lines = suite(TEST.format(asid=100), baseline=BASELINE)

    assert done.ret == 0
    assert (results["test_one"]["verdict"], results["test_one"]["news"]) == ("FAIL", "known")
    assert results["test_one"]["checks"][0]["baseline"]["reason"] == "it is a fake"
    assert lines[-1]["exit_status"] == 0


def test_known_deviation_of_another_kind_is_new(suite):
    done, results, _ = suite(TEST.format(asid=101), baseline=BASELINE)

    assert done.ret == 1
    assert (results["test_one"]["verdict"], results["test_one"]["news"]) == ("CRASH", "new")


def test_mended_deviation_is_reported(suite):
    done, results, lines = suite(TEST.format(asid=1), baseline=BASELINE)

    assert done.ret == 1
    assert (results["test_one"]["verdict"], results["test_one"]["news"]) == ("PASS", "mended")
    assert lines[-1]["exit_status"] == 1


def test_mended_deviation_is_reported_where_a_known_universal_check_fires(suite):
    done, results, lines = suite(TEST.format(asid=104), baseline=BASELINE + KNOWN_FIELD)

    assert done.ret == 1
    assert (results["test_one"]["verdict"], results["test_one"]["news"]) == ("FAIL", "mended")
    assert (lines[-1]["new"], lines[-1]["mended"], lines[-1]["known"]) == (0, 1, 0)


def test_universal_check_fails_a_test_that_does_not_ask(suite):
    done, results, _ = suite(TEST.format(asid=104))

    assert done.ret == 1
    verdicts = {check["clause"]: check["verdict"] for check in results["test_one"]["checks"]}
    assert verdicts == {"core.a": "PASS", "core.exit.control_area_untouched": "FAIL"}


def test_universal_entry_without_tests_is_mended_only_by_a_whole_run(suite):
    entry = BASELINE.replace("core.a", "core.exit.control_area_untouched").replace('tests = ["test_one"]\n', "")
    _done, _, lines = suite(TEST.format(asid=1), baseline=entry)
    mended = [line for line in lines if line.get("news") == "mended"]

    assert [line["checks"][0]["clause"] for line in mended] == ["core.exit.control_area_untouched"]
    assert lines[-1]["exit_status"] == 1


def test_universal_entry_with_tests_is_mended_when_none_of_them_shows_it(suite):
    entry = BASELINE.replace("core.a", "core.exit.control_area_untouched")
    _done, _, lines = suite(TEST.format(asid=1), baseline=entry)

    mended = [line for line in lines if line.get("news") == "mended"]
    assert [line["checks"][0]["clause"] for line in mended] == ["core.exit.control_area_untouched"]
    assert "test_one" in mended[0]["reason"]


def test_universal_entry_with_tests_is_not_mended_while_one_of_them_shows_it(suite):
    entry = BASELINE.replace("core.a", "core.exit.control_area_untouched").replace("test_one", "test_*")
    two = TEST.format(asid=1) + TEST.format(asid=104).replace("test_one", "test_two")
    done, results, lines = suite(two, baseline=entry)

    assert (results["test_two"]["news"], lines[-1]["mended"], done.ret) == ("known", 0, 0)


KNOWN_FIELD = """
[[deviation]]
clause = "core.exit.control_area_untouched"
fields = ["tlb_control"]
reason = "it is a fake"
reference = "tests"
"""


@pytest.mark.parametrize(("first", "second"), [(104, 107), (107, 104), (104, 104)])
def test_a_known_field_does_not_hide_another_one_in_a_later_vmrun(suite, first, second):
    source = f"""
@clause("core.a")
def test_one(l1):
    assert run(l1, {first}).matches(code=VMEXIT.VMMCALL)
    assert run(l1, {second}).matches(code=VMEXIT.VMMCALL)
"""
    _, results, _ = suite(source, baseline=KNOWN_FIELD)

    assert results["test_one"]["news"] == ("known" if first == second else "new")
    rows = {row["name"] for row in results["test_one"]["evidence"][0]["rows"] if not row["ok"]}
    assert rows == {{104: "tlb_control", 107: "tsc_offset"}[asid] for asid in (first, second)}


def test_what_a_universal_check_saw_is_not_the_reason_of_a_bare_assert(suite):
    source = """
@clause("core.a")
def test_one(l1):
    exit = run(l1, 104)
    assert exit.code == 0, "the test's own words"
"""
    _, results, _ = suite(source, baseline=KNOWN_FIELD)

    assert "own words" in results["test_one"]["reason"]
    assert [check["news"] for check in results["test_one"]["checks"]] == ["new", "known"]


def test_a_target_that_is_gone_when_a_deviation_is_repeated_is_missed_and_not_known(suite):
    two = TEST.format(asid=1) + TEST.format(asid=108).replace("test_one", "test_two")
    _, results, lines = suite(two, "--target", "one-boot", baseline=KNOWN_FIELD)

    assert results["test_two"]["verdict"] == "MISS"
    assert results["test_two"]["fresh"]["shared_verdict"] == "FAIL"
    assert lines[-1]["exit_status"] == 3


def test_a_machine_that_was_lost_at_the_end_is_told_as_it_was(suite):
    _, _, lines = suite(TEST.format(asid=101))

    assert [bool(line["cpuid"]) for line in lines if line["kind"] == "target"] == [True, True]


def test_a_full_disk_loses_no_earlier_line_and_leaves_no_machine(suite, pytester):
    source = (
        TEST.format(asid=1)
        + """
@clause("core.a")
def test_two(l1):
    import resource, signal
    from pathlib import Path
    assert run(l1).matches(code=VMEXIT.VMMCALL)
    Path("stopped").unlink(missing_ok=True)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = Path("out/run.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
"""
    )
    done, results, lines = suite(source, "--target", "one-boot")

    assert done.ret != 0
    assert (list(results), results["test_one"]["verdict"], lines[-1]["kind"]) == (["test_one"], "PASS", "result")
    assert (pytester.path / "stopped").exists()


def test_crash_and_hang_lose_one_test_each(suite):
    source = """
@clause("core.a")
@pytest.mark.parametrize("asid", [1, 101, 2, pytest.param(102, marks=pytest.mark.deadline(0.5)), 3])
def test_one(l1, asid):
    assert run(l1, asid).matches(code=VMEXIT.VMMCALL)
"""
    done, results, _ = suite(source)

    assert done.ret == 1
    assert [line["verdict"] for line in results.values()] == ["PASS", "CRASH", "PASS", "HANG", "PASS"]
    assert results["test_one[101]"]["fresh"]["state"] == "same"


AFTER = """
@clause("core.a")
@pytest.mark.parametrize("asid", {asids})
def test_one(l1, asid):
    assert run(l1, asid).matches(code=VMEXIT.VMMCALL)
"""
AFTER_ENTRY = """
[[deviation]]
clause = "core.a"
tests = ["test_one[111]"]
got.exitcode = ["0000_0000_0000_0078h"]
after_others = true
reason = "it keeps what it should not"
reference = "tests"
"""


def test_a_deviation_of_a_shared_boot_alone_is_new_and_names_what_ran_before(suite):
    done, results, lines = suite(AFTER.format(asids=[1, 2, 110, *range(3, 40), 111, 4000]))

    assert done.ret == 1
    last = results["test_one[111]"]
    assert (last["verdict"], last["news"]) == ("FAIL", "new")
    fresh = last["fresh"]
    assert (fresh["state"], fresh["shared_verdict"], fresh["fresh_verdict"]) == ("after-others", "FAIL", "PASS")
    assert fresh["after"] == ["suites/core/test_it.py::test_one[110]"]
    assert fresh["how"] == "seen again after 1 of the 40 earlier tests of its boot"
    assert last["rerun"].endswith(
        "-n 1 'suites/core/test_it.py::test_one[110]' 'suites/core/test_it.py::test_one[111]'"
    )
    assert any(row["got"] == "0000_0000_0000_0078h" for row in last["evidence"][0]["rows"])
    assert (lines[-1]["exit_status"], lines[-1]["new"], results["test_one[4000]"]["verdict"]) == (1, 1, "PASS")
    done.stdout.fnmatch_lines(
        ["*FAIL after others (new)*core.a*", "after others: FAIL on a shared boot (*0078h); PASS on a fresh boot"]
    )


def test_a_deviation_after_others_can_be_known(suite):
    done, results, _ = suite(AFTER.format(asids=[110, 111]), baseline=AFTER_ENTRY)

    assert (done.ret, results["test_one[111]"]["news"]) == (0, "known")
    assert results["test_one[111]"]["fresh"]["state"] == "after-others"


def test_an_entry_of_after_others_is_not_mended_alone_and_excuses_no_other_answer(suite):
    entry = AFTER_ENTRY.replace("0078h", "0079h")
    done, results, _ = suite(AFTER.format(asids=[111, 110, 112]), baseline=AFTER_ENTRY)
    assert (done.ret, results["test_one[111]"]["news"]) == (1, "ok")  # 112 it is

    Path("out/run.jsonl").unlink()
    Path("baselines/fake.toml").write_text(entry)
    _, results, _ = suite(AFTER.format(asids=[110, 111]))
    assert results["test_one[111]"]["news"] == "new"


def test_a_deviation_that_does_not_show_again_is_called_flaky(suite):
    done, results, _ = suite(AFTER.format(asids=[1, 112]))

    fresh = results["test_one[112]"]["fresh"]
    assert done.ret == 1
    assert (fresh["state"], fresh["after"]) == ("after-others", [])
    assert fresh["how"] == "flaky: not seen again after the 1 earlier test of its boot"


def test_the_same_on_a_fresh_boot_means_the_same_values(suite):
    _, results, _ = suite(AFTER.format(asids=[1, 113]))

    fresh = results["test_one[113]"]["fresh"]
    assert fresh["state"] == "differs"
    assert "0062h" in fresh["shared_reason"] and "0061h" in results["test_one[113]"]["reason"]


def test_another_order_is_the_same_for_the_same_seed_and_written_down(suite):
    orders = []
    for seed in (["--shuffle", "1"], ["--shuffle", "1"], ["--shuffle", "2"], []):
        Path("out/run.jsonl").unlink(missing_ok=True)
        _, results, lines = suite(AFTER.format(asids=list(range(1, 20))), "--target", "fake", *seed)
        orders.append(list(results))
        assert lines[0]["shuffle"] == (int(seed[1]) if seed else None)
        assert " ".join(seed) in results["test_one[1]"]["rerun"]

    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert orders[3] == [f"test_one[{n}]" for n in range(1, 20)]


@pytest.mark.parametrize("how", ["marker", "call"])
def test_dirty_boot_is_not_shared(suite, how):
    mark = '@pytest.mark.dirties("x")' if how == "marker" else ""
    call = 'l1.dirty("x")' if how == "call" else ""
    source = f"""
@clause("core.a")
{mark}
def test_one(l1):
    assert run(l1).ran
    {call}

@clause("core.a")
def test_two(l1):
    assert run(l1, 103).matches(code=VMEXIT.VMMCALL)
"""
    _, results, lines = suite(source)

    assert results["test_two"]["fresh"]["state"] == "not-needed"
    assert results["test_two"]["verdict"] == "PASS"
    assert [line["what"] for line in lines if line["kind"] == "event"] == ["boot", "restart", "boot"]


def test_a_way_that_is_cut_costs_the_test_one_more_try(suite):
    source = '@clause("core.a")\ndef test_one(l1):\n    assert run(l1).ran\n'
    done, results, lines = suite(source, "--target", "fake-cut")

    assert (done.ret, results["test_one"]["verdict"]) == (0, "PASS")
    assert [line["what"] for line in lines if line["kind"] == "event"] == ["boot", "lost", "retry", "boot"]


def test_a_start_that_fails_once_costs_no_test(suite):
    source = '@clause("core.a")\ndef test_one(l1):\n    assert run(l1).ran\n'
    done, results, lines = suite(source, "--target", "fake-late")

    assert (done.ret, results["test_one"]["verdict"]) == (0, "PASS")
    assert [line["what"] for line in lines if line["kind"] == "event"] == ["missing", "retry", "boot"]


def test_a_way_that_is_cut_again_is_miss_and_no_deviation(suite):
    source = '@clause("core.a")\ndef test_one(l1):\n    assert run(l1).ran\n'
    done, results, _ = suite(source, "--target", "fake-cut-for-ever")

    assert done.ret == 1
    assert (results["test_one"]["verdict"], results["test_one"]["news"]) == ("MISS", "ok")
    assert results["test_one"]["reason"] == "the fake was told to end"


@pytest.mark.parametrize("arguments", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_run_that_left_a_test_out_is_no_whole_one(suite, pytester, arguments):
    """In whatever way: here a hook swallows it, else a second Ctrl-C while the first is being told."""
    (pytester.path / "suites" / "core" / "conftest.py").write_text(
        "import pytest\n\n@pytest.hookimpl(tryfirst=True)\n"
        'def pytest_runtest_protocol(item):\n    return True if item.name == "test_two" else None\n'
    )
    two = TEST.format(asid=1) + '@clause("core.b")\ndef test_two(l1):\n    assert run(l1).ran\n'
    _, results, lines = suite(two, "--target", "fake", *arguments)

    assert list(results) == ["test_one"]
    assert [line["reason"] for line in lines if line["kind"] == "interrupted"] == ["1 of 2 tests were not run"]
    assert [line["exit_status"] for line in lines if line["kind"] == "end"] == [3]


def test_outside_the_suites_a_test_may_name_no_clause_and_fails_all_the_same(suite, pytester):
    (pytester.path / "test_scratch.py").write_text(
        "def test_two(l1):\n    exit = l1.guest('vmmcall').run()\n    assert exit is None\n"
    )
    done, results, _ = suite(TEST.format(asid=1), "--target", "fake", "test_scratch.py")

    assert done.ret == 1
    assert (results["test_two"]["verdict"], results["test_two"]["news"]) == ("FAIL", "new")


def test_condition_skips_and_names_the_bit(suite):
    done, results, _ = suite('@clause("core.avic")\ndef test_one(l1):\n    assert run(l1).ran\n')

    assert done.ret == 0
    assert results["test_one"]["verdict"] == "SKIP"
    assert "AVIC" in results["test_one"]["reason"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('ours')", "ours"),
        ("pass", "asked the target nothing"),
        ("l1.guest('frobnicate')", "no such instruction"),
        ("l1.guest('nop', vmcb={'asdi': 1})", "asid"),
        ("l1.window()", "WINDOW"),
    ],
)
def test_our_own_mistake_is_an_error_and_no_verdict_on_the_target(suite, body, reason):
    done, results, lines = suite(f'@clause("core.a")\ndef test_one(l1):\n    {body}\n')

    assert results["test_one"]["verdict"] == "ERROR"
    assert reason in results["test_one"]["reason"]
    assert (done.ret, lines[-1]["exit_status"]) == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [((), "say which target"), (("--target", "nonesuch"), "no target named 'nonesuch'")],
)
def test_wrong_target_is_one_clear_line(suite, arguments, complaint):
    done, _, _ = suite(TEST.format(asid=1), "-q", *arguments)

    assert done.ret == 4
    done.stderr.fnmatch_lines([f"*{complaint}*"])
    assert "Traceback" not in done.stderr.str()


def test_every_test_has_one_result_under_xdist(suite):
    source = """
@clause("core.a")
@pytest.mark.parametrize("n", range(24))
def test_one(l1, n):
    assert run(l1).matches(code=VMEXIT.VMMCALL)
"""
    done, results, lines = suite(source, "--target", "fake", "-n", "2")

    assert done.ret == 0
    assert len([line for line in lines if line["kind"] == "result"]) == len(results) == 24
    assert [line["kind"] for line in lines].count("end") == 1
    assert (
        sum(
            line["checked"]
            for line in lines
            if line.get("clause") == "core.exit.control_area_untouched" and line["kind"] == "universal"
        )
        == 24
    )


def test_worker_that_dies_loses_one_test(suite):
    source = """
import os
@clause("core.a")
@pytest.mark.parametrize("n", range(6))
def test_one(l1, n):
    exit = run(l1)
    if n == 3:
        os._exit(9)
    assert exit.matches(code=VMEXIT.VMMCALL)
"""
    _, results, lines = suite(source, "--target", "fake", "-n", "2")

    assert [results[f"test_one[{n}]"]["verdict"] for n in range(6)] == ["PASS", "PASS", "PASS", "ERROR", "PASS", "PASS"]
    assert lines[-1]["exit_status"] == 3


def test_list_names_tests_and_clauses(suite, pytester):
    suite(TEST.format(asid=1), "--nsvm-list", "list.json")

    listed = json.loads((pytester.path / "list.json").read_text())
    assert listed == [{"test": "suites/core/test_it.py::test_one", "clauses": ["core.a"]}]


def test_failure_with_x_stops_and_the_record_ends(suite):
    source = TEST.format(asid=100) + TEST.format(asid=1).replace("test_one", "test_two")
    done, results, lines = suite(source, "--target", "fake", "-x")

    assert done.ret == 1
    assert list(results) == ["test_one"]
    assert lines[-1]["kind"] == "end"


DANGEROUS = """
@pytest.mark.dangerous
@clause("core.a")
def test_one(l1):
    assert run(l1).matches(code=VMEXIT.VMMCALL)
"""


def test_dangerous_runs_on_a_host_only_where_it_is_said(suite):
    _, skipped, _ = suite(DANGEROUS, "--target", "fake-host")
    (Path("out") / "run.jsonl").unlink()
    _, ran, _ = suite(DANGEROUS, "--target", "fake-host", "--dangerous")

    assert skipped["test_one"]["verdict"] == "SKIP"
    assert "--dangerous" in skipped["test_one"]["reason"]
    assert ran["test_one"]["verdict"] == "PASS"


def test_an_l0_that_fails_is_a_crash_whatever_l1_saw(suite):
    done, results, _ = suite(TEST.format(asid=106), "--target", "fake-host")

    assert done.ret == 1
    assert results["test_one"]["verdict"] == "CRASH"
    assert results["test_one"]["reason"] == "L0 failed: BUG: unable to handle page fault"
    assert "BUG" in results["test_one"]["evidence"][0]["l0_log"]


def test_what_l0_said_stands_beside_a_new_deviation(suite):
    two = TEST.format(asid=1) + TEST.format(asid=100).replace("test_one", "test_two")
    _, results, _ = suite(two, "--target", "fake-host")

    assert results["test_two"]["fresh"]["state"] == "same"
    assert results["test_two"]["evidence"][0]["l0_log"] == "L0 said: traced"
    assert results["test_one"]["evidence"] == []
