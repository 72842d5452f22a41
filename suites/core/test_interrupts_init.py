"""INIT while L2 runs, and while GIF is 0.

With GIF=0 an INIT is held (APM2 15.17). VMRUN sets GIF, and with the INIT intercept L2 exits with 63h before its first
instruction, the INIT still pending (15.13.4, 15.21.8): a hypervisor thereby survives an INIT that it did not ask for,
until it lets it in by STGI. A wrong L0 resets L1's CPU at once, in the middle of its critical section.
"""

import pytest

from harness import VMEXIT, clause
from harness.scenario import steps


def _init_pending(l1):
    """An INIT to L1 itself, sent while GIF is 0, so that it stays pending. L1 is reset when it next sets GIF."""
    l1.dirty("an INIT is pending for L1")
    l1.code("clgi", keep_state=True)
    l1.steps([steps.raise_event(steps.RaiseKind.INIT_SELF)])


@clause("core.gif.init_held")
@pytest.mark.fresh_boot
@pytest.mark.dirties("an INIT is pending for L1")
def test_init_waits_for_gif(l1):
    """L1 lives on with GIF=0: it still answers, and its registers are as they were."""
    before = l1.host_state()
    _init_pending(l1)

    after = l1.host_state()

    for name in ("CR0", "CR3", "EFER", "CS"):
        assert l1.expect(f"L1's {name}", after[name], before[name])
    l1.undrained = False


@clause("core.interrupts.init_exit")
@pytest.mark.fresh_boot
@pytest.mark.dirties("an INIT is pending for L1")
@pytest.mark.parametrize("rflags", [0x002, 0x202], ids=["guestif0", "guestif1"])
def test_init_ends_l2_before_its_first_instruction(l1, rflags):
    """L2's INC is not executed. GIF stays 0 afterwards, or L1 would be reset."""
    guest = l1.guest("start: inc ebx\nvmmcall", intercept=["init"], vmcb={"rflags": rflags}, regs={"rbx": 0x1234})
    _init_pending(l1)

    exit = guest.run(stgi=False, drain=False)
    l1.undrained = False  # this boot is given up

    assert exit.matches(code=VMEXIT.INIT, rip=guest["start"], regs={"rbx": 0x1234})
