"""A guest moves to another CPU.

Each CPU has a TLB of its own. L1 that runs a VMCB on another CPU has its ASID flushed there (TLB_CONTROL=01h) and may
rely on nothing older being used, there or after the way back (APM2 15.16.1). An L0 that keeps what belongs to a VMCB or
an ASID for all of L1's CPUs at once may take the flush for done elsewhere.
"""

import pytest

from harness import VMEXIT, clause
from harness.scenario import steps
from suites.lib.tlb_maps import AT_HERE, AT_THERE, HERE, far_guest, read_byte

RAX = 0x5F8


@clause("core.tlb.another_cpu")
@pytest.mark.two_cpus
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
def test_there_and_back(l1, np):
    """L2's entry is turned before each move."""
    if np:
        l1.need("NP")
    guest, far = far_guest(l1, "next: mov al, [rbx]\ndone: vmmcall", np=np)
    here = guest.run()
    assert here.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte on the first CPU", read_byte(here), AT_HERE, width_bytes=1)

    far.turn(l1)
    l1.write(guest.vmcb_pa + 0x578, guest["next"].to_bytes(8, "little"))
    flags = steps.VmrunFlag.IF
    with l1.on_second_cpu([steps.vmrun(guest.vmcb_pa, flags, dict(guest.regs))]) as second:
        pass
    answer = steps.decode_vmrun(second.answers[0])
    rax = int.from_bytes(l1.read(guest.vmcb_pa + RAX, 8), "little")
    exitcode = int.from_bytes(l1.read(guest.vmcb_pa + 0x70, 4), "little")
    assert l1.expect("VMRUN faulted on the second CPU", bool(answer.result & steps.VmrunResult.FAULTED), False)
    assert l1.expect("EXITCODE[31:0] on the second CPU", exitcode, VMEXIT.VMMCALL, width_bytes=4)
    assert l1.expect("the byte on the second CPU", rax & 0xFF, AT_THERE, width_bytes=1)

    far.turn(l1, HERE)
    guest.vmcb.update({"rip": guest["next"], "rax": 0, "tlb_control": 1})
    back = guest.run()
    assert back.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte back on the first CPU", read_byte(back), AT_HERE, width_bytes=1)
