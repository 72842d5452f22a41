"""L2's own page tables, with one large page that a test turns elsewhere.

Every paged mode has one: 2 MiB pages, 4 MiB in two-level tables. The page at FAR leads to HERE, and may be turned to
THERE; both hold a byte of their own. The rest of the first 4 GiB maps to itself.
"""

import struct

from harness.scenario.steps import TABLE_SIZES, TableKind
from harness.svm.paging import PS, G, P, U, W

KINDS = {"long64": TableKind.LONG, "compat32": TableKind.LONG, "pae32": TableKind.PAE, "paged32": TableKind.LEGACY}
FAR = 0xC000_0000
HERE, THERE = 0x100_0000, 0x140_0000  # 4 MiB blocks of the arena that no one else uses
AT_HERE, AT_THERE = 0x3C, 0xC3
OFFSET = 0x1_2345
LARGE = P | W | U | PS
GLOBAL = G


class FarPage:
    """Tables at fresh pages; `entry` is where the entry for FAR lies."""

    def __init__(self, l1, mode="long64", flags=0):
        self.kind = KINDS[mode]
        self.flags = flags
        self.base = l1.scratch(TABLE_SIZES[self.kind] // 4096)
        self.entry = {
            TableKind.LONG: self.base + 0x2000 + (FAR >> 21) * 8,
            TableKind.PAE: self.base + 0x1000 + (FAR >> 21) * 8,
            TableKind.LEGACY: self.base + (FAR >> 22) * 4,
        }[self.kind]

    def place(self, guest, *, target=HERE):
        """Has the tables, the entry and both bytes written before the first run."""
        guest.tables(self.base, self.kind)
        guest.write(self.entry, self.value(target))
        guest.write(HERE + OFFSET, bytes([AT_HERE]))
        guest.write(THERE + OFFSET, bytes([AT_THERE]))

    def value(self, target, flags=LARGE):
        """The entry's bytes."""
        return struct.pack("<I" if self.kind is TableKind.LEGACY else "<Q", target | flags | self.flags)

    def turn(self, l1, target=THERE, flags=LARGE):
        """L1 writes the entry."""
        l1.write(self.entry, self.value(target, flags))


def far_guest(l1, code, mode="long64", *, flags=0, **options):
    """A guest with a FarPage; BX points to the byte in it. All TLB entries are flushed before its first run."""
    far = FarPage(l1, mode, flags)
    regs = {"rbx": FAR + OFFSET, "rdi": far.entry, "rsi": THERE | LARGE | flags}
    guest = l1.guest(code, mode=mode, regs=regs, **options)
    far.place(guest)
    guest.vmcb.update({"cr3": far.base, "tlb_control": 1})
    if flags & GLOBAL:
        guest.vmcb["cr4"] |= 1 << 7
    return guest, far


def read_byte(exit):
    """What L2 has read into AL."""
    return exit.regs["rax"] & 0xFF
