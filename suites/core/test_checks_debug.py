"""VMRUN's checks of the guest's DR6 and DR7.

Hardware refuses a DR6 or DR7 with one of bits 63:32 set (APM2 15.5.1). The reserved bits of the lower halves are no
reason to refuse: those that are fixed read as what they are. A wrong L0 compares 32 bits, or treats every bit that
MOV DR would not accept as illegal.
"""

import pytest

from harness import VMEXIT, clause

UPPER_HALF = [pytest.param(bit, id=f"bit{bit}") for bit in range(32, 64)]
DR6_BITS = [*range(4, 12), 12, *range(16, 32)]
DR7_BITS = [11, 12, 14, 15]


@clause("core.checks.dr6_upper")
@pytest.mark.parametrize("bit", UPPER_HALF)
def test_dr6_upper_bit_is_refused(l1, bit):
    guest = l1.guest("vmmcall")
    guest.vmcb["dr6"] |= 1 << bit

    assert guest.run().is_invalid


@clause("core.checks.dr6_upper")
@pytest.mark.parametrize("mode", ["pae32", "prot32", "real16"])
def test_dr6_upper_bit_is_refused_outside_long_mode(l1, mode):
    guest = l1.guest("vmmcall", mode=mode)
    guest.vmcb["dr6"] |= 1 << 32

    assert guest.run().is_invalid


@clause("core.checks.dr6_upper")
@pytest.mark.parametrize("bit", [0, 1, 2, 3, 13, 14, 15], ids=lambda bit: f"bit{bit}")
def test_dr6_status_bit_runs(l1, bit):
    """The legal neighbours: the status bits, which only software reads."""
    guest = l1.guest("start: vmmcall")
    guest.vmcb["dr6"] |= 1 << bit

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.dr7_upper")
@pytest.mark.parametrize("bit", UPPER_HALF)
def test_dr7_upper_bit_is_refused(l1, bit):
    guest = l1.guest("vmmcall")
    guest.vmcb["dr7"] |= 1 << bit

    assert guest.run().is_invalid


@clause("core.checks.dr7_upper")
@pytest.mark.parametrize("mode", ["pae32", "prot32", "real16"])
def test_dr7_upper_bit_is_refused_outside_long_mode(l1, mode):
    guest = l1.guest("vmmcall", mode=mode)
    guest.vmcb["dr7"] |= 1 << 32

    assert guest.run().is_invalid


@clause("core.checks.dr7_upper")
@pytest.mark.parametrize("bit", [8, 9, 16, 17, 18, 19, 28, 31], ids=lambda bit: f"bit{bit}")
def test_dr7_control_bit_runs(l1, bit):
    """The legal neighbours: condition and length bits of breakpoints that are not enabled."""
    guest = l1.guest("start: vmmcall")
    guest.vmcb["dr7"] |= 1 << bit

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.dr_reserved_low_accepted")
@pytest.mark.parametrize("bit", DR6_BITS, ids=lambda bit: f"bit{bit}")
def test_dr6_reserved_low_bit_is_no_reason(l1, bit):
    """Each reserved bit of the lower half turned round: those fixed to 1 cleared, bit 12 set."""
    guest = l1.guest("start: vmmcall")
    guest.vmcb["dr6"] ^= 1 << bit

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.dr_reserved_low_accepted")
@pytest.mark.parametrize("bit", DR7_BITS, ids=lambda bit: f"bit{bit}")
def test_dr7_reserved_low_bit_is_no_reason(l1, bit):
    guest = l1.guest("start: vmmcall")
    guest.vmcb["dr7"] |= 1 << bit

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.dr_reserved_low_accepted")
@pytest.mark.parametrize(("register", "value"), [("dr6", 0), ("dr6", 0xFFFF_FFFF), ("dr7", 0)])
def test_lower_half_without_its_fixed_bits_runs(l1, register, value):
    """All zeros, and all ones where no breakpoint comes of it."""
    guest = l1.guest("start: vmmcall", vmcb={register: value})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])
