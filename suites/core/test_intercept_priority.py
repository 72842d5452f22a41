"""Which comes first: the intercept or an exception of the same instruction.

Table 15-7 (APM2 15.9) says it for each: most instructions check their privilege and their operands first; PUSHF, POPF,
IRET, RSM, INT, VMMCALL and XSETBV are intercepted before anything else; the accesses to the descriptor table registers
stand between, after #UD and #GP and before memory. A wrong L0 lets an application of L2 reach L1 with instructions that
it may not use, and L1 then carries out with its own rights what hardware would have refused.
"""

import pytest

from harness import VMEXIT, unchanged
from suites.lib.intercepting import OSXSAVE, TSS_SELECTOR, UNMAPPED, V86, case, with_tables

UMIP, TSD, PCE, PAE = 1 << 11, 1 << 2, 1 << 8, 1 << 5
TSD_SET, UMIP_SET = {"cr4": PAE | TSD}, {"cr4": PAE | UMIP}
umip = pytest.mark.clause("core.intercept.umip_first")


@pytest.mark.parametrize(
    ("code", "own", "cpl", "vmcb"),
    [
        case("hlt", "hlt", "hlt", 1, {}, id="hlt_cpl1"),
        case("hlt", "hlt", "hlt", 3, {}, id="hlt"),
        case("invd", "invd", "invd", 3, {}, id="invd"),
        case("wbinvd", "wbinvd", "wbinvd", 3, {}, id="wbinvd"),
        case("wbnoinvd", ".byte 0xf3, 0x0f, 0x09", "wbinvd", 3, {}, id="wbnoinvd"),
        case("invlpg", "invlpg [rbx]", "invlpg", 3, {}, id="invlpg"),
        case("invpcid", "invpcid rdx, [rbx]", "invpcid", 3, {}, id="invpcid"),
        case("lgdt", "lgdt [rbx]", "lgdt", 3, {}, id="lgdt"),
        case("lidt", "lidt [rbx]", "lidt", 3, {}, id="lidt"),
        case("lldt", "lldt dx", "lldt", 3, {}, id="lldt"),
        case("ltr", "ltr dx", "ltr", 2, {}, id="ltr_cpl2"),
        case("ltr", "ltr dx", "ltr", 3, {}, id="ltr"),
        case("rdtsc", "rdtsc", "rdtsc", 3, TSD_SET, id="rdtsc_tsd"),
        case("rdtscp", "rdtscp", "rdtscp", 3, TSD_SET, id="rdtscp_tsd"),
        case("rdpmc", "rdpmc", "rdpmc", 3, {}, id="rdpmc_pce_clear"),
        case("skinit", "skinit", "skinit", 3, {}, id="skinit"),
        case("sidt", "sidt [rbx]", "sidt", 3, UMIP_SET, id="sidt_umip", marks=[umip]),
        case("sgdt", "sgdt [rbx]", "sgdt", 3, UMIP_SET, id="sgdt_umip", marks=[umip]),
        case("sldt", "sldt dx", "sldt", 3, UMIP_SET, id="sldt_umip", marks=[umip]),
        case("str", "str dx", "str", 3, UMIP_SET, id="str_umip", marks=[umip]),
    ],
)
def test_privilege_is_checked_first(l1, code, own, cpl, vmcb):
    """#GP(0), at the instruction."""
    place = l1.scratch(1)
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", cpl=cpl, intercept=[own], vmcb=vmcb, regs={"rbx": place, "rcx": 0})
    guest.regs["rdx"] = TSS_SELECTOR if own == "ltr" else 0
    with_tables(l1, guest)

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0, cpl=cpl)


@pytest.mark.parametrize(
    ("code", "own"),
    [case("monitor", "monitor", "monitor", id="monitor"), case("mwait", "mwait", "mwait", id="mwait")],
)
def test_monitor_above_cpl0_is_no_instruction(l1, code, own):
    """#UD as long as HWCR.MonMwaitUserEn is 0, as it is after a reset."""
    place = l1.scratch(1)
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", cpl=3, intercept=[own], vmcb={"rax": place})
    guest.regs.update({"rcx": 0, "rdx": 0})

    assert guest.run().matches(code=VMEXIT.EXCP_UD, rip=guest["start"])


@pytest.mark.parametrize(
    ("insn", "vmcb"),
    [
        *(case(name, name, {}, id=f"{name}_real") for name in ("sldt", "str", "lldt", "ltr")),
        *(case(name, name, V86, id=f"{name}_v86") for name in ("str", "lldt")),
    ],
)
def test_no_such_instruction_outside_protected_mode(l1, insn, vmcb):
    """#UD, whatever the intercept says; CPL is 3 in virtual-8086 mode and no #GP comes of it."""
    guest = l1.guest(f"nop\nstart: {insn} dx\nvmmcall", mode="real16", intercept=[insn], vmcb=vmcb, regs={"rdx": 0})

    assert guest.run().matches(code=VMEXIT.EXCP_UD, rip=guest["start"])


@pytest.mark.parametrize(
    ("insn", "registers", "exitcode"),
    [
        case("monitor", "monitor", {"rcx": 1}, VMEXIT.EXCP_GP, id="monitor_ecx"),
        case("monitor", "monitor", {"rax": UNMAPPED}, VMEXIT.EXCP_PF, id="monitor_unmapped"),
    ],
)
def test_operands_of_monitor_are_checked_first(l1, insn, registers, exitcode):
    """ECX must be 0, and the address is translated like that of a load."""
    guest = l1.guest(f"nop\nstart: {insn}\nvmmcall", intercept=[insn])
    guest.vmcb["rax"] = registers.get("rax", l1.scratch(1))
    guest.regs.update({"rcx": registers.get("rcx", 0), "rdx": 0})

    assert guest.run().matches(code=exitcode, rip=guest["start"], info1=0)


@pytest.mark.parametrize("rax", ["unaligned", "beyond"])
@pytest.mark.parametrize("insn", [case(name, name, id=name) for name in ("vmrun", "vmload", "vmsave")])
def test_vmcb_address_is_checked_first(l1, insn, rax):
    """A bad rAX is a #GP(0) of L2; the legal neighbours are in test_intercept_exits.

    A CPU with SVME_ADDR_CHK looks at the intercept before (some of) its checks of rAX, so that it may exit as well.
    """
    bad = {"unaligned": l1.scratch(1) + 0x10, "beyond": 1 << l1.cpuid.maxphyaddr}[rax]
    guest = l1.guest(f"nop\nstart: {insn}\nvmmcall", intercept=[insn], vmcb={"rax": bad})

    exit = guest.run()

    if l1.cpuid.has("SVME_ADDR_CHK") and exit.code == VMEXIT[insn.upper()]:
        assert exit.matches(rip=guest["start"], rax=bad)
    else:
        assert exit.matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0, rax=bad)


@pytest.mark.parametrize(
    ("code", "own", "exitcode"),
    [
        case("sidt", "sidt [rbx]", "sidt", VMEXIT.SIDT, id="sidt"),
        case("sgdt", "sgdt [rbx]", "sgdt", VMEXIT.SGDT, id="sgdt"),
        case("lidt", "lidt [rbx]", "lidt", VMEXIT.LIDT, id="lidt"),
        case("lgdt", "lgdt [rbx]", "lgdt", VMEXIT.LGDT, id="lgdt"),
        case("sldt", "sldt word ptr [rbx]", "sldt", VMEXIT.SLDT, id="sldt"),
        case("str", "str word ptr [rbx]", "str", VMEXIT.STR, id="str"),
        case("lldt", "lldt word ptr [rbx]", "lldt", VMEXIT.LLDT, id="lldt"),
        case("ltr", "ltr word ptr [rbx]", "ltr", VMEXIT.LTR, id="ltr"),
    ],
)
def test_intercept_comes_before_memory(l1, code, own, exitcode):
    """The operand's page is not mapped, and no #PF comes of it."""
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", intercept=[own], regs={"rbx": UNMAPPED})

    assert guest.run().matches(code=exitcode, rip=guest["start"])


@pytest.mark.parametrize(
    ("code", "own"),
    [
        case("sidt", "sidt [rbx]", "sidt", id="sidt"),
        case("lgdt", "lgdt [rbx]", "lgdt", id="lgdt"),
        case("pushf", "pushfq", "pushf", id="pushf"),
        case("iret", "iretq", "iret", id="iret"),
    ],
)
def test_without_the_intercept_it_is_a_page_fault(l1, code, own):
    """The neighbour: the same instruction and address, not intercepted."""
    vmcb = {"rsp": UNMAPPED}
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", no_intercept=[own], regs={"rbx": UNMAPPED}, vmcb=vmcb)

    assert guest.run().matches(code=VMEXIT.EXCP_PF, rip=guest["start"])


@pytest.mark.parametrize(
    ("code", "own", "exitcode"),
    [
        case("pushf", "pushfq", "pushf", VMEXIT.PUSHF, id="pushf"),
        case("popf", "popfq", "popf", VMEXIT.POPF, id="popf"),
        case("iret", "iretq", "iret", VMEXIT.IRET, id="iret"),
    ],
)
@pytest.mark.parametrize("rsp", [UNMAPPED, 1 << 63], ids=["unmapped", "non_canonical"])
def test_intercept_comes_before_the_stack(l1, code, own, exitcode, rsp):
    """A stack that would give #PF or #SS is not looked at."""
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", intercept=[own], vmcb={"rsp": rsp})

    assert guest.run().matches(code=exitcode, rip=guest["start"], rsp=unchanged)


@pytest.mark.parametrize(
    ("code", "own", "exitcode"),
    [
        case("pushf", "pushfw", "pushf", VMEXIT.PUSHF, id="pushf"),
        case("popf", "popfw", "popf", VMEXIT.POPF, id="popf"),
        case("iret", "iretw", "iret", VMEXIT.IRET, id="iret"),
        case("intn", ".byte 0xcd, 0x21", "intn", VMEXIT.INTN, id="intn"),
        case("pushf", "pushfw", None, VMEXIT.EXCP_GP, id="pushf_clear"),
        case("intn", ".byte 0xcd, 0x21", None, VMEXIT.EXCP_GP, id="intn_clear"),
    ],
)
def test_intercept_comes_before_iopl(l1, code, own, exitcode):
    """Virtual-8086 mode with IOPL 0: the exit, and #GP only where it is not intercepted."""
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", mode="real16", vmcb=V86, intercept=[own] if own else [])

    assert guest.run().matches(code=exitcode, rip=guest["start"], cpl=3)


@pytest.mark.parametrize(
    ("cpl", "registers", "rax"),
    [
        case("xsetbv", 3, {"rcx": 0, "rdx": 0}, 1, id="cpl3"),
        case("xsetbv", 0, {"rcx": 0x1234, "rdx": 0}, 1, id="bad_register"),
        case("xsetbv", 0, {"rcx": 0, "rdx": 0}, 0, id="x87_clear"),
        case("xsetbv", 0, {"rcx": 0, "rdx": 0x8000_0000}, 1, id="bad_value"),
    ],
)
def test_intercept_of_xsetbv_comes_first(l1, cpl, registers, rax):
    """Each is a #GP where it is not intercepted; L1 must check the CPL itself."""
    guest = l1.guest("nop\nstart: xsetbv\nvmmcall", cpl=cpl, intercept=["xsetbv"], vmcb={"rax": rax} | OSXSAVE)
    guest.regs.update(registers)

    assert guest.run().matches(code=VMEXIT.XSETBV, rip=guest["start"], cpl=cpl, rax=rax)


@pytest.mark.parametrize("kind", [case("invpcid", 0x99, id="bad_type"), case("invpcid", 0, id="unmapped")])
def test_intercept_of_invpcid_comes_first(l1, kind):
    """Before #GP for a bad type and before #PF for the descriptor."""
    address = UNMAPPED if kind == 0 else l1.scratch(1)
    guest = l1.guest(
        "nop\nstart: invpcid rdx, [rbx]\nvmmcall", intercept=["invpcid"], regs={"rbx": address, "rdx": kind}
    )

    assert guest.run().matches(code=VMEXIT.INVPCID, rip=guest["start"])
