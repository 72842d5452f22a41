"""NMIs while L2 runs.

With the NMI intercept an NMI ends L2 with exit 61h and stays pending for L1; without it L2 takes it through vector 2
and is not disturbed by another until its IRET (APM2 15.13.2, 15.21.9). No IF masks it, neither L1's nor L2's. An L0
that delivers L1's NMI to L2, or drops it at the exit, breaks L1's watchdogs.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.event_guest import MODES
from suites.lib.interrupts import (
    WAIT,
    interruptible,
    taken,
    taken_after_stgi,
)

NMI = 2
OFF, ON = 0x002, 0x202
SEND_NMI = """
    mov esi, 0xFEE00000
    mov eax, [rsi + 0x20]
    and eax, 0xFF000000
    mov [rsi + 0x310], eax
    mov dword ptr [rsi + 0x300], 0x4400
"""


def _raise(guest):
    guest.setup("clgi")  # or L1 would take it at once
    guest.raise_nmi()


@clause("core.interrupts.nmi_exit")
@pytest.mark.parametrize("mode", MODES)
def test_pending_nmi_ends_l2_before_its_first_instruction(l1, mode):
    """L2's INC is not executed."""
    guest = l1.guest("start: inc bx\nvmmcall", mode=mode, intercept=["nmi"], regs={"rbx": 0x1234})
    _raise(guest)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.NMI, rip=guest["start"], regs={"rbx": 0x1234})
    assert taken_after_stgi(l1, exit, NMI)


@clause("core.interrupts.nmi_exit")
@pytest.mark.parametrize("host_if", [False, True], ids=["hostif0", "hostif1"])
@pytest.mark.parametrize("rflags", [OFF, ON], ids=["guestif0", "guestif1"])
@pytest.mark.parametrize("masking", [0, 1], ids=["masking0", "masking1"])
def test_no_if_masks_an_nmi(l1, masking, rflags, host_if):
    """All eight combinations of V_INTR_MASKING, L2's IF and L1's IF."""
    guest = l1.guest("start: nop\nvmmcall", intercept=["nmi"], vmcb={"v_intr_masking": masking, "rflags": rflags})
    _raise(guest)

    exit = guest.run(host_if=host_if)

    assert exit.matches(code=VMEXIT.NMI, rip=guest["start"])
    assert taken_after_stgi(l1, exit, NMI)


@clause("core.interrupts.nmi_exit")
@pytest.mark.parametrize("intercept", [["nmi"], ["nmi", "smi", "init", "vintr"]], ids=["alone", "with_others"])
def test_nmi_that_l2_sends_itself(l1, intercept):
    """The interrupt comes in the middle of L2. RIP is somewhere in its wait, and L1 takes the NMI."""
    guest = l1.guest(f"{SEND_NMI}\nsent: {WAIT.format('again')}\nend: nop\nvmmcall", intercept=intercept)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.NMI)
    assert l1.expect("RIP is behind the one that sent it", guest["sent"] <= exit.rip <= guest["end"], True)
    assert taken_after_stgi(l1, exit, NMI)


@clause("core.interrupts.nmi_exit")
@pytest.mark.parametrize("others", [["smi"], ["init"], ["vintr"]], ids=["smi", "init", "vintr"])
def test_nmi_without_its_own_intercept_is_no_exit(l1, others):
    """The near misses: the intercepts beside it. L2's own handler is reached."""
    guest = interruptible(l1, "start: nop\nnop", [NMI], intercept=others)
    _raise(guest)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["handled"])
    assert l1.expect("how often L1 took the NMI", len(taken(exit, NMI)), 0)


@clause("core.interrupts.nmi_delivered_to_guest")
@pytest.mark.parametrize("rflags", [OFF, ON], ids=["guestif0", "guestif1"])
@pytest.mark.parametrize("mode", MODES)
def test_nmi_goes_through_l2s_vector_2(l1, mode, rflags):
    """Exceptions are all intercepted, vector 2 too, which is no exception; L1 sees nothing."""
    guest = interruptible(l1, "start: nop\nnop", [NMI], mode=mode, vmcb={"rflags": rflags})
    _raise(guest)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["handled"])
    pushed = guest.frame(exit)
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed())
    assert l1.expect("RIP in the frame", pushed.ip, guest["start"])
    assert l1.expect("how often L1 took the NMI", len(taken(exit, NMI)), 0)


@clause("core.interrupts.nmi_delivered_to_guest")
def test_second_nmi_waits_for_l2s_iret(l1):
    """The handler sends another NMI and waits for it in vain; behind its IRET it is entered again."""
    tail = f"""
    handler: inc ebx
        cmp ebx, 1
    second: jne twice
        {SEND_NMI}
        {WAIT.format("again")}
        mov ebp, ebx
        iretq
    twice: vmmcall
    other: vmmcall
    """
    guest = interruptible(l1, f"start: {WAIT.format('outer')}\nvmmcall", [NMI], tail=tail, regs={"rbx": 0, "rbp": 0})
    _flat_selectors(guest)
    _raise(guest)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["twice"], regs={"rbx": 2, "rbp": 1})
    assert l1.expect("how often L1 took an NMI", len(taken(exit, NMI)), 0)


def _flat_selectors(guest):
    """IRETQ loads CS and SS by selector."""
    guest.vmcb.update({"cs.selector": 8} | {f"{name}.selector": 16 for name in ("ss", "ds", "es")})


@clause("core.interrupts.nmi_exit")
def test_nmi_comes_before_an_interrupt(l1):
    """Both are pending and intercepted: the NMI has priority, and L1 takes both after STGI."""
    guest = l1.guest("start: nop\nvmmcall", intercept=["nmi"], vmcb={"v_intr_masking": 0, "rflags": ON})
    _raise(guest)
    guest.raise_interrupt(0x61)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.NMI, rip=guest["start"])
    assert taken_after_stgi(l1, exit, NMI)
    assert l1.expect("how often L1 took the interrupt", len(taken(exit, 0x61)), 1)
