"""One set of tables as N_CR3 and as L2's own CR3.

Nested tables and L2's tables are both ordinary memory, and the same pages may serve as both: each walk reads them for
itself (APM2 15.25.3, 15.25.5). An L0 that shadows the nested tables write-protects their pages; when L2's walk then
wants to set accessed bits in its own tables it may fall back to emulating L2's instruction, and meets instructions
that its emulator does not know, or pages that L1 has not mapped, and then reports the table in place of the page.
"""

import pytest

from harness import VMEXIT, clause
from harness.svm import npf_info
from suites.lib.nested_maps import nested_guest, share_tables

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
        regs={"rax": l1.scratch()},
        no_intercept=["vmload", "vmsave", "cpuid"],
    )
    share_tables(l1, guest)
    guest.vmcb["cr4"] |= OSFXSR

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["after"])


@clause("np.fault.final_address")
@pytest.mark.parametrize("access", ["mov eax, [rbx]", "mov [rbx], eax"], ids=["read", "write"])
def test_fault_through_tables_that_were_nested_ones(l1, access):
    """Two guests: what the first has as both is then L2's own. The page that is missing is the data's."""
    page = l1.scratch()
    first = l1.guest("vmmcall", np=True)
    guest, nested = nested_guest(l1, f"probe: {access}\nvmmcall", regs={"rbx": page})
    guest.vmcb["cr3"] = share_tables(l1, first).base
    nested.set(page, 0)

    assert first.run().matches(code=VMEXIT.VMMCALL)
    assert guest.run().matches(
        code=VMEXIT.NPF,
        rip=guest["probe"],
        info1=npf_info(present=False, write=access.startswith("mov [")),
        info2=page,
    )
