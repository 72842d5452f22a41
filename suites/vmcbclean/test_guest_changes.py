"""What L2 changed itself.

#VMEXIT saves L2's state into the VMCB, and what it saved counts as unmodified: L1 may run L2 on with all bits set
(APM2 15.15.2). An L0 that keeps the values of the last VMRUN, not those of the last #VMEXIT, takes L2 back in time.
"""

from harness import CR0, CR4, EFER, cases, clause, write_msr
from harness.scenario.places import TABLES_LONG
from harness.svm import MSR
from suites.vmcbclean.probes import BASE_CR0, EVERY

SYSTEM = EFER.SVME | EFER.LMA | EFER.LME
LOAD = "mov dword ptr [rsp - 30], 0x00789000\nmov dword ptr [rsp - 26], 0\nmov word ptr [rsp - 32], 0x0457\n"
READ_MSR = "mov ecx, {:#x}\nrdmsr\nshl rdx, 32\nor rax, rdx"
PAT = 0x0006_0407_0106_0504
# What L2 does in its first run, what it reads in the next ones, what it finds.
CHANGES = {
    "cr0": (f"mov eax, {BASE_CR0 | CR0.AM:#x}\nmov cr0, rax", "mov rax, cr0", BASE_CR0 | CR0.AM),
    "cr2": ("mov eax, 0x1234\nmov cr2, rax", "mov rax, cr2", 0x1234),
    "cr3": (f"mov eax, {TABLES_LONG | 8:#x}\nmov cr3, rax", "mov rax, cr3", TABLES_LONG | 8),
    "cr4": (f"mov eax, {CR4.PAE | CR4.TSD:#x}\nmov cr4, rax", "mov rax, cr4", CR4.PAE | CR4.TSD),
    "cr8": ("mov eax, 11\nmov cr8, rax", "mov rax, cr8", 11),
    "dr6": ("mov eax, 0xffff4ff0\nmov dr6, rax", "mov rax, dr6", 0xFFFF_4FF0),
    "dr7": ("mov eax, 0x00df0400\nmov dr7, rax", "mov rax, dr7", 0x00DF_0400),
    "efer": (write_msr(MSR.EFER, SYSTEM | EFER.SCE), READ_MSR.format(MSR.EFER), SYSTEM | EFER.SCE),
    "gdtr": (LOAD + "lgdt [rsp - 32]", "sgdt [rsp - 32]\nmov rax, [rsp - 30]", 0x0078_9000),
    "idtr": (LOAD + "lidt [rsp - 32]", "sidt [rsp - 32]\nmov rax, [rsp - 30]", 0x0078_9000),
    "ds": ("xor eax, eax\nmov ds, eax", "mov eax, ds", 0),
    "ss": ("xor eax, eax\nmov ss, eax", "mov eax, ss", 0),
}


def runs_on(guest, expected):
    """L2 changes, exits, and reads twice with all bits set."""
    assert guest.run().ran
    for _ in range(2):
        assert guest.resume("next", clean=EVERY).reached("end", rax=expected)


@clause("vmcbclean.guest_changes", "vmcbclean.absent")
@cases("change, read, expected", CHANGES)
def test_l2_goes_on_with_its_own_change(l1, change, read, expected):
    """Nothing is intercepted; L1 writes nothing but RIP."""
    runs_on(l1.guest(f"{change}\nvmmcall\nnext: {read}\nend: vmmcall"), expected)


@clause("vmcbclean.guest_changes", "vmcbclean.absent")
def test_l2_goes_on_with_its_own_pat(l1):
    """Under nested paging PAT is L2's own."""
    l1.need("NP")
    own = l1.rdmsr(MSR.PAT).value
    code = f"{write_msr(MSR.PAT, PAT)}vmmcall\nnext: {READ_MSR.format(MSR.PAT)}\nend: vmmcall"
    guest = l1.guest(code, np=True)
    # Whatever became of L1's PAT, it is as before after each run.
    guest.teardown("wrmsr", {"rcx": MSR.PAT, "rax": own & 0xFFFF_FFFF, "rdx": own >> 32})
    runs_on(guest, PAT)


# What an L0 does for L2 without L1: an exit of its own, or none.
L0_WORK = {
    "in": "in al, 0x80",
    "out": "out 0x80, al",
    "cpuid": "cpuid",
    "rdmsr": "mov ecx, 0xfe\nrdmsr",
    "wbinvd": "wbinvd",
    "rdtsc": "rdtsc",
    "first_touch": "mov byte ptr [rdi], 1",
    "apic": "mov eax, [rsi]",
    "xgetbv": "xor ecx, ecx\nmov rax, cr4\nor eax, 0x40000\nmov cr4, rax\nxgetbv",
}


@clause("vmcbclean.l0_exits", "vmcbclean.absent")
@cases("np", [False, True])
@cases("work", L0_WORK)
def test_l0_works_for_l2_meanwhile(l1, work, np):
    """Three runs; L2's registers are the same in each, and no exit of L0's shows."""
    if np:
        l1.need("NP")
    if "xgetbv" in work:
        l1.need("XSAVE")
    code = f"again: {work}\nmov rax, dr7\nmov rbx, dr6\nmov rcx, cr8\nmov edx, ds\nend: vmmcall"
    state = {"dr7": 0x00DF_0400, "dr6": 0xFFFF_4FF0, "v_tpr": 7, "ds.selector": 0x1238}
    guest = l1.guest(code, np=np, vmcb=state, regs={"rdi": l1.scratch(1), "rsi": 0xFEE0_0030})
    for clean in (0, EVERY, EVERY):
        guest.vmcb.update({"rip": guest["again"], "clean": clean})
        exit = guest.run()
        assert exit.reached("end", rax=0x00DF_0400, regs={"rbx": 0xFFFF_4FF0, "rcx": 7, "rdx": 0x1238})


@clause("vmcbclean.l0_own_vmcb")
def test_msr_map_of_l2_is_not_l1s(l1):
    """L2's map intercepts every MSR, L1 reads the same MSR in between, with no clean bit to clear."""
    guest = l1.guest("insn: mov ecx, 0x174\nread: rdmsr", intercept=["msr"])
    guest.vmcb["msrpm_base_pa"] = base = l1.scratch(2)
    guest.write(base, b"\xff" * 0x2000)
    value = l1.rdmsr(0x174).value
    for clean in (0, EVERY, EVERY):
        guest.vmcb.update({"rip": guest["insn"], "clean": clean})
        assert guest.run().matches(code=0x7C, rip=guest["read"])
        assert l1.rdmsr(0x174).reads(value)


@clause("vmcbclean.l0_own_vmcb")
def test_pat_of_l2_is_not_l1s(l1):
    """Under nested paging."""
    l1.need("NP")
    guest = l1.guest(f"again: {READ_MSR.format(MSR.PAT)}\nend: vmmcall", np=True, vmcb={"g_pat": PAT})
    value = l1.rdmsr(MSR.PAT).value
    for clean in (0, EVERY, EVERY):
        guest.vmcb.update({"rip": guest["again"], "clean": clean})
        assert guest.run().reached("end", rax=PAT)
        assert l1.rdmsr(MSR.PAT).reads(value)
