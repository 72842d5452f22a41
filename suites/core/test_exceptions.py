"""Exception intercepts: one bit a vector, exit code 40h plus vector.

An exception that L2 raises exits if its bit in 008h is set, before anything of its delivery: RIP is the instruction's,
nothing is pushed, and EXITINFO1 holds the error code where the exception has one (APM2 15.12). With the bit clear L2's
own handler runs and sees the same error code, CR2 and DR6 as without a hypervisor. A wrong L0 mixes up the bits, or
shows L1 or L2 the exceptions that it intercepts for its own purposes.
"""

import pytest

from harness import VMEXIT, clause, masked
from suites.lib.event_guest import ABSENT3, NO_PAGE, EventGuest
from suites.lib.exceptions import (
    AC,
    BS,
    CLEAN_FPU,
    CLEAN_MXCSR,
    CR0_AM,
    CR4_SSE,
    LONG,
    LONG64,
    MF,
    OTHER_MODES,
    TF,
    XF,
    case,
    raising,
)
from suites.lib.nested_maps import share_tables

ALL = [f"exc_{n}" for n in range(32)]
V = 1 << 31
CASES = LONG64 + OTHER_MODES
OFTEN_INTERCEPTED_BY_L0 = [entry for entry in LONG64 if entry.values[2] in (1, 6, 7, 13, 14, 17)]


def all_but(*vectors):
    """The names of all exception intercepts but these."""
    return [f"exc_{n}" for n in range(32) if n not in vectors]


@clause("core.exceptions.intercepted")
@pytest.mark.parametrize(("mode", "code", "vector", "error", "length", "more"), CASES)
def test_exception_exits_by_its_bit(l1, mode, code, vector, error, length, more):
    """No other exception is intercepted. The exit comes at the instruction (#DB: behind it), nothing is pushed."""
    guest = raising(l1, mode, code, vector, more, no_intercept=all_but(vector))

    exit = guest.run()

    expected = {"code": 0x40 + vector, "rip": guest["at"], "intinfo": masked(0, V), "cpl": more["cpl"]}
    if error is not None:
        expected["info1"] = error
    assert exit.matches(rsp=exit.before["rsp"], **expected)


def check_delivery(l1, guest, exit, vector, error, length):
    """L2's own handler ran, with the right frame."""
    assert guest.took(exit, vector, intinfo=masked(0, V))
    frame = guest.frame(exit, error=error is not None)
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed(error=error is not None))
    assert l1.expect("return address", frame.ip, guest["at"] + length)
    if error is not None:
        assert l1.expect("error code", frame.error, error)


@clause("core.exceptions.not_intercepted")
@pytest.mark.parametrize(("mode", "code", "vector", "error", "length", "more"), LONG64 + OTHER_MODES[:3])
def test_exception_does_not_exit_by_other_bits(l1, mode, code, vector, error, length, more):
    """All other exceptions are intercepted: L2's handler runs."""
    guest = raising(l1, mode, code, vector, more, no_intercept=[f"exc_{vector}"])

    check_delivery(l1, guest, guest.run(), vector, error, length)


@clause("core.exceptions.invisible")
@pytest.mark.parametrize("tables", ["shadow", "nested", "shared"])
@pytest.mark.parametrize(("mode", "code", "vector", "error", "length", "more"), OFTEN_INTERCEPTED_BY_L0)
def test_nothing_is_intercepted(l1, mode, code, vector, error, length, more, tables):
    """No exception is intercepted at all, so that L0's own intercepts must not show: error code, CR2 and DR6 are what
    they would be without a hypervisor. `shared`: N_CR3 and L2's CR3 name the same tables."""
    if tables != "shadow":
        l1.need("NP")
    guest = raising(l1, mode, code, vector, more, no_intercept=ALL, np=tables != "shadow")
    if tables == "shared":
        share_tables(l1, guest.guest)
    guest.guest.vmcb["cr2"] = 0x1122_3000

    exit = guest.run()

    check_delivery(l1, guest, exit, vector, error, length)
    if vector == 14:
        assert exit.matches(cr2=NO_PAGE)
    if vector == 1:
        assert exit.matches(dr6=masked(BS, 0xE00F))


ERROR_CODES = [
    case("np_rpl0", f"mov eax, {ABSENT3 & ~3}\nat: mov ds, eax", 11, ABSENT3 & ~3),
    case("np_rpl3", f"mov eax, {ABSENT3}\nat: mov es, eax", 11, ABSENT3 & ~3),
    case("gp_rpl0", "mov eax, 0x48\nat: mov ds, eax", 13, 0x48),
    case("gp_rpl3", "mov eax, 0x4b\nat: mov ds, eax", 13, 0x48),
    case("gp_far", "mov eax, 0xfff8\nat: mov es, eax", 13, 0xFFF8),
    case("gp_ldt", "mov eax, 0xffff\nat: mov ds, eax", 13, 0xFFFC),
    case("gp_rpl3_dpl0", "mov eax, 0x13\nat: mov ds, eax", 13, 0x10),
    case("gp_null_ss", "xor eax, eax\nat: mov ss, eax", 13, 0, mode="prot32"),
    case("gp_null_cs", "push 0\npush 0\nat: retf", 13, 0, mode="prot32"),
    case("gp_cs", "push 0x48\npush 0\nat: retf", 13, 0x48, mode="prot32"),
    case("gp_not_canonical", "movabs rbx, 0x800000000000\nat: mov eax, [rbx]", 13, 0),
    case("gp_not_canonical_write", "movabs rbx, 0xffff7fffffffffff\nat: mov [rbx], al", 13, 0),
    case("ss_not_canonical", "movabs rbp, 0x800000000000\nat: mov eax, [rbp]", 12, 0),
    case("ss_not_canonical_push", "movabs rsp, 0x900000000000\nat: push rax", 12, 0),
    case("gp_cli", "at: cli", 13, 0, cpl=3),
    case("gp_hlt", "at: hlt", 13, 0, cpl=3),
    case("gp_cr4", "mov rax, cr4\nbts rax, 63\nat: mov cr4, rax", 13, 0),
    case("gp_aligned_sse", "mov ebx, 0x820001\nat: movaps xmm0, [rbx]", 13, 0, cr4=CR4_SSE),
]


@clause("core.exceptions.error_code")
@pytest.mark.parametrize(("mode", "code", "vector", "error", "length", "more"), ERROR_CODES)
def test_error_code_in_exitinfo1(l1, mode, code, vector, error, length, more):
    """The selector without its RPL, TI included; 0 where no selector is to blame."""
    guest = raising(l1, mode, code, vector, more)

    assert guest.run().matches(code=0x40 + vector, info1=error, rip=guest["at"], intinfo=masked(0, V))


@clause("core.exceptions.error_code")
@pytest.mark.parametrize(("name", "vector"), [("ss", 12), ("ds", 13)])
def test_limit_violation(l1, name, vector):
    """#SS for the stack segment and #GP for another one; the error code is 0."""
    register = "ebp" if name == "ss" else "ebx"
    guest = EventGuest(l1, f"mov {register}, 0x1000\nat: mov eax, [{register}]", mode="prot32")
    guest.guest.vmcb.update({f"{name}.limit": 0xFFF, f"{name}.attrib": 0x493})

    assert guest.run().matches(code=0x40 + vector, info1=0, rip=guest["at"])


@clause("core.exceptions.error_code")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_error_code_with_the_idt_bit(l1, mode):
    """INT 40h behind the IDT's limit: the gate's number, IDT set, EXT clear."""
    width = 16 if mode == "long64" else 8
    guest = EventGuest(l1, "at: int 0x40", mode=mode, idt_limit=0x40 * width - 1)

    assert guest.run().matches(code=VMEXIT.EXCP_GP, info1=0x40 << 3 | 2, rip=guest["at"])


INT3 = [("long64", 0), ("long64", 3), ("prot32", 0), ("prot32", 3), ("real16", 0)]


@clause("core.exceptions.int3_into_bound")
@pytest.mark.parametrize(("mode", "cpl"), INT3, ids=[f"{mode}-cpl{cpl}" for mode, cpl in INT3])
@pytest.mark.parametrize("intn", [False, True], ids=["bp", "bp_and_intn"])
def test_int3_exits_as_bp(l1, mode, cpl, intn):
    """At the INT3 itself, also where INTn is intercepted, which it is not."""
    guest = l1.guest("nop\nat: int3\nvmmcall", mode=mode, cpl=cpl, intercept=["intn"] if intn else [])

    exit = guest.run()

    assert exit.matches(code=VMEXIT.EXCP_BP, rip=guest["at"], rsp=exit.before["rsp"])


@clause("core.exceptions.int3_into_bound")
@pytest.mark.parametrize("mode", ["compat32", "pae32", "real16"])
def test_into_exits_as_of(l1, mode):
    """At the INTO; without OF nothing happens."""
    guest = l1.guest("xor eax, eax\ninto\nmov al, 0x7f\nadd al, al\nat: into\nvmmcall", mode=mode)

    assert guest.run().matches(code=VMEXIT.EXCP_OF, rip=guest["at"])


@clause("core.exceptions.int3_into_bound")
@pytest.mark.parametrize("mode", ["compat32", "prot32"])
@pytest.mark.parametrize("index", [-1, 6], ids=["below", "above"])
def test_bound_exits_as_br(l1, mode, index):
    """At the BOUND; within the bounds, both included, nothing happens."""
    bounds = l1.scratch(1)
    code = (
        f"mov eax, 0\nbound eax, [ebx]\nmov eax, 5\nbound eax, [ebx]\nmov eax, {index}\nat: bound eax, [ebx]\nvmmcall"
    )
    guest = l1.guest(code, mode=mode, regs={"rbx": bounds})
    guest.write(bounds, bytes([0, 0, 0, 0, 5, 0, 0, 0]))

    assert guest.run().matches(code=VMEXIT.EXCP_BR, rip=guest["at"])


@clause("core.exceptions.intn_is_none")
@pytest.mark.parametrize("vector", [0, 1, 3, 4, 6, 8, 13, 14], ids=lambda vector: f"int{vector}")
def test_intn_is_no_exception(l1, vector):
    """All exceptions are intercepted; INTn with such a vector goes through L2's IDT, without an error code."""
    guest = EventGuest(l1, f"at: .byte 0xcd, {vector}\nvmmcall", mode="long64" if vector % 2 else "prot32")

    check_delivery(l1, guest, guest.run(), vector, None, 2)


@clause("core.exceptions.bits_2_and_9")
@pytest.mark.parametrize("bits", [[2], [9], [2, 9]], ids=["2", "9", "both"])
def test_bits_without_an_exception_are_survived(l1, bits):
    """Their effect is undefined; an L2 that raises nothing runs to its end."""
    guest = l1.guest("nop\nend: vmmcall", no_intercept=all_but(*bits))

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.exceptions.fpu")
@pytest.mark.parametrize("waiting", ["fwait", "fld1", "fstp st(0)"], ids=["fwait", "fld1", "fstp"])
def test_mf_exits_at_the_next_waiting_instruction(l1, waiting):
    """FSW shows the pending exception: ES and ZE. The dividing instruction itself did not fault."""
    guest = l1.guest(MF.format(**LONG).replace("at: fwait", f"nop\nat: {waiting}\nvmmcall"))
    guest.teardown("fnstsw ax\nmovzx r8d, ax\nfninit")

    exit = guest.run()

    assert exit.matches(code=VMEXIT.EXCP_MF, rip=guest["at"])
    assert l1.expect("FSW's ES and ZE", exit.teardown.reg("r8") & 0x84, 0x84)


@clause("core.exceptions.fpu")
def test_masked_fpu_exception_does_not_exit(l1):
    """The near miss: ZM is 1, the same division gives an infinity."""
    guest = l1.guest(MF.format(**LONG).replace("0x37b", "0x37f") + "\nend: vmmcall")
    guest.teardown(CLEAN_FPU)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.exceptions.simd")
def test_xf_exits_with_mxcsr_set(l1):
    """MXCSR.ZE is set by then; the register with the result is not written."""
    guest = l1.guest(f"{XF.format(**LONG)}\nvmmcall")
    guest.vmcb["cr4"] |= CR4_SSE
    guest.teardown(CLEAN_MXCSR + "\nmovd r9d, xmm1")

    exit = guest.run()

    assert exit.matches(code=VMEXIT.EXCP_XF, rip=guest["at"])
    assert l1.expect("MXCSR's ZE", exit.teardown.reg("r8") & 4, 4)
    assert l1.expect("XMM1", exit.teardown.reg("r9"), 0x3F80_0000)


@clause("core.exceptions.simd")
def test_masked_simd_exception_does_not_exit(l1):
    """The near miss: ZM is 1."""
    guest = l1.guest(XF.format(**LONG).replace("0x1d80", "0x1f80") + "\nend: vmmcall")
    guest.vmcb["cr4"] |= CR4_SSE
    guest.teardown(CLEAN_MXCSR)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


ACCESSES = [("mov eax, [rbx + 1]", "read"), ("mov [rbx + 2], eax", "write"), ("mov ax, [rbx + 3]", "word")]


@clause("core.exceptions.alignment")
@pytest.mark.parametrize("access", [code for code, _ in ACCESSES], ids=[name for _, name in ACCESSES])
def test_ac_exits_with_error_code_0(l1, access):
    guest = l1.guest(f"at: {access}\nvmmcall", cpl=3, regs={"rbx": l1.scratch(1)}, vmcb={"rflags": 2 | AC})
    guest.vmcb["cr0"] |= CR0_AM

    assert guest.run().matches(code=VMEXIT.EXCP_AC, info1=0, rip=guest["at"])


@clause("core.exceptions.alignment")
@pytest.mark.parametrize(
    ("cpl", "rflags", "cr0", "offset"),
    [(3, 0, CR0_AM, 1), (3, AC, 0, 1), (0, AC, CR0_AM, 1), (3, AC, CR0_AM, 4)],
    ids=["no_ac", "no_am", "cpl0", "aligned"],
)
def test_ac_needs_all_of_its_conditions(l1, cpl, rflags, cr0, offset):
    """The near misses."""
    code = f"mov eax, [rbx + {offset}]\nend: vmmcall"
    guest = l1.guest(code, cpl=cpl, regs={"rbx": l1.scratch(1)}, vmcb={"rflags": 2 | rflags})
    guest.vmcb["cr0"] |= cr0

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.exceptions.debug")
@pytest.mark.parametrize("mode", ["long64", "prot32", "real16"])
def test_single_step_shows_in_dr6(l1, mode):
    """BS is set in the VMCB's DR6, B0 to B3 and BD are not; TF is still set in RFLAGS; DR7 is as it was. L1 is not
    stepped."""
    guest = l1.guest("inc ebx\nat: inc ebx\nvmmcall", mode=mode, vmcb={"rflags": 2 | TF, "dr7": 0x400})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.EXCP_DB, rip=guest["at"], dr6=masked(BS, 0xE00F), rflags=masked(TF, TF), dr7=0x400)
    assert l1.expect("exceptions in L1", len([event for event in exit.events if event.vector < 32]), 0)


@clause("core.exceptions.debug")
@pytest.mark.dirties("breakpoint registers were used")
@pytest.mark.parametrize("n", [0, 3], ids=lambda n: f"dr{n}")
def test_instruction_breakpoint_shows_in_dr6(l1, n):
    """L2 arms it itself; the exit comes before the instruction."""
    code = f"lea rax, [rip + at]\nmov dr{n}, rax\nmov eax, {0x400 | 1 << 2 * n}\nmov dr7, rax\nnop\nat: nop\nvmmcall"
    guest = l1.guest(code)

    assert guest.run().matches(code=VMEXIT.EXCP_DB, rip=guest["at"], dr6=masked(1 << n, 0xE00F))


@clause("core.exceptions.debug")
@pytest.mark.dirties("breakpoint registers were used")
def test_data_breakpoint_shows_in_dr6(l1):
    """Breakpoint 2, a write; RIP is behind it."""
    code = "mov dr2, rbx\nmov eax, 0x0d000410\nmov dr7, rax\nmov [rbx], eax\nat: nop\nvmmcall"
    guest = l1.guest(code, regs={"rbx": l1.scratch(1)})

    assert guest.run().matches(code=VMEXIT.EXCP_DB, rip=guest["at"], dr6=masked(4, 0xE00F))


@clause("core.exceptions.debug")
@pytest.mark.parametrize("access", ["mov rax, dr0", "mov dr0, rax", "mov rax, dr7"], ids=["read", "write", "dr7"])
def test_general_detect_shows_in_dr6_and_dr7(l1, access):
    """DR7.GD: a fault, DR6.BD is set and GD is cleared as the handler would see it."""
    guest = l1.guest(f"nop\nat: {access}\nvmmcall", vmcb={"dr7": 0x2400})

    assert guest.run().matches(code=VMEXIT.EXCP_DB, rip=guest["at"], dr6=masked(1 << 13, 0xE00F), dr7=0x400)
