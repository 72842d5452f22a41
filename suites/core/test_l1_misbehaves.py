"""An L1 that is not well behaved: VMRUN with GIF set, and page tables of its own that lack what VMRUN uses.

#VMEXIT clears GIF whatever it was before VMRUN, also when VMRUN is refused (APM2 15.6, 15.17). VMCB, host save area and
nested tables are named by physical addresses: L1's own page tables have no say in them (15.5.1), and neither VMRUN nor
#VMEXIT uses L1's stack or IDT. A wrong L0 puts GIF back to what it was, so that an interrupt comes while half of L2's
state is loaded, or goes through L1's linear addresses and falls over its own feet.
"""

from harness import VMEXIT, cases, clause
from harness.scenario.steps import TABLE_SIZES, TableKind, tables
from suites.lib.nested_maps import P, U, nested_guest

VECTOR = 0x61
ICR, SELF = 0xFEE0_0300, 0x4_0000  # the destination shorthand of the APIC's ICR
SEND = f"mov r8d, {ICR:#x}\nmov dword ptr [r8], {SELF | VECTOR:#x}"

ENDS = {
    "accepted": {},
    "asid_0": {"asid": 0},
    "cr0_upper": {"cr0": 0x1_8000_0031},
    "efer_svme": {"efer": 0x500},
    "no_vmrun_intercept": {"intercept_misc2": 2},
    "event_type": {"eventinj": 0x8000_0720},
}


@clause("core.exit.gif_clear_after_gif_1")
@cases("vmcb", ENDS)
@cases("before", {"pending": True, "sent_behind": False})
def test_interrupt_waits_for_stgi(l1, before, vmcb):
    """GIF is 1 and IF 0 at VMRUN, IF 1 behind it. The interrupt is masked all through L2, or comes after the exit."""
    guest = l1.guest("nop\nvmmcall", vmcb=vmcb)
    code = f"""
        stgi
        {SEND if before else ""}
        vmrun
        {"" if before else SEND}
        sti
        nop
        nop
        nop
    last: stgi
        nop
        nop
        cli
    """

    exit = guest.run_in(code, handlers={VECTOR: ""})

    assert exit.l1.returned
    assert exit.is_invalid if vmcb else exit.matches(code=VMEXIT.VMMCALL)
    assert l1.expect("interrupts that L1 took", [each.vector for each in exit.l1.taken] == [VECTOR], True)
    assert l1.expect("L1 took it behind its STGI", exit.l1.taken[0].rip > exit.l1["last"], True)


# L1 goes to tables of its own, with its stack and its IDT in the pages at R10 and R11, and comes back.
ELSEWHERE = """
    mov r12, cr3
    mov r13, rsp
    sub rsp, 16
    sidt [rsp]
    lea r15, [r10 + 0xff0]
    mov word ptr [rip + limit], 0xfff
    mov [rip + limit + 2], r11
    lidt [rip + limit]
    mov cr3, r14
    mov rsp, r15
    vmrun
    mov rsi, rsp
    mov cr3, r12
    mov rsp, r13
    lidt [rsp - 16]
    jmp end
limit: .fill 10, 1, 0
end:
"""
HSAVE = 0xC001_0117
WHAT = ["vmcb", "hsave", "nested_tables", "guest_tables", "stack", "idt"]


@clause("core.exit.l1_tables_not_used")
@cases("flags", {"absent": 0, "read_only": P | U})
@cases("what", WHAT)
def test_page_that_l1_has_taken_from_itself(l1, what, flags):
    """In the tables that L1 has loaded at VMRUN and at #VMEXIT."""
    if what == "nested_tables":
        guest, _ = nested_guest(l1, "mov rbx, 0x600d\nend: vmmcall")
    else:
        guest = l1.guest("mov rbx, 0x600d\nend: vmmcall")
    pages = {"vmcb": guest.vmcb_pa, "hsave": l1.rdmsr(HSAVE).value, "nested_tables": guest.vmcb["n_cr3"]}
    pages |= {"guest_tables": guest.vmcb["cr3"] & ~0xFFF, "stack": l1.scratch(1), "idt": l1.scratch(1)}
    own = l1.scratch(TABLE_SIZES[TableKind.LONG_4K] // 4096)
    page = pages[what]
    l1.steps([tables(own, TableKind.LONG_4K)])
    l1.write(own + 0x6000 + (page >> 9 & ~7), (page | flags if flags else 0).to_bytes(8, "little"))
    regs = {"r10": pages["stack"], "r11": pages["idt"], "r14": own}

    exit = guest.run_in(ELSEWHERE, regs)

    assert exit.l1.returned
    assert exit.reached("end", regs={"rbx": 0x600D})
    assert l1.expect("L1's RSP right after #VMEXIT", exit.l1.reg("rsi"), pages["stack"] + 0xFF0)
