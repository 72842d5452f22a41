"""XSA-196 (CVE-2016-9377, CVE-2016-9378): INTn in 32-bit code of a long-mode guest, and INTn injected.

Xen 4.5 to 4.8, AMD only, and only on CPUs without nRIP (9377): it took the size of a gate from the code segment's L bit
in place of EFER.LMA, looked at the wrong gate of compatibility mode, and so let CPL 3 through a gate of DPL 0, or
refused a legal one. 9378: it injected INTn as TYPE 3, for which VMRUN refuses vectors above 31 (APM2 15.20).

Not about nesting; an L0 that delivers INTn for L2 has to read L2's gates as the CPU does: 16 bytes each with
EFER.LMA=1. core.inject.software_dpl and .software_nrip ask more of TYPE 4.
"""

from harness import VMEXIT, cases, clause
from suites.lib.event_guest import EventGuest

VECTOR = 0x40
WARM = 0xF5  # what EventGuest(mapped=True) goes through before
DPL_3 = 0xEE
V, SOFTWARE, EXCEPTION = 1 << 31, 4 << 8, 3 << 8
MODES = ["long64", "compat32"]


@clause("advisories.intn.gate_in_long_mode")
@cases("mode", MODES)
@cases("open", {"dpl_0": False, "dpl_3": True})
def test_intn_at_cpl_3(l1, open, mode):
    gates = {VECTOR: DPL_3} if open else {}
    guest = EventGuest(l1, f"at: int {VECTOR:#x}\nnop", mode=mode, cpl=3, gates=gates)

    exit = guest.run()

    if open:
        assert guest.took(exit, VECTOR)
    else:
        assert exit.matches(code=VMEXIT.EXCP_GP, info1=VECTOR * 8 + 2, rip=guest["at"], cpl=3)


@clause("advisories.intn.injected")
@cases("vector", [0x20, 0x40, 0x80, 0xFF])
@cases("mode", MODES)
def test_software_interrupt_that_l1_injects(l1, mode, vector):
    gates = {vector: DPL_3, WARM: DPL_3}
    guest = EventGuest(l1, "back: nop\nnop", mode=mode, cpl=3, gates=gates, mapped=True)
    guest.vmcb.update({"eventinj": V | SOFTWARE | vector, "nrip": guest["back"]})

    assert guest.took(guest.run(), vector)


@clause("advisories.intn.injected")
@cases("vector", [0x20, 0xFF])
def test_the_same_as_an_exception_is_refused(l1, vector):
    guest = l1.guest("vmmcall", vmcb={"eventinj": V | EXCEPTION | vector})

    assert guest.run().is_invalid
