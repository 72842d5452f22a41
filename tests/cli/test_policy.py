"""`nsvm policy` without a target: the list, wrong use, and the table of a target that answers as a test wants."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from harness.cli import policy
from harness.command import main
from harness.svm.cpuid import Cpuid

SVM, HYPERVISOR = 1 << 2, 1 << 31


@pytest.fixture
def offers(monkeypatch):
    """Makes a target that offers that EDX, on a CPU with these bits."""

    def make(edx, *, host=None, svm=True, ecx=0):
        leaves = {
            (1, 0): (0x00A0_0F11, 0, HYPERVISOR, 0),
            (0x8000_0000, 0): (0x8000_001F, 0, 0, 0),
            (0x8000_0001, 0): (0, 0, SVM if svm else 0, 0),
            (0x8000_000A, 0): (1, 8, ecx, edx) if svm else (0, 0, 0, 0),
        }
        now = SimpleNamespace(hello=SimpleNamespace(cpuid=Cpuid(leaves)), target=SimpleNamespace(version=lambda: "1"))

        @contextmanager
        def running(*_args, **_more):
            yield now

        monkeypatch.setattr(policy.machine, "running", running)
        monkeypatch.setattr(policy.machine, "prepare", lambda *_args, **_more: None)
        asked = ({}, "there is none") if host is None else (host, "")
        monkeypatch.setattr(policy, "host_bits", lambda _target: asked)

    return make


def test_the_policies_are_listed(capsys):
    assert main(["policy"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["hardware", "none", "xen-nested"]
    assert main(["policy", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["xen"], "no policy is called 'xen'"),
        (["nowhere.toml"], "nowhere.toml: no such file"),
        (["xen-nested", "--target", "vax"], "no target is called 'vax'"),
        (["xen-nested", "--without", "NPT"], "--without: "),
        (["xen-nested", "--as", "19h"], "--as is for a policy that compares with processors"),
        (["hardware", "--as", "zen"], "--as zen: a processor is FAMILY"),
        (["hardware", "--as", "19/1/1/1"], "--as 19/1/1/1: a processor is"),
        (["hardware", "--as", "06"], "no dump is of a processor of family 06h"),
    ],
)
def test_wrong_use_is_one_line(words, said, capsys):
    assert main(["policy", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_what_is_as_it_should_be(offers, capsys):
    offers(0x0000_00EB, host={"NP": True, "NRIPS": True})

    assert main(["policy", "xen-nested"]) == 0
    out = capsys.readouterr().out
    assert "  0 NP                         required     provided  yes       yes  ok" in out
    assert "  7 DecodeAssists              required     provided  ?         yes  ok" in out
    assert "24 more bits: the policy says nothing of them" in out
    assert out.endswith("qemu-tcg against xen-nested: as the policy wants it, and it fits together.\n")


def test_what_is_to_be_mended(offers, capsys):
    offers(0x0000_14BF, host={"NRIPS": False, "FlushByAsid": True})

    assert main(["policy", "xen-nested", "--why"]) == 1
    out = capsys.readouterr().out
    assert "SVML: OFFERED to L1" in out
    assert "FlushByAsid: MISSING in L1" in out
    assert "NRIPS: L0's CPU LACKS it" in out
    assert " 10 PauseFilter                -            -         ?         yes  beyond the policy" in out
    assert "This is cheap and easy to use for L0" in out
    assert out.endswith("against xen-nested: 4 things to mend.\n")


def test_a_contradiction_counts_under_any_policy(offers, capsys):
    offers(0x0000_1001, ecx=2)

    assert main(["policy", "none"]) == 1
    out = capsys.readouterr().out
    assert "PauseFilterThreshold needs PauseFilter" in out
    assert "Fn8000_000A ECX is 00000002h" in out


def test_no_svm_is_right_where_the_cpu_lacks_what_is_required(offers, capsys):
    offers(0, svm=False)
    assert main(["policy", "xen-nested"]) == 1
    assert "SVM: L1 is offered none" in capsys.readouterr().out

    offers(0, svm=False, host={"DecodeAssists": False})
    assert main(["policy", "xen-nested"]) == 0


def test_the_processor_that_l1_sees_is_compared_or_another(offers, capsys):
    offers(0x119B_9CFF & ~0x800)
    assert main(["policy", "hardware"]) == 0
    assert "Compared with family 19h model 01h stepping 1h: EDX 119B9CFF, NASID 32768" in capsys.readouterr().out

    assert main(["policy", "hardware", "--as", "1Ah/02h", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert "VNMI: MISSING in L1" in told["complaints"]
    assert told["host_not_asked"] == "there is none"
    assert told["bits"][3] == {
        "bit": 3, "name": "NRIPS", "required_of_host": False, "to_l1": "provided", "in_host": None, "in_l1": True,
        "verdict": "ok", "deviates": False, "why": "",
    }  # fmt: skip
