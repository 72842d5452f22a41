"""CR2 and DR6 of L1 after #VMEXIT.

VMRUN loads both from the VMCB, and neither is in the list of what #VMEXIT reloads (APM2 15.5.1, 15.6): a hypervisor
that needs its own saves it. An L0 may hand L1 its own value all the same, for the list of what VMRUN saves is open.
What no L0 may do is to leave a value of its own there, such as the address at which its own page tables faulted, or to
mistake L1's value for L2's.
"""

import pytest

from harness import VMEXIT, any_of, clause

OWN, LOADED, WRITTEN = 0x1111_2222_3333_4444, 0x5555_6666_7777_8888, 0x1234_5678_9ABC_DEF0
CAUSES = 0xE00F
DR6 = 0xFFFF_0FF0


@clause("core.exit.cr2_and_dr6")
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
@pytest.mark.parametrize("end", ["vmmcall", "ud2"], ids=["vmmcall", "exception"])
def test_cr2_is_l1s_or_l2s(l1, end, np):
    """L1, the VMCB and L2 have a value each; the VMCB gets L2's."""
    if np:
        l1.need("NP")
    guest = l1.guest(f"movabs rax, {WRITTEN}\nmov cr2, rax\nend: {end}", np=np, vmcb={"cr2": LOADED})
    guest.setup("mov cr2, rax", {"rax": OWN})

    exit = guest.run()

    _, after = exit.host_changes.get("CR2", (OWN, OWN))
    code = VMEXIT.VMMCALL if end == "vmmcall" else VMEXIT.EXCP_UD
    assert exit.matches(code=code, rip=guest["end"], cr2=WRITTEN)
    assert l1.expect("L1's CR2 after #VMEXIT", after, any_of(OWN, WRITTEN))


@clause("core.exit.cr2_and_dr6")
@pytest.mark.dirties("DR6 was written")
@pytest.mark.parametrize("end", ["vmmcall", "cpuid"])
def test_dr6_is_l1s_or_l2s(l1, end):
    """B0 for L1, B1 in the VMCB, B2 for L2."""
    guest = l1.guest(f"mov eax, {DR6 | 4}\nmov dr6, rax\nend: {end}", intercept=["cpuid"], vmcb={"dr6": DR6 | 2})
    guest.setup("mov dr6, rax", {"rax": DR6 | 1})

    exit = guest.run()

    _, after = exit.host_changes.get("DR6", (DR6 | 1, DR6 | 1))
    code = VMEXIT.VMMCALL if end == "vmmcall" else VMEXIT.CPUID
    assert exit.matches(code=code, rip=guest["end"], dr6=DR6 | 4)
    assert l1.expect("causes in L1's DR6 after #VMEXIT", after & CAUSES, any_of(1, 4))
