"""A machine without SVM lock: VM_CR.SVMDIS only tells what firmware chose.

Where SVML is not offered there is no SVM_KEY, and software can set neither LOCK nor SVMDIS; SVMDIS is read-only (APM2
15.31). How a write fails, ignored or with #GP, is open; a bit that reads back changed is not. An L0 that stores the two
bits all the same offers half of SVM lock: L1's firmware switches SVM off, nothing can open it again, or it holds
nothing, and one that lets LOCK reach the processor has locked its own.
"""

import pytest

from harness import VMEXIT, cases, clause
from harness.svm.msr import MSR, VM_CR_LOCK, VM_CR_SVMDIS
from suites.lib.vm_cr import SVME, switch_svme

BITS = {"lock": VM_CR_LOCK, "svmdis": VM_CR_SVMDIS, "both": VM_CR_LOCK | VM_CR_SVMDIS}
KEY = 0x1122_3344_5566_7788
DIRTY = pytest.mark.dirties("VM_CR.LOCK or SVMDIS may be set")


@clause("svml.absent.no_key")
@cases("value", {"read": None, "zero": 0, "key": KEY, "all_ones": (1 << 64) - 1})
def test_there_is_no_key(l1, value):
    if not l1.cpuid.hypervisor:
        pytest.skip("no hypervisor in CPUID Fn0000_0001 ECX[31]: what a bare processor without SVML does is not known")
    result = l1.rdmsr(MSR.SVM_KEY) if value is None else l1.wrmsr(MSR.SVM_KEY, value)

    assert result.faults("#GP", 0)


@clause("svml.absent.svmdis_is_read_only")
@DIRTY
@cases("svme", [False, True])
@cases("bits", BITS)
def test_lock_and_svmdis_cannot_be_changed(l1, bits, svme):
    """Set and clear them, in either order of what VM_CR had."""
    vm_cr = l1.rdmsr(MSR.VM_CR)
    assert vm_cr.ok
    switch_svme(l1, on=svme)

    for value in (vm_cr.value | bits, vm_cr.value & ~bits, vm_cr.value ^ bits):
        written = l1.wrmsr(MSR.VM_CR, value)
        assert written.faults("#GP", 0) if written.fault else written.ok
        assert l1.rdmsr(MSR.VM_CR).reads(vm_cr.value)


@clause("svml.absent.svm_works")
@DIRTY
def test_svm_cannot_be_taken_away(l1):
    """Whatever the writes do, a hypervisor that comes later finds SVM as CPUID and VM_CR said."""
    if l1.rdmsr(MSR.VM_CR).value & VM_CR_SVMDIS:
        pytest.skip("VM_CR.SVMDIS is set (C001_0114h bit 4): firmware has switched SVM off")
    efer = l1.rdmsr(MSR.EFER).value
    guest = l1.guest("end: vmmcall")
    switch_svme(l1, on=False)

    l1.wrmsr(MSR.SVM_KEY, KEY)
    l1.wrmsr(MSR.VM_CR, VM_CR_LOCK | VM_CR_SVMDIS)
    l1.wrmsr(MSR.SVM_KEY, ~KEY & (1 << 64) - 1)

    assert l1.wrmsr(MSR.EFER, efer | SVME).ok
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])
