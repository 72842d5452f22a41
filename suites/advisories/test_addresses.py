"""Addresses in the VMCB that L0 has to map, and pages that are two things at once.

CVE-2021-3656, CVE-2024-50115 and XSA-44's class: an L0 follows the addresses that L1 names (VMCB, permission maps, host
save area, N_CR3 and every nested entry), and L1 may name what is not memory, what lies beyond its own memory, or one
page for two purposes. XSA-44 itself is no advisory of nesting; Xen's nestedsvm.c has a remark of its own ("security
hole!") where it would hand L1's N_CR3 to the CPU.

Hardware takes each address for what it is: a physical one. What a hole reads as is the machine's affair, the permission
maps there forbid something or nothing, and software that overlays its own VMCB harms itself (APM2 15.5.1, 15.30.4).
What must hold is that only L1 and its L2 are harmed; and that L2 gets at no memory but L1's. Nothing is written here
but to pages of the test's own.
"""

import pytest

from harness import VMEXIT, TargetLost, any_of, cases, clause
from suites.lib.host_save_area import VM_HSAVE_PA
from suites.lib.nested_maps import OPEN, nested_guest

NO_MEMORY = 0xF000_0000  # below the local APIC; no machine of the suite has memory there
GPA = 0x4000_0000


def alive(l1):
    """True if L1 runs, and can run a guest."""
    assert l1.expect("RAX of L1's code afterwards", l1.code("mov eax, 0x600d").reg("rax"), 0x600D)
    return l1.guest("end: vmmcall").run().reached("end")


@clause("advisories.addresses.no_memory")
@pytest.mark.dangerous
@cases("field", ["iopm_base_pa", "msrpm_base_pa", "n_cr3"])
def test_address_without_memory(l1, field):
    """L2 asks the map once, by an instruction that it may let through."""
    if field == "n_cr3":
        l1.need("NP")
    guest = l1.guest("in al, 0x80\nmov ecx, 0x1b\nrdmsr\nend: vmmcall", np=field == "n_cr3", intercept=["io", "msr"])
    guest.vmcb[field] = NO_MEMORY

    exit = guest.run()

    assert exit.is_invalid or exit.matches(
        code=any_of(VMEXIT.VMMCALL, VMEXIT.IOIO, VMEXIT.MSR, VMEXIT.NPF, VMEXIT.SHUTDOWN)
    )
    assert alive(l1)


@clause("advisories.addresses.nested_leaf")
@pytest.mark.dangerous
@cases("target", {"hole": NO_MEMORY, "top": -1})
def test_nested_entry_that_leads_to_no_memory(l1, target):
    """L2 reads there: what the machine gives, or exit 400h. The page that L2 had there before is not what it reads."""
    target = target if target > 0 else (1 << l1.cpuid.maxphyaddr) - 0x20_0000
    page = l1.scratch(1)
    marker = 0x1122_3344_5566_7788
    guest, nested = nested_guest(l1, "next: mov rax, [rbx]\nend: vmmcall", regs={"rbx": page})
    guest.write(page, marker.to_bytes(8, "little"))
    assert guest.run().reached("end", rax=marker)
    l1.write(nested.entry(page), (target | OPEN).to_bytes(8, "little"))

    exit = guest.resume("next", tlb_control=1)

    assert exit.matches(code=any_of(VMEXIT.VMMCALL, VMEXIT.NPF))
    assert l1.expect("L2 reads the page that L1 took away", exit.vmcb["rax"] == marker and exit.code == 0x81, False)
    assert alive(l1)


@clause("advisories.addresses.self_map")
def test_nested_table_that_names_itself(l1):
    """The page directory is a table of its own, too: L2 reads its entries as memory, as L1 wrote them."""
    guest, nested = nested_guest(l1, "mov rax, [rbx]\nend: vmmcall")
    directory = nested.entry(GPA, level=2) & ~0xFFF
    nested.set(GPA, directory | OPEN, level=2)
    # The directory, as a table for GPA, has as its first entry the pointer back to itself.
    guest.regs["rbx"] = GPA + (GPA >> 21 & 0x1FF) * 0x1000

    exit = guest.run()

    accessed_dirty = 0x60
    assert exit.reached("end")
    assert l1.expect("the entry", exit.vmcb["rax"] & ~accessed_dirty, directory | OPEN)


@clause("advisories.addresses.l2_writes_its_vmcb")
@pytest.mark.dangerous
def test_l2_clears_the_vmrun_intercept_in_its_vmcb(l1):
    """The intercept was loaded by VMRUN. The page lies open to L2, as all of L1's memory does here."""
    guest = l1.guest("and dword ptr [rbx + 0x10], 0xfffffffe\nmov rax, rcx\nat: vmrun\nvmmcall")
    inner = l1.vmcb_image()
    inner["asid"] = 0
    page = l1.scratch(1)
    guest.write(page, bytes(inner.data))
    guest.regs.update({"rbx": guest.vmcb_pa, "rcx": page})

    # The bit is set again before anybody looks at what #VMEXIT may have changed.
    exit = guest.run_in("clgi\nvmrun\nor dword ptr [rax + 0x10], 1\nstgi")

    assert exit.matches(code=VMEXIT.VMRUN, rip=guest["at"])
    assert alive(l1)


def survived(l1, act):
    """L1 goes on, or was shut down and is there again."""
    try:
        act()
        assert alive(l1)  # a shutdown may be late
    except TargetLost as lost:
        if lost.verdict == "MISS":
            raise
    assert alive(l1)


@clause("advisories.addresses.aliases")
@pytest.mark.dangerous
@cases("field", ["iopm_base_pa", "msrpm_base_pa", "n_cr3"])
def test_vmcb_that_is_another_structure(l1, field):
    """The VMCB's page as permission map, or as nested table."""
    if field == "n_cr3":
        l1.need("NP")
    guest = l1.guest("in al, 0x80\nend: vmmcall", np=field == "n_cr3", intercept=["io", "msr"])
    guest.vmcb[field] = guest.vmcb_pa

    survived(l1, guest.run)


@clause("advisories.addresses.host_save_area")
@pytest.mark.dangerous
@cases("byte", [0xFF])
def test_l2_overwrites_the_host_save_area(l1, byte):
    """While it runs. L1 comes back whole, or is shut down: what a CPU keeps there is its own affair."""
    page = l1.scratch(1)
    guest = l1.guest(f"mov edi, {page:#x}\nmov eax, {byte}\nmov ecx, 4096\nrep stosb\nend: vmmcall")
    own = l1.rdmsr(VM_HSAVE_PA)

    def act():
        assert l1.wrmsr(VM_HSAVE_PA, page).ok
        guest.run()
        l1.wrmsr(VM_HSAVE_PA, own.value)

    survived(l1, act)


@clause("advisories.addresses.hsave_of_l2")
@pytest.mark.dangerous
def test_l2_writes_vm_hsave_pa(l1):
    """Not intercepted, it is L1's own. Where the CPU looks for L1's state there at #VMEXIT, L1 is shut down."""
    page = l1.scratch(1)
    own = l1.rdmsr(VM_HSAVE_PA)
    guest = l1.guest(
        f"mov ecx, {VM_HSAVE_PA:#x}\nmov eax, {page:#x}\nxor edx, edx\nwrmsr\nend: vmmcall", intercept=["msr"]
    )

    def act():
        exit = guest.run()
        after = l1.rdmsr(VM_HSAVE_PA)
        l1.wrmsr(VM_HSAVE_PA, own.value)
        assert exit.matches(code=any_of(VMEXIT.VMMCALL, VMEXIT.EXCP_GP))
        assert after.reads(page if exit.code == VMEXIT.VMMCALL else own.value)

    survived(l1, act)
