"""A legacy PAE guest under nested paging.

Its four page-directory-pointer entries are not loaded when CR3 is, but read from memory by each walk: an illegal one is
not noticed by VMRUN or MOV CR3, only by an access through it, and one that became present is used at once (APM2
15.25.10). An L0 that keeps them as without nested paging refuses L2's start, or serves it from entries that L2 has
long replaced.
"""

import pytest

from harness import VMEXIT, clause, masked
from harness.scenario.steps import TableKind
from suites.lib.nested_maps import nested_guest

PF = 0x4E
FAR = 0xC000_0000  # the last of the four entries


def pae_guest(l1, code, entry):
    """An L2 with PAE tables of its own whose last top entry is `entry`."""
    guest, _ = nested_guest(l1, code, mode="pae32")
    tables = l1.scratch(5)
    guest.tables(tables, TableKind.PAE)
    guest.write(tables + 24, entry(tables).to_bytes(8, "little"))
    guest.vmcb["cr3"] = tables
    guest.regs.update({"rbx": FAR + 0x123, "rdi": tables + 24, "rsi": tables + 0x1000 | 1})
    return guest


BITS = {"bit1": 1 << 1, "bit5": 1 << 5, "bit63": 1 << 63}


@clause("np.pae.not_checked_at_load")
@pytest.mark.parametrize("bit", BITS)
@pytest.mark.parametrize("how", ["vmrun", "mov_cr3"])
def test_illegal_entry_is_not_noticed_at_load(l1, how, bit):
    """L2 makes no access through it."""
    code = "mov eax, cr3\nmov cr3, eax\n" if how == "mov_cr3" else ""
    guest = pae_guest(l1, code + "done: vmmcall", lambda tables: tables + 0x4000 | 1 | BITS[bit])

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["done"])


@clause("np.pae.checked_at_use")
@pytest.mark.parametrize("bit", BITS)
def test_illegal_entry_is_noticed_at_use(l1, bit):
    guest = pae_guest(l1, "probe: mov al, [ebx]\nvmmcall", lambda tables: tables + 0x4000 | 1 | BITS[bit])

    assert guest.run().matches(code=PF, rip=guest["probe"], info1=masked(8, 8), info2=FAR + 0x123)


@clause("np.pae.checked_at_use")
def test_missing_entry_is_noticed_at_use(l1):
    guest = pae_guest(l1, "probe: mov al, [ebx]\nvmmcall", lambda tables: 0)

    assert guest.run().matches(code=PF, rip=guest["probe"], info1=0, info2=FAR + 0x123)


@clause("np.pae.read_from_memory")
@pytest.mark.parametrize("touched", [False, True], ids=["others_unused", "others_used"])
def test_entry_that_became_present_is_used(l1, touched):
    """L2 writes it and does not load CR3 again. It leads to the directory of the first gigabyte."""
    before = "mov al, [edi]\n" if touched else ""
    code = before + "mov [edi], esi\nprobe: mov al, [ebx]\ndone: vmmcall"
    page = l1.scratch(1)
    guest = pae_guest(l1, code, lambda tables: 0)
    guest.regs["rbx"] = FAR + page
    guest.write(page, b"\x5c")

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte that L2 reads", exit.regs["rax"] & 0xFF, 0x5C, width_bytes=1)
