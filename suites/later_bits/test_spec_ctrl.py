"""SPEC_CTRL of L2 (CPUID Fn8000_000A EDX bit 20).

With the bit L2 has a SPEC_CTRL (MSR 48h) of its own in the VMCB (6E0h), and what L1 has set holds besides
(APM2 15.37.1). Without it the register is shared, and the field is neither read nor written. A wrong L0 lets L2 clear
what protects L1, or lets L2 see L1's setting.
"""

import pytest

from harness import clause, read_msr, unchanged, write_msr

SPEC_CTRL = 0x48
IBRS = 1
CLEAR = write_msr(SPEC_CTRL, 0)


@clause("later_bits.spec_ctrl.read", "later_bits.spec_ctrl.absent")
@pytest.mark.parametrize(("own", "guests"), [(0, IBRS), (IBRS, 0)], ids=["guest_only", "host_only"])
def test_what_l2_reads(l1, own, guests):
    """L2 reads its own value, whatever is in force."""
    guest = l1.guest(read_msr(SPEC_CTRL), vmcb={"spec_ctrl": guests})
    guest.setup(write_msr(SPEC_CTRL, own))
    guest.teardown(CLEAR)

    exit = guest.run()

    assert exit.reached("done", spec_ctrl=unchanged)
    assert l1.expect("SPEC_CTRL in L2", exit.msr, l1.either("SpecCtrl", offered=guests, absent=own))


@clause("later_bits.spec_ctrl.write", "later_bits.spec_ctrl.absent")
def test_what_l2_writes(l1):
    """It is saved to the VMCB, or stays in L1's register."""
    guest = l1.guest(write_msr(SPEC_CTRL, IBRS) + "end: vmmcall", vmcb={"spec_ctrl": 0})
    guest.setup(CLEAR)
    guest.teardown(f"mov ecx, {SPEC_CTRL:#x}\nrdmsr\nmov ebx, eax\n{CLEAR}", {"rbx": 7})

    exit = guest.run()

    assert exit.reached("end", spec_ctrl=l1.either("SpecCtrl", offered=IBRS, absent=0))
    left = exit.teardown.reg("rbx")
    assert l1.expect("SPEC_CTRL in L1 afterwards", left, l1.either("SpecCtrl", offered=0, absent=IBRS))


@clause("later_bits.spec_ctrl.field_absent")
def test_field_is_not_loaded(l1):
    """A value that the register would not take."""
    pattern = 0x1122_3344_5566_7788
    guest = l1.guest("nop\nend: vmmcall", vmcb={"spec_ctrl": pattern})

    assert guest.run().reached("end", spec_ctrl=pattern)
