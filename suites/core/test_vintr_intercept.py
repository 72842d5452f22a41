"""The VINTR intercept: exit 64h just before L2 takes a virtual interrupt.

The interrupt is not delivered and V_IRQ is still 1 (APM2 15.13.5, 15.21.6). L1 uses it to learn when its guest opens
its interrupt window, with a request that it never means to be taken. So the exit must come exactly when the window
opens: an L0 that lets it come too early has L1 inject into a guest that has interrupts off, and one that loses it
leaves the guest asleep.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked
from suites.lib.event_guest import MODES
from suites.lib.interrupts import interruptible

VECTOR = 0x51
IF = 0x200
OFF, ON = 0x002, 0x202
OPEN = "push 0x202\npopfq\nopen: nop\nend: vmmcall"  # L2, entered with IF=0, sets it; POPF has no shadow


def _window(l1, code, *, rflags=ON, mode="long64", intercept=("vintr",), prio=15, tpr=0, np=False, **fields):
    vmcb = {"v_irq": 1, "v_intr_prio": prio, "v_tpr": tpr, "v_intr_vector": VECTOR, "rflags": rflags} | fields
    return l1.guest(code, mode=mode, intercept=intercept, np=np, vmcb=vmcb, regs={"rbx": 0x1234})


@clause("core.vintr.intercept")
@pytest.mark.parametrize("masking", [0, 1], ids=["masking0", "masking1"])
@pytest.mark.parametrize("mode", MODES)
def test_exit_comes_before_the_first_instruction(l1, mode, masking):
    """Nothing is delivered: the IDT is empty and the stack as it was."""
    guest = _window(l1, "start: inc bx\nvmmcall", mode=mode, v_intr_masking=masking)
    rsp = guest.vmcb["rsp"]

    exit = guest.run(host_if=False)

    assert exit.matches(
        code=VMEXIT.VINTR, rip=guest["start"], rsp=rsp, rflags=masked(IF, IF), v_irq=1, v_intr_vector=VECTOR,
        v_intr_prio=15, intinfo=masked(0, 1 << 31), regs={"rbx": 0x1234},
    )  # fmt: skip


@clause("core.vintr.intercept")
@pytest.mark.parametrize("vector", [0, 2, 14, 0x20, 0xFF], ids=lambda vector: f"{vector:02x}")
@pytest.mark.parametrize("np", [False, True], ids=["np0", "np1"])
def test_exit_whatever_the_vector(l1, vector, np):
    """The vector is L1's affair, with and without nested paging."""
    if np:
        l1.need("NP")
    guest = _window(l1, OPEN, np=np, rflags=OFF, v_intr_vector=vector)

    assert guest.run().matches(code=VMEXIT.VINTR, rip=guest["open"], v_irq=1, v_intr_vector=vector)


@clause("core.vintr.intercept")
def test_exit_comes_again(l1):
    """V_IRQ is still 1, so that the next VMRUN ends at once as well, and without V_IRQ it does not."""
    guest = _window(l1, "start: nop\nend: vmmcall")
    exits = [guest.run(), guest.run()]
    guest.vmcb["v_irq"] = 0
    last = guest.run()

    for exit in exits:
        assert exit.matches(code=VMEXIT.VINTR, rip=guest["start"], v_irq=1)
    assert last.matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=0)


@clause("core.vintr.intercept")
def test_no_exit_without_v_irq(l1):
    """The near miss: all the rest of the request, the intercept and its neighbours, but V_IRQ=0."""
    guest = _window(l1, OPEN, rflags=OFF, intercept=["vintr", "nmi", "smi", "init"], v_irq=0)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=0)


@clause("core.vintr.intercept", "core.vintr.taken")
def test_no_exit_without_the_intercept(l1):
    """The near miss: its neighbours are set, INTR too, and L2 takes the interrupt."""
    request = {"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": VECTOR}
    guest = interruptible(l1, OPEN, [VECTOR], intercept=["nmi", "smi", "init", "cr0_sel_write"], vmcb=request)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["handled"], v_irq=0)


WINDOWS = {
    "sti": "nop\nsti\nnop\nopen: nop\nvmmcall",
    "popf": "pushfq\nor dword ptr [rsp], 0x200\npopfq\nopen: nop\nvmmcall",
    "sti_cli_sti": "sti\ncli\nnop\nsti\nnop\nopen: nop\nvmmcall",
    "sti_hlt": "sti\nhlt\nopen: nop\nvmmcall",
}


@clause("core.vintr.intercept_waits")
@pytest.mark.parametrize("window", WINDOWS)
def test_exit_waits_for_if_and_the_shadow(l1, window):
    """The exit's RIP says when the window opened. CLI in the shadow of STI closes it before it was open."""
    guest = _window(l1, WINDOWS[window], rflags=OFF)

    exit = guest.run(watchdog_us=100_000)

    assert exit.matches(code=VMEXIT.VINTR, rip=guest["open"], rflags=masked(IF, IF), v_irq=1, interrupt_shadow=0)


@clause("core.vintr.intercept_waits")
@pytest.mark.parametrize("mode", MODES)
def test_no_exit_while_if_is_clear(l1, mode):
    """V_INTR_MASKING=1 and L1's IF=1, which say nothing about virtual interrupts."""
    guest = _window(l1, "nop\nnop\nend: vmmcall", rflags=OFF, mode=mode)

    assert guest.run(host_if=True).matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=1)


@clause("core.vintr.intercept_waits")
@pytest.mark.parametrize(("prio", "tpr"), [(0, 1), (7, 8), (8, 10), (14, 15)], ids=["0-1", "7-8", "8-a", "e-f"])
def test_no_exit_while_v_tpr_masks(l1, prio, tpr):
    """V_INTR_PRIO, then V_TPR."""
    guest = _window(l1, OPEN, rflags=OFF, prio=prio, tpr=tpr)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=1)


@clause("core.vintr.intercept_waits")
def test_exit_comes_when_l2_lowers_its_tpr(l1):
    """L2 goes down from 15 by MOV CR8; the request has priority 8, so that 9 is not enough and 3 is."""
    code = "push 0x202\npopfq\nmov eax, 9\nmov cr8, rax\nnop\nmov eax, 3\nmov cr8, rax\nopen: nop\nnop\nvmmcall"
    guest = _window(l1, code, rflags=OFF, prio=8, tpr=15)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.VINTR, rip=any_of(guest["open"], guest["open"] + 1), v_irq=1, v_tpr=masked(3, 15))


@clause("core.vintr.intercept_waits")
def test_no_exit_after_l2_raised_its_tpr(l1):
    """L2 has IF=0 until its V_TPR is above the request's priority."""
    guest = _window(l1, "mov eax, 9\nmov cr8, rax\nsti\nnop\nnop\nend: vmmcall", rflags=OFF, prio=8, tpr=0)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=1, v_tpr=masked(9, 15))


@clause("core.vintr.intercept_waits", "core.vintr.shadow")
@pytest.mark.parametrize(("shadow", "label"), [(0, "start"), (1, "second")], ids=["shadow0", "shadow1"])
def test_exit_waits_for_the_shadow_of_the_vmcb(l1, shadow, label):
    """INTERRUPT_SHADOW=1 at VMRUN: one instruction first."""
    guest = _window(l1, "start: nop\nsecond: nop\nvmmcall", interrupt_shadow=shadow)

    assert guest.run().matches(code=VMEXIT.VINTR, rip=guest[label], v_irq=1)


@clause("core.vintr.ignore_tpr", "core.vintr.intercept")
def test_exit_with_v_ign_tpr(l1):
    """What V_TPR would mask exits with V_IGN_TPR=1."""
    guest = _window(l1, OPEN, rflags=OFF, prio=0, tpr=15, v_ign_tpr=1)

    assert guest.run().matches(code=VMEXIT.VINTR, rip=guest["open"], v_irq=1)
