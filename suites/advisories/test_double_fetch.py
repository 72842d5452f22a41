"""CVE-2021-29657 and CVE-2025-40026: what L0 reads twice, a second CPU has changed in between.

CVE-2021-29657: KVM 5.10 to 5.11 checked the VMRUN intercept in L1's memory and then read it there once more, so that L2
ran without it; L2's own VMRUN then freed what the first one used, and the host's MSRs lay open. VMRUN sees one value of
each field (APM2 15.5.1): core.checks.single_snapshot asks that for the VMRUN intercept, the ASID and others.

CVE-2025-40026: KVM (to 6.1.156, 6.12.51, 6.17.1) asked L1's I/O permission map again after a device had done the
access: L2's OUTS was done, and then exited as if it had not been, so that L1 did it once more.

These tests do the same with other things that are read while L2 runs: the permission maps, the exit information that L0
has just written, L2's instruction. The old and the new answer are right, and nothing else is. Of Xen 4.17 can be read
that it looks up the port of an IOIO exit in L1's VMCB, behind the place where it has just stored it (nestedsvm.c).
"""

import pytest

from harness import VMEXIT, clause
from suites.advisories.races import race
from suites.lib.nested_maps import OPEN, PAGES, Map

APIC_BASE, PORT = 0x1B, 0x80
APIC_VERSION = 0xFEE0_0030
pytestmark = [pytest.mark.two_cpus, pytest.mark.dangerous]


@clause("advisories.race.msrpm")
def test_msr_permission_map(l1):
    """L2 reads L1's APIC base, or exits."""
    maps = l1.scratch(2)
    value = l1.rdmsr(APIC_BASE).value
    guest = l1.guest(f"mov ecx, {APIC_BASE:#x}\nread: rdmsr\nend: vmmcall", intercept=["msr"])
    guest.vmcb["msrpm_base_pa"] = maps
    bit = 2 * APIC_BASE
    check = f"""
    mov rcx, [r12 + 0x578]
    cmp r11, {VMEXIT.MSR:#x}
    jne done
    cmp rcx, {guest["read"]:#x}
    je first
done:
    mov eax, [r12 + 0x5F8]
    cmp r11, {VMEXIT.VMMCALL:#x}
    jne other
    cmp eax, {value & 0xFFFF_FFFF:#x}
    je second
    """

    race(l1, guest, place=maps + bit // 8, size="byte", values=(0, 1 << bit % 8), check=check)


@clause("advisories.race.iopm")
def test_io_permission_map(l1):
    """L2's OUTSB has been done, RSI is past it, and L2 is behind it; or it exits and nothing was done."""
    maps, page = l1.scratch(3), l1.scratch(1)
    guest = l1.guest("at: outsb\nend: vmmcall", intercept=["io"], regs={"rdx": PORT, "rsi": page})
    guest.vmcb["iopm_base_pa"] = maps
    before = f"mov edx, {PORT:#x}\nmov esi, {page:#x}"
    check = f"""
    mov rcx, [r12 + 0x578]
    cmp r11, {VMEXIT.IOIO:#x}
    jne done
    cmp rcx, {guest["at"]:#x}
    jne other
    cmp rsi, {page:#x}
    je first
done:
    cmp r11, {VMEXIT.VMMCALL:#x}
    jne other
    cmp rsi, {page + 1:#x}
    je second
    """

    race(l1, guest, place=maps + PORT // 8, size="byte", values=(0, 1), check=check, before=before)


@clause("advisories.race.exit_information")
def test_exit_information_of_an_ioio_exit(l1):
    """The other CPU writes EXITINFO1 of a port that is not intercepted. The exit is one for IOIO each time."""
    maps = l1.scratch(3)
    guest = l1.guest(f"at: out {PORT:#x}, al\nend: vmmcall", intercept=["io"])
    guest.vmcb["iopm_base_pa"] = maps
    l1.write(maps + PORT // 8, b"\x01")
    check = f"""
    mov rcx, [r12 + 0x578]
    cmp r11, {VMEXIT.IOIO:#x}
    jne other
    cmp rcx, {guest["at"]:#x}
    je first
    """

    race(l1, guest, place=0x78, size="qword", values=(0x0084_0211, 0x0084_0210), check=check)


@clause("advisories.race.instruction")
def test_instruction_that_l0_emulates(l1):
    """A read of the local APIC, which L0 may emulate, turns into CPUID, which L1 intercepts, and back."""
    mine = l1.code("mov eax, [rbx]", {"rbx": APIC_VERSION})
    assert mine.returned
    text = f"mov ebx, {APIC_VERSION:#x}\n.balign 4\nat: mov eax, [rbx]\nnop\nnop\nend: vmmcall"
    guest = l1.guest(text, intercept=["cpuid"])
    check = f"""
    mov rcx, [r12 + 0x578]
    cmp r11, {VMEXIT.CPUID:#x}
    jne done
    cmp rcx, {guest["at"]:#x}
    je first
done:
    mov eax, [r12 + 0x5F8]
    cmp r11, {VMEXIT.VMMCALL:#x}
    jne other
    cmp eax, {mine.reg("rax") & 0xFFFF_FFFF:#x}
    je second
    """

    race(l1, guest, place=guest["at"], size="dword", values=(0x9090_038B, 0x9090_A20F), check=check)


@clause("advisories.race.nested_tables")
def test_nested_entry_that_comes_and_goes(l1):
    """L2 reads a page, or exits with 400h; it never reads another page."""
    l1.need("NP")
    page = l1.scratch(1)
    guest = l1.guest("at: mov eax, [rbx]\nend: vmmcall", np=True, regs={"rbx": page})
    nested = Map(guest, l1.scratch(PAGES))
    guest.vmcb.update({"n_cr3": nested.base, "tlb_control": 1})
    good = guest.vmcb.copy()
    assert guest.run().ran  # which has the tables made
    guest.vmcb = good
    l1.write(page, (0x1122_3344).to_bytes(4, "little"))
    check = f"""
    mov rcx, [r12 + 0x578]
    cmp r11, {VMEXIT.NPF:#x}
    jne done
    cmp rcx, {guest["at"]:#x}
    je first
done:
    mov eax, [r12 + 0x5F8]
    cmp r11, {VMEXIT.VMMCALL:#x}
    jne other
    cmp eax, 0x11223344
    je second
    """
    place = nested.entry(page)

    race(l1, guest, place=place, size="qword", values=(page | OPEN, 0), check=check, before=f"mov ebx, {page:#x}")
