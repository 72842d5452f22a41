"""What an MSR access of L2 does where L1 does not intercept it.

L2 then works on the processor's own registers: those that VMSAVE stores are L1's to find there, EFER is L2's own, PAT
is L2's own with nested paging and common to both without, the TSC has TSC_OFFSET added (APM2 15.11, 15.25.8). An L0
that emulates the access with L1's copy of a register lets L2 change L1, or loses what L2 wrote.
"""

import pytest

from harness import VMEXIT, any_of, clause

PAT, TSC, APIC_BASE, EFER = 0x277, 0x10, 0x1B, 0xC000_0080
SCE = 1
WRMSR = "mov ecx, {msr:#x}\nmov eax, {low:#x}\nmov edx, {high:#x}\nwrmsr"

# MSR, VMCB field, value.
STORED = {
    "FS_BASE": (0xC000_0100, "fs.base", 0x0000_1234_5678_9ABC),
    "GS_BASE": (0xC000_0101, "gs.base", 0xFFFF_8765_4321_0FED),
    "KERNEL_GS_BASE": (0xC000_0102, "kernel_gs_base", 0xFFFF_9234_5678_9ABC),
    "STAR": (0xC000_0081, "star", 0x0023_0010_1234_5678),
    "LSTAR": (0xC000_0082, "lstar", 0xFFFF_A234_5678_9ABC),
    "CSTAR": (0xC000_0083, "cstar", 0x0000_7234_5678_9ABC),
    "SFMASK": (0xC000_0084, "sfmask", 0x0004_7700),
    "SYSENTER_CS": (0x174, "sysenter_cs", 0x1234),
    "SYSENTER_ESP": (0x175, "sysenter_esp", 0x2345_6780),
    "SYSENTER_EIP": (0x176, "sysenter_eip", 0x3456_7890),
}


def _write(msr, value):
    return WRMSR.format(msr=msr, low=value & 0xFFFF_FFFF, high=value >> 32)


@clause("core.msr_intercept.shared_msrs")
@pytest.mark.parametrize("name", STORED)
def test_what_l2_wrote_is_what_vmsave_stores(l1, name):
    msr, field, value = STORED[name]
    guest = l1.guest(f"{_write(msr, value)}\nend: vmmcall", intercept=["msr"])

    exit = guest.run(vmsave=True)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], fields={field: value})


@clause("core.msr_intercept.efer_write")
@pytest.mark.parametrize("before", [0, SCE], ids=["sce_set", "sce_cleared"])
def test_efer_is_l2s_own(l1, before):
    """L2 inverts SCE. That L1's EFER is as before is asked of every exit."""
    code = f"mov ecx, {EFER:#x}\nrdmsr\nxor eax, {SCE}\nwrmsr\nrdmsr\nend: vmmcall"
    guest = l1.guest(code, intercept=["msr"])
    guest.vmcb["efer"] |= before
    efer = guest.vmcb["efer"] ^ SCE

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], efer=efer, rax=efer & 0xFFFF_FFFF)


def _other_pat(l1):
    """L1's PAT, and one that differs in the last entry alone: WT instead of UC, or UC instead of WT."""
    ours = l1.rdmsr(PAT).value
    last = 4 if ours >> 56 == 0 else 0
    return ours, ours & (1 << 56) - 1 | last << 56


def _restore_pat(guest, value):
    guest.teardown(_write(PAT, value))


@clause("core.msr_intercept.pat_nested")
def test_pat_with_nested_paging_is_written(l1):
    """L2 reads back what it wrote, G_PAT has it after the exit, and L1's PAT does not."""
    ours, theirs = _other_pat(l1)
    code = f"{_write(PAT, theirs)}\nxor eax, eax\nxor edx, edx\nrdmsr\nend: vmmcall"
    guest = l1.guest(code, np=True, intercept=["msr"], vmcb={"g_pat": ours})
    _restore_pat(guest, ours)

    exit = guest.run()

    read_back = {"rax": theirs & 0xFFFF_FFFF, "rdx": theirs >> 32}
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], g_pat=theirs, regs=read_back)
    assert l1.expect("L1's PAT was changed", "MSR_00000277" in exit.host_changes, False)


@clause("core.msr_intercept.pat_nested")
def test_pat_with_nested_paging_is_read(l1):
    """RDMSR reads G_PAT, not L1's PAT."""
    _, theirs = _other_pat(l1)
    guest = l1.guest(f"mov ecx, {PAT:#x}\nrdmsr\nend: vmmcall", np=True, intercept=["msr"], vmcb={"g_pat": theirs})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, regs={"rax": theirs & 0xFFFF_FFFF, "rdx": theirs >> 32})


@clause("core.msr_intercept.pat_shared")
def test_pat_without_nested_paging_is_common(l1):
    """L1 finds L2's value; G_PAT, which holds another one, plays no part."""
    ours, theirs = _other_pat(l1)
    guest = l1.guest(f"{_write(PAT, theirs)}\nend: vmmcall", intercept=["msr"], vmcb={"g_pat": 0})
    _restore_pat(guest, ours)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], host={"MSR_00000277": theirs})


@clause("core.msr_intercept.pat_shared")
def test_pat_without_nested_paging_is_read(l1):
    ours, _ = _other_pat(l1)
    guest = l1.guest(f"mov ecx, {PAT:#x}\nrdmsr\nend: vmmcall", intercept=["msr"], vmcb={"g_pat": 0})

    assert guest.run().matches(code=VMEXIT.VMMCALL, regs={"rax": ours & 0xFFFF_FFFF, "rdx": ours >> 32})


PRESENT = {
    "TSC": TSC, "APIC_BASE": APIC_BASE, "MTRRCAP": 0xFE, "SYSENTER_CS": 0x174, "PAT": PAT,
    "EFER": EFER, "STAR": 0xC000_0081, "LSTAR": 0xC000_0082, "FS_BASE": 0xC000_0100, "KERNEL_GS_BASE": 0xC000_0102,
}  # fmt: skip


@clause("core.msr_intercept.not_requested")
@pytest.mark.parametrize("name", PRESENT)
def test_no_exit_that_was_not_asked_for(l1, name):
    """An L0 may intercept these for itself; L1 does not see it."""
    if name == "MTRRCAP":
        l1.need("MTRR")
    guest = l1.guest(f"mov ecx, {PRESENT[name]:#x}\nrdmsr\nend: vmmcall", intercept=["msr"])

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.msr_intercept.not_requested")
def test_efer_reads_as_l2s(l1):
    """SCE is set in L2 alone; the upper halves of RAX and RDX are cleared."""
    guest = l1.guest(f"mov ecx, {EFER:#x}\nrdmsr\nend: vmmcall", intercept=["msr"])
    efer = guest.vmcb["efer"] | SCE
    guest.vmcb.update({"efer": efer, "rax": 0x1122_3344_5566_7788})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rax": efer, "rdx": 0})


@clause("core.msr_intercept.not_requested")
def test_apic_base_reads_as_l1s(l1):
    base = l1.rdmsr(APIC_BASE).value
    guest = l1.guest(f"mov ecx, {APIC_BASE:#x}\nrdmsr\nend: vmmcall", intercept=["msr"])

    assert guest.run().matches(
        code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rax": base & 0xFFFF_FFFF, "rdx": base >> 32}
    )


@clause("core.msr_intercept.physical_svm_msrs")
@pytest.mark.parametrize("msr", [0xC001_0114, 0xC001_0117], ids=["VM_CR", "VM_HSAVE_PA"])
def test_svm_msrs_are_read(l1, msr):
    """A value or #GP, but no exit for the intercept that was not asked for."""
    guest = l1.guest(f"mov ecx, {msr:#x}\nstart: rdmsr\nend: vmmcall", intercept=["msr"])

    assert guest.run().matches(code=any_of(VMEXIT.VMMCALL, VMEXIT.EXCP_GP))


@clause("core.msr_intercept.tsc_offset")
@pytest.mark.parametrize("offset", [0, 1 << 62, (1 << 64) - (1 << 40)], ids=["zero", "positive", "negative"])
def test_tsc_has_the_offset(l1, offset):
    """What L2 reads lies between two reads of L1, the offset taken off."""
    guest = l1.guest(f"mov ecx, {TSC:#x}\nrdmsr\nend: vmmcall", intercept=["msr"], vmcb={"tsc_offset": offset})
    before = _tsc(l1)

    exit = guest.run()

    after = _tsc(l1)
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    value = (exit.regs["rdx"] << 32 | exit.regs["rax"] & 0xFFFF_FFFF) - offset & (1 << 64) - 1
    assert l1.expect("L2's TSC without the offset lies between L1's", before <= value <= after, True)


def _tsc(l1):
    result = l1.code("rdtsc")
    return result.reg("rdx") << 32 | result.reg("rax")
