"""What the SVM instructions ask for before they do anything: SVME, CPL 0, protected mode.

Hardware raises #UD without EFER.SVME and outside protected mode, and #GP(0) above CPL 0, in this order and before an
intercept is looked at (APM2 15.4, 15.5.1, vol 3). An L0 that intercepts them and acts on the intercept alone runs
them for code that may not use them; one that lets the CPU run them (virtual VMLOAD and VMSAVE, virtual GIF) must stop
doing so when L1 clears SVME.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.intercepting import V86

EFER = 0xC000_0080
SVME = 1 << 12
UD_EXIT = 0x46

NEED_SVME = ["vmrun", "vmload", "vmsave", "clgi", "invlpga"]
PRIVILEGED = ["vmrun", "vmload", "vmsave", "stgi", "clgi", "invlpga"]
INTERCEPTABLE = ["vmload", "vmsave", "stgi", "clgi", "invlpga"]  # VMRUN's intercept cannot be left out

CLEAR_SVME = """
    mov ecx, 0xC0000080
    rdmsr
    btr eax, 12
    wrmsr
"""

RAX = ["good", "unaligned", "beyond", "zero"]

CPL3_MODES = ["long64", "compat32", "pae32", "paged32", "prot32"]


def operand(l1, kind):
    """A value for rAX: the VMCB of a guest that has run, or a bad address."""
    guest = l1.guest("vmmcall")
    assert guest.run().ran
    good = guest.vmcb_pa
    return {"good": good, "unaligned": good + 1, "beyond": good | 1 << 63, "zero": 0}[kind]


def run(insn, setup=""):
    """L1 code that executes one SVM instruction at the label `insn`, with rAX from R8 and ASID 1."""
    return f"{setup}\nmov rax, r8\nmov ecx, 1\ninsn: {insn}\n"


@clause("core.preconditions.ud_without_svme")
@pytest.mark.parametrize("rax", RAX)
@pytest.mark.parametrize("insn", NEED_SVME)
def test_ud_without_svme(l1, insn, rax):
    """#UD comes whatever the operand is: a bad one is not looked at."""
    result = l1.code(run(insn, CLEAR_SVME), {"r8": operand(l1, rax)})

    assert result.faults("#UD", at="insn")


@clause("core.preconditions.ud_without_svme")
def test_ud_without_svme_vmmcall(l1):
    """VMMCALL too, unless a hypervisor that shows itself takes it as its own hypercall."""
    result = l1.code(run("vmmcall", CLEAR_SVME))

    if not (l1.cpuid.hypervisor and result.returned):
        assert result.faults("#UD", at="insn")


@clause("core.preconditions.ud_without_svme")
@pytest.mark.parametrize("insn", [*NEED_SVME, "stgi"])
def test_runs_with_svme(l1, insn):
    """The legal neighbour: with SVME set, at CPL 0 and with a good operand nothing faults."""
    good = operand(l1, "good")
    setup = "mov rax, r9\nvmsave" if insn == "vmload" else ""
    address = l1.scratch() if insn == "vmload" else good

    assert l1.code(run(insn, setup), {"r8": address, "r9": address}).returned


@clause("core.preconditions.stgi_ud_without_svme")
@pytest.mark.parametrize("insn", ["stgi", "skinit"])
def test_ud_without_svme_and_skinit(l1, insn):
    """STGI and SKINIT work without SVME only where SKINIT, or SVM lock, is offered."""
    assert l1.code(run(insn, CLEAR_SVME)).faults("#UD", at="insn")


@clause("core.preconditions.stgi_with_skinit")
def test_stgi_without_svme_with_skinit(l1):
    """The loader that SKINIT started uses STGI before anything has set SVME."""
    assert l1.code(run("stgi", CLEAR_SVME)).returned


@clause("core.preconditions.gp_above_cpl0")
@pytest.mark.parametrize("insn", PRIVILEGED)
def test_gp_at_cpl3(l1, insn):
    """The operand is good, so the CPL alone is at fault."""
    assert l1.user_code(run(insn), {"r8": operand(l1, "good")}).faults("#GP", 0, at="insn")


@clause("core.preconditions.gp_above_cpl0")
@pytest.mark.parametrize("cpl", [1, 2, 3])
@pytest.mark.parametrize("insn", PRIVILEGED)
def test_gp_in_guest_above_cpl0(l1, insn, cpl):
    """In L2 as well, and before the intercept: L1 sees #GP, not the instruction."""
    guest = l1.guest(f"insn: {insn}", cpl=cpl, intercept=[insn])

    assert guest.run().matches(code=0x4D, rip=guest["insn"], info1=0, cpl=cpl)


@clause("core.preconditions.ud_before_gp")
@pytest.mark.parametrize("insn", PRIVILEGED)
def test_ud_at_cpl3_without_svme(l1, insn):
    """An instruction that does not exist has no privilege to check."""
    if insn == "stgi":
        l1.need("!SKINIT", "!SVML")  # with either of them it exists without SVME (15.4, 15.31)
    good = operand(l1, "good")
    efer = l1.rdmsr(EFER).value
    assert l1.wrmsr(EFER, efer & ~SVME).ok

    result = l1.user_code(run(insn), {"r8": good})  # the executor sets SVME again afterwards

    assert result.faults("#UD", at="insn")


@clause("core.preconditions.vmmcall_at_any_cpl")
@pytest.mark.parametrize("cpl", [0, 1, 2, 3])
@pytest.mark.parametrize("mode", CPL3_MODES)
def test_vmmcall_exits(l1, mode, cpl):
    """VMMCALL is what an application in L2 may use as well; L1 decides what it is worth."""
    guest = l1.guest("nop\nend: vmmcall", mode=mode, cpl=cpl)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cpl=cpl)


@clause("core.preconditions.vmmcall_at_any_cpl")
@pytest.mark.parametrize(("vmcb", "cpl"), [({}, 0), (V86, 3)], ids=["real", "v86"])
def test_vmmcall_exits_in_16_bit_modes(l1, vmcb, cpl):
    """Unlike the other SVM instructions it needs no protected mode."""
    guest = l1.guest("nop\nend: vmmcall", mode="real16", vmcb=vmcb)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cpl=cpl)


@clause("core.preconditions.vmmcall_not_intercepted")
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("mode", CPL3_MODES)
def test_vmmcall_not_intercepted(l1, mode, cpl):
    """Without the intercept nobody takes it: #UD, not a hypercall to L0."""
    guest = l1.guest("nop\ninsn: vmmcall", mode=mode, cpl=cpl, no_intercept=["vmmcall"])

    assert guest.run().matches(code=UD_EXIT, rip=guest["insn"])


@clause("core.preconditions.vmmcall_not_intercepted")
@pytest.mark.parametrize("vmcb", [{}, V86], ids=["real", "v86"])
def test_vmmcall_not_intercepted_in_16_bit_modes(l1, vmcb):
    """The same in real mode and virtual-8086 mode."""
    guest = l1.guest("nop\ninsn: vmmcall", mode="real16", vmcb=vmcb, no_intercept=["vmmcall"])

    assert guest.run().matches(code=UD_EXIT, rip=guest["insn"])


@clause("core.preconditions.vmmcall_in_host")
@pytest.mark.parametrize("cpl", [0, 3])
def test_vmmcall_in_host(l1, cpl):
    """Nothing can intercept it there. A hypervisor that shows itself may answer; one that hides may not."""
    result = l1.code(run("vmmcall")) if cpl == 0 else l1.user_code(run("vmmcall"))

    if not (l1.cpuid.hypervisor and result.returned):
        assert result.faults("#UD", at="insn")


@clause("core.preconditions.vmcall_in_guest")
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("vmmcall", ["intercepted", "not-intercepted"])
def test_vmcall_is_no_instruction(l1, vmmcall, cpl):
    """Intel's opcode is not an alias of VMMCALL, and L0 must not patch it or answer it for L2."""
    guest = l1.guest("insn: vmcall", cpl=cpl, no_intercept=["vmmcall"] if vmmcall == "not-intercepted" else [])

    exit = guest.run(read={"code": (guest["insn"], 3)})

    assert exit.matches(code=UD_EXIT, rip=guest["insn"])
    assert l1.expect("L2's instruction bytes", int.from_bytes(exit.memory["code"], "little"), 0xC1010F, width_bytes=3)


@clause("core.preconditions.ud_in_real_mode")
@pytest.mark.parametrize("insn", [*INTERCEPTABLE, "vmrun"])
def test_ud_in_real_mode(l1, insn):
    """Nothing but the mode is wrong: CPL is 0 and SVME is 1."""
    guest = l1.guest(f"nop\ninsn: {insn}", mode="real16", intercept=[insn])

    assert guest.run().matches(code=UD_EXIT, rip=guest["insn"], cpl=0)


@clause("core.preconditions.ud_in_real_mode")
@pytest.mark.parametrize("insn", INTERCEPTABLE)
def test_ud_in_real_mode_not_intercepted(l1, insn):
    """An L0 that always intercepts must not execute it for L2 either."""
    guest = l1.guest(f"nop\ninsn: {insn}", mode="real16", no_intercept=[insn])

    assert guest.run().matches(code=UD_EXIT, rip=guest["insn"], cpl=0)


@clause("core.preconditions.ud_in_v86_mode")
@pytest.mark.parametrize("insn", [*INTERCEPTABLE, "vmrun"])
def test_ud_in_v86_mode(l1, insn):
    """CPL is 3 there, but the instruction does not exist: #UD, not #GP."""
    guest = l1.guest(f"nop\ninsn: {insn}", mode="real16", vmcb=V86, intercept=[insn])

    assert guest.run().matches(code=UD_EXIT, rip=guest["insn"], cpl=3)


@clause("core.preconditions.ud_in_v86_mode")
@pytest.mark.parametrize("insn", INTERCEPTABLE)
def test_ud_in_v86_mode_not_intercepted(l1, insn):
    """The same where L1 intercepts nothing but #UD."""
    guest = l1.guest(f"nop\ninsn: {insn}", mode="real16", vmcb=V86, no_intercept=[insn])

    assert guest.run().matches(code=UD_EXIT, rip=guest["insn"], cpl=3)


@clause("core.preconditions.invlpga_accepts")
@pytest.mark.parametrize("which", ["host", "first", "last"])
@pytest.mark.parametrize(
    "address", [0, 0x1234_5678, 0x0000_7FFF_FFFF_F000, 0xFFFF_8000_0000_0000], ids=lambda a: f"{a:x}"
)
def test_invlpga_completes(l1, address, which):
    """There need be no translation to throw away, and the address need not be mapped."""
    asid = {"host": 0, "first": 1, "last": l1.cpuid.nasid - 1}[which]

    assert l1.code("invlpga", {"rax": address, "rcx": asid}).returned
