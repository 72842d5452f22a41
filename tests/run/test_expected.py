"""`--expect` and `--policy`: what L1 must be offered is judged by itself. A target that lost a bit would else be a
thousand skipped tests and a green run; so would one whose SVM MSRs are gone, or that has too few ASIDs.
"""

from __future__ import annotations

import pytest

from harness.home import ROOT
from harness.judge.expected import ExpectError, Want, complaint, of_policy, of_words, parse
from harness.judge.policy import load_policy
from harness.record import load
from harness.summary import summarise
from harness.svm.cpuid import Cpuid
from tests.run.test_plugin import TEST, suite  # noqa: F401  # a fixture

pytest_plugins = ["pytester"]
GOOD = TEST.format(asid=1)


def cpuid(edx: int, nasid: int = 16) -> Cpuid:
    return Cpuid({(0x8000_0000, 0): (0x8000_001F, 0, 0, 0), (0x8000_000A, 0): (1, nasid, 0, edx)})


def test_what_is_typed_is_read_as_the_apm_spells_it() -> None:
    assert parse("np, nrips,NP,nasid=8,vm_cr,nasid=016") == ("NP", "NRIPS", "NASID=16", "VM_CR")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("NRIP", "'NRIP' is no bit of Fn8000_000A EDX, .*; did you mean NRIPS?"),
        ("NASID", "say how many ASIDs"),
        ("NASID=0", "say how many ASIDs"),
        ("NP=1", "only NASID has a number"),
        ("SVM_KEY", "is no bit"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, says: str) -> None:
    with pytest.raises(ExpectError, match=says):
        parse(text)


@pytest.mark.parametrize(
    ("word", "edx", "nasid", "msrs", "says"),
    [
        ("NP", 1, 16, {}, ""),
        ("NP", 2, 16, {}, "EDX[0] (NP) is 0; --expect wants 1"),
        ("NASID=16", 0, 16, {}, ""),
        ("NASID=16", 0, 15, {}, "Fn8000_000A EBX is 15; --expect wants 16"),
        ("VM_CR", 0, 16, {"VM_CR": "0000000000000010"}, ""),
        ("VM_CR", 0, 16, {"VM_CR": "#GP[0]"}, "reading VM_CR gives #GP[0]"),
        ("VM_CR", 0, 16, {}, "reading VM_CR gives no answer"),
    ],
)
def test_what_is_missing_is_told(word: str, edx: int, nasid: int, msrs: dict[str, str], says: str) -> None:
    (want,) = of_words([word])
    told = complaint(want, cpuid(edx, nasid), msrs)

    assert told.endswith(says) and bool(told) == bool(says)
    assert want.statement and want.apm and want.bit


def test_a_policy_wants_bits_and_wants_others_away() -> None:
    wants = {want.name: want for want in of_policy(load_policy("xen-nested", ROOT / "policies"), cpuid(0))}

    assert wants["NRIPS"].offered and not wants["TscRateMsr"].offered
    assert complaint(wants["TscRateMsr"], cpuid(1 << 4), {}) == (
        "Fn8000_000A EDX[4] (TscRateMsr) is 1; the policy xen-nested wants 0"
    )
    assert isinstance(wants["NRIPS"], Want)


@pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_what_is_missing_is_a_deviation_of_its_own(suite, pytester, how):  # noqa: F811
    done, results, _ = suite(GOOD, "--target", "fake", *how, "--expect", "AVIC,VM_CR,NASID=4000000000")
    run = load(pytester.path / "out" / "run.jsonl")
    summary = summarise(run)

    assert (done.ret, summary.exit_status, summary.new) == (1, 1, 2)
    assert (results["test_one"]["verdict"], results["offers.VM_CR"]["verdict"]) == ("PASS", "PASS")
    assert results["offers.AVIC"]["news"] == "new"
    assert len(run.targets[0].msrs["VM_CR"]) == 16
    assert not summary.contradictions
    (target,) = summary.targets
    assert target.part == ""  # it asks for more, not for less


def test_a_policy_is_judged_with_the_run(suite, pytester):  # noqa: F811
    (pytester.path / "policies").mkdir(exist_ok=True)
    wanted = {"AVIC": "withheld", "NP": "provided"}
    rules = "".join(f'[[bit]]\nname = "{name}"\nguest = "{guest}"\n' for name, guest in wanted.items())
    (pytester.path / "policies" / "mine.toml").write_text(f'title = "t"\nsource = "s"\n{rules}')
    done, results, _ = suite(GOOD, "--target", "fake", "--policy", "mine")

    assert done.ret == 0
    assert results["offers.AVIC"]["test"] == "policies/mine::offers.AVIC"
    assert {name for name in results if name.startswith("offers.")} == {"offers.AVIC", "offers.NP"}


def test_a_policy_that_is_not_there_is_one_line_before_anything_runs(suite):  # noqa: F811
    done, results, _ = suite(GOOD, "--target", "fake", "--policy", "none-such.toml")

    assert (done.ret, results) == (4, {})
    done.stderr.fnmatch_lines(["ERROR: none-such.toml: no such file"])
