"""Virtual GIF (CPUID Fn8000_000A EDX bit 16).

With V_GIF_ENABLE CLGI and STGI of L2 act on V_GIF in the VMCB: they hold virtual interrupts and nothing of L1's, whose
own GIF stays 1 while L2 runs (APM2 15.33.2). Where the bit is not offered both control bits have no effect, and L2's
CLGI and STGI act on the one GIF there is. A wrong L0 holds back L1's interrupts because its guest's guest said CLGI, or
keeps V_GIF in a place of its own and gives L1 a stale one.
"""

import pytest

from harness import VMEXIT, any_of, cases, clause, unchanged
from suites.lib.interrupts import taken_after_stgi

VECTOR = 0x61
IF = 0x202
VIRTUAL = {"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": VECTOR}


@clause("later_bits.vgif.toggled")
@cases(
    "code, before, after",
    {
        "clgi": ("clgi", 1, 0),
        "stgi": ("stgi", 0, 1),
        "clgi_stgi": ("clgi\nstgi", 1, 1),
        "stgi_clgi": ("stgi\nclgi", 0, 0),
        "clgi_again": ("clgi", 0, 0),
        "stgi_again": ("stgi", 1, 1),
        "neither_0": ("nop", 0, 0),
        "neither_1": ("nop", 1, 1),
    },
)
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_instructions_change_v_gif(l1, mode, code, before, after):
    """#VMEXIT writes it back; that L1's GIF is 0 then is asked after every exit."""
    guest = l1.guest(f"{code}\nend: vmmcall", mode=mode, vmcb={"v_gif_enable": 1, "v_gif": before})

    assert guest.run().reached("end", v_gif=after, v_gif_enable=1)


@clause("later_bits.vgif.holds_virtual_interrupts", "later_bits.vgif.absent")
def test_clear_at_vmrun(l1):
    """A virtual interrupt is pending, and L2's IF is set."""
    vmcb = VIRTUAL | {"v_gif_enable": 1, "v_gif": 0, "rflags": IF}
    guest = l1.guest("start: nop\nnop\nend: vmmcall", intercept=["vintr"], vmcb=vmcb)

    exit = guest.run()

    if l1.cpuid.has("VGIF"):
        assert exit.reached("end", v_irq=1, v_gif=0)
    else:
        assert exit.is_invalid or exit.matches(code=VMEXIT.VINTR, rip=guest["start"])


@clause("later_bits.vgif.holds_virtual_interrupts")
def test_set_at_vmrun(l1):
    """The neighbour."""
    vmcb = VIRTUAL | {"v_gif_enable": 1, "v_gif": 1, "rflags": IF}
    guest = l1.guest("start: nop\nvmmcall", intercept=["vintr"], vmcb=vmcb)

    assert guest.run().matches(code=VMEXIT.VINTR, rip=guest["start"], v_gif=1)


@clause("later_bits.vgif.holds_virtual_interrupts")
def test_between_clgi_and_stgi(l1):
    """The interrupt comes behind STGI."""
    vmcb = VIRTUAL | {"v_gif_enable": 1, "v_gif": 1, "rflags": 2}
    guest = l1.guest("clgi\nsti\nnop\nnop\nstgi\nafter: nop\nnop\nvmmcall", intercept=["vintr"], vmcb=vmcb)

    rip = any_of(guest["after"], guest["after"] + 1)
    assert guest.run().matches(code=VMEXIT.VINTR, rip=rip, v_gif=1)


@clause("later_bits.vgif.physical_interrupts", "later_bits.vgif.absent")
def test_physical_interrupt_between_clgi_and_stgi(l1):
    """With virtual GIF L1 gets its interrupt as soon as L2's IF lets it; without, GIF has to be 1 again."""
    vmcb = {"v_gif_enable": 1, "v_gif": 1, "v_intr_masking": 0, "rflags": 2}
    code = "clgi\nsti\nshadow: nop\nopen: nop\nnop\nstgi\nafter: nop\nnop\nvmmcall"
    guest = l1.guest(code, vmcb=vmcb)
    guest.raise_interrupt(VECTOR)

    exit = guest.run(host_if=False)

    if l1.cpuid.has("VGIF"):
        assert exit.matches(code=VMEXIT.INTR, rip=any_of(guest["shadow"], guest["open"]), v_gif=0)
        assert taken_after_stgi(l1, exit, VECTOR)
    else:
        held = exit.is_invalid or exit.matches(code=VMEXIT.INTR, rip=any_of(guest["after"], guest["after"] + 1))
        assert held


@clause("later_bits.vgif.physical_interrupts")
@pytest.mark.parametrize("event", ["intr", "nmi"])
def test_physical_event_at_vmrun(l1, event):
    """V_GIF is 0 already."""
    guest = l1.guest("start: nop\nvmmcall", intercept=["nmi"], vmcb={"v_gif_enable": 1, "v_gif": 0})
    if event == "nmi":
        guest.setup("clgi")  # or L1 would take it at once
        guest.raise_nmi()
    else:
        guest.raise_interrupt(VECTOR)

    code = VMEXIT.NMI if event == "nmi" else VMEXIT.INTR
    assert guest.run().matches(code=code, rip=guest["start"], v_gif=0)


@clause("later_bits.vgif.intercepts")
@pytest.mark.parametrize("v_gif", [0, 1], ids=["vgif0", "vgif1"])
@pytest.mark.parametrize("insn", ["clgi", "stgi"])
def test_intercepts_come_first(l1, insn, v_gif):
    guest = l1.guest(f"nop\nstart: {insn}\nvmmcall", intercept=[insn], vmcb={"v_gif_enable": 1, "v_gif": v_gif})

    assert guest.run().matches(code=VMEXIT[insn.upper()], rip=guest["start"], v_gif=unchanged)


@clause("later_bits.vgif.off")
@pytest.mark.parametrize("insn", ["clgi", "stgi"])
def test_switched_off(l1, insn):
    """V_GIF_ENABLE is 0: V_GIF is not looked at, and not written."""
    vmcb = {"v_gif": int(insn == "clgi")}
    guest = l1.guest(f"{insn}\nend: vmmcall", vmcb=vmcb)

    assert guest.run().reached("end", v_gif=unchanged)
