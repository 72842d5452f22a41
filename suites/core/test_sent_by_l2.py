"""Interrupts, NMI, INIT, SMI and a startup IPI that L2 sends through an APIC that L1 left to it.

Where L1 does not intercept the APIC's page, L2 programs L1's own APIC, and what it sends to this processor is L1's to
intercept as if a device had sent it: exits 60h, 61h, 62h and 63h come behind the store, and stay pending (APM2 15.13,
15.21). What L1 does not intercept reaches L2's handlers; a startup IPI to a processor that runs does nothing. With
VM_CR.R_INIT an INIT becomes #SX with error code 1 (15.28). An L0 that emulates the APIC for L2 has to bring back what
it sent; a wrong one resets L1 at L2's word, or loses the interrupt.
"""

import pytest

from harness import VMEXIT, any_of, cases, clause
from harness.svm.msr import MSR, VM_CR_R_INIT
from suites.lib.interrupts import WAIT, interruptible, taken_after_stgi

VECTOR, NMI = 0x61, 2
IF = 0x202
HWCR, SMMLOCK = 0xC001_0015, 1
FIXED, SMI, NMI_MODE, INIT, STARTUP = (mode << 8 for mode in (0, 2, 4, 5, 6))
ASSERT = 1 << 14
# To this processor by its own APIC ID: the shorthand for "self" is for fixed interrupts alone.
SEND = """
    mov ebx, 0xfee00000
    mov eax, [rbx + 0x20]
    and eax, 0xff000000
    mov [rbx + 0x310], eax
    mov dword ptr [rbx + 0x300], {:#x}
behind: """
LAST = "\nnop\nend: vmmcall"


def _code(command):
    return SEND.format(command | ASSERT) + WAIT.format("again") + LAST


def _not_past(guest, exit):
    """The exit came behind the store and before the end: how long the APIC takes is open."""
    return guest["behind"] <= exit.rip <= guest["end"]


@clause("core.interrupts.sent_by_l2")
@cases("masking", [0, 1])
def test_fixed_interrupt_is_intercepted(l1, masking):
    """Exit 60h; the interrupt is L1's afterwards."""
    guest = l1.guest(_code(FIXED | VECTOR), vmcb={"v_intr_masking": masking, "rflags": IF})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.INTR)
    assert l1.expect("L2 stands between the store and its end", _not_past(guest, exit), True)
    assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.interrupts.sent_by_l2")
def test_fixed_interrupt_is_taken_by_l2(l1):
    """Not intercepted: L2's own handler runs, and L1 hears nothing."""
    end = "mov dword ptr [rbx + 0xb0], 0\n"
    tail = f"\nhandler: {end}handled: vmmcall\nother: vmmcall"
    guest = interruptible(
        l1, _code(FIXED | VECTOR), [VECTOR], tail=tail, no_intercept=["intr"], vmcb={"v_intr_masking": 0, "rflags": IF}
    )

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["handled"])
    assert l1.expect("interrupts that L1 took", len([each for each in exit.events if each.vector == VECTOR]), 0)


@clause("core.interrupts.sent_by_l2")
def test_nmi_is_intercepted(l1):
    """Exit 61h, whatever IF is."""
    guest = l1.guest(_code(NMI_MODE), intercept=["nmi"])

    exit = guest.run()

    assert exit.matches(code=VMEXIT.NMI)
    assert l1.expect("L2 stands between the store and its end", _not_past(guest, exit), True)
    assert taken_after_stgi(l1, exit, NMI)


@clause("core.interrupts.sent_by_l2")
def test_nmi_is_taken_by_l2(l1):
    guest = interruptible(l1, _code(NMI_MODE), [NMI])

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["handled"])


@clause("core.interrupts.startup_to_a_running_cpu")
@cases("intercepts", {"none": [], "init_and_nmi": ["init", "nmi", "smi"]})
def test_startup_ipi_does_nothing(l1, intercepts):
    """L2 goes on to its end."""
    guest = l1.guest(_code(STARTUP | 0x10), intercept=intercepts)

    assert guest.run().reached("end")


def _given_up(l1, guest):
    """Runs L2, after which L1 stays with GIF=0: what L2 sent is still pending."""
    exit = guest.run(stgi=False, drain=False)
    l1.undrained = False
    return exit


@clause("core.interrupts.sent_by_l2", "core.interrupts.stays_pending")
@pytest.mark.fresh_boot
@pytest.mark.dangerous
@pytest.mark.dirties("an INIT is pending for L1")
def test_init_is_intercepted(l1):
    """Exit 63h, and again when L2 is run on: the INIT has not gone."""
    guest = l1.guest(_code(INIT), intercept=["init"])

    first = _given_up(l1, guest)
    assert first.matches(code=VMEXIT.INIT)
    assert l1.expect("L2 stands between the store and its end", _not_past(guest, first), True)
    rip = guest.vmcb["rip"]
    second = _given_up(l1, guest)

    assert second.matches(code=VMEXIT.INIT, rip=rip)


@clause("core.interrupts.init_redirected")
@pytest.mark.fresh_boot
@pytest.mark.dangerous
@pytest.mark.dirties("VM_CR.R_INIT is set")
@cases("intercepted", [False, True])
def test_init_is_redirected(l1, intercepted):
    """R_INIT: #SX, exit 5Eh with error code 1; with the INIT intercept that one comes first, 63h."""
    vm_cr = l1.rdmsr(MSR.VM_CR)
    assert l1.wrmsr(MSR.VM_CR, vm_cr.value | VM_CR_R_INIT).ok
    if not l1.rdmsr(MSR.VM_CR).value & VM_CR_R_INIT:
        pytest.skip("VM_CR.R_INIT (C001_0114h bit 1) does not keep what is written")
    guest = l1.guest(_code(INIT), intercept=["init"] if intercepted else [])

    exit = _given_up(l1, guest)

    if intercepted:
        assert exit.matches(code=VMEXIT.INIT)
    else:
        assert exit.matches(code=VMEXIT.EXCP_SX, info1=1)
    assert l1.expect("L2 stands between the store and its end", _not_past(guest, exit), True)


@clause("core.interrupts.smi_exit")
@pytest.mark.fresh_boot
@pytest.mark.dangerous
@pytest.mark.dirties("an SMI is pending for L1")
def test_smi_is_intercepted(l1):
    """Exit 62h; EXITINFO1 bit 0 says external or internal, and which of the two an IPI is no page says."""
    hwcr = l1.rdmsr(HWCR)
    if not hwcr.ok or hwcr.value & SMMLOCK:
        pytest.skip("HWCR (C001_0015h) cannot be read or has SMMLOCK (bit 0): SMIs are not intercepted")
    guest = l1.guest(_code(SMI), intercept=["smi"])

    exit = _given_up(l1, guest)

    assert exit.matches(code=VMEXIT.SMI, info1=any_of(0, 1))
    assert l1.expect("L2 stands between the store and its end", _not_past(guest, exit), True)


TWICE = """
    clgi
    mov r8d, 0xfee00000
    mov ecx, [r8 + 0x20]
    and ecx, 0xff000000
    mov [r8 + 0x310], ecx
    mov dword ptr [r8 + 0x300], {:#x}
    vmrun
    mov r14, [rax + 0x70]
    mov dword ptr [rax + 0x70], 0x5a5a5a5a
    vmrun
last: stgi
    sti
    nop
    nop
    cli
"""


@clause("core.interrupts.stays_pending")
@cases("command, vector, exitcode", {"intr": (VECTOR, VECTOR, VMEXIT.INTR), "nmi": (NMI_MODE, NMI, VMEXIT.NMI)})
def test_event_that_ended_l2_ends_it_again(l1, command, vector, exitcode):
    """L1 runs L2 on with GIF never set between: the event is still there, and L2 does not move. Then L1 takes it."""
    guest = l1.guest("start: nop\nnop\nvmmcall", intercept=["nmi"], vmcb={"v_intr_masking": 0, "rflags": IF})

    exit = guest.run_in(TWICE.format(command | ASSERT), handlers={vector: ""})

    assert exit.l1.returned
    assert l1.expect("EXITCODE[31:0] of the first VMRUN", exit.l1.reg("r14") & 0xFFFF_FFFF, exitcode, width_bytes=4)
    assert exit.matches(code=exitcode, rip=guest["start"])
    assert l1.expect("how often L1 took it", len(exit.l1.taken), 1)
    assert l1.expect("L1 took it behind its STGI", exit.l1.taken[0].rip > exit.l1["last"], True)


@clause("core.interrupts.step_is_lost")
@cases("code, own, exitcode", {"cpuid": ("cpuid", "cpuid", VMEXIT.CPUID), "io": ("in al, 0xe0", "ioio", VMEXIT.IOIO)})
def test_single_step_of_an_intercepted_instruction(l1, code, own, exitcode):
    """TF=1: the instruction was not executed, so no trap is left. L1 steps over it; one trap comes behind the next."""
    guest = l1.guest(f"start: {code}\nnext: nop\nbehind: vmmcall", intercept=[own], vmcb={"rflags": 0x102})
    maps = l1.scratch(3)
    l1.fill(maps, 0x3000, 0xFF)
    guest.vmcb["iopm_base_pa"] = maps

    first = guest.run()
    assert first.matches(code=exitcode, rip=guest["start"], rflags=0x102)
    second = guest.resume("next")

    assert second.matches(code=VMEXIT.EXCP_DB, rip=guest["behind"])
