"""The state in which L1 finds itself after #VMEXIT.

Hardware reloads what VMRUN saved: CS, SS, DS, ES, GDTR, IDTR, CR0, CR3, CR4, EFER, RFLAGS, RIP, RSP and RAX, with
CR0.PE=1, RFLAGS.VM=0, CPL 0, and no breakpoint enabled in DR7. FS, GS, TR, LDTR and the MSRs of VMSAVE keep L2's values
(APM2 15.6). GIF is 0, and what the processor keeps in the VM_HSAVE_PA page is its own affair.
A wrong L0 restores too little, or more than hardware does, so that a hypervisor that relies on it breaks elsewhere.
"""

import struct

import pytest

from harness import VMEXIT, clause, masked
from suites.lib.interrupts import taken_after_stgi

VM_HSAVE_PA = 0xC001_0117
VECTOR = 0x61

EXITS = [
    pytest.param("vmmcall", [], VMEXIT.VMMCALL, id="vmmcall"),
    pytest.param("cpuid", ["cpuid"], VMEXIT.CPUID, id="cpuid"),
    pytest.param("hlt", ["hlt"], VMEXIT.HLT, id="hlt"),
    pytest.param("ud2", [], VMEXIT.EXCP_UD, id="exception"),
    pytest.param("movabs al, [0x7fffffff0000]", [], VMEXIT.EXCP_PF, id="page_fault"),
    pytest.param("in al, 0x80", ["ioio"], VMEXIT.IOIO, id="ioio"),
]


def _run(l1, code, intercepts, **run):
    guest = l1.guest(f"start: {code}", intercept=intercepts)
    if "ioio" in intercepts:
        maps = l1.scratch(3)
        guest.write(maps + 0x10, b"\x01")
        guest.vmcb["iopm_base_pa"] = maps
    guest.raise_interrupt(VECTOR)
    return guest, guest.run(**run)


@clause("core.exit.gif_clear")
@pytest.mark.parametrize(("code", "intercepts", "exitcode"), EXITS)
def test_interrupt_that_l2_could_not_take_waits_for_stgi(l1, code, intercepts, exitcode):
    """V_INTR_MASKING=1 and the host's IF=0: the interrupt is pending all through L2 and beyond the exit."""
    guest, exit = _run(l1, code, intercepts, host_if=False)

    assert exit.matches(code=exitcode, rip=guest["start"])
    assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.exit.gif_clear")
def test_interrupt_that_ended_l2_waits_for_stgi(l1):
    """With the host's IF=1 the interrupt ends L2 (exit INTR) and stays pending: GIF is 0 though IF is 1."""
    guest, exit = _run(l1, "nop\nvmmcall", [], host_if=True)

    assert exit.matches(code=VMEXIT.INTR, rip=guest["start"])
    assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.exit.host_pe_and_vm")
@pytest.mark.parametrize("mode", ["real16", "v86"])
def test_host_is_in_protected_mode(l1, mode):
    """L2 was in real mode or in virtual-8086 mode; nothing of it is left in CR0 or RFLAGS."""
    guest = l1.guest("start: vmmcall", mode="real16")
    if mode == "v86":
        guest.vmcb["cr0"] |= 1
        guest.vmcb.update({"rflags": 1 << 17 | 2, "cpl": 3})
        for segment in ("cs", "ds", "es", "ss"):
            guest.vmcb[f"{segment}.attrib"] = 0x0F3
    guest.teardown("mov rax, cr0\npushfq\npop rbx")

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])
    assert l1.expect("L1's CR0 (PG and PE)", exit.teardown.reg("rax"), masked(0x8000_0001, 0x8000_0001))
    assert l1.expect("L1's RFLAGS (VM)", exit.teardown.reg("rbx"), masked(0, 1 << 17))


@clause("core.exit.dr7_disabled")
@pytest.mark.parametrize(
    "dr7",
    [0x401, 0x402, 0x404, 0x408, 0x410, 0x420, 0x440, 0x480, 0x4FF],
    ids=["l0", "g0", "l1", "g1", "l2", "g2", "l3", "g3", "all"],
)
@pytest.mark.dirties("breakpoints of L1 were armed")
def test_breakpoints_of_l1_are_off(l1, dr7):
    """All four breakpoints of L1 name an address that nothing executes."""
    guest = l1.guest("start: vmmcall")
    guest.setup(
        "mov dr0, rbx\nmov dr1, rbx\nmov dr2, rbx\nmov dr3, rbx\nmov dr7, rax", {"rax": dr7, "rbx": l1.scratch(1)}
    )

    exit = guest.run()

    after = exit.host_changes.get("DR7", (dr7, dr7))[1]
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])
    assert l1.expect("L1's DR7 after #VMEXIT (L0 to G3)", after, masked(0, 0xFF))


@clause("core.exit.host_cpl_and_selectors")
@pytest.mark.parametrize("cpl", [0, 3], ids=["cpl0", "cpl3"])
def test_selectors_of_l1_are_back(l1, cpl):
    """L2's selectors are all different from L1's, and from each other."""
    selectors = {"cs": 0x1230 | cpl, "ss": 0x2340 | cpl, "ds": 0x3450 | cpl, "es": 0x4560 | cpl}
    vmcb = {f"{name}.selector": value for name, value in selectors.items()}
    guest = l1.guest("start: vmmcall", cpl=cpl, vmcb=vmcb)
    guest.teardown("mov eax, cs\nmov rbx, cr0")  # MOV from CR0 is for CPL 0

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"], fields=vmcb)
    for name in selectors:
        before, after = exit.host_changes.get(name.upper(), (0, 0))
        assert l1.expect(f"L1's {name.upper()} after #VMEXIT", after, before)
    assert exit.teardown.returned
    assert l1.expect("CPL in L1's CS", exit.teardown.reg("rax") & 3, 0)


HIDDEN = """
    mov eax, 0x18
    mov fs, eax
    mov gs, eax
    mov eax, 0x20
    lldt ax
    mov eax, 0x30
    ltr ax
"""
HIDDEN_MSRS = (
    0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0xC000_0100, 0xC000_0101, 0xC000_0102, 0x174, 0x175, 0x176,
)  # fmt: skip


@clause("core.exit.hidden_segments_stay")
def test_segments_of_vmsave_keep_l2s_values(l1):
    """L2 loads FS, GS, LDTR and TR from a GDT of its own; right after the exit L1 reads L2's selectors."""
    guest = l1.guest(f"{HIDDEN}\nend: vmmcall")
    gdt, other = l1.scratch(1), l1.scratch(1)
    system = [other & 0xFF_FFFF, other >> 24 & 0xFF]
    entries = [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_9300_0000_FFFF]
    for kind in (0x82, 0x89):  # LDT, available 64-bit TSS
        entries += [0xFFF | system[0] << 16 | kind << 40 | system[1] << 56, 0]
    guest.write(gdt, struct.pack("<8Q", *entries))
    guest.vmcb.update({"gdtr.base": gdt, "gdtr.limit": 63})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], host={"FS": 0x18, "GS": 0x18, "LDTR": 0x20, "TR": 0x30})


@clause("core.exit.hidden_segments_stay")
@pytest.mark.parametrize("msr", HIDDEN_MSRS, ids=lambda msr: f"msr_{msr:08x}")
def test_msr_of_vmsave_keeps_l2s_value(l1, msr):
    """L2 writes the MSR; right after the exit L1 reads what L2 wrote."""
    value = {0xC000_0081: 0x0020_0018_0010_2030, 0x174: 0x18}.get(msr, 0x0010_2030)
    guest = l1.guest("wrmsr\nend: vmmcall", regs={"rax": value & 0xFFFF_FFFF, "rdx": value >> 32, "rcx": msr})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], host={f"MSR_{msr:08X}": value})


@clause("core.exit.host_rax_rsp_rip")
@pytest.mark.parametrize("mode", ["long64", "pae32", "prot32", "real16"])
def test_rax_rsp_and_rip_of_l1_are_back(l1, mode):
    """L2 has other values in both registers. That L1 goes on behind VMRUN is shown by its answering at all."""
    wide = mode == "long64"
    guest = l1.guest("start: vmmcall", mode=mode)
    guest.vmcb.update({"rax": 0x1111_2222_3333_4444 if wide else 0x3333_4444, "rsp": 0x2222_3330})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"], rsp=0x2222_3330)
    for name in ("RAX", "RSP"):
        before, after = exit.host_changes.get(name, (0, 0))
        assert l1.expect(f"L1's {name} after #VMEXIT", after, before)
    assert l1.expect("exceptions in L1", len([event for event in exit.events if event.vector < 32]), 0)


@clause("core.exit.hsave_contents_not_needed")
@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x5A], ids=["00", "ff", "5a"])
@pytest.mark.dirties("VM_HSAVE_PA named a scratch page")
def test_host_save_page_may_hold_anything_before_vmrun(l1, byte):
    """L1 fills the page between VMRUNs; each VMRUN comes back all the same."""
    guest = l1.guest("start: vmmcall")
    page = l1.scratch(1)
    own = l1.rdmsr(VM_HSAVE_PA)
    assert own.ok
    assert l1.wrmsr(VM_HSAVE_PA, page).ok

    exits = []
    for _ in range(3):
        l1.fill(page, 0x1000, byte)
        exits.append(guest.run())
    assert l1.wrmsr(VM_HSAVE_PA, own.value).ok

    for exit in exits:
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])
        for name in ("CR0", "CR3", "CR4", "EFER", "CS", "SS", "RSP", "GDTR.base", "IDTR.base"):
            before, after = exit.host_changes.get(name, (0, 0))
            assert l1.expect(f"L1's {name} after #VMEXIT", after, before)


PAGE_TABLE_FLAGS = 7
GLOBAL = 1 << 8


@clause("core.exit.host_translations_kept")
@pytest.mark.parametrize("flags", [0, GLOBAL], ids=["plain", "global"])
@pytest.mark.parametrize("asid", [1, 2], ids=["asid1", "asid2"])
def test_l1_and_l2_keep_their_own_translations(l1, asid, flags):
    """One linear address: L1 finds one page there, L2 another, however often they take turns."""
    guest = l1.guest("mov rax, [rbx]\nend: vmmcall", vmcb={"asid": asid})
    if l1.cpuid.nasid <= asid:
        pytest.skip(f"L1 is offered {l1.cpuid.nasid} ASIDs")
    tables = l1.scratch(4)
    mine, other = l1.scratch(1), l1.scratch(1)
    region = mine & ~0x1F_FFFF
    top, upper, directory, last = (tables + 0x1000 * n for n in range(4))
    pages = [region + 0x1000 * n | PAGE_TABLE_FLAGS for n in range(512)]
    pages[(mine - region) >> 12] = other | PAGE_TABLE_FLAGS | flags
    large = [n << 21 | PAGE_TABLE_FLAGS | 1 << 7 for n in range(512)]
    large[mine >> 21] = last | PAGE_TABLE_FLAGS
    guest.write(top, struct.pack("<Q", upper | PAGE_TABLE_FLAGS))
    guest.write(upper, struct.pack("<Q", directory | PAGE_TABLE_FLAGS))
    guest.write(directory, struct.pack("<512Q", *large))
    guest.write(last, struct.pack("<512Q", *pages))
    guest.write(mine, struct.pack("<Q", 0x1111))
    guest.write(other, struct.pack("<Q", 0x2222))
    guest.vmcb["cr3"] = top
    guest.vmcb["cr4"] |= 1 << 7
    guest.regs["rbx"] = mine
    guest.setup("mov rax, [rbx]", {"rbx": mine})
    guest.teardown("mov rax, [rbx]", {"rbx": mine})
    rip = guest.vmcb["rip"]

    for turn in range(3):
        exit = guest.run()
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], rax=0x2222), f"turn {turn}"
        assert l1.expect("what L1 reads there", exit.teardown.reg("rax"), 0x1111)
        guest.vmcb["rip"] = rip
        guest.vmcb["rax"] = 0
