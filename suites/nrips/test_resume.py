"""L1 resumes L2 at nRIP, and L2 goes on behind the instruction, once.

This is what nRIP is for: L1 emulates the instruction, writes nRIP into RIP, ends the interrupt shadow that the
instruction may have stood in, and runs L2 on (APM2 15.7.1). nRIP is the address that a #DB of a single step over the
instruction would push. A wrong L0 loses instructions or has them executed twice, which shows far away from here.
"""

from harness import RFLAGS, VMEXIT, cases, clause
from harness.svm.intercepts import intercept_exit_code
from suites.nrips.instructions import Insn, around, nrip, raw, rows

CHAIN = {
    "cpuid": "cpuid",
    "rdtsc": raw("66 0f 31"),
    "cr0_read": raw("0f 20 c0"),
    "hlt": raw("67 66 f4"),
    "sidt": raw("0f 01 0f"),
    "ioio": raw("e5 80"),
    "intn": raw("cd 80"),
    "pushf": raw("66 9c"),
    "iret": raw("cf"),
    "#BP": raw("cc"),
    "pause": raw("f3 90"),
    "wbinvd": raw("0f 09"),
}


@clause("nrips.resume.once")
@cases("mode", ["long64", "compat32", "pae32", "prot32", "real16"])
def test_one_after_the_other(l1, mode):
    """L1 skips twelve instructions by nRIP alone; L2 counts between them, in a register that its VMCB holds."""
    code = "".join(f"{code}\ninc ax\n" for code in CHAIN.values()) + "end: vmmcall"
    maps = l1.scratch(3)
    guest = l1.guest(code, mode=mode, intercept=CHAIN, vmcb={"rax": 0, "iopm_base_pa": maps})
    guest.write(maps, b"\xff" * 0x3000)

    exit = guest.run()
    for skipped, intercept in enumerate(CHAIN):
        assert exit.matches(code=intercept_exit_code(intercept), rax=skipped)
        exit = guest.resume(rip=exit.vmcb["nrip"])

    assert exit.reached("end", rax=len(CHAIN))


@clause("nrips.resume.once")
@cases("mode", ["long64", "prot32", "real16"])
def test_in_a_loop(l1, mode):
    """The same instruction five times."""
    guest = l1.guest(
        "loop: cpuid\ninc ax\ncmp ax, 5\njne loop\nend: vmmcall", mode=mode, intercept=["cpuid"], vmcb={"rax": 0}
    )

    exit = guest.run()
    for turn in range(5):
        assert exit.matches(code=VMEXIT.CPUID, rip=guest["loop"], rax=turn)
        exit = guest.resume(rip=exit.vmcb["nrip"])

    assert exit.reached("end", rax=5)


@clause("nrips.resume.shadow")
@cases("mark", [0, 1])
def test_shadow_that_l1_ends(l1, mark):
    """CPUID stands behind STI. With the shadow ended the interrupt comes at nRIP, else one instruction later."""
    guest = l1.guest(
        "sti\ncpuid\nnext: nop\nafter: nop\nvmmcall",
        intercept=["cpuid"],
        vmcb={"v_intr_masking": 0, "rflags": 2},
    )
    guest.raise_interrupt(0x61)
    exit = guest.run(host_if=False)
    assert exit.matches(code=VMEXIT.CPUID, nrip=guest["next"])

    exit = guest.resume(rip=exit.vmcb["nrip"], interrupt_shadow=mark, run={"host_if": False})

    assert exit.matches(code=VMEXIT.INTR, rip=guest["after" if mark else "next"])


STEPPED = {
    **rows("cpuid", "cpuid"),
    "66_67_cpuid": Insn(raw("66 67 0f a2"), "cpuid"),
    "rex_rdtsc": Insn(raw("48 0f 31"), "rdtsc"),
    **rows("cr0_read", "mov rax, cr0", "smsw ecx"),
    **rows("cr4_read", "mov r9, cr4"),
    **rows("dr7_read", "mov rax, dr7"),
    **rows("sidt", "sidt [rbx + r14 * 8 + 0x7f]", regs={"r14": 0}),
    **rows("str", "str eax"),
    **rows("wbinvd", "wbinvd"),
    **rows("invlpg", "invlpg fs:[rbx + 0x12345678]"),
    **rows("pause", "pause"),
    **rows("pushf", "pushfw"),
    **rows("msr", "rdmsr", regs={"rcx": 0x277}),
    **rows("cpuid", "cpuid", mode="prot32"),
    **rows("rdtsc", "rdtsc", mode="real16"),
    "67_sidt-prot32": Insn(raw("67 0f 01 0e 00 40"), "sidt", "prot32"),
}


@clause("nrips.resume.like_single_step")
@cases("insn", STEPPED)
def test_single_step_comes_to_the_same_place(l1, insn):
    """One guest executes the instruction with TF set and exits with #DB; the other has it intercepted."""
    stepping = around(l1, Insn(insn.code, "vmmcall", insn.mode, vmcb={"msrpm_base_pa": l1.scratch(2)}, regs=insn.regs))
    stepping.vmcb.update({"rip": stepping["start"], "rflags": RFLAGS.TF | 2})
    intercepted = around(l1, insn)
    step = stepping.run()
    assert step.matches(code=VMEXIT.EXCP_DB, rip=stepping["next"])

    exit = intercepted.run()

    assert exit.matches(code=insn.exitcode, nrip=intercepted["start"] + step.rip - stepping["start"])


BEFORE = {
    "cpuid": "cpuid",
    "rdmsr": "mov ecx, 0x277\nrdmsr",
    "mov_cr4": "mov rax, cr4\nmov cr4, rax",
    "out": "out 0x80, al",
    "clts": "clts",
    "apic": "mov ebx, 0xfee00030\nmov eax, [rbx]",
    "apic_string": "mov esi, 0xfee00030\nlodsd",
    "apic_test": "mov ebx, 0xfee00030\ntest [rbx], eax",
}
THEN = {"hlt": (raw("66 f4"), VMEXIT.HLT, True), "ud": ("ud2", VMEXIT.EXCP_UD, False)}


@clause("nrips.resume.own_not_l0s", "nrips.absent")
@cases("before", BEFORE)
@cases("code, exitcode, saves", THEN)
@cases("np", [False, True])
def test_after_what_l0_may_emulate(l1, before, code, exitcode, saves, np):
    """What an L0 may have to emulate, a device's register among it; the exit that follows has its own nRIP."""
    if np:
        l1.need("NP")
    guest = l1.guest(f"{before}\nstart: {code}\nnext: vmmcall", np=np, intercept=["hlt"])

    exit = guest.run()

    assert exit.matches(code=exitcode, rip=guest["start"], nrip=nrip(l1, guest["next"] if saves else 0))
