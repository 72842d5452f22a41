"""VM_HSAVE_PA and VM_CR.

VM_HSAVE_PA takes a page-aligned address below MAXPHYADDR and raises #GP(0) for any other (APM2 15.30.4). VM_CR has
five bits, the rest must be zero; SVMDIS cannot be set while SVM is on, and LOCK freezes SVMDIS and itself (15.30.1).
Both can be reached whatever EFER.SVME is. An L0 that keeps them as plain variables skips these checks; one that
ignores writes altogether reads back something that was never true.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.host_save_area import VM_HSAVE_PA, own_hsave

EFER = 0xC000_0080
VM_CR = 0xC001_0114
SVME = 1 << 12
R_INIT, LOCK, SVMDIS = 1 << 1, 1 << 3, 1 << 4

BEYOND = ["maxphyaddr", "maxphyaddr+1", "maxphyaddr+3", "bit52", "bit53", "bit62", "bit63"]


def svme_off(l1):
    """Clears EFER.SVME; what L1 runs as code next sets it again afterwards."""
    assert l1.wrmsr(EFER, l1.rdmsr(EFER).value & ~SVME).ok


def unlocked_vm_cr(l1):
    """VM_CR as it is; skips where firmware has locked it."""
    vm_cr = l1.rdmsr(VM_CR)
    assert vm_cr.ok
    if vm_cr.value & LOCK:
        pytest.skip("VM_CR.LOCK is already set (C001_0114h bit 3), so SVMDIS cannot be changed")
    return vm_cr.value


# --- VM_HSAVE_PA


@clause("core.msrs.hsave_alignment")
@pytest.mark.parametrize("bit", range(12), ids=lambda bit: f"bit{bit}")
def test_hsave_low_bits(l1, bit):
    """An address within a page is no page."""
    page = l1.scratch(2)

    with own_hsave(l1):
        assert l1.wrmsr(VM_HSAVE_PA, page).ok
        assert l1.wrmsr(VM_HSAVE_PA, page + 0x1000 | 1 << bit).faults("#GP", 0)
        assert l1.rdmsr(VM_HSAVE_PA).reads(page)


@clause("core.msrs.hsave_maxphyaddr")
@pytest.mark.parametrize("which", BEYOND)
def test_hsave_beyond_maxphyaddr(l1, which):
    """Its low bits name a good page, so that an L0 that cuts the address off would take it."""
    limit = l1.cpuid.maxphyaddr
    bit = int(which[3:]) if which.startswith("bit") else limit + int(which.partition("+")[2] or 0)
    if bit < limit:
        pytest.skip(f"bit {bit} is an address bit: CPUID Fn8000_0008 EAX[7:0] is {limit}")
    page = l1.scratch(2)

    with own_hsave(l1):
        assert l1.wrmsr(VM_HSAVE_PA, page).ok
        assert l1.wrmsr(VM_HSAVE_PA, page + 0x1000 | 1 << bit).faults("#GP", 0)
        assert l1.rdmsr(VM_HSAVE_PA).reads(page)


@clause("core.msrs.hsave_legal")
@pytest.mark.parametrize("which", ["zero", "second-page", "arena", "highest-bit", "last-page"])
def test_hsave_accepts(l1, which):
    """Nothing is read or written there until VMRUN, so there need not be memory."""
    top = 1 << l1.cpuid.maxphyaddr
    address = {
        "zero": 0,
        "second-page": 0x1000,
        "arena": l1.scratch(),
        "highest-bit": top >> 1,
        "last-page": top - 0x1000,
    }[which]

    with own_hsave(l1):
        assert l1.wrmsr(VM_HSAVE_PA, address).ok
        assert l1.rdmsr(VM_HSAVE_PA).reads(address)


@clause("core.msrs.hsave_used")
@pytest.mark.parametrize("fill", [0x00, 0xA5, 0xFF], ids=lambda fill: f"{fill:02x}")
def test_hsave_can_be_moved(l1, fill):
    """Each VMRUN uses the page of the moment, and what lay in it before means nothing."""
    pages = l1.scratch(2)
    l1.fill(pages, 0x2000, fill)
    guest = l1.guest("first: vmmcall")

    with own_hsave(l1):
        for page in (pages, pages + 0x1000, pages):
            assert l1.wrmsr(VM_HSAVE_PA, page).ok
            assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["first"])


@clause("core.msrs.hsave_zero")
@pytest.mark.dirties("VM_HSAVE_PA was 0 at a VMRUN: page 0 may have been written")
def test_vmrun_with_hsave_zero(l1):
    """#GP(0), or L2 runs; nothing else."""
    assert l1.wrmsr(VM_HSAVE_PA, 0).ok
    guest = l1.guest("end: vmmcall")

    exit = guest.run()

    if exit.fault:
        assert exit.vmrun_faults("#GP", 0)
    else:
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])


# --- VM_CR


@clause("core.msrs.need_no_svme")
def test_msrs_without_svme(l1):
    """A host sets up its save area before it turns SVM on."""
    pages = l1.scratch(2)
    vm_cr = l1.rdmsr(VM_CR)
    assert vm_cr.ok

    with own_hsave(l1):
        assert l1.wrmsr(VM_HSAVE_PA, pages).ok
        svme_off(l1)
        assert l1.rdmsr(VM_CR).reads(vm_cr.value)
        assert l1.rdmsr(VM_HSAVE_PA).reads(pages)
        assert l1.wrmsr(VM_HSAVE_PA, pages + 0x1000).ok
        assert l1.rdmsr(VM_HSAVE_PA).reads(pages + 0x1000)
    assert l1.code("nop").returned  # the executor sets SVME again


@clause("core.msrs.vm_cr_reserved")
@pytest.mark.parametrize("bit", range(5, 64), ids=lambda bit: f"bit{bit}")
def test_vm_cr_reserved_bits(l1, bit):
    """The value as it is can be written; with one more bit it cannot."""
    vm_cr = l1.rdmsr(VM_CR)
    assert vm_cr.ok

    assert l1.wrmsr(VM_CR, vm_cr.value).ok
    assert l1.wrmsr(VM_CR, vm_cr.value | 1 << bit).faults("#GP", 0)
    assert l1.rdmsr(VM_CR).reads(vm_cr.value)


@clause("core.msrs.svmdis_writable")
@pytest.mark.dirties("VM_CR.SVMDIS was set")
def test_svmdis_can_be_set_and_cleared(l1):
    """Firmware switches SVM off like this."""
    vm_cr = unlocked_vm_cr(l1)
    svme_off(l1)

    assert l1.wrmsr(VM_CR, vm_cr | SVMDIS).ok
    assert l1.rdmsr(VM_CR).reads(vm_cr | SVMDIS)
    assert l1.wrmsr(VM_CR, vm_cr & ~SVMDIS).ok
    assert l1.rdmsr(VM_CR).reads(vm_cr & ~SVMDIS)


@clause("core.msrs.svmdis_needs_svme_clear")
@pytest.mark.dirties("VM_CR.LOCK may be set")
@pytest.mark.parametrize("lock", ["unlocked", "locked", "locking"])
def test_svmdis_with_svme(l1, lock):
    """SVM cannot be switched off under the feet of a host that uses it; a lock does not turn the #GP into nothing."""
    vm_cr = unlocked_vm_cr(l1) if lock != "locked" else l1.rdmsr(VM_CR).value
    if lock == "locked":
        assert l1.wrmsr(VM_CR, vm_cr | LOCK).ok
        vm_cr |= LOCK
    wanted = vm_cr | SVMDIS | (LOCK if lock == "locking" else 0)

    assert l1.wrmsr(VM_CR, wanted).faults("#GP", 0)
    assert l1.rdmsr(VM_CR).reads(vm_cr)


@clause("core.msrs.vm_cr_lock")
@pytest.mark.dirties("VM_CR.LOCK was set")
@pytest.mark.parametrize("held", ["svmdis-clear", "svmdis-set"])
@pytest.mark.parametrize("write", ["clear-lock", "change-svmdis", "change-both"])
def test_lock_holds(l1, held, write):
    """Writes to LOCK and SVMDIS pass without a fault and change nothing."""
    vm_cr = unlocked_vm_cr(l1) & ~SVMDIS | (SVMDIS if held == "svmdis-set" else 0)
    svme_off(l1)
    assert l1.wrmsr(VM_CR, vm_cr | LOCK).ok
    assert l1.rdmsr(VM_CR).reads(vm_cr | LOCK)

    changed = {"clear-lock": vm_cr, "change-svmdis": vm_cr ^ SVMDIS | LOCK, "change-both": vm_cr ^ SVMDIS}[write]
    assert l1.wrmsr(VM_CR, changed).ok
    assert l1.rdmsr(VM_CR).reads(vm_cr | LOCK)


@clause("core.enable.svme_refused_while_svmdis", "core.msrs.vm_cr_lock")
@pytest.mark.dirties("VM_CR.LOCK was set")
def test_locked_svmdis_keeps_svm_off(l1):
    """What the lock is for: software can no more turn SVM on."""
    vm_cr = unlocked_vm_cr(l1)
    off = l1.rdmsr(EFER).value & ~SVME
    svme_off(l1)
    assert l1.wrmsr(VM_CR, vm_cr | SVMDIS | LOCK).ok
    assert l1.wrmsr(VM_CR, vm_cr & ~(SVMDIS | LOCK)).ok

    assert l1.wrmsr(EFER, off | SVME).faults("#GP", 0)
    assert l1.rdmsr(EFER).reads(off)


@clause("core.msrs.vm_cr_r_init")
@pytest.mark.dirties("VM_CR.R_INIT was written")
@pytest.mark.parametrize("lock", ["unlocked", "locked"])
def test_r_init_can_be_written(l1, lock):
    """The lock is about SVMDIS; what INIT does stays the host's to choose."""
    vm_cr = l1.rdmsr(VM_CR).value
    if lock == "unlocked":
        vm_cr = unlocked_vm_cr(l1)
    else:
        l1.need("SVML")
        assert l1.wrmsr(VM_CR, vm_cr | LOCK).ok
        vm_cr |= LOCK

    assert l1.wrmsr(VM_CR, vm_cr | R_INIT).ok
    assert l1.rdmsr(VM_CR).reads(vm_cr | R_INIT)
    assert l1.wrmsr(VM_CR, vm_cr & ~R_INIT).ok
    assert l1.rdmsr(VM_CR).reads(vm_cr & ~R_INIT)
