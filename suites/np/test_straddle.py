"""Accesses that reach over the end of a nested page.

An access or an instruction that lies in two pages needs both. The nested page fault names the one that is missing, and
RIP the instruction's beginning (APM2 15.25.6). An L0 that takes the first byte's page for granted reports an address
that L1 has mapped long ago, and L1 loops.
"""

import pytest

from harness import VMEXIT, clause, masked
from harness.svm import npf_info
from suites.lib.nested_maps import nested_guest

INSNS = {"read": "mov eax, [rbx]", "write": "mov [rbx], ecx"}


@clause("np.fault.straddle")
@pytest.mark.parametrize("missing", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("access", INSNS)
def test_data(l1, access, missing):
    """Of the second page the offset is not asked about."""
    pages = l1.scratch(2)
    guest, nested = nested_guest(l1, f"probe: {INSNS[access]}\nvmmcall", regs={"rbx": pages + 0xFFE})
    page = pages + 0x1000 * missing
    nested.set(page, 0)

    assert guest.run().matches(
        code=VMEXIT.NPF,
        rip=guest["probe"],
        info1=npf_info(present=False, write=access == "write"),
        info2=masked(page, ~0xFFF),
    )


@clause("np.fault.straddle")
@pytest.mark.parametrize("access", INSNS)
def test_data_in_two_pages_that_are_apart(l1, access):
    """The legal neighbour: both are mapped, and not next to each other."""
    pages, apart = l1.scratch(2), l1.scratch(1)
    guest, nested = nested_guest(l1, f"{INSNS[access]}\ndone: vmmcall", regs={"rbx": pages + 0xFFE, "rcx": 0x4433_2211})
    nested.set(pages + 0x1000, apart | 7)
    guest.write(pages + 0xFFE, b"\x01\x02\x05\x06")
    guest.write(apart, b"\x03\x04")

    exit = guest.run(read={"low": (pages + 0xFFE, 2), "high": (apart, 2)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    if access == "read":
        assert l1.expect("what L2 reads", exit.regs["rax"] & 0xFFFF_FFFF, 0x0403_0201, width_bytes=4)
    else:
        got = int.from_bytes(exit.memory["low"] + exit.memory["high"], "little")
        assert l1.expect("what L2 wrote", got, 0x4433_2211, width_bytes=4)


@clause("np.fault.straddle")
@pytest.mark.parametrize("before", [1, 2, 4])
@pytest.mark.parametrize("missing", [0, 1], ids=["first", "second"])
def test_instruction(l1, missing, before):
    """A MOV of five bytes, some of them in the first page."""
    pages = l1.scratch(2)
    start = pages + 0x1000 - before
    guest, nested = nested_guest(l1, "jmp rbx", regs={"rbx": start})
    guest.write(start, b"\xb8\x11\x22\x33\x44\x0f\x01\xd9")
    page = pages + 0x1000 * missing
    nested.set(page, 0)

    assert guest.run().matches(
        code=VMEXIT.NPF,
        rip=start,
        info1=npf_info(present=False, write=False, fetch=True),
        info2=masked(page, ~0xFFF),
    )
