"""What CPUID Fn8000_000A says, against itself and against what is there.

A bit promises a feature, and some features are about others: there is no threshold of a pause filter without the filter
(APM2 15.14.4). Some bits stand for an MSR. An L0 builds the leaf out of its host's, what it has code for, and what an
administrator has switched off; where one of these is forgotten L1 finds a bit without its feature, or a reserved bit
that went through unseen, and software that trusts it faults or goes on wrongly.
"""

import pytest

from harness import VMEXIT, any_of, cases, clause
from harness.scenario import steps
from harness.svm.coherence import IMPLIES, REVISION, reserved_bits
from harness.svm.cpuid import svm_bit
from harness.svm.msr import MSR

LEAF = 0x8000_000A
SVM_LEAF, SVM = 0x8000_0001, 1 << 2
X2AVIC_EXT = 1 << 6
MODES = ["long64", "compat32", "pae32", "paged32", "prot32", "real16"]

NEEDS = {rule.bit: rule for rule in IMPLIES}
STANDS_FOR = {
    "vm_cr": ("SVML", MSR.VM_CR),
    "tsc_ratio": ("TscRateMsr", MSR.TSC_RATIO),
    "debugctl": ("LbrVirt", MSR.DEBUGCTL),
    "br_from": ("LbrVirt", MSR.BR_FROM),
    "br_to": ("LbrVirt", MSR.BR_TO),
    "last_excp_from": ("LbrVirt", MSR.LAST_EXCP_FROM),
    "last_excp_to": ("LbrVirt", MSR.LAST_EXCP_TO),
    "spec_ctrl": ("SpecCtrl", MSR.SPEC_CTRL),
}


@clause("policy.coherence.implied")
@cases("bit", list(NEEDS))
def test_a_bit_and_what_it_is_about(l1, bit):
    l1.need(bit)
    needs = NEEDS[bit].needs

    edx = l1.cpuid_now(LEAF)[3]

    assert l1.expect(
        f"Fn8000_000A EDX[{svm_bit(needs).bit}] ({needs})", edx >> svm_bit(needs).bit & 1, 1, width_bytes=1
    )


@clause("policy.coherence.msr")
@cases("msr", list(STANDS_FOR))
def test_a_bit_and_its_msr(l1, msr):
    bit, number = STANDS_FOR[msr]
    l1.need(bit)

    assert l1.rdmsr(number).ok


@clause("policy.coherence.reserved")
def test_reserved_bits(l1):
    edx = l1.cpuid_now(LEAF)[3]

    assert l1.expect("reserved bits of Fn8000_000A EDX", edx & reserved_bits(), 0, width_bytes=4)


@clause("policy.coherence.other_registers")
def test_revision(l1):
    assert l1.expect("Fn8000_000A EAX[7:0]", l1.cpuid_now(LEAF)[0] & 0xFF, REVISION, width_bytes=1)


@clause("policy.coherence.other_registers")
def test_ecx(l1):
    if not l1.cpuid.hypervisor:
        pytest.skip("no hypervisor in CPUID Fn0000_0001 ECX[31]: a bare processor's ECX may hold what is not known yet")
    allowed = any_of(0, X2AVIC_EXT) if l1.cpuid.has("x2AVIC") else 0

    assert l1.expect("Fn8000_000A ECX", l1.cpuid_now(LEAF)[2], allowed, width_bytes=4)


# --- The same wherever it is asked


def cpuid_in_guest(leaf, register):
    """L2 code that leaves a register of a leaf in EBX."""
    return f"mov eax, {leaf:#x}\nxor ecx, ecx\ncpuid\nmov ebx, {register}\nend: vmmcall"


@clause("policy.coherence.same_everywhere")
@cases("register", ["eax", "ebx", "ecx", "edx"])
@cases("mode", MODES)
def test_l2_sees_the_same(l1, mode, register):
    """CPUID is not intercepted: L2 runs on the same processor."""
    expected = l1.cpuid_now(LEAF)[("eax", "ebx", "ecx", "edx").index(register)]
    guest = l1.guest(cpuid_in_guest(LEAF, register), mode=mode)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL)
    assert l1.expect(f"Fn8000_000A {register.upper()} in L2", exit.regs["rbx"] & 0xFFFF_FFFF, expected, width_bytes=4)


@clause("policy.coherence.same_everywhere")
@cases("mode", ["long64", "prot32"])
def test_l2_sees_svm(l1, mode):
    exit = l1.guest(cpuid_in_guest(SVM_LEAF, "ecx"), mode=mode).run()

    assert exit.matches(code=VMEXIT.VMMCALL)
    assert l1.expect("Fn8000_0001 ECX[2] in L2", exit.regs["rbx"] & SVM, l1.cpuid_now(SVM_LEAF)[2] & SVM)


@clause("policy.coherence.same_everywhere")
@pytest.mark.two_cpus
def test_another_cpu_sees_the_same(l1):
    expected = l1.cpuid_now(LEAF)
    with l1.on_second_cpu([steps.cpuid(LEAF, 0), steps.cpuid(SVM_LEAF, 0)]) as second:
        pass

    leaf, features = (steps.decode_cpuid(answer) for answer in second.answers)
    for name, there, here in zip(("EAX", "EBX", "ECX", "EDX"), leaf, expected, strict=True):
        assert l1.expect(f"Fn8000_000A {name} on the second CPU", there, here, width_bytes=4)
    assert l1.expect("Fn8000_0001 ECX[2] there", features[2] & SVM, SVM)


@clause("policy.coherence.same_everywhere")
def test_it_stays_after_a_vmrun(l1):
    """As at boot, though L2 has run, and has asked for it."""
    before = l1.cpuid.leaf(LEAF)
    assert l1.guest(cpuid_in_guest(LEAF, "edx")).run().matches(code=VMEXIT.VMMCALL)

    for name, now, then in zip(("EAX", "EBX", "ECX", "EDX"), l1.cpuid_now(LEAF), before, strict=True):
        assert l1.expect(f"Fn8000_000A {name}", now, then, width_bytes=4)
