"""Virtual NMI (CPUID Fn8000_000A EDX bit 25).

With V_NMI_ENABLE L1 has L2 take an NMI by setting V_NMI, and need not watch L2's IRET: the processor delivers it as
soon as V_NMI_MASK and, where it is on, V_GIF let it, clears V_NMI, and sets the mask until L2's IRET (APM2 15.21.10).
A wrong L0 loses the NMI that waited, or delivers it twice.
"""

from harness import VMEXIT, any_of, cases, clause
from suites.lib.interrupts import interruptible

ON = {"v_nmi_enable": 1}
RETURNS = "\nhandler: nop\niretq\nhandled: vmmcall\nother: vmmcall"
# To the same stack and code segment, as from a handler.
IRET = "mov rax, rsp\npush 0x10\npush rax\npushfq\npush 8\nlea rax, [rip + after]\npush rax\niretq\n"
INJECT_NMI = 1 << 31 | 2 << 8 | 2


def _guest(l1, code, vmcb, **options):
    return interruptible(l1, code, [2], intercept=["nmi"], vmcb=ON | vmcb, **options)


@clause("later_bits.vnmi.delivered")
@cases("vmcb", {"pending": {"v_nmi": 1}, "injected": {"eventinj": INJECT_NMI}})
def test_delivered(l1, vmcb):
    """The exit is in L2's handler: the mask is set. An NMI that is injected sets it, too."""
    guest = _guest(l1, "nop\nvmmcall", vmcb)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["handled"], v_nmi=0, v_nmi_mask=1)


@clause("later_bits.vnmi.delivered")
def test_iret_clears_the_mask(l1):
    guest = _guest(l1, "nop\nend: vmmcall", {"v_nmi": 1}, tail=RETURNS)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_nmi=0, v_nmi_mask=0)


@clause("later_bits.vnmi.held")
@cases("vmcb, needs", {
    "masked": ({"v_nmi_mask": 1}, "VNMI"), "v_gif": ({"v_gif_enable": 1, "v_gif": 0}, "VGIF"),
})  # fmt: skip
def test_held(l1, vmcb, needs):
    """It waits, and is still there at the exit."""
    l1.need(needs)
    guest = _guest(l1, "nop\nend: vmmcall", {"v_nmi": 1} | vmcb)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_nmi=1, v_nmi_mask=vmcb.get("v_nmi_mask", 0))


@clause("later_bits.vnmi.held")
def test_behind_the_iret(l1):
    """Masked at first: the IRET of L2's own NMI handler opens the way."""
    guest = _guest(l1, IRET + "after: nop\nvmmcall", {"v_nmi": 1, "v_nmi_mask": 1})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["handled"], v_nmi=0, v_nmi_mask=1)
    assert l1.expect("RIP in the frame", guest.frame(exit).ip, any_of(guest["after"], guest["after"] + 1))
