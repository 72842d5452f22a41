"""Exits that give no instruction bytes.

Faults of an instruction's fetch give none, and every exit that is no page fault clears 0D0h bits 7:0 (APM2 15.8.4), so
L1 never takes the bytes of an earlier fault for those of this exit. A wrong L0 copies the count of the last exit that
its processor made, which may have been L0's own affair.
"""

import pytest

from harness import EFER, VMEXIT, any_of, cases, clause, unwritten
from harness.svm.templates import OUTPUT_PATTERN
from suites.lib.data_faults import FETCHED, at_page_end, faulting
from suites.lib.event_tables import with_handlers
from suites.lib.nested_maps import NX, P, U, W, nested_guest

NO_BYTES = any_of(0, OUTPUT_PATTERN)


@clause("decodeassists.bytes.fetch")
@pytest.mark.parametrize("nxe", [False, True], ids=["nxe0", "nxe1"])
@pytest.mark.parametrize("mode", ["long64", "pae32", "paged32"])
def test_fetch_of_a_page_that_l2_has_not(l1, mode, nxe):
    """Also where the error code has no bit for it."""
    guest = faulting(l1, "pf", f"jmp {'rbx' if mode == 'long64' else 'ebx'}", mode)
    guest.vmcb["efer"] |= EFER.NXE * nxe

    assert guest.run().matches(code=VMEXIT.EXCP_PF, rip=guest.regs["rbx"], insn_len=NO_BYTES)


@clause("decodeassists.bytes.fetch")
@pytest.mark.parametrize("entry", ["absent", "nx"])
@pytest.mark.parametrize("mode", ["long64", "compat32", "prot32"])
def test_fetch_of_a_page_that_l1_withholds(l1, mode, entry):
    guest, nested = nested_guest(l1, f"jmp {'rbx' if mode == 'long64' else 'ebx'}", mode=mode)
    page = l1.scratch(1)
    l1.need("NP")
    nested.set(page, page | P | W | U | NX if entry == "nx" else 0)
    guest.regs["rbx"] = page + 0x123

    assert guest.run().matches(code=VMEXIT.NPF, rip=page + 0x123, insn_len=NO_BYTES)


@clause("decodeassists.bytes.fetch")
@pytest.mark.parametrize("kind", ["pf", "npf"])
@pytest.mark.parametrize("before", [1, 4])
def test_instruction_that_goes_on_in_such_a_page(l1, before, kind):
    """It was never decoded: its first bytes are known to the processor, and are not given."""
    guest, border, own, outer = at_page_end(l1, "pf", before, nested=kind == "npf", code="at: mov eax, 0x11223344")
    (outer or own).set(border, 0)

    code = VMEXIT.NPF if kind == "npf" else VMEXIT.EXCP_PF
    assert guest.run().matches(code=code, rip=guest["at"], insn_len=NO_BYTES)


EXITS = {
    "cpuid": ("cpuid", "cpuid", VMEXIT.CPUID),
    "hlt": ("hlt", "hlt", VMEXIT.HLT),
    "rdtsc": ("rdtsc", "rdtsc", VMEXIT.RDTSC),
    "pause": ("pause", "pause", VMEXIT.PAUSE),
    "in": ("in al, 0x80", "ioio", VMEXIT.IOIO),
    "outs": ("outsb", "ioio", VMEXIT.IOIO),
    "rdmsr": ("rdmsr", "msr", VMEXIT.MSR),
    "mov_cr": ("mov r11, cr0", "cr0_read", VMEXIT.CR0_READ),
    "mov_dr": ("mov r11, dr7", "dr7_read", VMEXIT.DR7_READ),
    "cr0_selective": ("lmsw ax", "cr0_sel", VMEXIT.CR0_SEL_WRITE),
    "int_n": ("int 0x40", "intn", VMEXIT.INTN),
    "invlpg": ("invlpg [rbx]", "invlpg", VMEXIT.INVLPG),
    "invlpga": ("invlpga", "invlpga", VMEXIT.INVLPGA),
    "vmload": ("vmload", "vmload", VMEXIT.VMLOAD),
    "vmrun": ("vmrun", "vmrun", VMEXIT.VMRUN),
    "vmmcall": ("vmmcall", "vmmcall", VMEXIT.VMMCALL),
    "sidt": ("sidt [rbx]", "sidt", VMEXIT.SIDT),
    "de": ("div cl", "#DE", VMEXIT.EXCP_DE),
    "bp": ("int3", "#BP", VMEXIT.EXCP_BP),
    "ud": ("ud2", "#UD", VMEXIT.EXCP_UD),
    "gp": ("mov cr4, r14", "#GP", VMEXIT.EXCP_GP),
    "intr": ("jmp at", "intr", VMEXIT.INTR),
    "nmi": ("jmp at", "nmi", VMEXIT.NMI),
}


@clause("decodeassists.bytes.cleared")
@cases("code, intercept, exitcode", EXITS)
@pytest.mark.parametrize("before", ["first", "npf"])
def test_other_exits(l1, before, code, intercept, exitcode):
    """As the first exit of this VMCB, and after one that gave bytes; the field is filled before each VMRUN."""
    if before == "npf":
        l1.need("NP")
    guest = faulting(
        l1, "npf" if before == "npf" else "pf", f"fault: mov al, [rbx]\nat: {code}\nvmmcall", intercept=[intercept]
    )
    maps = l1.scratch(5)
    guest.write(maps, b"\xff" * 0x5000)
    guest.vmcb.update({"iopm_base_pa": maps, "msrpm_base_pa": maps + 0x3000, "rax": guest.vmcb_pa})
    guest.regs |= {"rcx": 0, "r14": 1 << 40}
    if exitcode == VMEXIT.NMI:
        guest.setup("clgi")  # or L1 would take it at once
    if before != "first":
        assert guest.run().matches(insn_len=FETCHED)
    if exitcode == VMEXIT.INTR:
        guest.raise_interrupt(0x51)
    if exitcode == VMEXIT.NMI:
        guest.raise_nmi()
    guest.vmcb["rip"] = guest["at"]

    assert guest.run().matches(code=exitcode, rip=guest["at"], insn_len=0)


@clause("decodeassists.bytes.cleared")
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
def test_after_a_fault_that_l2_handles(l1, np):
    """Not intercepted, so it is no exit; the next one has nothing of it."""
    kind = "pf_np" if np else "pf"
    guest = faulting(l1, kind, "at: mov al, [rbx]\nvmmcall\nhandler: vmmcall", no_intercept=["#PF"])
    with_handlers(l1, guest, guest["handler"])

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["handler"], insn_len=0)


ABSENT = {
    "load": ("mov al, [rbx]", []),
    "locked": ("lock inc qword ptr [rbx]", []),
    "rep_movs": ("rep movsb", []),
    "fetch": ("jmp rbx", []),
    "mov_cr": ("mov r9, cr0", ["cr0_read"]),
    "mov_dr": ("mov r9, dr7", ["dr7_read"]),
    "int_n": ("int 0x40", ["intn"]),
    "invlpg": ("invlpg [rbx]", ["invlpg"]),
    "cpuid": ("cpuid", ["cpuid"]),
}


@clause("decodeassists.absent")
@cases("code, intercept", ABSENT)
@pytest.mark.parametrize("kind", ["pf", "npf"])
def test_not_offered(l1, kind, code, intercept):
    """The field is as L1 has left it."""
    if kind == "npf":
        l1.need("NP")
    guest = faulting(l1, kind, f"at: {code}\nvmmcall", intercept=intercept)
    guest.regs["rcx"] = 2

    exit = guest.run()

    assert exit.ran
    assert exit.matches(insn_len=unwritten, insn_bytes=unwritten)
