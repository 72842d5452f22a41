"""VM_CR (C001_0114h) and EFER.SVME: for tests that lock SVM, or switch it off."""

import pytest

from harness import EFER, L1
from harness.svm.msr import MSR, VM_CR_LOCK

SVME = EFER.SVME


def unlocked_vm_cr(l1: L1) -> int:
    """VM_CR as it is; skips where firmware has locked it."""
    vm_cr = l1.rdmsr(MSR.VM_CR)
    assert vm_cr.ok
    if vm_cr.value & VM_CR_LOCK:
        pytest.skip("VM_CR.LOCK is already set (C001_0114h bit 3): SVMDIS and SVM_KEY cannot be changed before a reset")
    return vm_cr.value


def lock(l1: L1, vm_cr: int) -> None:
    """Writes VM_CR with LOCK set."""
    assert l1.wrmsr(MSR.VM_CR, vm_cr | VM_CR_LOCK).ok
    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr | VM_CR_LOCK)


def switch_svme(l1: L1, *, on: bool) -> None:
    """Sets or clears EFER.SVME; what L1 runs as code next sets it again afterwards."""
    wanted = l1.rdmsr(MSR.EFER).value & ~SVME | (SVME if on else 0)
    assert l1.wrmsr(MSR.EFER, wanted).ok
    assert l1.rdmsr(MSR.EFER).reads(wanted)
