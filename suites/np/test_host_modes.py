"""Nested tables of a 32-bit L1.

The nested tables have the format of L1's own paging at VMRUN: four levels in long mode, as all other tests here have
it, legacy PAE tables where L1 runs with CR4.PAE and without long mode, and two-level tables, with 4 MiB pages under
L1's CR4.PSE, where it runs without both (APM2 15.25.3). An L0 that knows 64-bit hypervisors alone walks them as
long-mode tables and comes to pages that L1 never named.
"""

import pytest

from harness import VMEXIT, clause
from harness.scenario.steps import TABLE_SIZES, TableKind, tables
from harness.svm import npf_info
from suites.lib.legacy_host import paged
from suites.lib.nested_maps import OPEN, PS

GPA, TARGET, OFFSET = 0x140_0000, 0x100_0000, 0x1_2345  # 4 MiB blocks of the arena
# EDI and ESI are CR0 and CR4 right after #VMEXIT.
PAGED = paged(after_vmrun="mov edi, cr0\nmov esi, cr4")
HOSTS = {"pae": (TableKind.PAE, 0x20, 0x20), "two_levels": (TableKind.LEGACY, 0x30, 0x10)}


@clause("np.modes.host_format")
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "missing"])
@pytest.mark.parametrize("host", HOSTS)
def test_nested_tables_of_a_32_bit_l1(l1, host, mapped):
    """L2, unpaged, reads an address that the nested tables lead elsewhere, or nowhere."""
    kind, changed, wanted = HOSTS[host]
    guest = l1.guest(f"mov ebx, {GPA + OFFSET}\nprobe: mov al, [ebx]\ndone: vmmcall", mode="prot32")
    placed = guest.run()
    assert placed.ran
    pages = TABLE_SIZES[kind] // 4096
    own, nested = l1.scratch(pages), l1.scratch(pages)
    l1.steps([tables(own, kind), tables(nested, kind)])
    width, shift, first = (4, 22, nested) if kind is TableKind.LEGACY else (8, 21, nested + 0x1000)
    entry = TARGET | OPEN | PS if mapped else 0
    l1.write(first + (GPA >> shift) * width, entry.to_bytes(width, "little"))
    l1.write(TARGET + OFFSET, b"\xc3")
    l1.write(GPA + OFFSET, b"\x3c")
    image = placed.before.copy()
    image.update({"np_enable": 1, "n_cr3": nested, "tlb_control": 1})
    l1.write(guest.vmcb_pa, bytes(image.data))
    mask = 0xFFFF_FFFF_FFFF_FFFF & ~changed

    result = l1.code(PAGED, {"rbx": guest.vmcb_pa, "r8": own, "r9": mask, "r10": wanted})
    field = {name: int.from_bytes(l1.read(guest.vmcb_pa + at, 8), "little") for name, at in FIELDS.items()}

    assert result.returned
    assert l1.expect("the vector that VMRUN raised in L1", result.reg("rbp"), 0xFFFF_FFFF, width_bytes=4)
    assert l1.expect("CR4.PAE and CR4.PSE after #VMEXIT", result.reg("rsi") & 0x30 & changed, wanted)
    if mapped:
        assert l1.expect("EXITCODE", field["exitcode"], VMEXIT.VMMCALL)
        assert l1.expect("RIP", field["rip"], guest["done"])
        assert l1.expect("the byte that L2 reads", field["rax"] & 0xFF, 0xC3, width_bytes=1)
    else:
        assert l1.expect("EXITCODE", field["exitcode"], VMEXIT.NPF)
        assert l1.expect("RIP", field["rip"], guest["probe"])
        assert l1.expect("EXITINFO1", field["exitinfo1"], npf_info(present=False, write=False))
        assert l1.expect("EXITINFO2", field["exitinfo2"], GPA + OFFSET)


FIELDS = {"exitcode": 0x70, "exitinfo1": 0x78, "exitinfo2": 0x80, "rip": 0x578, "rax": 0x5F8}
