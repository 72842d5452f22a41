"""L2 clears EFER.SVME.

Where L1 does not intercept the write, what follows is undefined (APM2 3.1.7). It must stay contained: L2 goes on,
exits, faults or shuts its machine down, and L0 lives. A wrong L0 drops everything that belongs to the guest and goes on
at the next instruction, with L2's code in L1's place: a guest has become its hypervisor.
"""

import pytest

from harness import TargetLost, clause, written

CLEAR = "mov ecx, 0xc0000080\nrdmsr\nand eax, 0xffffefff\nwrmsr\n"
MARK = 0x600D


@clause("core.enable.guest_clears_svme")
@pytest.mark.dangerous
@pytest.mark.fresh_boot
@pytest.mark.dirties("L2 cleared EFER.SVME")
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
@pytest.mark.parametrize("end", ["vmmcall", "cpuid", "ud2"])
def test_l2_stays_contained(l1, end, np):
    """An answer is one of a VMRUN that has ended: EXITCODE is written and L1 has its own state. None is a shutdown."""
    if np:
        l1.need("NP")
    guest = l1.guest(f"{CLEAR}mov rbx, {MARK}\n{end}\nvmmcall", np=np, intercept=["cpuid"])
    exit = None
    try:
        exit = guest.run(deadline_s=2.0)
    except TargetLost as lost:
        if lost.verdict == "MISS":
            raise

    if exit is not None:
        assert exit.matches(code=written)
    assert l1.expect("RAX of L1's code afterwards", l1.code(f"mov eax, {MARK}").reg("rax"), MARK)
