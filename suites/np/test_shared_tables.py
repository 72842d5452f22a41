"""One set of tables as N_CR3 and as L2's own CR3.

Nested tables and L2's tables are both ordinary memory, and the same pages may serve as both: each walk reads them for
itself (APM2 15.25.3, 15.25.5). An L0 that shadows the nested tables write-protects their pages; when L2's walk then
wants to set accessed bits in its own tables it may fall back to emulating L2's instruction, and meets instructions
that its emulator does not know.
"""

import pytest

from harness import VMEXIT, clause
from harness.scenario import places

OSFXSR = 1 << 9


@clause("np.walk.tables_shared_with_guest")
@pytest.mark.parametrize("mode", ["long64", "compat32"])
@pytest.mark.parametrize(
    "first",
    ["nop", "vmload rax", "vmsave rax", "cpuid", "fld1", "movaps xmm0, xmm1", "xchg [rsp - 8], ecx"],
    ids=["nop", "vmload", "vmsave", "cpuid", "fld1", "movaps", "xchg"],
)
def test_the_same_pages_serve_as_both(l1, mode, first):
    if mode == "compat32":
        first = first.replace("rax", "eax").replace("rsp", "esp")
    guest = l1.guest(
        f"start: {first}\nafter: vmmcall",
        mode=mode,
        np=True,
        vmcb={"n_cr3": places.TABLES_LONG},
        regs={"rax": l1.scratch()},
        no_intercept=["vmload", "vmsave", "cpuid"],
    )
    guest.vmcb["cr4"] |= OSFXSR

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["after"])
