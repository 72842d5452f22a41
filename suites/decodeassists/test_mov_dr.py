"""The general register of an intercepted MOV DRn.

With DecodeAssists EXITINFO1 bits 3:0 are the number of the general register, and all others are zero: there is no bit
that says MOV, as no other instruction can cause these exits (APM2 15.8.1). A wrong L0 fills the field as it does for
control registers, or not at all, and then every access seems to be one of RAX.
"""

import pytest

from harness import VMEXIT, cases, clause
from suites.lib.general_registers import GPRS, GPRS_32

DIRECTIONS = pytest.mark.parametrize("direction", ["read", "write"])


def _check(l1, direction, dr, gpr, number, mode="long64"):
    """L2 has 0 in each register, which every debug register takes."""
    insn = f"mov {gpr}, dr{dr}" if direction == "read" else f"mov dr{dr}, {gpr}"
    guest = l1.guest(f"nop\nstart: {insn}\nvmmcall", mode=mode, intercept=[f"dr{dr}_{direction}"])
    guest.regs |= dict.fromkeys([name for name in GPRS if name not in ("rsp", "rax")], 0)

    exit = guest.run()

    code = (VMEXIT.DR0_READ if direction == "read" else VMEXIT.DR0_WRITE) + dr
    assert exit.matches(code=code, rip=guest["start"], info1=number)


@clause("decodeassists.dr.mov")
@DIRECTIONS
@pytest.mark.parametrize("gpr", GPRS)
def test_each_general_register(l1, gpr, direction):
    _check(l1, direction, 7 if direction == "read" else 0, gpr, GPRS.index(gpr))


@clause("decodeassists.dr.mov")
@DIRECTIONS
@cases("dr", [0, 1, 2, 3, 6, 7], prefix="dr")
def test_each_debug_register(l1, dr, direction):
    _check(l1, direction, dr, "r14", 14)


@clause("decodeassists.dr.mov")
@DIRECTIONS
@pytest.mark.parametrize("gpr", ["ecx", "edi"])
@pytest.mark.parametrize("mode", ["compat32", "pae32", "prot32", "real16"])
def test_other_modes(l1, mode, gpr, direction):
    _check(l1, direction, 3, gpr, GPRS_32.index(gpr), mode)
