"""Instructions that the CPU does not offer.

Without its CPUID bit an instruction does not exist: it raises #UD in L2, and its intercept bit changes nothing
(APM3, #UD of each; KVM-unit-tests ask the same). An L0 that hides a feature from L1 but lets the hardware's intercept
through shows L1 exits that its CPU cannot have, and a hypervisor in L1 has no case for them.
"""

import pytest

from harness import VMEXIT, clause

INSTRUCTIONS = [
    pytest.param("RDTSCP", "rdtscp", "rdtscp", id="rdtscp"),
    # Some L0 intercept RDPRU for themselves and stop at an exit that they do not know.
    pytest.param("RDPRU", "rdpru", "rdpru", id="rdpru", marks=pytest.mark.dangerous),
    pytest.param("INVPCID", "invpcid rdx, [rbx]", "invpcid", id="invpcid"),
    pytest.param("XSAVE", "xsetbv", "xsetbv", id="xsetbv"),
    pytest.param("MONITOR", "monitor", "monitor", id="monitor"),
    pytest.param("MONITOR", "mwait", "mwait", id="mwait"),
    pytest.param("MONITORX", "monitorx", "monitor", id="monitorx"),
    pytest.param("MONITORX", "mwaitx", "mwait", id="mwaitx"),
]


@clause("core.intercept.feature_absent")
@pytest.mark.parametrize(("feature", "code", "own"), INSTRUCTIONS)
def test_absent_instruction_is_undefined(l1, feature, code, own):
    l1.need(f"!{feature}")
    place = l1.scratch(1)
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", intercept=[own], vmcb={"rax": place})
    guest.regs.update({"rbx": place, "rcx": 0, "rdx": 0})

    assert guest.run().matches(code=VMEXIT.EXCP_UD, rip=guest["start"])
