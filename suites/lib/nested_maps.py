"""Page tables that a test takes apart entry by entry: nested ones, and L2's own.

`Map` is an identity map of the first 32 MiB by 4 KiB pages (and of the rest of the first 4 GiB by 2 MiB pages).
`Chain` is the walk for one far address, which no code or table lies near: a private table at each level below the top.
"""

import struct

from harness.scenario.steps import TABLE_SIZES, TableKind
from harness.svm.paging import NX, PAGE_1G, PAGE_2M, PAGE_4K, PS, A, D, G, P, U, W

OPEN = P | W | U
SIZES = {"4k": PAGE_4K, "2m": PAGE_2M, "1g": PAGE_1G}
LEVEL = {"4k": 1, "2m": 2, "1g": 3}
PAGES = TABLE_SIZES[TableKind.LONG_4K] // 4096

FAR_GPA = 0x80_4000_0000  # 1 GiB aligned, within 40 bits, and no index of its walk is 0
FAR_LINEAR = 0x100_C000_0000

# What an access does to the page at BX, EBX or RBX, by name. A fetch ends at the VMMCALL that the page holds.
BASE_REGISTER = {"long64": "rbx", "compat32": "ebx", "pae32": "ebx", "paged32": "ebx", "prot32": "ebx", "real16": "bx"}
VMMCALL_BYTES = b"\x0f\x01\xd9"


def access_code(access, mode="long64"):
    """The access at `probe`, and `done` behind it."""
    base = BASE_REGISTER[mode]
    insn = {
        "read": f"mov al, [{base}]",
        "write": f"mov byte ptr [{base}], 0x77",
        "rmw": f"inc byte ptr [{base}]",
        "locked": f"lock inc byte ptr [{base}]",
        "fetch": f"jmp {base}",
    }[access]
    return f"probe: {insn}\ndone: vmmcall"


def entry_bytes(value):
    """An entry as it lies in memory."""
    return struct.pack("<Q", value)


class Map:
    """The map at `base`, made before the guest's first run. `entry` says where an entry lies: level 1 is the page's."""

    def __init__(self, guest, base):
        self.guest, self.base = guest, base
        guest.tables(base, TableKind.LONG_4K)

    def entry(self, address, level=1):
        """Where the entry for this address lies."""
        table = {4: 0, 3: 0x1000, 2: 0x2000, 1: 0x6000}[level]
        return self.base + table + (address >> 9 * level & ~7)

    def set(self, address, value, level=1):
        """Has the entry written before the first run."""
        self.guest.write(self.entry(address, level), entry_bytes(value))


class Chain:
    """The tables for one address below a top table; `target` is mapped by a page of `size`."""

    def __init__(self, l1, guest, root, address, target, *, size="4k", flags=OPEN, table_flags=OPEN):
        self.guest, self.address = guest, address
        self.tables = {4: root}
        self.leaf = LEVEL[size]
        for level in range(3, self.leaf - 1, -1):
            self.tables[level] = l1.scratch(1)
            self.set(level + 1, self.tables[level] | table_flags)
        large = PS if self.leaf > 1 else 0
        self.leaf_value = target & ~(SIZES[size] - 1) | flags | large
        self.set(self.leaf, self.leaf_value)

    def entry(self, level):
        """Where this level's entry lies."""
        return self.tables[level] + (self.address >> 9 * level & 0xFF8)

    def set(self, level, value):
        """Has the entry written before the first run."""
        self.guest.write(self.entry(level), entry_bytes(value))

    def value(self, level, flags=OPEN):
        """The entry of this level as it was made, with other flags."""
        if level == self.leaf:
            return self.leaf_value & ~(OPEN | NX) | flags
        return self.tables[level - 1] | flags


def nested_guest(l1, code, **options):
    """A guest under a nested 4 KiB map of its own. All TLB entries are flushed before it runs."""
    guest = l1.guest(code, np=True, **options)
    nested = Map(guest, l1.scratch(PAGES))
    guest.vmcb.update({"n_cr3": nested.base, "tlb_control": 1})
    return guest, nested


def share_tables(l1, guest):
    """One set of tables, this guest's own, for N_CR3 and for the CR3 of a long-mode L2.

    Not those of everybody: an L0 may watch pages that were nested tables for long after.
    """
    shared = Map(guest, l1.scratch(PAGES))
    guest.vmcb.update({"n_cr3": shared.base, "cr3": shared.base, "tlb_control": 1})
    return shared


def own_tables(l1, guest):
    """A guest map of its own for a long-mode L2."""
    own = Map(guest, l1.scratch(PAGES))
    guest.vmcb["cr3"] = own.base
    return own


def far_guest(l1, access, *, nested_size="4k", guest_size="4k", **options):
    """L2 accesses FAR_LINEAR + page, which its tables map to FAR_GPA + page, which the nested ones map to `page`.

    Gives the guest, its chain, the nested chain, the nested map and the page.
    """
    page = l1.scratch(1)
    at = FAR_LINEAR + page
    guest, nested = nested_guest(l1, access_code(access), regs={"rbx": at}, **options)
    own = own_tables(l1, guest)
    walk = Chain(l1, guest, own.base, at, FAR_GPA + page, size=guest_size)
    nested_walk = Chain(l1, guest, nested.base, FAR_GPA + page, page, size=nested_size)
    guest.write(page, VMMCALL_BYTES)
    return guest, walk, nested_walk, nested, page


__all__ = [
    "LEVEL", "NX", "OPEN", "PAGES", "PS", "SIZES", "A", "Chain", "D", "G", "Map", "P", "U", "W", "access_code",
    "entry_bytes", "far_guest", "nested_guest", "own_tables",
]  # fmt: skip
