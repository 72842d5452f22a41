"""What is recorded: control transfers, by the offsets in their code segment.

With DEBUGCTL.LBR=1 each taken branch puts the rIP of its instruction into BR_FROM and that of its target into BR_TO;
these are offsets, to which a debugger has to add the base of CS (APM2 13.1.6.1). What is not taken, and what is no
branch, records nothing. An L0 that emulates an instruction of L2, or that records linear addresses, or the address
behind the branch, misleads whoever debugs L2.
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
    need_branch_records,
    records,
    set_debugctl,
    store_records,
    stored,
)
from suites.lib.event_guest import EventGuest

END = "\nnop\nthere: vmmcall\nother: vmmcall"
TARGET = "lea rax, [rip + there]\n"
PUSHED = f"{TARGET}push rax\n"
FAR = f"push 8\n{PUSHED}"
POINTER = f"{TARGET}sub rsp, 8\nmov [rsp], eax\nmov word ptr [rsp + 4], 8\n"

NEAR = {
    "jmp-rel8": "jump: jmp there",
    "jmp-rel32": "jump: {disp32} jmp there",
    "jmp-register": f"{TARGET}jump: jmp rax",
    "jmp-memory": f"{PUSHED}jump: jmp qword ptr [rsp]",
    "call": "jump: call there",
    "call-register": f"{TARGET}jump: call rax",
    "call-memory": f"{PUSHED}jump: call qword ptr [rsp]",
    "ret": f"{PUSHED}jump: ret",
    "ret-imm": f"{PUSHED}jump: ret 16",
    "jcc-rel8": "xor eax, eax\njump: jz there",
    "jcc-rel32": "xor eax, eax\njump: {disp32} jz there",
    "jrcxz": "xor ecx, ecx\njump: jrcxz there",
    "jecxz": "xor ecx, ecx\njump: jecxz there",
    "loop": "mov ecx, 2\njump: loop there",
    "loopne": "mov ecx, 2\nor ecx, ecx\njump: loopne there",
}

# These need L2's descriptor tables; vectors 3, 4 and 50h lead to `there`.
FAR_FORMS = {
    "jmp-far": f"{POINTER}jump: jmp fword ptr [rsp]",
    "call-far": f"{POINTER}jump: call fword ptr [rsp]",
    "retf": f"{FAR}jump: .byte 0x48, 0xcb",
    "iret": f"mov rax, rsp\npush 16\npush rax\npushfq\npush 8\n{PUSHED}jump: iretq",
}
SOFTWARE_INTERRUPTS = {"int-n": "jump: int 0x50", "int3": "jump: int3"}
HANDLERS = {3: "there", 4: "there", 0x50: "there"}
NOT_TAKEN = {
    "jcc": "or eax, 1\njz there",
    "jrcxz": "mov ecx, 1\njrcxz there",
    "loop": "mov ecx, 1\nloop there",
    "cmov": "xor eax, eax\ncmovz ecx, eax",
    "rep": "xor ecx, ecx\nrep movsb",
    "cpuid": "xor eax, eax\ncpuid",
    "rdmsr": "mov ecx, 0xC0000082\nrdmsr",
    "mov-cr": "mov rax, cr3\nmov cr3, rax",
}
NOT_TAKEN_END = "\nend: vmmcall\nthere: vmmcall"


@clause("lbrvirt.branch_recorded")
@pytest.mark.parametrize("kind", NEAR)
def test_near_branch(l1, kind):
    """The rIP of the instruction itself, not of the next."""
    guest = l1.guest(NEAR[kind] + END, vmcb=RECORDING)

    assert guest.run().reached("there", dbgctl=LBR, fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.branch_recorded")
def test_backward_branch(l1):
    guest = l1.guest("jmp first\nthere: vmmcall\nfirst: nop\njump: jmp there", vmcb=RECORDING)

    assert guest.run().reached("there", fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.branch_recorded")
def test_branch_to_the_next_instruction(l1):
    """Taken all the same."""
    guest = l1.guest("jump: jmp there\nthere: vmmcall", vmcb=RECORDING)

    assert guest.run().reached("there", fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.branch_recorded")
def test_the_last_branch_counts(l1):
    """Of several, and of a loop whose last round falls through."""
    code = "jmp one\nnop\none: jmp two\nnop\ntwo: mov ecx, 3\nthere: nop\njump: loop there\nend: vmmcall"
    guest = l1.guest(code, vmcb=RECORDING)

    assert guest.run().reached("end", fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.branch_recorded")
@pytest.mark.parametrize("kind", FAR_FORMS)
def test_far_branch(l1, kind):
    """Far forms with the selector of the same segment, and IRET."""
    guest = EventGuest(l1, FAR_FORMS[kind] + END, handlers=HANDLERS, vmcb=RECORDING)

    assert guest.run().reached("there", dbgctl=LBR, fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.branch_recorded")
@pytest.mark.parametrize("kind", SOFTWARE_INTERRUPTS)
def test_software_interrupt(l1, kind):
    """From the instruction to its handler. Whether LastInt takes the branch before is not said, so it is not asked."""
    guest = EventGuest(l1, SOFTWARE_INTERRUPTS[kind] + END, handlers=HANDLERS, no_intercept=["#BP"], vmcb=RECORDING)
    wanted = addresses({"br_from": guest["jump"], "br_to": guest["there"]})

    assert guest.run().reached("there", dbgctl=LBR, fields=wanted)


@clause("lbrvirt.branch_recorded")
def test_into(l1):
    """In compatibility mode, with OF set."""
    code = "push 0x802\npopfd\njump: into" + END
    guest = EventGuest(l1, code, mode="compat32", handlers=HANDLERS, no_intercept=["#OF"], vmcb=RECORDING)
    wanted = addresses({"br_from": guest["jump"], "br_to": guest["there"]})

    assert guest.run().reached("there", fields=wanted)


@clause("lbrvirt.branch_recorded")
def test_syscall(l1):
    """To LSTAR. VMLOAD gives L2 the three MSRs."""
    guest = EventGuest(l1, "jump: syscall" + END, handlers={}, vmcb=RECORDING)
    guest.vmcb.update({"star": 0x8 << 32, "lstar": guest["there"], "efer": guest.vmcb["efer"] | 1})

    assert guest.run(vmload=True).reached("there", fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.branch_recorded")
def test_sysret(l1):
    """To CPL 3, where VMMCALL ends L2 as well."""
    guest = EventGuest(l1, "lea rcx, [rip + there]\nmov r11d, 2\njump: .byte 0x48, 0x0f, 0x07" + END, handlers={})
    guest.vmcb.update(RECORDING | {"star": 0x8 << 32 | 0x8 << 48, "efer": guest.vmcb["efer"] | 1})

    assert guest.run(vmload=True).reached("there", fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.branch_recorded")
@pytest.mark.parametrize("mode", ["compat32", "pae32", "paged32", "prot32"])
@pytest.mark.parametrize("kind", ["jmp", "call", "ret", "loop"])
def test_branch_in_other_modes(l1, mode, kind):
    code = {"jmp": "jump: jmp there", "call": "jump: call there", "loop": "mov ecx, 2\njump: loop there"}
    code["ret"] = "push offset there\njump: ret"
    guest = l1.guest(code[kind] + "\nnop\nthere: vmmcall", mode=mode, vmcb=RECORDING)

    assert guest.run().reached("there", dbgctl=LBR, fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.offsets_recorded")
@pytest.mark.parametrize("kind", ["jmp", "call", "loop"])
@pytest.mark.parametrize("mode", ["compat32", "prot32"])
def test_offsets_and_not_linear_addresses(l1, mode, kind):
    """CS has a base: the records have offsets."""
    base = 0x7_0000
    code = {"jmp": "jump: jmp there", "call": "jump: call there", "loop": "mov ecx, 2\njump: loop there"}
    guest = l1.guest(code[kind] + "\nnop\nthere: vmmcall", mode=mode, vmcb=RECORDING | {"cs.base": base})
    guest.vmcb["rip"] -= base
    there = guest["there"] - base

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=there, fields=branch(guest["jump"] - base, there))


@clause("lbrvirt.offsets_recorded")
def test_offsets_in_real_mode(l1):
    """Where L2's labels are offsets in a segment that begins at 128 KiB or above."""
    guest = l1.guest("jump: jmp there\nnop\nthere: vmmcall", mode="real16", vmcb=RECORDING)

    assert guest.run().reached("there", fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.no_branch_no_record")
@pytest.mark.parametrize("kind", NOT_TAKEN)
def test_not_taken(l1, kind):
    """Conditional branches that fall through, and instructions that are no branch."""
    guest = l1.guest(NOT_TAKEN[kind] + NOT_TAKEN_END, vmcb=RECORDING)

    assert guest.run().reached("end", dbgctl=LBR, fields=PRESET_KEPT)


@clause("lbrvirt.lbr_clear_no_record")
@pytest.mark.parametrize("kind", ["jmp-rel8", "call", "ret", "jcc-rel8", "loop"])
def test_nothing_without_lbr(l1, kind):
    guest = l1.guest(NEAR[kind] + END, vmcb=RECORDING | {"dbgctl": 0})

    assert guest.run().reached("there", dbgctl=0, fields=PRESET_KEPT)


@clause("lbrvirt.lbr_clear_no_record")
def test_l2_stops_recording(l1):
    """The branch before the WRMSR stays, the one behind it is not recorded."""
    code = f"jump: jmp there\nnop\nthere: {set_debugctl(0)}jmp end\nnop\nend: vmmcall"
    guest = l1.guest(code, vmcb=RECORDING)

    assert guest.run().reached("end", dbgctl=0, fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.msrs_record")
@pytest.mark.parametrize("kind", NEAR)
def test_by_msr_without_lbr_virtualization(l1, kind):
    """L2 sets LBR itself, and reads its branch by RDMSR: no LbrVirt is needed for that."""
    need_branch_records(l1)
    page = l1.scratch()
    end = f"\nnop\nthere: {store_records(page)}{set_debugctl(0)}end: vmmcall"
    guest = l1.guest(set_debugctl(LBR) + NEAR[kind] + end)

    exit = guest.run(read={"l2": stored(page)})

    assert exit.reached("end")
    wanted = {"dbgctl": LBR} | addresses({"br_from": guest["jump"], "br_to": guest["there"]})
    assert are(l1, "L2's", records(exit.memory["l2"]), wanted)


@clause("lbrvirt.msrs_do_not_record")
@pytest.mark.parametrize("kind", ["jmp-rel8", "call", "jcc-rel8"])
def test_by_msr_nothing_without_lbr(l1, kind):
    """L2 has a branch with LBR set and one without; the first one stays."""
    need_branch_records(l1)
    page = l1.scratch()
    first = f"{set_debugctl(LBR)}first: jmp first_to\nnop\nfirst_to: {set_debugctl(0)}"
    guest = l1.guest(f"{first}{NEAR[kind]}\nnop\nthere: {store_records(page)}end: vmmcall")

    exit = guest.run(read={"l2": stored(page)})

    assert exit.reached("end")
    wanted = {"dbgctl": 0} | addresses({"br_from": guest["first"], "br_to": guest["first_to"]})
    assert are(l1, "L2's", records(exit.memory["l2"]), wanted)


@clause("lbrvirt.l1_records")
@pytest.mark.parametrize("kind", NEAR)
def test_in_l1(l1, kind):
    """L1's own code, before any VMRUN is made."""
    need_branch_records(l1)
    page = l1.scratch()
    code = f"{set_debugctl(LBR)}push rbp\nmov rbp, rsp\n{NEAR[kind]}\nnop\nthere: mov rsp, rbp\npop rbp\n"

    result = l1.code(f"{code}{store_records(page)}{set_debugctl(0)}")

    assert result.returned
    wanted = {"dbgctl": LBR} | addresses({"br_from": result["jump"], "br_to": result["there"]})
    assert are(l1, "L1's", records(l1.read(*stored(page))), wanted)


@clause("lbrvirt.branch_recorded")
@pytest.mark.parametrize("np", [False, True], ids=["no_np", "np"])
def test_across_pages(l1, np):
    """The branch's bytes lie in two pages, its target in a third; with nested paging and without."""
    if np:
        l1.need("NP")
    code = "jmp jump\n.balign 4096\n.skip 4094\njump: {disp32} jmp there\n.balign 4096\nnop\nthere: vmmcall"
    guest = l1.guest(code, np=np, vmcb=RECORDING)

    assert guest.run().reached("there", fields=branch(guest["jump"], guest["there"]))
