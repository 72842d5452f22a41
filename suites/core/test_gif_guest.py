"""GIF, as L2 may change it.

Without their intercepts, and without virtual GIF, CLGI and STGI in L2 act on the one GIF of the processor
(APM2 15.17, 15.33.2), and #VMEXIT clears it whatever L2 left there (15.6). An L0 that keeps a GIF for each level
interrupts an L2 that asked not to be, or gives L1 back a GIF that L2 set: L1 is then interrupted between #VMEXIT and
its own STGI, with half of L2's state still loaded.
"""

import pytest

from harness import VMEXIT, any_of, clause
from suites.lib.interrupts import WAIT, taken_after_stgi

VECTOR = 0x61
NMI = 2
INSIDE = "nop\nnop\nnop"
VIRTUAL = {"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": VECTOR}


def _pending(guest, event):
    if event == "nmi":
        guest.setup("clgi")
        guest.raise_nmi()
    elif event == "intr":
        guest.raise_interrupt(VECTOR)


EVENTS = [
    pytest.param("intr", {"v_intr_masking": 0}, VMEXIT.INTR, id="intr"),
    pytest.param("vintr", VIRTUAL, VMEXIT.VINTR, id="vintr"),
]


@clause("core.gif.l2_instructions", "core.gif.intr_held")
@pytest.mark.parametrize(("event", "vmcb", "exitcode"), EVENTS)
def test_l2_holds_interrupts_with_clgi(l1, event, vmcb, exitcode):
    """L2 sets its IF between CLGI and STGI; the exit comes behind STGI."""
    guest = l1.guest(
        f"clgi\nsti\n{INSIDE}\nstgi\nafter: {INSIDE}\nvmmcall", intercept=["vintr"], vmcb={"rflags": 2} | vmcb
    )
    _pending(guest, event)

    assert guest.run(host_if=False).matches(code=exitcode, rip=any_of(guest["after"], guest["after"] + 1))


@clause("core.gif.l2_instructions")
@pytest.mark.parametrize(("event", "vmcb", "exitcode"), EVENTS)
def test_l2_is_interrupted_without_clgi(l1, event, vmcb, exitcode):
    """The near miss: STGI where CLGI was."""
    guest = l1.guest(
        f"stgi\nsti\nshadow: nop\nafter: {INSIDE}\nstgi\nvmmcall", intercept=["vintr"], vmcb={"rflags": 2} | vmcb
    )
    _pending(guest, event)

    assert guest.run(host_if=False).matches(code=exitcode, rip=any_of(guest["shadow"], guest["after"]))


@clause("core.gif.l2_instructions")
@pytest.mark.parametrize(("event", "vmcb", "exitcode"), EVENTS)
def test_gif_that_l2_cleared_masks_to_the_end(l1, event, vmcb, exitcode):
    """L2 never executes STGI and ends with VMMCALL; what was pending still is."""
    guest = l1.guest(f"clgi\nsti\n{INSIDE}\nend: vmmcall", intercept=["vintr"], vmcb={"rflags": 2} | vmcb)
    _pending(guest, event)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=int(event == "vintr"))
    if event == "intr":
        assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.gif.l2_instructions")
@pytest.mark.parametrize("event", ["intr", "vintr"])
def test_next_vmrun_sets_the_gif_that_l2_cleared(l1, event):
    """L2 exits with GIF=0 and its IF set. When it is resumed a pending event is recognised at once."""
    vmcb = VIRTUAL if event == "vintr" else {"v_intr_masking": 0}
    guest = l1.guest(
        f"clgi\nsti\n{INSIDE}\nfirst: vmmcall\nsecond: mov ebx, 1\nvmmcall",
        intercept=["vintr"],
        vmcb={"rflags": 2} | vmcb,
        regs={"rbx": 5},
    )
    first = guest.run(host_if=False)
    first_ok = first.matches(code=VMEXIT.VMMCALL, rip=guest["first"])
    guest.vmcb["rip"] = guest["second"]
    if event == "intr":
        guest.raise_interrupt(VECTOR)

    second = guest.run(host_if=False)

    assert first_ok
    code = VMEXIT.VINTR if event == "vintr" else VMEXIT.INTR
    assert second.matches(code=code, rip=guest["second"], regs={"rbx": 5})


@clause("core.gif.clear_after_exit")
@pytest.mark.parametrize("code", ["stgi", "clgi", "clgi\nstgi", "stgi\nclgi"], ids=["stgi", "clgi", "off_on", "on_off"])
@pytest.mark.parametrize(
    ("end", "exitcode"), [("vmmcall", VMEXIT.VMMCALL), ("ud2", VMEXIT.EXCP_UD)], ids=["vmmcall", "ud"]
)
def test_l1_is_not_interrupted_before_its_stgi(l1, code, end, exitcode):
    """V_INTR_MASKING=1 and L1's IF=0 keep the interrupt pending all through L2."""
    guest = l1.guest(f"{code}\nend: {end}")
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=False)

    assert exit.matches(code=exitcode, rip=guest["end"])
    assert taken_after_stgi(l1, exit, VECTOR)


@clause("core.gif.l2_instructions", "core.gif.nmi_held")
def test_l2_holds_an_nmi_with_clgi(l1):
    """L2 sends itself the NMI while GIF is 0, waits, and exits for it behind STGI."""
    guest = l1.guest(
        f"""
        clgi
        mov ebx, 0xFEE00000
        mov eax, [rbx + 0x20]
        and eax, 0xFF000000
        mov [rbx + 0x310], eax
        mov dword ptr [rbx + 0x300], 0x4400
        {WAIT.format("again")}
        stgi
    after: {INSIDE}
        vmmcall
        """,
        intercept=["nmi"],
    )

    exit = guest.run()

    assert exit.matches(code=VMEXIT.NMI, rip=any_of(guest["after"], guest["after"] + 1))
    assert taken_after_stgi(l1, exit, NMI)
