"""CVE-2026-46032 and CVE-2024-50115: an L1 in legacy PAE mode.

There CR3 alone is not all that #VMEXIT has to load for L1: the four page-directory pointers are read again from memory
(APM2 15.6), and an illegal one is an illegal host state, for which the processor shuts down.

CVE-2026-46032: KVM from 5.9 to 7.0.3 (6.1.192 has it mended, by its source) gave up loading L1's CR3 there, ignored its
own error, and let L1 run on half restored: CR3 as KVM knows it was L2's, and an exception that was L2's stayed pending.

CVE-2024-50115: KVM (to 6.1.114, 6.6.58, 6.11.5) added bits 4:0 of N_CR3 to the address of the four pointers of the
nested tables, where hardware ignores these bits (APM2 5.2.3, 15.25.3), so that L2 ran with other pointers, read beyond
the page. With four-level tables core.checks.np_ncr3_low_bits asks.
"""

import pytest

from harness import VMEXIT, TargetLost, cases, clause
from harness.scenario.steps import TABLE_SIZES, TableKind, tables
from suites.lib.legacy_host import paged
from suites.lib.nested_maps import OPEN, PS

PAE = 1 << 5
GPA, TARGET, OFFSET = 0x140_0000, 0x100_0000, 0x1_2345  # 2 MiB blocks of the arena
ALL = (1 << 64) - 1


def _placed(l1, guest, **fields):
    """The guest's code and VMCB in memory; the VMCB with these fields."""
    ran = guest.run()
    assert ran.ran
    image = ran.before.copy()
    image.update(fields)
    l1.write(guest.vmcb_pa, bytes(image.data))


def _pointers(own, third):
    """L1 code that writes all four pointers; nothing that L1 uses lies in the third one's gigabyte.

    All four, as a CPU may have set accessed bits in them that are not its to set (QEMU does).
    """
    values = [own + 0x1000 * (n + 1) | 1 for n in range(4)]
    values[2] |= third
    words = [word for value in values for word in (value & 0xFFFF_FFFF, value >> 32)]
    return "".join(f"mov dword ptr [{own + 4 * n:#x}], {word:#x}\n" for n, word in enumerate(words))


def _run(l1, guest, own, third):
    """VMRUN with that third pointer: L1's registers behind it, with CR3 in RDI."""
    code = paged(before_vmrun=_pointers(own, third), after_vmrun="mov edi, cr3")
    return l1.code(code, {"rbx": guest.vmcb_pa, "r8": own, "r9": ALL, "r10": PAE})


def _pae_tables(l1):
    pages = l1.scratch(TABLE_SIZES[TableKind.PAE] // 4096)
    l1.steps([tables(pages, TableKind.PAE)])
    return pages


@clause("advisories.pae_host.pointers_at_the_exit")
@cases("third", {"as_before": 0, "bits_for_software": 0xE00})
def test_legal_pointer_written_before_vmrun(l1, third):
    """The legal neighbour: L1 goes on with its CR3, not with L2's, which is one as good."""
    own, other = _pae_tables(l1), _pae_tables(l1)
    guest = l1.guest("end: vmmcall", mode="prot32")
    _placed(l1, guest, cr3=other)

    result = _run(l1, guest, own, third)

    assert result.returned
    assert l1.expect("the vector that L1 took", result.reg("rbp"), 0xFFFF_FFFF, width_bytes=4)
    assert l1.expect("CR3 after #VMEXIT", result.reg("rdi"), own, width_bytes=4)


@clause("advisories.pae_host.pointers_at_the_exit")
@pytest.mark.dangerous
@cases("third", {"bits_2_and_1": 6, "bit_63": 1 << 63})
def test_illegal_pointer_shuts_l1_down(l1, third):
    """L2 is one VMMCALL; the third pointer is illegal before VMRUN. Then the machine can be started again."""
    own, other = _pae_tables(l1), _pae_tables(l1)
    guest = l1.guest("end: vmmcall", mode="prot32")
    _placed(l1, guest, cr3=other)
    went_on, cr3 = True, own
    try:
        cr3 = _run(l1, guest, own, third).reg("rdi")
    except TargetLost as lost:
        if lost.verdict == "MISS":
            raise
        went_on = False

    if went_on:
        assert l1.expect("L1's CR3 after #VMEXIT", cr3, own, width_bytes=4)
    assert l1.expect("L1 went on after #VMEXIT", went_on, False)
    assert l1.expect("RAX of L1's code afterwards", l1.code("mov eax, 0x600d").reg("rax"), 0x600D)


@clause("advisories.pae_host.nested_pointers")
@cases("low", [0x01, 0x08, 0x10, 0x1F])
def test_low_bits_of_n_cr3(l1, low):
    """L2, unpaged, reads an address that the nested tables lead elsewhere."""
    guest = l1.guest(f"mov ebx, {GPA + OFFSET}\nmov al, [ebx]\ndone: vmmcall", mode="prot32")
    own, nested = _pae_tables(l1), _pae_tables(l1)
    _placed(l1, guest, np_enable=1, n_cr3=nested | low, tlb_control=1)
    l1.write(nested + 0x1000 + (GPA >> 21) * 8, (TARGET | OPEN | PS).to_bytes(8, "little"))
    l1.write(TARGET + OFFSET, b"\xc3")
    l1.write(GPA + OFFSET, b"\x3c")

    result = _run(l1, guest, own, 0)
    code, rip, rax = (int.from_bytes(l1.read(guest.vmcb_pa + at, 8), "little") for at in (0x70, 0x578, 0x5F8))

    assert result.returned
    assert l1.expect("the vector that L1 took", result.reg("rbp"), 0xFFFF_FFFF, width_bytes=4)
    assert l1.expect("EXITCODE", code, VMEXIT.VMMCALL)
    assert l1.expect("RIP", rip, guest["done"])
    assert l1.expect("the byte that L2 reads", rax & 0xFF, 0xC3, width_bytes=1)
