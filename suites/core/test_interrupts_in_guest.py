"""Physical interrupts that L2 takes itself.

Without the INTR intercept an interrupt that is not masked goes through L2's IDT: hardware acknowledges it and pushes
L2's RIP, CS and RFLAGS on L2's stack, and L1 never sees it (APM2 15.13.1). A wrong L0 exits anyway, delivers through
L1's IDT, or hands the interrupt to both.
"""

import pytest

from harness import VMEXIT, clause, masked
from suites.lib.event_guest import MODES
from suites.lib.interrupts import interruptible, taken

VECTOR = 0x61
IF = 0x200
OFF, ON = 0x002, 0x202


def _delivered(l1, guest, exit, label, *, rflags=ON):
    """The handler was reached from `label`, with a frame that says so, and L1 saw nothing."""
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["handled"], rflags=masked(0, IF))
    pushed = guest.frame(exit)
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed())
    assert l1.expect("RIP in the frame", pushed.ip, guest[label])
    assert l1.expect("CS in the frame", pushed.cs, exit.before["cs.selector"])
    assert l1.expect("RFLAGS.IF in the frame", pushed.flags, masked(rflags, IF))
    assert l1.expect("how often L1 took the interrupt", len(taken(exit, VECTOR)), 0)


@clause("core.interrupts.delivered_to_guest")
@pytest.mark.parametrize("masking", [0, 1], ids=["masking0", "masking1"])
@pytest.mark.parametrize("mode", MODES)
def test_interrupt_goes_through_l2s_idt(l1, mode, masking):
    """It is pending at VMRUN, and L1's IF and L2's are both set."""
    guest = interruptible(
        l1,
        "start: nop\nnop",
        [VECTOR],
        mode=mode,
        no_intercept=["intr"],
        vmcb={"rflags": ON, "v_intr_masking": masking},
    )
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=True)

    _delivered(l1, guest, exit, "start")


@clause("core.interrupts.delivered_to_guest")
@pytest.mark.parametrize("np", [False, True], ids=["np0", "np1"])
@pytest.mark.parametrize("vector", [0x30, 0x80, 0xEF], ids=lambda vector: f"{vector:02x}")
def test_each_vector_reaches_its_own_gate(l1, vector, np):
    """All other gates lead elsewhere."""
    if np:
        l1.need("NP")
    guest = interruptible(
        l1, "start: nop\nnop", [vector], np=np, no_intercept=["intr"], vmcb={"rflags": ON, "v_intr_masking": 0}
    )
    guest.raise_interrupt(vector)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["handled"])
    assert l1.expect("RIP in the frame", guest.frame(exit).ip, guest["start"])
    assert l1.expect("how often L1 took the interrupt", len(taken(exit, vector)), 0)


@clause("core.interrupts.delivered_to_guest")
@pytest.mark.parametrize("event", ["intr", "nmi"])
def test_exit_of_the_handlers_first_instruction(l1, event):
    """It is an exit like any other: RIP is the handler's, not that of the interrupted instruction."""
    tail = "\nhandler: vmmcall\nnop\nother: vmmcall"
    guest = interruptible(
        l1, "start: nop\nnop", [VECTOR, 2], tail=tail, no_intercept=["intr"], vmcb={"rflags": ON, "v_intr_masking": 0}
    )
    if event == "nmi":
        guest.setup("clgi")
        guest.raise_nmi()
    else:
        guest.raise_interrupt(VECTOR)

    assert guest.run(host_if=False).matches(code=VMEXIT.VMMCALL, rip=guest["handler"])


@clause("core.interrupts.delivered_to_guest", "core.interrupts.masked_by_guest_if")
@pytest.mark.parametrize("host_if", [False, True], ids=["hostif0", "hostif1"])
@pytest.mark.parametrize("mode", ["long64", "prot32", "real16"])
def test_interrupt_waits_for_sti_and_its_shadow(l1, mode, host_if):
    """V_INTR_MASKING=0: L2's STI lets it in one instruction later, whatever L1's IF is."""
    guest = interruptible(
        l1,
        "nop\nsti\nnop\nafter: nop\nnop",
        [VECTOR],
        mode=mode,
        no_intercept=["intr"],
        vmcb={"rflags": OFF, "v_intr_masking": 0},
    )
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=host_if)

    _delivered(l1, guest, exit, "after")


@clause("core.interrupts.delivered_to_guest", "core.interrupts.masked_by_host_if")
def test_interrupt_that_l1_masks_is_not_delivered(l1):
    """The near miss: V_INTR_MASKING=1 and L1's IF=0. L2, with its IF set, runs to its end; L1 takes the interrupt."""
    guest = interruptible(l1, "nop\nsti\nnop\nend: vmmcall", [VECTOR], no_intercept=["intr"], vmcb={"rflags": ON})
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert l1.expect("how often L1 took the interrupt", len(taken(exit, VECTOR)), 1)


@clause("core.interrupts.delivered_to_guest", "core.interrupts.masked_by_host_if")
def test_interrupt_that_l1_allows_comes_through_l2s_clear_if(l1):
    """V_INTR_MASKING=1, L1's IF=1, L2's IF=0, no intercept: the interrupt is not masked, so L2 takes it."""
    guest = interruptible(l1, "start: nop\nnop", [VECTOR], no_intercept=["intr"], vmcb={"rflags": OFF})
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=True)

    _delivered(l1, guest, exit, "start", rflags=OFF)


@clause("core.vintr.shadow")
@pytest.mark.parametrize("mode", ["long64", "prot32", "real16"])
@pytest.mark.parametrize(("shadow", "label"), [(0, "start"), (1, "second")], ids=["shadow0", "shadow1"])
def test_shadow_at_vmrun_holds_back_a_physical_interrupt(l1, shadow, label, mode):
    """V_INTR_MASKING=0. The frame says after which instruction it was taken."""
    guest = interruptible(
        l1,
        "start: nop\nsecond: nop\nnop",
        [VECTOR],
        mode=mode,
        no_intercept=["intr"],
        vmcb={"rflags": ON, "v_intr_masking": 0, "interrupt_shadow": shadow},
    )
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=False)

    _delivered(l1, guest, exit, label)


@clause("core.vintr.shadow", "core.interrupts.delivered_to_guest")
@pytest.mark.parametrize("flags", [OFF, ON], ids=["guestif0", "guestif1"])
def test_shadow_at_vmrun_holds_back_what_l1s_if_lets_through(l1, flags):
    """V_INTR_MASKING=1, L1's IF=1: L2 takes it behind its first instruction, whatever L2's IF is.

    An L0 that waits for the shadow's end by a virtual interrupt of its own must not let L2 take that one.
    """
    vmcb = {"rflags": flags, "interrupt_shadow": 1}
    guest = interruptible(l1, "start: nop\nsecond: nop\nnop", [VECTOR], no_intercept=["intr"], vmcb=vmcb)
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=True)

    _delivered(l1, guest, exit, "second", rflags=flags)
