"""The rules of coherence hold on every processor that was dumped, and each can be broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judge.policy import read_silicon
from harness.svm.coherence import IMPLIES, contradictions
from harness.svm.cpuid import Cpuid, svm_bit

SILICON = Path(__file__).parents[2] / "policies" / "silicon.csv"
SVM, HYPERVISOR = 1 << 2, 1 << 31


def cpuid(edx=1, *, eax=1, nasid=16, ecx=0, svm=True, hypervisor=True, largest=0x8000_001F):
    return Cpuid(
        {
            (1, 0): (0, 0, HYPERVISOR if hypervisor else 0, 0),
            (0x8000_0000, 0): (largest, 0, 0, 0),
            (0x8000_0001, 0): (0, 0, SVM if svm else 0, 0),
            (0x8000_000A, 0): (eax, nasid, ecx, edx),
        }
    )


@pytest.mark.parametrize("dump", read_silicon(SILICON), ids=lambda dump: f"{dump.family:x}-{dump.model:x}-{dump.edx:x}")
def test_processors_keep_the_rules(dump):
    assert list(contradictions(cpuid(dump.edx, nasid=dump.nasid, hypervisor=False))) == []


@pytest.mark.parametrize("rule", IMPLIES, ids=lambda rule: rule.bit)
def test_a_bit_without_what_it_is_about(rule):
    without = cpuid(1 << svm_bit(rule.bit).bit | (0 if rule.needs == "NP" else 1))

    assert [each.rule for each in contradictions(without)] == [f"{rule.bit} needs {rule.needs}"]


@pytest.mark.parametrize(
    ("seen", "rule"),
    [
        (cpuid(1 << 9), "reserved bit 9"),
        (cpuid(ecx=1), "ECX"),
        (cpuid(ecx=0x40), "ECX"),
        (cpuid(nasid=1), "NASID"),
        (cpuid(eax=2), "revision"),
        (cpuid(largest=0x8000_0008), "leaf beyond the largest"),
        (cpuid(svm=False), "no leaf without SVM"),
    ],
)
def test_what_does_not_fit(seen, rule):
    assert [each.rule for each in contradictions(seen)] == [rule]


@pytest.mark.parametrize(
    "seen",
    [
        cpuid(),
        cpuid(1 << 9, hypervisor=False),
        cpuid(ecx=0x40, hypervisor=False),
        cpuid(1 << 18, ecx=0x40),
        cpuid(0, eax=0, nasid=0, svm=False),
    ],
)
def test_what_fits(seen):
    assert list(contradictions(seen)) == []
