"""XSA-462 (CVE-2024-45817), CVE-2023-5090 and CVE-2026-74516: L1's local APIC is L0's work, and stays so.

XSA-462: Xen from 4.5 to 4.19 sent the interrupt of an APIC error while it held the lock that the error's own error
takes: an illegal vector in LVT ERROR hung the host's CPU. Nesting is not needed.

CVE-2023-5090: KVM on AMD, 6.0 to 6.5, left the x2APIC MSRs of the host open to a guest whose APIC had been reset.
CVE-2026-74516 (mended in August 2026; the versions are in the CVE record) is its nested form: where AVIC is given up
while L2 runs, L1 got the host's x2APIC MSRs after the next #VMEXIT. Only the ID and version are read here, which differ
between two processors, or two kinds; nothing is written to an APIC that might be the host's. Where the CPU has no AVIC,
as in each emulator, L0 cannot have the bug, and the test says no more than that the registers are L1's.
"""

import pytest

from harness import VMEXIT, cases, clause, read_msr

APIC = 0xFEE0_0000
APIC_BASE, ID, VERSION = 0x1B, 0x802, 0x803
ENABLED, X2APIC = 1 << 11, 1 << 10
# An error (a fixed interrupt with vector 5 to itself) whose interrupt has vector 3, which is another.
RAISE = f"""
    mov ebx, {APIC:#x}
    mov r8d, [rbx + 0x370]
    mov dword ptr [rbx + 0x280], 0
    mov dword ptr [rbx + 0x370], 3
    mov dword ptr [rbx + 0x300], 0x44005
    mov ecx, 100000
again:
    pause
    dec ecx
    jnz again
    mov dword ptr [rbx + 0x370], 0x10000
    mov dword ptr [rbx + 0x280], 0
    mov r9d, [rbx + 0x280]
    mov dword ptr [rbx + 0x280], 0
    mov [rbx + 0x370], r8d
"""


@clause("advisories.apic.error_of_the_error")
@pytest.mark.dangerous
def test_illegal_vector_in_the_error_entry(l1):
    """L1 goes on, and so does the next guest. An APIC that takes such vectors all the same finds handlers for them."""
    assert l1.code(RAISE, interrupts=True, handlers={3: "nop", 5: "nop"}).returned
    assert l1.guest("end: vmmcall").run().reached("end")


@clause("advisories.apic.x2apic_registers")
@pytest.mark.dangerous
@pytest.mark.dirties("the local APIC is in x2APIC mode")
@cases("msr, np", {"id": (ID, False), "version_np": (VERSION, True)})
def test_x2apic_registers_after_l2(l1, msr, np):
    """L1 reads the same before VMRUN, in L2 (not intercepted), and after #VMEXIT."""
    if np:
        l1.need("NP")
    base = l1.rdmsr(APIC_BASE).value
    assert l1.wrmsr(APIC_BASE, base | ENABLED | X2APIC).ok
    guest = l1.guest(read_msr(msr), np=np, intercept=["msr"])
    read = f"mov ecx, {msr:#x}\nrdmsr\n"

    exit = guest.run_in(f"mov r14, rax\n{read}mov r12, rax\nmov rax, r14\nclgi\nvmrun\nstgi\n{read}mov r13, rax")

    assert exit.reached("done")
    first = exit.l1.reg("r12")
    if msr == ID:
        assert l1.expect("the x2APIC ID", first, l1.cpuid_now(1)[1] >> 24)
    assert l1.expect("what L2 reads", exit.msr, first)
    assert l1.expect("what L1 reads afterwards", exit.l1.reg("r13"), first)


@clause("advisories.apic.no_x2apic")
@cases("msr", {"id": ID, "version": VERSION, "tpr": 0x808, "esr": 0x828})
def test_x2apic_registers_without_x2apic_mode(l1, msr):
    """In L2, with its map wide open: #GP(0)."""
    guest = l1.guest(read_msr(msr), intercept=["msr"])

    assert guest.run().matches(code=VMEXIT.EXCP_GP, info1=0, rip=guest["read"])
