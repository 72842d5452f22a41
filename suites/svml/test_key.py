"""SVM_KEY (C001_0118h): the key to the lock on VM_CR.SVMDIS.

While VM_CR.LOCK is 0 a write to SVM_KEY sets the key. While LOCK is 1 a write of the same value, if it is not 0, clears
LOCK; any other write is ignored without a fault. Reads give 0 (APM2 15.31.1). Firmware that locks SVM off with a key
gives it back to whom it trusts; with a key of 0 to nobody before the next reset. An L0 that takes any value, compares
32 bits, stores what is written to a locked key, or shows the key to who reads it, has a lock that is none.

Every test that locks VM_CR uses up its boot.
"""

import pytest

from harness import VMEXIT, cases, clause
from harness.svm.msr import MSR, VM_CR_LOCK, VM_CR_R_INIT, VM_CR_SVMDIS, msrpm
from suites.lib.vm_cr import SVME, lock, switch_svme, unlocked_vm_cr

KEY = 0x1122_3344_5566_7788
LOCKS = pytest.mark.dirties("VM_CR.LOCK was set")
SETS_KEY = pytest.mark.dirties("SVM_KEY was written")

KEYS = {"digits": KEY, "1": 1, "bit31": 1 << 31, "bit32": 1 << 32, "bit63": 1 << 63, "all_ones": (1 << 64) - 1}
ALMOST = {
    "bit0": KEY ^ 1, "bit31": KEY ^ 1 << 31, "bit32": KEY ^ 1 << 32, "bit63": KEY ^ 1 << 63,
    "low_half": KEY & 0xFFFF_FFFF, "high_half": KEY >> 32 << 32, "zero": 0, "all_ones": (1 << 64) - 1,
}  # fmt: skip
"""Values that are not the key."""


def locked_with(l1, key):
    """VM_CR with LOCK set and that key; skips where firmware has locked it. Gives VM_CR as it was."""
    vm_cr = unlocked_vm_cr(l1)
    assert l1.wrmsr(MSR.SVM_KEY, key).ok
    lock(l1, vm_cr)
    return vm_cr


@clause("svml.key.reads_zero")
@SETS_KEY
@cases("state", ["unlocked", "locked", "opened"])
def test_the_key_cannot_be_read(l1, state):
    """0, or #GP(0)."""
    vm_cr = unlocked_vm_cr(l1)
    assert l1.wrmsr(MSR.SVM_KEY, KEY).ok
    if state != "unlocked":
        lock(l1, vm_cr)
    if state == "opened":
        assert l1.wrmsr(MSR.SVM_KEY, KEY).ok

    read = l1.rdmsr(MSR.SVM_KEY)

    assert read.faults("#GP", 0) if read.fault else read.reads(0)


@clause("svml.key.opens")
@LOCKS
@cases("key", KEYS)
def test_the_key_opens(l1, key):
    vm_cr = locked_with(l1, key)

    assert l1.wrmsr(MSR.SVM_KEY, key).ok
    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr)


@clause("svml.key.wrong")
@LOCKS
@cases("value", ALMOST)
def test_another_value_does_not_open(l1, value):
    """Nor does it become the key: the right one opens afterwards."""
    vm_cr = locked_with(l1, KEY)

    assert l1.wrmsr(MSR.SVM_KEY, value).ok
    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr | VM_CR_LOCK)
    assert l1.wrmsr(MSR.SVM_KEY, value).ok  # twice: it was not stored
    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr | VM_CR_LOCK)
    assert l1.wrmsr(MSR.SVM_KEY, KEY).ok
    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr)


@clause("svml.key.zero")
@LOCKS
@cases("first", {"zero_alone": None, "zero_after_a_key": KEY})
def test_a_key_of_zero_opens_nothing(l1, first):
    """Nor does the key that there was before it."""
    vm_cr = unlocked_vm_cr(l1)
    if first is not None:
        assert l1.wrmsr(MSR.SVM_KEY, first).ok
    assert l1.wrmsr(MSR.SVM_KEY, 0).ok
    lock(l1, vm_cr)

    for value in (0, KEY, 0, 1, (1 << 64) - 1):
        assert l1.wrmsr(MSR.SVM_KEY, value).ok
        assert l1.rdmsr(MSR.VM_CR).reads(vm_cr | VM_CR_LOCK)


@clause("svml.key.replaced")
@LOCKS
def test_the_last_key_counts(l1):
    vm_cr = unlocked_vm_cr(l1)
    for key in (KEY, 0, ~KEY & (1 << 64) - 1):
        assert l1.wrmsr(MSR.SVM_KEY, key).ok
    lock(l1, vm_cr)

    assert l1.wrmsr(MSR.SVM_KEY, KEY).ok
    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr | VM_CR_LOCK)
    assert l1.wrmsr(MSR.SVM_KEY, ~KEY & (1 << 64) - 1).ok
    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr)


@clause("svml.key.without_svme")
@LOCKS
@cases("svme", [False, True])
def test_svme_does_not_matter(l1, svme):
    switch_svme(l1, on=svme)
    vm_cr = locked_with(l1, KEY)

    assert l1.wrmsr(MSR.SVM_KEY, KEY).ok
    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr)
    assert l1.code("nop").returned  # the executor sets SVME again


@clause("svml.key.keeps_svmdis")
@LOCKS
@cases("r_init", [False, True])
def test_svm_comes_back_with_the_key(l1, r_init):
    """What it is for: SVM locked off, and given back."""
    vm_cr = unlocked_vm_cr(l1) & ~(VM_CR_SVMDIS | VM_CR_R_INIT) | (VM_CR_R_INIT if r_init else 0)
    efer = l1.rdmsr(MSR.EFER).value
    guest = l1.guest("end: vmmcall")
    switch_svme(l1, on=False)
    assert l1.wrmsr(MSR.SVM_KEY, KEY).ok
    lock(l1, vm_cr | VM_CR_SVMDIS)
    assert l1.wrmsr(MSR.EFER, efer | SVME).faults("#GP", 0)

    assert l1.wrmsr(MSR.SVM_KEY, KEY).ok

    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr | VM_CR_SVMDIS)
    assert l1.wrmsr(MSR.EFER, efer | SVME).faults("#GP", 0)
    assert l1.wrmsr(MSR.VM_CR, vm_cr).ok
    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr)
    assert l1.wrmsr(MSR.EFER, efer | SVME).ok
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("svml.key.intercept")
@LOCKS
def test_an_intercepted_write_opens_nothing(l1):
    """The write of a guest that is intercepted did not happen; the same one that is not does open."""
    vm_cr = locked_with(l1, KEY)
    code = f"mov ecx, {int(MSR.SVM_KEY):#x}\nmov eax, {KEY & 0xFFFF_FFFF:#x}\nmov edx, {KEY >> 32:#x}\nprobe: wrmsr"
    guest = l1.guest(f"{code}\nend: vmmcall", intercept=["msr"])
    pages = l1.scratch(2)
    l1.write(pages, msrpm(writes=(MSR.SVM_KEY,)))
    guest.vmcb["msrpm_base_pa"] = pages

    assert guest.run().matches(code=VMEXIT.MSR, rip=guest["probe"], info1=1)
    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr | VM_CR_LOCK)
    assert l1.wrmsr(MSR.SVM_KEY, KEY).ok
    assert l1.rdmsr(MSR.VM_CR).reads(vm_cr)


@clause("svml.lock.keeps_svm")
@LOCKS
def test_the_lock_alone_takes_nothing_away(l1):
    lock(l1, unlocked_vm_cr(l1) & ~VM_CR_SVMDIS)
    guest = l1.guest("end: vmmcall")

    switch_svme(l1, on=False)
    switch_svme(l1, on=True)
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])
