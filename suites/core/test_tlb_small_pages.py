"""One 4 KiB page, and no other, loses its translation.

INVLPG and INVLPGA drop the page that holds the address (APM2 15.16.2, 5.5.3). With large pages an L0 that takes another
address may still drop the right one: here the page is small, and what lies next to it has an entry of its own.
"""

import struct

from harness import clause
from harness.svm.paging import P, U, W
from suites.lib.tlb_maps import AT_HERE, AT_THERE, FAR, HERE, OFFSET, THERE, far_guest, read_byte

TWICE = "mov al, [rbx]\nvmmcall\nnext: mov al, [rbx]\nend: vmmcall"
BY_ITSELF = "mov al, [rbx]\nmov cl, al\nmov [rdi], esi\ninvlpg [rbx]\nmov al, [rbx]\nmov ah, cl\nend: vmmcall"
SMALL = P | W | U
PAGE = OFFSET & ~0xFFF


def small_page_guest(l1, code):
    """L2 with a table of 4 KiB pages at FAR; the guest, and where the entry of BX's page lies."""
    guest, far = far_guest(l1, code)
    table = l1.scratch(1)
    entries = [struct.pack("<Q", HERE + number * 0x1000 | SMALL) for number in range(512)]
    guest.write(table, b"".join(entries))
    guest.write(far.entry, struct.pack("<Q", table | SMALL))
    entry = table + (FAR + OFFSET >> 12 & 511) * 8
    guest.regs.update({"rdi": entry, "rsi": THERE + PAGE | SMALL})
    return guest, entry


@clause("core.tlb.invlpga")
def test_invlpga(l1):
    """L2 reads, L1 turns the entry and drops the page from L2's ASID, L2 reads again."""
    guest, entry = small_page_guest(l1, TWICE)
    assert l1.expect("the byte that L2 reads first", read_byte(guest.run()), AT_HERE, width_bytes=1)
    l1.write(entry, struct.pack("<Q", THERE + PAGE | SMALL))
    assert l1.code("invlpga", {"rax": FAR + OFFSET, "rcx": guest.vmcb["asid"]}).returned

    exit = guest.resume("next", tlb_control=0)

    assert exit.reached("end")
    assert l1.expect("the byte that L2 reads after INVLPGA", read_byte(exit), AT_THERE, width_bytes=1)


@clause("core.tlb.guest_flush")
def test_invlpg(l1):
    """L2 turns the entry itself."""
    guest, _ = small_page_guest(l1, BY_ITSELF)

    exit = guest.run()

    assert exit.reached("end")
    seen = exit.regs["rax"] & 0xFFFF
    assert l1.expect("the bytes after (low) and before (high)", seen, AT_HERE << 8 | AT_THERE)
