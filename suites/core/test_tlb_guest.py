"""L2 flushes its own translations.

Where L1 does not intercept them MOV CR3, CR4.PGE, CR0.PG and INVLPG work in L2 as on a machine of its own
(APM2 15.16.1, 5.5.3). An L0 with shadow tables for L2, or one that hands the flush to the wrong ASID, leaves L2 with a
translation that L2 has replaced.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.event_tables import with_handlers
from suites.lib.tlb_maps import AT_HERE, AT_THERE, FAR, GLOBAL, HERE, LARGE, OFFSET, far_guest

FLUSHES = {
    "mov_cr3": "mov {a}ax, cr3\nmov cr3, {a}ax",
    "invlpg": "invlpg [{a}bx]",
    "invlpg_elsewhere_in_the_page": "invlpg [{a}bx + 0x8000]",
    "pge_set": "mov {a}ax, cr4\nxor {a}ax, 0x80\nmov cr4, {a}ax",
    "pge_twice": "mov {a}ax, cr4\nxor {a}ax, 0x80\nmov cr4, {a}ax\nxor {a}ax, 0x80\nmov cr4, {a}ax",
    "pg_twice": "mov {a}ax, cr0\nbtr {a}ax, 31\nmov cr0, {a}ax\nbts {a}ax, 31\nmov cr0, {a}ax",
}
# Paging stays on in long mode, so CR0.PG is for the others.
PLAIN = [
    *(("long64", flush) for flush in FLUSHES if flush != "pg_twice"),
    *((mode, flush) for mode in ("pae32", "paged32") for flush in ("mov_cr3", "invlpg", "pg_twice")),
]
# What drops global translations too.
ALL = [
    ("long64", "invlpg"),
    ("long64", "pge_set"),
    ("long64", "pge_twice"),
    ("pae32", "pge_twice"),
    ("paged32", "invlpg"),
]


def flushed(l1, mode, flush, np, flags=0):
    if np:
        l1.need("NP")
    a = "r" if mode == "long64" else "e"
    code = f"mov dl, [{{a}}bx]\nmov dword ptr [{{a}}di], esi\n{FLUSHES[flush]}\nmov dh, [{{a}}bx]\ndone: vmmcall"
    guest, _ = far_guest(l1, code.format(a=a), mode, flags=flags, np=np)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    got = exit.regs["rdx"] & 0xFFFF
    assert l1.expect("the bytes before (low) and after (high) the flush", got, AT_THERE << 8 | AT_HERE, width_bytes=2)


@clause("core.tlb.guest_flush")
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
@pytest.mark.parametrize(("mode", "flush"), PLAIN, ids=lambda name: name)
def test_flush_of_a_page(l1, mode, flush, np):
    """L2 reads, turns its entry elsewhere, flushes, and reads again."""
    flushed(l1, mode, flush, np)


@clause("core.tlb.guest_flush")
@pytest.mark.parametrize(("mode", "flush"), ALL, ids=lambda name: name)
def test_flush_of_a_global_page(l1, mode, flush):
    """By what drops global translations."""
    flushed(l1, mode, flush, False, GLOBAL)


CODE64, DATA32 = 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
WITH_HANDLER = """
    mov al, [r8]
    {insn}
done: vmmcall
handler:
    inc ecx
    or dword ptr [rdi], edx
    add rsp, 8
    iretq
"""


@clause("core.tlb.permission_added")
@pytest.mark.parametrize("np", [False, True], ids=["np_off", "np_on"])
@pytest.mark.parametrize(
    ("before", "insn", "added"),
    [(LARGE & ~1, "mov al, [rbx]", 1), (LARGE & ~2, "mov al, [rbx]\nmov byte ptr [rbx], 0x77", 2)],
    ids=["present", "writable"],
)
def test_retry_after_the_fault(l1, before, insn, added, np):
    """L2's own handler adds the permission and returns; the instruction comes through at the second try."""
    if np:
        l1.need("NP")
    guest, far = far_guest(l1, WITH_HANDLER.format(insn=insn), np=np, no_intercept=["#PF"])
    guest.write(far.entry, far.value(HERE, before))
    _, gdt = with_handlers(l1, guest, guest["handler"], vectors=32)
    guest.vmcb["cr0"] |= 1 << 16
    guest.regs.update({"rcx": 0, "rdx": added, "r8": gdt})

    exit = guest.run(read={"byte": (HERE + OFFSET, 1)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"], cr2=FAR + OFFSET)
    assert l1.expect("page faults that L2 took", exit.regs["rcx"], 1)
    assert l1.expect("the byte", exit.memory["byte"][0], 0x77 if added == 2 else AT_HERE, width_bytes=1)
