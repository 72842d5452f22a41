"""Nested tables of five levels.

An L1 with CR4.LA57 has nested tables of five levels: N_CR3 names a fifth-level table (APM2 15.25.3). Whether L2 has
five levels itself is another matter. An L0 that walks four takes the entry for a table of the next level down, and L2
lands in pages that L1 never named.
"""

from harness import VMEXIT, clause
from harness.svm import npf_info
from harness.svm.paging import LONG5, PAGE_2M, Tables
from suites.lib.legacy_host import down_and_up

LOW_BYTES = 0x200_0000
GPA, TARGET, OFFSET = 0x140_0000, 0x100_0000, 0x1_2345  # blocks of the arena that no one else uses

# Long mode with CR3=R8 and CR4.LA57, and there VMRUN of the VMCB at EBX. ESI is CR4 right after #VMEXIT.
VMRUN_LA57 = down_and_up(
    before="""
    mov [rip + new_cr3], r8
    mov rax, cr3
    mov [rip + saved_cr3], rax
    mov rax, cr4
    mov [rip + saved_cr4], rax
    """,
    inside="""
    mov eax, cr4
    or eax, 0x1000
    mov cr4, eax
    mov eax, [new_cr3]
    mov cr3, eax
    mov esi, 0
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    jmp paged
paged:
    mov eax, ebx
    vmrun
    mov esi, cr4
    """,
    after="""
    mov eax, [saved_cr4]
    mov cr4, eax
    mov eax, [saved_cr3]
    mov cr3, eax
    """,
    data="saved_cr3: .quad 0\nsaved_cr4: .quad 0\nnew_cr3: .quad 0",
)
FIELDS = {"exitcode": 0x70, "exitinfo1": 0x78, "exitinfo2": 0x80, "rip": 0x578, "rax": 0x5F8}


def _tables(l1, *, target=None):
    """An identity map of the low memory, in which GPA may lead to another page, or with 0 to none."""
    base = l1.scratch(8)
    tables = Tables(LONG5, base, base + 0x8000)
    tables.identity(LOW_BYTES, page=PAGE_2M)
    if target:
        tables.map(GPA, target, PAGE_2M)
    elif target is not None:
        tables.unmap(GPA, PAGE_2M)
    for address, data in tables.pages().items():
        l1.write(address, data)
    return base


def _run(l1, target):
    guest = l1.guest(f"mov ebx, {GPA + OFFSET}\nprobe: mov al, [rbx]\ndone: vmmcall")
    placed = guest.run()
    assert placed.ran
    image = placed.before.copy()
    image.update({"np_enable": 1, "n_cr3": _tables(l1, target=target), "tlb_control": 1})
    l1.write(guest.vmcb_pa, bytes(image.data))
    l1.write(TARGET + OFFSET, b"\xc3")
    l1.write(GPA + OFFSET, b"\x3c")
    result = l1.code(VMRUN_LA57, {"rbx": guest.vmcb_pa, "r8": _tables(l1)})
    assert result.returned
    assert l1.expect("the vector that VMRUN raised in L1", result.reg("rbp"), 0xFFFF_FFFF, width_bytes=4)
    assert l1.expect("CR4.LA57 after #VMEXIT", result.reg("rsi") >> 12 & 1, 1)
    return guest, {name: int.from_bytes(l1.read(guest.vmcb_pa + at, 8), "little") for name, at in FIELDS.items()}


@clause("np.modes.five_levels")
def test_page_that_is_mapped(l1):
    """L2, with four levels of its own, reads an address that the nested tables lead elsewhere."""
    guest, field = _run(l1, TARGET)

    assert l1.expect("EXITCODE", field["exitcode"], VMEXIT.VMMCALL)
    assert l1.expect("RIP", field["rip"], guest["done"])
    assert l1.expect("the byte that L2 reads", field["rax"] & 0xFF, 0xC3, width_bytes=1)


@clause("np.modes.five_levels")
def test_page_that_is_not_mapped(l1):
    guest, field = _run(l1, 0)

    assert l1.expect("EXITCODE", field["exitcode"], VMEXIT.NPF)
    assert l1.expect("RIP", field["rip"], guest["probe"])
    assert l1.expect("EXITINFO1", field["exitinfo1"], npf_info(present=False, write=False))
    assert l1.expect("EXITINFO2", field["exitinfo2"], GPA + OFFSET)
