"""INVLPGA: L1 drops one translation of another ASID.

The page at rAX goes from the ASID in ECX, whether it is global or not (APM2 15.16.2; vol 3 INVLPGA). ECX=0 is L1's
own. An L0 may drop more; one that drops less, or in the wrong ASID, or by all of RAX where the address size says EAX,
leaves L2 with what L1 has taken away.
"""

import pytest

from harness import VMEXIT, clause
from harness.scenario import steps
from suites.lib.tlb_maps import (
    AT_HERE,
    AT_THERE,
    FAR,
    GLOBAL,
    HERE,
    LARGE,
    OFFSET,
    THERE,
    FarPage,
    far_guest,
    read_byte,
)

TWICE = "mov al, [rbx]\nvmmcall\nnext: mov al, [rbx]\ndone: vmmcall"
FORMS = {
    "plain": ("invlpga", FAR + OFFSET),
    "page_start": ("invlpga", FAR),
    "addr32": (".byte 0x67, 0x0F, 0x01, 0xDF", 0x1234_5678_0000_0000 | FAR + OFFSET),
}


def dropped(l1, form, *, flags=0, np=False, asid=1, upper=0):
    """L2 reads, L1 turns L2's entry and has the translation dropped, L2 reads again without a flush."""
    guest, far = far_guest(l1, TWICE, flags=flags, np=np)
    guest.vmcb["asid"] = asid
    assert guest.run().matches(code=VMEXIT.VMMCALL)
    far.turn(l1)
    insn, address = FORMS[form]
    assert l1.code(insn, {"rax": address, "rcx": upper << 32 | asid}).returned
    guest.vmcb.update({"rip": guest["next"], "tlb_control": 0})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte that L2 reads after INVLPGA", read_byte(exit), AT_THERE, width_bytes=1)


@clause("core.tlb.invlpga")
@pytest.mark.parametrize(
    ("flags", "np"),
    [(0, False), (GLOBAL, False), (GLOBAL, True)],
    ids=["plain-np_off", "global-np_off", "global-np_on"],
)
@pytest.mark.parametrize("form", FORMS)
def test_translation_of_a_guest(l1, form, flags, np):
    """With nested paging it is L2's own entry that changes, not the nested one."""
    if np:
        l1.need("NP")
    dropped(l1, form, flags=flags, np=np)


@clause("core.tlb.invlpga")
def test_last_asid(l1):
    dropped(l1, "plain", asid=l1.cpuid.nasid - 1)


@clause("core.tlb.invlpga")
def test_upper_half_of_rcx_is_ignored(l1):
    """The ASID is in ECX."""
    dropped(l1, "plain", upper=0xDEAD_BEEF)


IN_HOST = """
    mov r9, cr3
    mov r12, cr4
    mov rdx, r12
    or rdx, r13
    mov cr4, rdx
    mov cr3, r8
    movzx r10d, byte ptr [rbx]
    mov dword ptr [rdi], esi
    mov rax, rbx
    invlpga
    movzx r11d, byte ptr [rbx]
    mov cr3, r9
    mov cr4, r12
"""


@clause("core.tlb.invlpga_host")
@pytest.mark.parametrize("flags", [0, GLOBAL], ids=["plain", "global"])
def test_translation_of_l1(l1, flags):
    """L1 goes to tables of its own, reads, turns its entry, and reads again."""
    far = FarPage(l1, flags=flags)
    l1.steps([steps.tables(far.base, far.kind)])
    far.turn(l1, HERE)
    l1.write(HERE + OFFSET, bytes([AT_HERE]))
    l1.write(THERE + OFFSET, bytes([AT_THERE]))
    registers = {"rbx": FAR + OFFSET, "rcx": 0, "rdi": far.entry, "rsi": THERE | LARGE | flags, "r8": far.base}

    result = l1.code(IN_HOST, registers | {"r13": 0x80 if flags else 0, "r10": 0, "r11": 0})

    assert result.returned
    assert l1.expect("the byte before", result.reg("r10"), AT_HERE)
    assert l1.expect("the byte after INVLPGA", result.reg("r11"), AT_THERE)


@clause("core.tlb.invlpga_odd_operands")
@pytest.mark.parametrize(
    ("address", "asid"),
    [(FAR, 0xFFFF_FFFF), (FAR, 0x8000_0000), (1 << 47, 1), (0x8000_0000_0000_0000, 1), (1 << 47, 0)],
    ids=["asid_all_ones", "asid_bit31", "noncanonical", "noncanonical_bit63", "noncanonical_host"],
)
def test_odd_operands_are_survived(l1, address, asid):
    result = l1.code("insn: invlpga", {"rax": address, "rcx": asid})

    assert result.returned or result.faults("#GP", 0, at="insn")
