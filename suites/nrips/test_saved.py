"""Every intercept of an instruction saves nRIP, and it points behind the instruction.

The exits of table 15-7, of IOIO and of MSR, and those of INT3, INTO and BOUND, store at 0C8h the address that a
trap-type #DB would push (APM2 15.7.1): of the next byte, also where the instruction would have gone elsewhere. RIP
stays on the first byte. L1 emulates the instruction and resumes at nRIP without having decoded it. An L0 that keeps a
list of its own and forgets one exit, or exits with what an earlier one left, sends L1's guest anywhere.

Without NRIPS the field is not written at all.
"""

from harness import CR0, CR4, RFLAGS, VMEXIT, cases, clause
from suites.lib.intercepting import LDT_SELECTOR, OSXSAVE, TSS_SELECTOR
from suites.nrips.instructions import Insn, around, nrip, raw, rows, saves_next

CD = CR0.PG | CR0.CD | CR0.NE | CR0.ET | CR0.PE  # one bit changes that the selective intercept looks at
ALT_MOV_CR8 = {"needs": "AltMovCr8"}

CONTROL = {
    **rows("cr0_read", "mov rax, cr0", "mov r15, cr0", "smsw eax", "smsw r9", "smsw word ptr [rbx]"),
    **rows("cr0_read", "mov eax, cr0", "smsw ax", mode="prot32"),
    **rows("cr0_read", "mov eax, cr0", "smsw ax", "smsw word ptr [bx]", mode="real16"),
    **rows("cr2_read", "mov rdx, cr2", "mov r8, cr2"),
    **rows("cr3_read", "mov rax, cr3", "mov r12, cr3"),
    **rows("cr4_read", "mov rcx, cr4", "mov r13, cr4"),
    **rows("cr8_read", "mov rax, cr8", "mov r9, cr8"),
    "lock_mov_eax_cr0": Insn(raw("f0 0f 20 c0"), "cr8_read", **ALT_MOV_CR8),
    "lock_mov_eax_cr0-prot32": Insn(raw("f0 0f 20 c0"), "cr8_read", "prot32", **ALT_MOV_CR8),
    "lock_mov_cr0_eax-real16": Insn(raw("f0 0f 22 c0"), "cr8_write", "real16", vmcb={"rax": 5}, **ALT_MOV_CR8),
    **rows("cr0_write", "mov cr0, rax", vmcb={"rax": CD}),
    **rows("cr0_write", "mov cr0, r15", regs={"r15": CD}),
    **rows("cr0_write", "lmsw ax", "lmsw word ptr [rbx]", "clts"),
    **rows("cr0_write", "mov cr0, eax", "lmsw ax", "clts", mode="prot32"),
    **rows("cr0_write", "mov cr0, eax", "lmsw [bx + 0x1234]", "clts", mode="real16"),
    **rows("cr2_write", "mov cr2, rbx"),
    **rows("cr3_write", "mov cr3, rbx", "mov cr3, r10", regs={"r10": 0x1000}),
    **rows("cr4_write", "mov cr4, rbx", regs={"rbx": CR4.PAE}),
    **rows("cr8_write", "mov cr8, rbx", "mov cr8, r11", regs={"rbx": 5, "r11": 5}),
    **rows("dr0_read", "mov rax, dr0", "mov r8, dr0"),
    **rows("dr3_read", "mov rdi, dr3"),
    **rows("dr6_read", "mov rsi, dr6"),
    **rows("dr7_read", "mov rax, dr7", "mov r15, dr7"),
    **rows("dr7_read", "mov eax, dr7", mode="real16"),
    **rows("dr0_write", "mov dr0, rbx"),
    **rows("dr2_write", "mov dr2, r14"),
    **rows("dr6_write", "mov dr6, rbx"),
    **rows("dr7_write", "mov dr7, rbx"),
    **rows("dr7_write", "mov dr7, ebx", mode="prot32"),
}


@clause("nrips.saved.cr_dr", "nrips.absent")
@cases("insn", CONTROL)
def test_control_and_debug_registers(l1, insn):
    """Exits 00h to 3Fh; LMSW and CLTS count as writes of CR0, SMSW as a read of it."""
    assert saves_next(l1, around(l1, insn), insn)


OVERFLOW = {"vmcb": {"rflags": RFLAGS.OF | 2}}
EXCEPTIONS = {
    **rows("#BP", "int3"),
    **rows("#BP", "int3", cpl=3),
    **rows("#BP", "int3", mode="compat32"),
    **rows("#BP", "int3", mode="prot32"),
    **rows("#BP", "int3", mode="real16"),
    "66_int3": Insn(raw("66 cc"), "#BP"),
    "rex_int3": Insn(raw("48 cc"), "#BP"),
    **rows("#OF", "into", mode="prot32", **OVERFLOW),
    **rows("#OF", "into", mode="compat32", **OVERFLOW),
    **rows("#OF", "into", mode="real16", **OVERFLOW),
    "2e_into-prot32": Insn(raw("2e ce"), "#OF", "prot32", **OVERFLOW),
    **rows("#BR", "bound eax, [ebx]", "bound ax, [ebx + 0x10]", mode="prot32", vmcb={"rax": 0x7FFF}),
    **rows("#BR", "bound eax, [ebx]", mode="compat32", vmcb={"rax": 0x7FFF}),
    **rows("#BR", "bound ax, [bx]", mode="real16", vmcb={"rax": 0x7FFF}),
}


@clause("nrips.saved.exceptions", "nrips.absent")
@cases("insn", EXCEPTIONS)
def test_exceptions_of_instructions(l1, insn):
    """#BP of INT3, #OF of INTO and #BR of BOUND: RIP is the instruction's, nRIP is behind it."""
    guest = around(l1, insn)
    guest.write(0x2_4000 if insn.mode == "real16" else guest.regs["rbx"], bytes(32))  # bounds 0 and 0

    assert saves_next(l1, guest, insn)


TABLES = {
    **rows("cr0_sel", "mov cr0, rax", vmcb={"rax": CD}),
    **rows("cr0_sel", "mov cr0, r8", regs={"r8": CD}),
    **rows("cr0_sel", "lmsw ax", vmcb={"rax": 0x35}),  # EM changes
    **rows("sidt", "sidt [rbx]", "sidt [r12]", cpl=0),
    **rows("sidt", "sidt [rbx]", cpl=3),
    **rows("sidt", "sidt [ebx]", mode="prot32"),
    **rows("sidt", "sidt [bx + si + 0x12]", mode="real16"),
    **rows("sgdt", "sgdt [rbx]", "sgdt [rbx + r14 * 8 + 0x7f]"),
    **rows("sgdt", "sgdt [esp]", mode="prot32"),
    **rows("sldt", "sldt ax", "sldt r8d", "sldt r9", "sldt word ptr [rbx]"),
    **rows("sldt", "sldt dx", mode="prot32"),
    **rows("str", "str ax", "str r15", "str word ptr [rbx + 8]"),
    **rows("lidt", "lidt [rbx]", "lidt [rip + 0x1000]"),
    **rows("lidt", "lidt [0x12345678]", mode="prot32"),
    **rows("lidt", "lidt [0x1234]", mode="real16"),
    **rows("lgdt", "lgdt [rbx]", "lgdt gs:[r13]"),
    **rows("lgdt", "lgdt [bp + di]", mode="real16"),
    **rows("lldt", "lldt dx", regs={"rdx": LDT_SELECTOR}),
    **rows("lldt", "lldt r9w", regs={"r9": LDT_SELECTOR}),
    **rows("ltr", "ltr dx", regs={"rdx": TSS_SELECTOR}),
    **rows("ltr", "ltr r12w", regs={"r12": TSS_SELECTOR}),
    **rows("rdtsc", "rdtsc"),
    **rows("rdtsc", "rdtsc", cpl=3),
    **rows("rdtsc", "rdtsc", mode="prot32"),
    **rows("rdtsc", "rdtsc", mode="real16"),
    **rows("rdpmc", "rdpmc"),
    **rows("rdpmc", "rdpmc", mode="compat32"),
}


@clause("nrips.saved.tables_and_counters", "nrips.absent")
@cases("insn", TABLES)
def test_descriptor_tables_and_counters(l1, insn):
    """Exits 65h to 6Fh: the selective write of CR0, SIDT to LTR, RDTSC, RDPMC."""
    assert saves_next(l1, around(l1, insn), insn)


INSTRUCTIONS = {
    **rows("pushf", "pushfq", "pushfw"),
    **rows("pushf", "pushfq", cpl=3),
    **rows("pushf", "pushfd", "pushfw", mode="prot32"),
    **rows("pushf", "pushfd", "pushfw", mode="real16"),
    **rows("popf", "popfq", "popfw"),
    **rows("popf", "popfd", mode="compat32"),
    **rows("popf", "popfw", mode="real16"),
    **rows("cpuid", "cpuid"),
    **rows("cpuid", "cpuid", cpl=3),
    **rows("cpuid", "cpuid", mode="compat32"),
    **rows("cpuid", "cpuid", mode="pae32"),
    **rows("cpuid", "cpuid", mode="paged32"),
    **rows("cpuid", "cpuid", mode="prot32"),
    **rows("cpuid", "cpuid", mode="real16"),
    **rows("invd", "invd"),
    **rows("pause", "pause"),
    **rows("pause", "pause", cpl=3),
    **rows("pause", "pause", mode="prot32"),
    **rows("pause", "pause", mode="real16"),
    **rows("hlt", "hlt"),
    **rows("hlt", "hlt", mode="prot32"),
    **rows("hlt", "hlt", mode="real16"),
    **rows("invlpg", "invlpg [rbx]", "invlpg [rax]"),
    **rows("invlpg", "invlpg [ebx]", mode="prot32"),
    **rows("invlpg", "invlpg [bx]", mode="real16"),
    **rows("invlpga", "invlpga"),
    **rows("invlpga", "invlpga", mode="prot32"),
}


@clause("nrips.saved.instructions", "nrips.absent")
@cases("insn", INSTRUCTIONS)
def test_other_instructions(l1, insn):
    """PUSHF, POPF, CPUID, INVD, PAUSE, HLT, INVLPG and INVLPGA, of the exits 70h to 7Ah."""
    assert saves_next(l1, around(l1, insn), insn)


ELSEWHERE = {
    **rows("iret", "iretq", "iretd", "iretw"),
    **rows("iret", "iretq", cpl=3),
    **rows("iret", "iretd", mode="prot32"),
    **rows("iret", "iretw", mode="real16"),
    **rows("intn", "int 0x80", "int 0xff", "int 0"),
    **rows("intn", "int 0x80", cpl=3),
    **rows("intn", "int 0x80", mode="compat32"),
    **rows("intn", "int 0x21", mode="real16"),
    "cd_03": Insn(raw("cd 03"), "intn"),
    "cd_04-prot32": Insn(raw("cd 04"), "intn", "prot32"),
    "66_int_0x40": Insn(raw("66 cd 40"), "intn"),
    **rows("rsm", "rsm"),
    **rows("rsm", "rsm", mode="prot32"),
    **rows("rsm", "rsm", mode="real16"),
    "int1": Insn(raw("f1"), "icebp"),
    "int1-cpl3": Insn(raw("f1"), "icebp", cpl=3),
    "int1-prot32": Insn(raw("f1"), "icebp", "prot32"),
    "int1-real16": Insn(raw("f1"), "icebp", "real16"),
    "66_int1": Insn(raw("66 f1"), "icebp"),
}


@clause("nrips.saved.not_the_target", "nrips.absent")
@cases("insn", ELSEWHERE)
def test_instructions_that_go_elsewhere(l1, insn):
    """IRET, INTn, RSM and INT1: the next byte, though L2 would not have gone on there."""
    assert saves_next(l1, around(l1, insn), insn)


FOUR = {"regs": {"rcx": 4}}
STRINGS = ["insb", "insw", "insd", "outsb", "outsw", "outsd"]
IO = {
    **rows("ioio", "in al, 0x80", "in ax, 0x80", "in eax, 0x80", "in al, dx", "in ax, dx", "in eax, dx"),
    **rows("ioio", "out 0x80, al", "out 0x80, ax", "out 0x80, eax", "out dx, al", "out dx, ax", "out dx, eax"),
    **rows("ioio", *STRINGS),
    **rows("ioio", "rep insb", "rep outsd", **FOUR),
    **rows("ioio", "in al, 0x80", "out dx, ax", "rep insd", mode="prot32", **FOUR),
    **rows("ioio", "in eax, 0x80", "out dx, al", "rep outsw", mode="real16", **FOUR),
    "66_67_f3_6d": Insn(raw("66 67 f3 6d"), "ioio", **FOUR),
    "f3_48_6d": Insn(raw("f3 48 6d"), "ioio", **FOUR),
    "64_f3_6e": Insn(raw("64 f3 6e"), "ioio", **FOUR),
    "f2_6e": Insn(raw("f2 6e"), "ioio", **FOUR),
    "67_f3_6c-real16": Insn(raw("67 f3 6c"), "ioio", "real16", **FOUR),
    "2e_66_f3_6f-prot32": Insn(raw("2e 66 f3 6f"), "ioio", "prot32", **FOUR),
}


@clause("nrips.saved.ioio", "nrips.absent")
@cases("insn", IO)
def test_io(l1, insn):
    """IN, OUT, INS and OUTS, with REP or without: EXITINFO2 and nRIP are the same address."""
    guest = around(l1, insn)

    assert saves_next(l1, guest, insn, info2=guest["next"])


MSRS = {
    **rows("msr", "rdmsr", "wrmsr"),
    **rows("msr", "rdmsr", "wrmsr", mode="prot32"),
    **rows("msr", "rdmsr", mode="real16"),
    "66_rdmsr": Insn(raw("66 0f 32"), "msr"),
    "rex_wrmsr": Insn(raw("48 0f 30"), "msr"),
}


@clause("nrips.saved.msr", "nrips.absent")
@cases("insn", MSRS)
def test_msrs(l1, insn):
    """RDMSR and WRMSR, caught by the permission map."""
    assert saves_next(l1, around(l1, insn), insn)


XSETBV = OSXSAVE | {"rax": 1}  # what XCR0 may hold
VIRTUALIZATION = {
    **rows("vmrun", "vmrun"),
    **rows("vmmcall", "vmmcall"),
    **rows("vmmcall", "vmmcall", cpl=3),
    **rows("vmmcall", "vmmcall", mode="prot32"),
    **rows("vmmcall", "vmmcall", mode="real16"),
    **rows("vmload", "vmload"),
    **rows("vmsave", "vmsave"),
    **rows("stgi", "stgi"),
    **rows("clgi", "clgi"),
    **rows("vmrun", "vmrun", mode="prot32"),
    "67_vmload": Insn(raw("67 0f 01 da"), "vmload"),
    **rows("skinit", "skinit", needs="SKINIT"),
    **rows("rdtscp", "rdtscp", needs="RDTSCP"),
    **rows("rdtscp", "rdtscp", mode="prot32", needs="RDTSCP"),
    "rex_rdtscp": Insn(raw("48 0f 01 f9"), "rdtscp", needs="RDTSCP"),
    **rows("wbinvd", "wbinvd"),
    **rows("wbinvd", "wbinvd", mode="real16"),
    "wbnoinvd": Insn(raw("f3 0f 09"), "wbinvd", needs="WBNOINVD"),
    **rows("monitor", "monitor", needs="MONITOR", regs={"rdx": 0}),
    "rex_monitor": Insn(raw("48 0f 01 c8"), "monitor", needs="MONITOR", regs={"rdx": 0}),
    "67_monitor": Insn(raw("67 0f 01 c8"), "monitor", needs="MONITOR", regs={"rdx": 0}),
    **rows("mwait", "mwait", needs="MONITOR"),
    "rex_mwait": Insn(raw("4f 0f 01 c9"), "mwait", needs="MONITOR"),
    **rows("monitor", "monitorx", needs="MONITORX", regs={"rdx": 0}),
    **rows("mwait", "mwaitx", needs="MONITORX"),
    **rows("xsetbv", "xsetbv", needs="XSAVE", vmcb=XSETBV, regs={"rdx": 0}),
    "rex_xsetbv": Insn(raw("48 0f 01 d1"), "xsetbv", needs="XSAVE", vmcb=XSETBV, regs={"rdx": 0}),
    **rows("rdpru", "rdpru", needs="RDPRU"),
    **rows("invpcid", "invpcid rdx, [rbx]", needs="INVPCID", regs={"rdx": 2}),
    **rows("invpcid", "invpcid r9, [r13 + 0x100]", needs="INVPCID", regs={"r9": 2}),
    "invlpgb": Insn(raw("0f 01 fe"), "invlpgb", needs="INVLPGB"),
    "tlbsync": Insn(raw("0f 01 ff"), "tlbsync", needs="INVLPGB"),
}


@clause("nrips.saved.virtualization_and_later", "nrips.absent")
@cases("insn", VIRTUALIZATION)
def test_virtualization_and_later_instructions(l1, insn):
    """Exits 80h to 8Eh and A0h to A4h: VMRUN to XSETBV, RDPRU, INVPCID, INVLPGB, TLBSYNC."""
    assert saves_next(l1, around(l1, insn), insn)


@clause("nrips.saved.idle_hlt", "nrips.absent")
def test_idle_hlt(l1):
    """Exit A6h, of a HLT that nothing will end."""
    l1.need("IdleHltIntercept")
    guest = l1.guest("start: hlt\nnext: vmmcall", intercept=["idle_hlt"], vmcb={"rflags": RFLAGS.IF | 2})

    assert guest.run().matches(code=VMEXIT.IDLE_HLT, rip=guest["start"], nrip=nrip(l1, guest["next"]))


@clause("nrips.saved.pause_filter")
@cases("count", [0, 1, 3])
def test_pause_that_the_filter_let_through(l1, count):
    """PAUSE exits when the count has run out, after `count` of them or one more: nRIP is that PAUSE's own plus 2."""
    guest = l1.guest("pause\n" * 8 + "vmmcall", intercept=["pause"], vmcb={"pause_filter_count": count})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.PAUSE, nrip=exit.rip + 2)
