"""Turning SVM on: CPUID, EFER.SVME and VM_CR.SVMDIS.

Hardware that has SVM says so in CPUID whether it is switched on or not, lets software switch it on and off with
EFER.SVME, and refuses that with #GP(0) where VM_CR.SVMDIS forbids it or where there is no SVM (APM2 15.4, 15.30.1).
An L0 that keeps a VM_CR of its own but forgets to look at it when EFER is written, or that accepts SVME in a guest
that it never offered SVM, gives L1 more than it said (XSA-278 was of that kind).
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.host_save_area import VM_HSAVE_PA, own_hsave

EFER = 0xC000_0080
VM_CR = 0xC001_0114
SVME = 1 << 12
LOCK = 1 << 3
SVMDIS = 1 << 4
SVM = 1 << 2  # in Fn8000_0001 ECX

# Leaves behind the block of three words at r8: EFER as it was, with SVME cleared, with SVME set.
TOGGLE = """
    mov ecx, 0xC0000080
    rdmsr
    mov [r8], eax
    btr eax, 12
    wrmsr
    rdmsr
    mov [r8 + 4], eax
    bts eax, 12
    wrmsr
    rdmsr
    mov [r8 + 8], eax
"""

CPUID_WITHOUT_SVME = """
    mov ecx, 0xC0000080
    rdmsr
    btr eax, 12
    wrmsr
    mov eax, 0x80000001
    cpuid
    mov r8d, ecx
    mov eax, 0x8000000A
    cpuid
    mov r9d, eax
    mov r10d, ebx
    mov r11d, edx
"""


def skip_if_locked(l1):
    """VM_CR.LOCK set by firmware makes SVMDIS unwritable until the next reset."""
    vm_cr = l1.rdmsr(VM_CR)
    assert vm_cr.ok
    if vm_cr.value & LOCK:
        pytest.skip("VM_CR.LOCK is already set (C001_0114h bit 3), so SVMDIS cannot be changed")


@clause("core.enable.svm_leaf")
def test_svm_leaf_is_there(l1):
    """The leaf that describes SVM is within the range that CPUID Fn8000_0000 gives."""
    highest = l1.cpuid_now(0x8000_0000)[0]
    features = l1.cpuid_now(0x8000_0001)[2]

    assert l1.expect("Fn8000_0001 ECX[2]", bool(features & SVM), True)
    assert l1.expect(f"Fn8000_0000 EAX ({highest:08X}h) reaches 8000000Ah", highest >= 0x8000_000A, True)


@clause("core.enable.svm_leaf")
def test_cpuid_is_the_same_without_svme(l1):
    """Software asks CPUID before it sets EFER.SVME, so the answer cannot depend on it."""
    eax, ebx, _, edx = l1.cpuid_now(0x8000_000A)
    result = l1.code(CPUID_WITHOUT_SVME)

    assert result.returned
    assert l1.expect("Fn8000_0001 ECX[2] with SVME=0", result.reg("r8") & SVM, SVM)
    assert l1.expect("Fn8000_000A EAX with SVME=0", result.reg("r9"), eax, width_bytes=4)
    assert l1.expect("Fn8000_000A EBX with SVME=0", result.reg("r10"), ebx, width_bytes=4)
    assert l1.expect("Fn8000_000A EDX with SVME=0", result.reg("r11"), edx, width_bytes=4)


@clause("core.enable.svm_leaf_empty")
@pytest.mark.parametrize("register", ["eax", "ebx", "ecx", "edx"])
def test_leaf_offers_nothing_without_svm(l1, register):
    """A feature bit in a leaf that stands for nothing would make software believe that it is there."""
    if l1.cpuid_now(0x8000_0000)[0] < 0x8000_000A:
        pytest.skip("CPUID Fn8000_0000 EAX is below 8000_000Ah")
    values = dict(zip(("eax", "ebx", "ecx", "edx"), l1.cpuid_now(0x8000_000A), strict=True))

    assert l1.expect(f"Fn8000_000A {register.upper()}", values[register], 0, width_bytes=4)


@clause("core.enable.svm_revision")
def test_revision_is_not_zero(l1):
    """Revision 0 would be an SVM that never was."""
    revision = l1.cpuid_now(0x8000_000A)[0] & 0xFF

    assert l1.expect("Fn8000_000A EAX[7:0] is above 0", revision > 0, True)


@clause("core.enable.asid_range")
def test_there_are_asids(l1):
    """ASID 0 is the host's: with fewer than two there is none for a guest."""
    count = l1.cpuid_now(0x8000_000A)[1]

    assert l1.expect(f"Fn8000_000A EBX ({count}) is at least 2", count >= 2, True)


@clause("core.enable.asid_range")
@pytest.mark.parametrize("which", ["first", "middle", "last"])
def test_guest_runs_with_asid(l1, which):
    """Every ASID that CPUID counts, 0 excepted, is good for a guest."""
    last = l1.cpuid.nasid - 1
    asid = {"first": 1, "middle": max(1, last // 2), "last": last}[which]
    guest = l1.guest("end: vmmcall", vmcb={"asid": asid})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], asid=asid)


@clause("core.enable.svme_writable")
def test_svme_can_be_cleared_and_set(l1):
    """SVME follows WRMSR, and nothing else in EFER moves with it."""
    words = l1.scratch()
    result = l1.code(TOGGLE, {"r8": words})
    data = l1.read(words, 12)
    before, cleared, again = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4, 8))

    assert result.returned
    assert l1.expect("EFER with SVME cleared", cleared, before & ~SVME, width_bytes=4)
    assert l1.expect("EFER with SVME set", again, before | SVME, width_bytes=4)


@clause("core.enable.svme_refused_without_svm")
def test_svme_is_refused_without_svm(l1):
    """Where SVM is not offered the bit is reserved."""
    before = l1.rdmsr(EFER)
    assert before.ok

    assert l1.wrmsr(EFER, before.value).ok  # the legal neighbour: the same value without the bit
    assert l1.wrmsr(EFER, before.value | SVME).faults("#GP", 0)
    assert l1.rdmsr(EFER).reads(before.value)


@clause("core.enable.svme_refused_while_svmdis")
@pytest.mark.dirties("VM_CR.SVMDIS was set")
def test_svme_is_refused_while_svmdis(l1):
    """SVMDIS makes SVME a bit that must be zero; cleared, it lets SVME be set again."""
    skip_if_locked(l1)
    off = l1.rdmsr(EFER).value & ~SVME
    assert l1.wrmsr(EFER, off).ok
    assert l1.wrmsr(VM_CR, SVMDIS).ok

    assert l1.wrmsr(EFER, off).ok  # SVME stays clear: nothing to refuse
    assert l1.wrmsr(EFER, off | SVME).faults("#GP", 0)
    assert l1.rdmsr(EFER).reads(off)

    assert l1.wrmsr(VM_CR, 0).ok
    assert l1.wrmsr(EFER, off | SVME).ok
    assert l1.rdmsr(EFER).reads(off | SVME)


@clause("core.enable.svmdis_keeps_cpuid")
@pytest.mark.dirties("VM_CR.SVMDIS was set")
def test_svmdis_does_not_hide_svm(l1):
    """Software learns from VM_CR, not from CPUID, that firmware has switched SVM off."""
    skip_if_locked(l1)
    leaf = l1.cpuid_now(0x8000_000A)
    assert l1.wrmsr(EFER, l1.rdmsr(EFER).value & ~SVME).ok
    assert l1.wrmsr(VM_CR, SVMDIS).ok
    features = l1.cpuid_now(0x8000_0001)[2]
    disabled_leaf = l1.cpuid_now(0x8000_000A)

    assert l1.expect("Fn8000_0001 ECX[2] with SVMDIS=1", features & SVM, SVM)
    for name, before, now in zip(("EAX", "EBX", "ECX", "EDX"), leaf, disabled_leaf, strict=True):
        assert l1.expect(f"Fn8000_000A {name} with SVMDIS=1", now, before, width_bytes=4)


@clause("core.enable.toggle_keeps_hsave")
def test_toggling_svme_keeps_the_host_save_area(l1):
    """VM_HSAVE_PA is no part of what SVME switches off: VMRUN works at once when SVME is back."""
    guest = l1.guest("end: vmmcall")
    page = l1.scratch()

    with own_hsave(l1):
        assert l1.wrmsr(VM_HSAVE_PA, page).ok
        assert l1.code(TOGGLE, {"r8": l1.scratch()}).returned
        assert l1.rdmsr(VM_HSAVE_PA).reads(page)
        assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])
