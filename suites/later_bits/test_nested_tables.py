"""What later bits add to nested paging: GMET (EDX bit 17), shadow stack checks (19), read-only guest tables (21).

GMET makes code at CPL 0 to 2 fault in nested pages that user code may use (APM2 15.25.13); ROGPT lets L2 walk tables
that L1 has made read-only, if no accessed or dirty bit is to be set (15.25.5); SSSCheck looks at the supervisor shadow
stack bit of nested entries (15.25.14). Where a bit is not offered, nested paging is as it was before. An L0 that passes
the control bits on to its processor gives L1 faults that L1 cannot know.
"""

import pytest

from harness import VMEXIT, clause, masked
from harness.svm import npf_info
from suites.lib.nested_maps import NX, P, U, W, far_guest, nested_guest

SUPERVISOR = P | W
A_AND_D = 0x60


@clause("later_bits.gmet.fetch", "later_bits.gmet.absent")
@pytest.mark.parametrize("cpl", [0, 1, 2, 3], ids=lambda n: f"cpl{n}")
def test_code_in_a_user_page(l1, cpl):
    """Every nested page is one of a user's here, as L1 without GMET has to have them."""
    guest, _ = nested_guest(l1, "start: nop\nend: vmmcall", cpl=cpl, vmcb={"gmet_enable": 1})

    exit = guest.run()

    if cpl == 3 or not l1.cpuid.has("GMET"):
        assert exit.reached("end")
    else:
        fetch = masked(npf_info(present=True, write=False, fetch=True), ~4)  # U/S: erratum 1218
        assert exit.matches(code=VMEXIT.NPF, rip=guest["start"], info1=fetch)


@clause("later_bits.gmet.fetch")
@pytest.mark.parametrize("cpl", [0, 3], ids=lambda n: f"cpl{n}")
@pytest.mark.parametrize("flags", [SUPERVISOR, SUPERVISOR | NX], ids=["x", "nx"])
def test_code_in_a_supervisor_page(l1, flags, cpl):
    """Only the page of L2's code has U/S clear in its nested entry."""
    guest, nested = nested_guest(l1, "start: nop\nend: vmmcall", cpl=cpl, vmcb={"gmet_enable": 1})
    page = guest.code_base & ~0xFFF
    nested.set(page, page | flags)

    exit = guest.run()

    if flags & NX:
        assert exit.matches(code=VMEXIT.NPF, rip=guest["start"], info1=masked(0x11, 0x11))
    else:
        assert exit.reached("end")


@clause("later_bits.rogpt.walk", "later_bits.rogpt.absent")
@pytest.mark.parametrize("access", ["read", "fetch"])
@pytest.mark.parametrize("level", [3, 2, 1], ids={3: "pdpt", 2: "pd", 1: "pt"}.get)
def test_read_only_tables_with_nothing_to_set(l1, level, access):
    """All accessed and dirty bits of L2's entries are set."""
    guest, walk, _, nested, _ = far_guest(l1, access, vmcb={"rogpt_enable": 1})
    for number in (4, 3, 2, 1):
        walk.set(number, walk.value(number) | A_AND_D)
    nested.set(walk.tables[level], walk.tables[level] | P | U)

    exit = guest.run()

    if l1.cpuid.has("ROGPT"):
        assert exit.matches(code=VMEXIT.VMMCALL)
    else:
        assert exit.is_invalid or exit.matches(
            code=VMEXIT.NPF, info1=npf_info(present=True, write=True, table_walk=True)
        )


@clause("later_bits.rogpt.walk")
@pytest.mark.parametrize("level", [3, 2, 1], ids={3: "pdpt", 2: "pd", 1: "pt"}.get)
def test_read_only_tables_with_an_accessed_bit_to_set(l1, level):
    guest, walk, _, nested, _ = far_guest(l1, "read", vmcb={"rogpt_enable": 1})
    for number in (4, 3, 2, 1):
        walk.set(number, walk.value(number) | A_AND_D * (number != level))
    nested.set(walk.tables[level], walk.tables[level] | P | U)

    info1 = npf_info(present=True, write=True, table_walk=True)
    assert guest.run().matches(code=VMEXIT.NPF, rip=guest["probe"], info1=info1)


@clause("later_bits.sss.absent")
@pytest.mark.parametrize("flags", [0, P | U], ids=["absent", "read_only"])
def test_shadow_stack_checks_not_offered(l1, flags):
    """EXITINFO1 bit 37 says that the check failed; there is none."""
    page = l1.scratch(1)
    code = "probe: mov byte ptr [rbx], 1\nvmmcall"
    guest, nested = nested_guest(l1, code, regs={"rbx": page}, vmcb={"sss_check_enable": 1})
    nested.set(page, page | flags if flags else 0)

    exit = guest.run()

    refused = exit.is_invalid
    assert refused or exit.matches(code=VMEXIT.NPF, rip=guest["probe"], info1=npf_info(present=bool(flags), write=True))


@clause("later_bits.sss.without_nested_paging")
def test_shadow_stack_checks_need_nested_paging(l1):
    assert l1.guest("vmmcall", vmcb={"sss_check_enable": 1}).run().is_invalid
