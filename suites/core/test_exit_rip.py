"""Where L2 stands after #VMEXIT.

An intercepted instruction has not happened: the saved RIP is the address of its first byte, prefixes included, and no
register holds a result (APM2 15.7, 15.7.1). A trap, such as a data breakpoint, is seen after the instruction. A second
VMRUN with the same VMCB does the same again. A wrong L0 emulates first and exits then, skips the instruction or its
prefixes, or leaves half a result in a register.
"""

import pytest

from harness import VMEXIT, clause, masked, unchanged
from suites.lib.intercepting import UNCHANGED

FLAGS = 0x8D7  # OF SF ZF AF PF CF

FAULT_LIKE = [
    pytest.param("cpuid", "cpuid", VMEXIT.CPUID, id="cpuid"),
    pytest.param("data16 cpuid", "cpuid", VMEXIT.CPUID, id="cpuid_data16"),
    pytest.param("rex.w cpuid", "cpuid", VMEXIT.CPUID, id="cpuid_rex_w"),
    pytest.param("rdtsc", "rdtsc", VMEXIT.RDTSC, id="rdtsc"),
    pytest.param("data16 rdtsc", "rdtsc", VMEXIT.RDTSC, id="rdtsc_data16"),
    pytest.param("hlt", "hlt", VMEXIT.HLT, id="hlt"),
    pytest.param("wbinvd", "wbinvd", VMEXIT.WBINVD, id="wbinvd"),
    pytest.param("invlpg [rbx]", "invlpg", VMEXIT.INVLPG, id="invlpg"),
    pytest.param("invlpg fs:[r15 + 0x12345678]", "invlpg", VMEXIT.INVLPG, id="invlpg_long"),
    pytest.param("mov rax, cr0", "cr0_read", VMEXIT.CR0_READ, id="cr0_read"),
    pytest.param("mov r15, cr3", "cr3_read", VMEXIT.CR3_READ, id="cr3_read"),
    pytest.param("mov rbp, dr7", "dr7_read", VMEXIT.DR7_READ, id="dr7_read"),
    pytest.param("mov cr3, r15", "cr3_write", VMEXIT.CR3_WRITE, id="cr3_write"),
    pytest.param("sidt [rbx]", "sidt", VMEXIT.SIDT, id="sidt"),
    pytest.param("sgdt [rbx]", "sgdt", VMEXIT.SGDT, id="sgdt"),
    pytest.param("str rdx", "str", VMEXIT.STR, id="str"),
    pytest.param("sldt rdx", "sldt", VMEXIT.SLDT, id="sldt"),
    pytest.param("lidt [rbx]", "lidt", VMEXIT.LIDT, id="lidt"),
    pytest.param("pushfq", "pushf", VMEXIT.PUSHF, id="pushf"),
    pytest.param("popfq", "popf", VMEXIT.POPF, id="popf"),
    pytest.param("int 0x40", "intn", VMEXIT.INTN, id="intn"),
    pytest.param("in al, 0x80", "ioio", VMEXIT.IOIO, id="in"),
    pytest.param("out dx, eax", "ioio", VMEXIT.IOIO, id="out"),
    pytest.param("rdmsr", "msr", VMEXIT.MSR, id="rdmsr"),
    pytest.param("wrmsr", "msr", VMEXIT.MSR, id="wrmsr"),
    pytest.param("clgi", "clgi", VMEXIT.CLGI, id="clgi"),
    pytest.param("stgi", "stgi", VMEXIT.STGI, id="stgi"),
    pytest.param("vmload", "vmload", VMEXIT.VMLOAD, id="vmload"),
    pytest.param("vmsave", "vmsave", VMEXIT.VMSAVE, id="vmsave"),
    pytest.param("vmrun", "vmrun", VMEXIT.VMRUN, id="vmrun"),
    pytest.param("vmmcall", "vmmcall", VMEXIT.VMMCALL, id="vmmcall"),
    pytest.param("ud2", "#UD", VMEXIT.EXCP_UD, id="ud"),
    pytest.param("div ecx", "#DE", VMEXIT.EXCP_DE, id="de"),
    pytest.param("movabs eax, [0x7fffffff0000]", "#PF", VMEXIT.EXCP_PF, id="pf"),
]


@clause("core.exit.fault_like_rip")
@pytest.mark.parametrize(("code", "intercept", "exitcode"), FAULT_LIKE)
def test_intercepted_instruction_has_not_happened(l1, code, intercept, exitcode):
    """RIP at its first byte; RAX, RSP, RFLAGS (RF is left open) and all other registers as they were before."""
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", intercept=[intercept], regs={"rcx": 0})
    page, maps = l1.scratch(1), l1.scratch(5)
    guest.regs.update({"rbx": page, "r15": page})  # R15: an address that CR3 can hold
    guest.write(maps, b"\xff" * 0x5000)
    guest.vmcb.update({"rax": page, "rflags": FLAGS, "iopm_base_pa": maps, "msrpm_base_pa": maps + 0x3000})

    exit = guest.run()

    rflags = masked(FLAGS, ~(1 << 16) & (1 << 64) - 1)
    assert exit.matches(code=exitcode, rip=guest["start"], rax=unchanged, rsp=unchanged, rflags=rflags, regs=UNCHANGED)


@clause("core.exit.trap_like_rip")
@pytest.mark.parametrize(
    ("access", "kind"),
    [
        pytest.param("mov qword ptr [rbx], 1", 1, id="write"),
        pytest.param("mov qword ptr [rbx], 1", 3, id="write_of_read_write"),
        pytest.param("mov rdx, [rbx]", 3, id="read"),
        pytest.param("push qword ptr [rbx]", 3, id="push"),
    ],
)
@pytest.mark.dirties("breakpoint registers were used")
def test_data_breakpoint_is_seen_after_the_access(l1, access, kind):
    """L2 arms breakpoint 0 for 8 bytes; #DB is intercepted; the access has happened and RIP is behind it."""
    dr7 = 0x401 | kind << 16 | 2 << 18
    guest = l1.guest(f"mov dr0, rbx\nmov eax, {dr7}\nmov dr7, rax\n{access}\nafter: nop\nvmmcall")
    data = l1.scratch(1)
    guest.regs["rbx"] = data

    exit = guest.run(read={"data": (data, 8)})

    assert exit.matches(code=VMEXIT.EXCP_DB, rip=guest["after"])
    written = int.from_bytes(exit.memory["data"], "little")
    assert l1.expect("what the access wrote", written, 1 if access.startswith("mov qword") else 0)


@clause("core.exit.trap_like_rip")
def test_single_step_is_seen_after_the_instruction(l1):
    """RFLAGS.TF set in the VMCB: the trap comes after L2's first instruction."""
    guest = l1.guest("mov eax, 0x600d\nafter: nop\nvmmcall", vmcb={"rflags": 0x102})

    assert guest.run().matches(code=VMEXIT.EXCP_DB, rip=guest["after"], rax=0x600D)


@clause("core.exit.resumes_at_saved_rip")
@pytest.mark.parametrize(
    ("code", "intercept", "exitcode"),
    [
        ("hlt", "hlt", VMEXIT.HLT),
        ("cpuid", "cpuid", VMEXIT.CPUID),
        ("vmmcall", "vmmcall", VMEXIT.VMMCALL),
        ("ud2", "#UD", VMEXIT.EXCP_UD),
    ],
    ids=["hlt", "cpuid", "vmmcall", "ud"],
)
def test_the_same_vmcb_gives_the_same_exit_again(l1, code, intercept, exitcode):
    """Five VMRUNs without a change: nothing is skipped, and nothing is counted."""
    guest = l1.guest(f"inc rbx\nstart: {code}\ninc rbx\nvmmcall", intercept=[intercept], regs={"rbx": 0})

    for turn in range(5):
        exit = guest.run()
        # RBX is not in the VMCB: L1 loads 0 each time, and only the first run executes the INC.
        assert exit.matches(code=exitcode, rip=guest["start"], regs={"rbx": 1 if turn == 0 else 0})


@clause("core.exit.resumes_at_saved_rip")
def test_the_next_vmrun_goes_on_where_l1_says(l1):
    """The neighbour: L1 moves RIP behind the instruction, as a hypervisor that emulated it does."""
    guest = l1.guest("first: cpuid\nsecond: cpuid\nend: vmmcall", intercept=["cpuid"])

    assert guest.run().matches(code=VMEXIT.CPUID, rip=guest["first"])
    guest.vmcb["rip"] = guest["second"]
    assert guest.run().matches(code=VMEXIT.CPUID, rip=guest["second"])
    guest.vmcb["rip"] = guest["end"]
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])
