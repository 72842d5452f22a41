"""CVE-2020-2732, for SVM: an instruction that L0 emulates for L2 exits all the same if L1 intercepts it.

CVE-2020-2732 is KVM on Intel, before 5.6: its emulator did not ask all of L1's intercepts, so that L2 read, by way of
the emulator, what L1 had forbidden. AMD nesting has the same two ways into every intercept: the CPU's, and the
emulator's for an instruction that L0 came to by another fault. Hardware has one (APM2 15.7, 15.9). CVE-2025-40026 is
next of kin: see test_double_fetch.py.

The second half is Xen's emulator in XSA-105 (CVE-2014-7155: HLT, LGDT, LIDT, LMSW), XSA-106 (CVE-2014-7156: INTn) and
XSA-110 (CVE-2014-8595: far branches), Xen 3.x to 4.4, which left out checks of privilege. They do not concern nesting.
In L2 the check is lost in the same way: these instructions are not intercepted here, and raise #GP at CPL 3 whoever
carries them out.
"""

from harness import VMEXIT, cases, clause
from harness.svm.intercepts import intercept_exit_code
from suites.advisories.emulated import emulated
from suites.lib.event_guest import EventGuest
from suites.lib.event_tables import CODE0
from suites.lib.nested_maps import share_tables

CR0_AM = 1 << 18

# Intercept -> an instruction that it stops. RBX names memory, RAX is 0 and RCX the number of an MSR.
INSTRUCTIONS = {
    "cr0_read": "mov rdx, cr0",
    "cr0_write": "mov cr0, rdx",
    "cr3_write": "mov cr3, rdx",
    "cr4_write": "mov cr4, rdx",
    "cr0_sel_write": "mov cr0, rdx",
    "dr7_read": "mov rdx, dr7",
    "dr7_write": "mov dr7, rax",
    "sidt": "sidt [rbx]",
    "lidt": "lidt [rbx]",
    "lgdt": "lgdt [rbx]",
    "rdtsc": "rdtsc",
    "pushf": "pushfq",
    "popf": "popfq",
    "cpuid": "cpuid",
    "iret": "iretq",
    "intn": "int 0x80",
    "invd": "invd",
    "pause": "pause",
    "hlt": "hlt",
    "invlpg": "invlpg [rbx]",
    "io": "in al, 0x80",
    "msr": "rdmsr",
    "vmrun": "vmrun",
    "vmmcall": "vmmcall",
    "vmload": "vmload",
    "vmsave": "vmsave",
}
MORE = {
    "out": ("io", "out 0x80, al"),
    "insb": ("io", "insb"),
    "outsb": ("io", "outsb"),
    "rep_outsb": ("io", "rep outsb"),
    "wrmsr": ("msr", "wrmsr"),
    "clts": ("cr0_write", "clts"),
    "lmsw": ("cr0_write", "lmsw ax"),
    "smsw": ("cr0_read", "smsw [rbx]"),
}


@clause("advisories.emulator.intercepts")
@cases("intercept, code", {name: (name, code) for name, code in INSTRUCTIONS.items()} | MORE)
def test_intercept_of_an_emulated_instruction(l1, intercept, code):
    maps, page = l1.scratch(3), l1.scratch(1)
    guest = emulated(l1, f"start: {code}\nnop\nvmmcall", intercept=[intercept])
    guest.vmcb.update({"iopm_base_pa": maps, "msrpm_base_pa": maps, "rax": 0})
    # RDX holds what MOV to a control register takes; of CR0 it changes more than TS and MP.
    value = {"cr3_write": guest.vmcb["cr3"], "cr4_write": guest.vmcb["cr4"]}.get(intercept, guest.vmcb["cr0"] ^ CR0_AM)
    rdx = 0x80 if intercept == "io" else value
    guest.regs.update({"rbx": page, "rcx": 0x1B, "rdx": rdx, "rsi": page, "rdi": page})
    guest.write(maps, b"\xff" * 0x3000)

    assert guest.run().matches(code=intercept_exit_code(intercept), rip=guest["start"])


AT_CPL_3 = {
    "hlt": "hlt", "clts": "clts", "lmsw": "lmsw ax", "lgdt": "lgdt [rbx]", "lidt": "lidt [rbx]", 
    "ltr": "ltr ax", "wbinvd": "wbinvd", "invlpg": "invlpg [rbx]", "rdmsr": "rdmsr", "wrmsr": "wrmsr",
    "cr0_read": "mov rdx, cr0", "dr7_write": "mov dr7, rax", "cli": "cli", 
}  # fmt: skip


@clause("advisories.emulator.privilege")
@cases("code", AT_CPL_3)
def test_privileged_instruction_at_cpl_3(l1, code):
    guest = emulated(l1, f"start: {code}\nvmmcall", cpl=3, vmcb={"rax": 0})
    guest.regs.update({"rbx": l1.scratch(1), "rcx": 0x1B, "rdx": guest.vmcb["cr0"]})

    assert guest.run().matches(code=VMEXIT.EXCP_GP, info1=0, rip=guest["start"], cpl=3)


@clause("advisories.emulator.far_branch")
@cases("code", {"jmp": ".byte 0xea\n.long target\n.word 8", "call": ".byte 0x9a\n.long target\n.word 8", "ret": "retf"})
def test_far_branch_to_inner_code(l1, code):
    """To the code segment of CPL 0, from CPL 3."""
    guest = EventGuest(l1, f"start: {code}\ntarget: vmmcall", mode="compat32", cpl=3, np=True)
    share_tables(l1, guest.guest)
    esp = guest.vmcb["rsp"] - 8
    guest.vmcb["rsp"] = esp
    guest.guest.write(esp, guest["target"].to_bytes(4, "little") + CODE0.to_bytes(4, "little"))

    assert guest.run().matches(code=VMEXIT.EXCP_GP, info1=CODE0, rip=guest["start"], cpl=3)


@clause("advisories.emulator.far_branch")
@cases("code", {"jmp": ".byte 0xea\n.long target\n.word 0x1b", "call": ".byte 0x9a\n.long target\n.word 0x1b"})
def test_far_branch_to_code_of_its_own_level(l1, code):
    """The legal neighbour."""
    guest = EventGuest(l1, f"start: {code}\nnop\ntarget: vmmcall", mode="compat32", cpl=3, np=True)
    share_tables(l1, guest.guest)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["target"], cpl=3)
