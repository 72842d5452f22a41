"""The page directory pointers of an L1 in legacy PAE mode.

#VMEXIT reloads CR3, and with legacy PAE the processor reads the four pointers anew; where one of them is illegal it
shuts down (APM2 15.6). An L0 that gives up half-way instead, and lets L1 run on with what it had restored by then, has
an L1 whose CR3, GIF and VMCB do not belong together (the class of CVE-2026-46032); one that reads nothing, or keeps
the pointers of L2, sends L1 to pages that it never named.
"""

import pytest

from harness import VMEXIT, TargetLost, cases, clause
from harness.scenario.steps import TABLE_SIZES, TableKind, tables
from suites.lib.legacy_host import down_and_up

# Legacy PAE with CR3=R8, in which L1 writes R9 to its third pointer, and there VMRUN of the VMCB at EBX.
VMRUN_PAE = down_and_up(
    before="""
    mov [rip + new_cr3], r8
    mov [rip + pointer], r9
    mov rax, cr3
    mov [rip + saved_cr3], rax
    """,
    inside="""
    mov ecx, 0xC0000080
    rdmsr
    and eax, 0xFFFFFEFF
    wrmsr
    mov eax, [new_cr3]
    mov cr3, eax
    mov edi, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    jmp paged
paged:
    mov eax, [pointer]
    mov [edi + 16], eax
    mov eax, [pointer + 4]
    mov [edi + 20], eax
    mov eax, ebx
    vmrun
    mov esi, 0x600d
    """,
    after="""
    mov eax, [saved_cr3]
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 0x100
    wrmsr
    """,
    data="saved_cr3: .quad 0\nnew_cr3: .quad 0\npointer: .quad 0",
)
P = 1


def _run(l1, pointer):
    guest = l1.guest("nop\nend: vmmcall", mode="prot32")
    own = l1.scratch(TABLE_SIZES[TableKind.PAE] // 4096)
    l1.steps([tables(own, TableKind.PAE)])
    third = int.from_bytes(l1.read(own + 16, 8), "little")
    value = pointer if pointer >> 12 or pointer == 0 else third | pointer
    return guest, guest.run_in(VMRUN_PAE, {"rbx": guest.vmcb_pa, "r8": own, "r9": value}, deadline_s=2.0)


@clause("core.exit.host_pdptes_legal")
@cases("pointer", {"as_it_was": P, "absent": 0, "ignored_bits": 7 << 9 | P, "cache_bits": 3 << 3 | P})
def test_legal_pointers(l1, pointer):
    """PWT, PCD and the bits for software are no reason, and a pointer that is absent has no reserved bits."""
    _, exit = _run(l1, pointer)

    assert exit.l1.returned
    assert exit.reached("end")
    assert l1.expect("L1 went on behind VMRUN", exit.l1.reg("rsi") & 0xFFFF_FFFF, 0x600D, width_bytes=4)


@clause("core.exit.host_pdptes")
@pytest.mark.dangerous
@pytest.mark.fresh_boot
@pytest.mark.dirties("L1 was shut down by illegal page directory pointers")
@cases("pointer", {"w_u": 7, "reserved_8": 1 << 8 | P, "reserved_63": 1 << 63 | P | 1 << 12})
def test_illegal_pointer_shuts_l1_down(l1, pointer):
    """The machine is gone, so no answer comes; and then it can be started again."""
    went_on = False
    try:
        _run(l1, pointer)
        went_on = True
    except TargetLost as lost:
        if lost.verdict == "MISS":
            raise

    assert l1.expect("L1 went on", went_on, False)
    assert l1.expect("RAX of L1's code afterwards", l1.code("mov eax, 0x600d").reg("rax"), 0x600D)


@clause("core.exit.host_pdptes_legal")
def test_l2_with_pointers_of_its_own(l1):
    """L2 runs in legacy PAE mode too; after the exit L1 has its own pointers again, all four."""
    guest = l1.guest("nop\nend: vmmcall", mode="pae32")
    own = l1.scratch(TABLE_SIZES[TableKind.PAE] // 4096)
    l1.steps([tables(own, TableKind.PAE)])
    third = int.from_bytes(l1.read(own + 16, 8), "little")

    exit = guest.run_in(VMRUN_PAE, {"rbx": guest.vmcb_pa, "r8": own, "r9": third})

    assert exit.l1.returned
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
