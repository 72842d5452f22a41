"""VMRUN, #VMEXIT and an L0's own work record nothing.

They are in none of the lists of control transfers (APM2 13.1.6): the last branch of L2 is still there after its exit,
that of L1 too, and at the next VMRUN L2 finds what it left. An L0 takes exits that L1 never hears of, for CPUID, for a
page that is touched first, for a device. It runs branches of its own then, on the processor that should record L2's,
and emulates instructions; neither may be seen in the records.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.branch_records import (
    LBR,
    PRESET_KEPT,
    RECORDING,
    addresses,
    are,
    branch,
    event,
    need_branch_records,
    records,
    set_debugctl,
    store_records,
    stored,
)
from suites.lib.event_guest import NO_PAGE, EventGuest
from suites.lib.nested_maps import PAGES, Map

JUMP = "jump: jmp there\nnop\nthere: "


@clause("lbrvirt.vmrun_records_nothing")
def test_vmrun(l1):
    """L2's first instruction exits. Again and again the records are those that the VMCB had."""
    guest = l1.guest("start: vmmcall", vmcb=RECORDING)

    for _ in range(3):
        assert guest.run().reached("start", dbgctl=LBR, fields=PRESET_KEPT)


@clause("lbrvirt.vmrun_records_nothing")
@pytest.mark.parametrize("mode", ["compat32", "pae32", "paged32", "prot32", "real16"])
def test_vmrun_in_other_modes(l1, mode):
    assert l1.guest("start: vmmcall", mode=mode, vmcb=RECORDING).run().reached("start", fields=PRESET_KEPT)


# Name -> the instruction, and what intercepts it.
EXITS = {
    "cpuid": ("cpuid", "cpuid", VMEXIT.CPUID),
    "hlt": ("hlt", "hlt", VMEXIT.HLT),
    "rdtsc": ("rdtsc", "rdtsc", VMEXIT.RDTSC),
    "pushf": ("pushfq", "pushf", VMEXIT.PUSHF),
    "invlpg": ("invlpg [rbx]", "invlpg", VMEXIT.INVLPG),
    "mov-cr3": ("mov cr3, rax", "cr3_write", VMEXIT.CR3_WRITE),
    "mov-dr": ("mov rax, dr7", "dr7_read", VMEXIT.DR7_READ),
    "sidt": ("sidt [rsp - 16]", "sidt", VMEXIT.SIDT),
    "vmrun": ("vmrun", "vmrun", VMEXIT.VMRUN),
    "stgi": ("stgi", "stgi", VMEXIT.STGI),
}


@clause("lbrvirt.vmexit_records_nothing")
@pytest.mark.parametrize("name", EXITS)
def test_exit(l1, name):
    """The branch before the instruction that exits is the last one."""
    insn, intercept, code = EXITS[name]
    guest = l1.guest(f"{JUMP}{insn}\nvmmcall", intercept=[intercept], vmcb=RECORDING)

    exit = guest.run()

    assert exit.matches(code=code, rip=guest["there"], dbgctl=LBR, fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.vmexit_records_nothing")
def test_nested_page_fault(l1):
    """Exit 400h in the middle of an instruction."""
    l1.need("NP")
    page = l1.scratch()
    guest = l1.guest(f"{JUMP}mov al, [rbx]\nvmmcall", np=True, regs={"rbx": page}, vmcb=RECORDING)
    nested = Map(guest, l1.scratch(PAGES))
    nested.set(page, 0)
    guest.vmcb["n_cr3"] = nested.base

    exit = guest.run()

    wanted = branch(guest["jump"], guest["there"])
    assert exit.matches(code=VMEXIT.NPF, rip=guest["there"], info2=page, dbgctl=LBR, fields=wanted)


@clause("lbrvirt.vmexit_records_nothing")
def test_l2_goes_on_with_its_records(l1):
    """After an exit L2 goes on behind the instruction, with the records it had."""
    page = l1.scratch()
    guest = l1.guest(f"{JUMP}cpuid\nnext: {store_records(page)}end: vmmcall", intercept=["cpuid"], vmcb=RECORDING)
    first = guest.run()
    assert first.matches(code=VMEXIT.CPUID, fields=branch(guest["jump"], guest["there"]))

    exit = guest.resume("next", run={"read": {"l2": stored(page)}})

    assert exit.reached("end")
    assert are(l1, "L2's", records(exit.memory["l2"]), {"dbgctl": LBR} | branch(guest["jump"], guest["there"]))


# What an L0 may take for itself, or emulate. RDI is a page that nobody has touched.
L0_WORK = {
    "cpuid": "xor eax, eax\ncpuid",
    "page": "mov [rdi], al\nmov [rdi + 0x5000], al",
    "port": "out 0x80, al",
    "apic": "mov eax, 0xFEE00030\nmov eax, [rax]",
    "wbinvd": "wbinvd",
    "mov-cr3": "mov rax, cr3\nmov cr3, rax",
    "mov-cr4": "mov rax, cr4\nxor eax, 0x80\nmov cr4, rax\nxor eax, 0x80\nmov cr4, rax",
    "mov-dr": "mov rax, dr7\nmov dr7, rax",
    "apic-base": "mov ecx, 0x1b\nrdmsr",
    "tsc": "mov ecx, 0x10\nrdmsr\nrdtsc",
    "efer": "mov ecx, 0xC0000080\nrdmsr\nwrmsr",
    "invlpg": "invlpg [rdi]",
    "pause": "pause",
}


@clause("lbrvirt.l0_leaves_no_trace")
@pytest.mark.parametrize("name", L0_WORK)
def test_l0_works_under_l2(l1, name):
    """L1 intercepts none of these: L2's branch before them is the last all the same."""
    regs = {"rdi": l1.scratch(8)}
    guest = l1.guest(f"{JUMP}{L0_WORK[name]}\nend: vmmcall", regs=regs, vmcb=RECORDING)

    assert guest.run().reached("end", dbgctl=LBR, fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.l0_leaves_no_trace")
@pytest.mark.parametrize("name", L0_WORK)
def test_nothing_appears_without_a_branch(l1, name):
    """L2 has no branch at all: the records are those that the VMCB had."""
    guest = l1.guest(f"{L0_WORK[name]}\nend: vmmcall", regs={"rdi": l1.scratch(8)}, vmcb=RECORDING)

    assert guest.run().reached("end", dbgctl=LBR, fields=PRESET_KEPT)


@clause("lbrvirt.l0_leaves_no_trace_in_l1")
@pytest.mark.parametrize("name", L0_WORK)
def test_l0_works_under_l1(l1, name):
    """The same in L1, which has LBR set; no VMRUN is made."""
    need_branch_records(l1)
    page, touched = l1.scratch(), l1.scratch(8)
    code = f"{set_debugctl(LBR)}{JUMP}{L0_WORK[name]}\n{store_records(page)}{set_debugctl(0)}"

    result = l1.code(code, {"rdi": touched})

    assert result.returned
    wanted = {"dbgctl": LBR} | addresses({"br_from": result["jump"], "br_to": result["there"]})
    assert are(l1, "L1's", records(l1.read(*stored(page))), wanted)


@clause("lbrvirt.l0_leaves_no_trace")
def test_page_fault_that_l0_keeps(l1):
    """L2's own #PF is delivered through a page that is touched first: the delivery is recorded once, as a pair."""
    code = f"{JUMP}mov al, [rsi]\nother: vmmcall"
    guest = EventGuest(l1, code, handlers={}, no_intercept=["#PF"], vmcb=RECORDING, regs={"rsi": NO_PAGE})

    exit = guest.run()

    wanted = event(guest["there"], guest["other"], (guest["jump"], guest["there"]))
    assert exit.reached("other", dbgctl=LBR, fields=wanted)
