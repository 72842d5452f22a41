"""Each instruction intercept, set alone.

The instruction ends L2 with its own exit code, at its own first byte, before it has done anything: in every mode that
has it, at every CPL that may use it, with any operand and any prefix that leaves it the same instruction
(APM2 15.9, App. C). A wrong L0 has a code or a bit crossed with its neighbour's, knows an instruction in 64-bit mode
only, or decodes a form of its own and lets the others run for L2 as L0's own.
"""

import pytest

from harness import VMEXIT, masked, unchanged
from suites.lib.intercepting import LDT_SELECTOR, OSXSAVE, TSS_SELECTOR, UNCHANGED, V86, case, with_tables

PATTERN = bytes(range(0x40, 0x50))
NO_RF = ~(1 << 16) & (1 << 64) - 1


def exits(clause, code, exitcode, id, *, mode="long64", intercept=None, **options):
    """One instruction, alone in its guest, and what it exits with."""
    return case(clause, code, exitcode, mode, intercept or clause, options, id=id)


TABLE_REGISTERS = [
    exits(name, f"{name} {operand}", code, f"{name}_{id}", mode=mode, **options)
    for name, code in (("sidt", VMEXIT.SIDT), ("sgdt", VMEXIT.SGDT), ("lidt", VMEXIT.LIDT), ("lgdt", VMEXIT.LGDT))
    for operand, id, mode, options in (
        ("[rbx]", "long64", "long64", {}),
        ("[ebx]", "prot32", "prot32", {}),
        ("[bx]", "real16", "real16", {}),
        ("[rbx]", "cpl3", "long64", {"cpl": 3}),
    )
    if not (id == "cpl3" and name in ("lidt", "lgdt"))
]
SELECTORS = [
    exits(name, f"{name} {operand}", code, f"{name}_{id}", mode=mode, **options)
    for name, code in (("sldt", VMEXIT.SLDT), ("str", VMEXIT.STR))
    for operand, id, mode, options in (
        ("dx", "r16", "long64", {}),
        ("r13", "r64", "long64", {}),
        ("word ptr [rbx]", "m16", "long64", {}),
        ("dx", "prot32", "prot32", {}),
        ("rdx", "cpl3", "long64", {"cpl": 3}),
    )
]
LOADS = [
    exits("lldt", "lldt dx", VMEXIT.LLDT, "lldt_r16", regs={"rdx": LDT_SELECTOR}),
    exits("lldt", "lldt word ptr [rbx]", VMEXIT.LLDT, "lldt_m16"),
    exits("lldt", "lldt dx", VMEXIT.LLDT, "lldt_null", regs={"rdx": 0}),
    exits("ltr", "ltr dx", VMEXIT.LTR, "ltr_r16", regs={"rdx": TSS_SELECTOR}),
    exits("ltr", "ltr r12w", VMEXIT.LTR, "ltr_r12w", regs={"r12": TSS_SELECTOR}),
]
COUNTERS = [
    exits("rdtsc", "rdtsc", VMEXIT.RDTSC, "rdtsc_cpl0"),
    exits("rdtsc", "rdtsc", VMEXIT.RDTSC, "rdtsc_cpl3", cpl=3),
    exits("rdtsc", "rdtsc", VMEXIT.RDTSC, "rdtsc_cpl0_tsd", vmcb={"cr4": 0x24}),
    exits("rdtsc", "rdtsc", VMEXIT.RDTSC, "rdtsc_real16", mode="real16"),
    exits("rdtscp", "rdtscp", VMEXIT.RDTSCP, "rdtscp_cpl0"),
    exits("rdtscp", "rdtscp", VMEXIT.RDTSCP, "rdtscp_cpl3", cpl=3),
    exits("rdtscp", "rdtscp", VMEXIT.RDTSCP, "rdtscp_prot32", mode="prot32"),
    exits("rdpmc", "rdpmc", VMEXIT.RDPMC, "rdpmc_cpl0"),
    exits("rdpmc", "rdpmc", VMEXIT.RDPMC, "rdpmc_cpl3_pce", cpl=3, vmcb={"cr4": 0x120}),
    exits("rdpru", "rdpru", VMEXIT.RDPRU, "rdpru_cpl0"),
    exits("rdpru", "rdpru", VMEXIT.RDPRU, "rdpru_cpl3", cpl=3),
]
FLAGS = [
    exits(name, f"{name}{suffix}", code, f"{name}_{id}", mode=mode, **options)
    for name, code in (("pushf", VMEXIT.PUSHF), ("popf", VMEXIT.POPF))
    for suffix, id, mode, options in (
        ("q", "long64", "long64", {}),
        ("w", "data16", "long64", {}),
        ("q", "cpl3", "long64", {"cpl": 3}),
        ("d", "prot32", "prot32", {}),
        ("w", "real16", "real16", {}),
        ("w", "v86_iopl3", "real16", {"vmcb": V86 | {"rflags": 0x2_3002}}),
    )
]
RETURNS = [
    exits("iret", f"iret{suffix}", VMEXIT.IRET, f"iret_{id}", mode=mode, **options)
    for suffix, id, mode, options in (
        ("q", "q", "long64", {}),
        ("d", "d", "long64", {}),
        ("w", "w", "long64", {}),
        ("q", "cpl3", "long64", {"cpl": 3}),
        ("d", "prot32", "prot32", {}),
        ("w", "real16", "real16", {}),
    )
]
SOFTWARE_INTERRUPTS = [
    exits("intn", f".byte 0xcd, {vector}", VMEXIT.INTN, f"int_{vector:02x}{id}", mode=mode, **options)
    for vector, id, mode, options in (
        (0x00, "", "long64", {}),
        (0x03, "", "long64", {}),
        (0x04, "", "prot32", {}),
        (0x0D, "", "long64", {}),
        (0x80, "", "long64", {}),
        (0x80, "_cpl3", "long64", {"cpl": 3}),
        (0x80, "_compat32", "compat32", {}),
        (0x21, "_real16", "real16", {}),
    )
]
CPUIDS = [
    exits("cpuid", code, VMEXIT.CPUID, id, mode=mode, **options)
    for code, id, mode, options in (
        ("cpuid", "cpuid_long64", "long64", {}),
        ("cpuid", "cpuid_cpl3", "long64", {"cpl": 3}),
        ("rex.w cpuid", "cpuid_rex_w", "long64", {}),
        ("fs cpuid", "cpuid_fs", "long64", {}),
        ("cpuid", "cpuid_compat32", "compat32", {}),
        ("cpuid", "cpuid_pae32", "pae32", {}),
        ("cpuid", "cpuid_prot32", "prot32", {}),
        ("cpuid", "cpuid_real16", "real16", {}),
        ("cpuid", "cpuid_v86", "real16", {"vmcb": V86}),
    )
]
TRAPS = [
    exits("icebp", ".byte 0xf1", VMEXIT.ICEBP, f"icebp_{id}", mode=mode, **options)
    for id, mode, options in (
        ("long64", "long64", {}),
        ("cpl3", "long64", {"cpl": 3}),
        ("prot32", "prot32", {}),
        ("real16", "real16", {}),
    )
]
CACHES = [
    exits("invd", "invd", VMEXIT.INVD, "invd_long64"),
    exits("invd", "invd", VMEXIT.INVD, "invd_real16", mode="real16"),
    exits("wbinvd", "wbinvd", VMEXIT.WBINVD, "wbinvd_long64"),
    exits("wbinvd", "wbinvd", VMEXIT.WBINVD, "wbinvd_real16", mode="real16"),
    exits("wbnoinvd", ".byte 0xf3, 0x0f, 0x09", VMEXIT.WBINVD, "wbnoinvd", intercept="wbinvd"),
]
HALTS = [
    exits("hlt", "hlt", VMEXIT.HLT, "hlt_long64"),
    exits("hlt", "hlt", VMEXIT.HLT, "hlt_if", vmcb={"rflags": 0x202}),
    exits("hlt", "data16 hlt", VMEXIT.HLT, "hlt_data16"),
    exits("hlt", "hlt", VMEXIT.HLT, "hlt_prot32", mode="prot32"),
    exits("hlt", "hlt", VMEXIT.HLT, "hlt_real16", mode="real16"),
    exits("pause", "pause", VMEXIT.PAUSE, "pause_long64"),
    exits("pause", "pause", VMEXIT.PAUSE, "pause_prot32", mode="prot32"),
    exits("pause", "pause", VMEXIT.PAUSE, "pause_real16", mode="real16"),
    exits("monitor", "monitor", VMEXIT.MONITOR, "monitor", regs={"rdx": 0}),
    exits("mwait", "mwait", VMEXIT.MWAIT, "mwait"),
    exits("monitorx", "monitorx", VMEXIT.MONITOR, "monitorx", intercept="monitor", regs={"rdx": 0}),
    exits("mwaitx", "mwaitx", VMEXIT.MWAIT, "mwaitx", intercept="mwait"),
]
INVALIDATIONS = [
    exits("invlpg", "invlpg [rbx]", VMEXIT.INVLPG, "invlpg_long64"),
    exits("invlpg", "invlpg [rbx + r14 * 8 + 0x7f]", VMEXIT.INVLPG, "invlpg_sib"),
    exits("invlpg", "invlpg [rbx]", VMEXIT.INVLPG, "invlpg_non_canonical", regs={"rbx": 1 << 63}),
    exits("invlpg", "invlpg [ebx]", VMEXIT.INVLPG, "invlpg_prot32", mode="prot32"),
    exits("invlpg", "invlpg [bx]", VMEXIT.INVLPG, "invlpg_real16", mode="real16"),
    exits("invlpga", "invlpga", VMEXIT.INVLPGA, "invlpga_long64"),
    exits("invlpga", "invlpga", VMEXIT.INVLPGA, "invlpga_prot32", mode="prot32"),
    exits("invpcid", "invpcid rdx, [rbx]", VMEXIT.INVPCID, "invpcid", regs={"rdx": 2}),
]
VIRTUALIZATION = [
    exits(name, name, VMEXIT[name.upper()], f"{name}_{mode}", mode=mode)
    for name in ("vmrun", "vmmcall", "vmload", "vmsave", "stgi", "clgi")
    for mode in ("long64", "prot32")
]
OTHERS = [
    exits("rsm", "rsm", VMEXIT.RSM, "rsm_long64"),
    exits("rsm", "rsm", VMEXIT.RSM, "rsm_cpl3", cpl=3),
    exits("rsm", "rsm", VMEXIT.RSM, "rsm_real16", mode="real16"),
    exits("skinit", "skinit", VMEXIT.SKINIT, "skinit"),
    exits("xsetbv", "xsetbv", VMEXIT.XSETBV, "xsetbv", vmcb=OSXSAVE, regs={"rdx": 0}),
    exits("xsetbv", "xsetbv", VMEXIT.XSETBV, "xsetbv_prot32", mode="prot32", vmcb=OSXSAVE, regs={"rdx": 0}),
]


def check_exit(l1, code, exitcode, mode, intercept, options, np=False):
    """Runs the instruction between two marks and compares all that its exit leaves."""
    operand = 0x2_4000 if mode == "real16" else l1.scratch(1)
    guest = l1.guest(
        f"nop\nstart: {code}\nend: vmmcall",
        mode=mode,
        np=np,
        cpl=options.get("cpl", 0),
        intercept=[intercept],
        vmcb={"rax": l1.scratch(1)} | options.get("vmcb", {}),
        regs={"rcx": 0, "rbx": 0x4000 if mode == "real16" else operand} | options.get("regs", {}),
    )
    if mode == "long64":
        with_tables(l1, guest)
    guest.write(operand, PATTERN)

    exit = guest.run(read={"operand": (operand, 16)})

    same = dict.fromkeys(("rax", "rsp", "cpl", "cr0", "gdtr.base", "gdtr.limit", "idtr.base", "idtr.limit"), unchanged)
    flags = masked(exit.before["rflags"], NO_RF)
    assert exit.matches(code=exitcode, rip=guest["start"], rflags=flags, regs=UNCHANGED, fields=same)
    stored = int.from_bytes(exit.memory["operand"], "little")
    assert l1.expect("the operand in memory", stored, int.from_bytes(PATTERN, "little"), width_bytes=16)


CASES = [
    *TABLE_REGISTERS, *SELECTORS, *LOADS, *COUNTERS, *FLAGS, *RETURNS, *SOFTWARE_INTERRUPTS, *CPUIDS, *TRAPS,
    *CACHES, *HALTS, *INVALIDATIONS, *VIRTUALIZATION, *OTHERS,
]  # fmt: skip


@pytest.mark.parametrize(("code", "exitcode", "mode", "intercept", "options"), CASES)
def test_instruction_exits(l1, code, exitcode, mode, intercept, options):
    """The exit code, RIP at the first byte, and nothing changed: no register, no flag, no memory."""
    check_exit(l1, code, exitcode, mode, intercept, options)


@pytest.mark.parametrize(
    ("code", "exitcode", "mode", "intercept", "options"),
    [
        exits("cpuid", "cpuid", VMEXIT.CPUID, "cpuid"),
        exits("hlt", "hlt", VMEXIT.HLT, "hlt"),
        exits("invlpg", "invlpg [rbx]", VMEXIT.INVLPG, "invlpg"),
        exits("rdtsc", "rdtsc", VMEXIT.RDTSC, "rdtsc_real16", mode="real16"),
        exits("iret", "iretd", VMEXIT.IRET, "iret_prot32", mode="prot32"),
    ],
)
def test_instruction_exits_with_nested_paging(l1, code, exitcode, mode, intercept, options):
    """The same with nested paging, where an L0 need not intercept for itself."""
    l1.need("NP")
    check_exit(l1, code, exitcode, mode, intercept, options, np=True)
