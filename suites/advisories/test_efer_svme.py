"""CVE-2022-3344 and its kin: what ends L2 from inside must leave nothing of it behind.

CVE-2022-3344: KVM to 6.0 let L2's triple fault, which L1 did not intercept, reset the vCPU while it still counted as
running L2; what belonged to L2 was freed while in use. core.shutdown.not_intercepted and .vmcb_written_anew ask both
forms. The same holds where L2 clears EFER.SVME, which L1 does not intercept: software must not, and what the processor
does is undefined (APM2 3.1.7, 15.4). So L2 may go on, take an exception, or shut L1 down; the host must live, and L2's
code must never run on as L1's.
"""

import pytest

from harness import VMEXIT, TargetLost, any_of, cases, clause

EFER = 0xC000_0080
INVALID = (1 << 64) - 1
# VMMCALL raises #UD where SVME is 0.
CLEAR = f"""
    mov ecx, {EFER:#x}
    rdmsr
    btr eax, 12
    wrmsr
behind:
    mov dword ptr [rbx], 0x1234
end: vmmcall
"""


@clause("advisories.svme.cleared_in_l2")
@pytest.mark.dangerous
@cases("np", [False, True])
def test_l2_clears_svme(l1, np):
    if np:
        l1.need("NP")
    guest = l1.guest(CLEAR, np=np, intercept=["msr"], regs={"rbx": l1.scratch(1)})
    exit = None
    try:
        exit = guest.run()
    except TargetLost as lost:
        if lost.verdict == "MISS":
            raise

    if exit is not None:
        assert exit.matches(code=any_of(VMEXIT.VMMCALL, VMEXIT.EXCP_UD, VMEXIT.EXCP_GP, VMEXIT.SHUTDOWN, INVALID))
        assert l1.expect("exceptions that L1 took", len([e for e in exit.events if e.vector < 32]), 0)
    assert l1.expect("RAX of L1's code afterwards", l1.code("mov eax, 0x600d").reg("rax"), 0x600D)
    assert l1.guest("end: vmmcall").run().reached("end")
