"""Builders of page tables, as data: {physical address: bytes}. Guest tables and nested ones are made alike.

A builder takes table pages one after the other from `base`; it never looks at memory. All addresses are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

P, W, U, PWT, PCD, A, D, PS, G = (1 << n for n in range(9))
PAT_4K = 1 << 7
PAT_LARGE = 1 << 12
NX = 1 << 63

PAGE_4K, PAGE_2M, PAGE_4M, PAGE_1G = 1 << 12, 1 << 21, 1 << 22, 1 << 30

DEFAULT_FLAGS = P | W | U
_TABLE_PAGES_MAX = 4096  # 16 MiB of tables: more than any scenario may send, so a loop that runs away stops here


@dataclass(frozen=True)
class Shape:
    """A paging mode: for each level, top first, the lowest linear address bit it decodes and how many bits."""

    name: str
    levels: tuple[tuple[int, int], ...]
    entry_bytes: int
    large: frozenset[int]  # shifts at which an entry may map a page itself
    address_mask: int

    @property
    def linear_bits(self) -> int:
        """Width of the addresses it translates."""
        shift, bits = self.levels[0]
        return shift + bits


_LONG_ADDRESS = 0x000F_FFFF_FFFF_F000
LONG4 = Shape("long mode", ((39, 9), (30, 9), (21, 9), (12, 9)), 8, frozenset({30, 21, 12}), _LONG_ADDRESS)
LONG5 = Shape("long mode, 5 levels", ((48, 9), *LONG4.levels), 8, LONG4.large, _LONG_ADDRESS)
PAE = Shape("legacy PAE", ((30, 2), (21, 9), (12, 9)), 8, frozenset({21, 12}), _LONG_ADDRESS)
LEGACY = Shape("legacy 32-bit", ((22, 10), (12, 10)), 4, frozenset({22, 12}), 0xFFFF_F000)


class Tables:
    """Page tables under construction.

    `base` is the first table page (4 KiB aligned) and what CR3 or N_CR3 gets; `limit`, if given, is one past the last
    byte that tables may take. `table_flags` are put into entries that point to tables (PAE's top level: P alone).
    """

    def __init__(self, shape: Shape, base: int, limit: int | None = None, table_flags: int = DEFAULT_FLAGS) -> None:
        if base % PAGE_4K:
            raise ValueError(f"tables begin at a 4 KiB boundary, not at {base:#x}")
        self.shape = shape
        self.base = base
        self.table_flags = table_flags
        self._limit = base + _TABLE_PAGES_MAX * PAGE_4K if limit is None else limit
        self._tables: dict[int, bytearray] = {}
        self._end = base
        self._new_table()

    @property
    def cr3(self) -> int:
        """Physical address of the top table."""
        return self.base

    @property
    def end(self) -> int:
        """One past the last table page in use."""
        return self._end

    def pages(self) -> dict[int, bytes]:
        """All table pages by physical address, 4096 bytes each."""
        return {address: bytes(page) for address, page in self._tables.items()}

    def image(self) -> bytes:
        """The same as one run of bytes beginning at `base`."""
        return b"".join(bytes(self._tables[address]) for address in sorted(self._tables))

    def map(self, va: int, pa: int, size: int = PAGE_4K, flags: int = DEFAULT_FLAGS, page: int | None = None) -> None:
        """Map `size` bytes at `va` to `pa` in pages of `page` bytes (None: the largest that fits, 1 GiB excepted).

        A large page in the way is split. ValueError if something is not aligned, does not fit, or has no such page.
        """
        end = va + size
        if size <= 0 or end > 1 << self.shape.linear_bits:
            raise ValueError(f"{va:#x}..{end:#x} is outside what {self.shape.name} translates")
        while va < end:
            step = page if page is not None else self._largest(va, pa, end - va)
            if va % step or pa % step or end - va < step:
                raise ValueError(f"{va:#x} -> {pa:#x}, {end - va:#x} bytes, cannot be mapped by pages of {step:#x}")
            self._map_one(va, pa, step, flags)
            va, pa = va + step, pa + step

    def identity(self, size: int, start: int = 0, flags: int = DEFAULT_FLAGS, page: int | None = None) -> None:
        """Map `size` bytes from `start` to themselves."""
        self.map(start, start, size, flags, page)

    def unmap(self, va: int, page: int = PAGE_4K) -> None:
        """Make the page at `va` not present (its entry becomes 0), splitting a larger one."""
        self._map_one(va, 0, page, 0)

    def entry_address(self, va: int, page: int = PAGE_4K) -> int:
        """Physical address of the entry that maps, or would map, a page of `page` bytes at `va`. Splits larger ones."""
        return self._slot(va, _shift_of(page))

    def leaf_address(self, va: int) -> int:
        """Physical address of the entry where a walk for `va` ends today: a page, or the first that is not present."""
        return self._walk(va)[-1]

    def walk_addresses(self, va: int) -> tuple[int, ...]:
        """Physical addresses of all entries a walk for `va` reads, top first."""
        return tuple(self._walk(va))

    def get_entry(self, address: int) -> int:
        """The entry at this physical address."""
        page, at = self._locate(address)
        return int.from_bytes(page[at : at + self.shape.entry_bytes], "little")

    def set_entry(self, address: int, value: int) -> None:
        """Put any value into the entry at this physical address, legal or not. ValueError if it does not fit."""
        page, at = self._locate(address)
        if not 0 <= value < 1 << 8 * self.shape.entry_bytes:
            raise ValueError(f"{value:#x} does not fit an entry of {self.shape.entry_bytes} bytes")
        page[at : at + self.shape.entry_bytes] = value.to_bytes(self.shape.entry_bytes, "little")

    def change_leaf(self, va: int, *, set_bits: int = 0, clear_bits: int = 0) -> int:
        """Change flags of the entry that maps `va`; gives its physical address."""
        address = self.leaf_address(va)
        self.set_entry(address, self.get_entry(address) & ~clear_bits | set_bits)
        return address

    # --- inside

    def _new_table(self) -> int:
        if self._end + PAGE_4K > self._limit:
            raise ValueError(f"tables from {self.base:#x} do not fit below {self._limit:#x}")
        address = self._end
        self._tables[address] = bytearray(PAGE_4K)
        self._end += PAGE_4K
        return address

    def _locate(self, address: int) -> tuple[bytearray, int]:
        page = self._tables.get(address & ~(PAGE_4K - 1))
        if page is None or address % self.shape.entry_bytes:
            raise ValueError(f"{address:#x} is no entry of these tables")
        return page, address % PAGE_4K

    def _entry_of(self, table: int, va: int, level: tuple[int, int]) -> int:
        shift, bits = level
        return table + (va >> shift & (1 << bits) - 1) * self.shape.entry_bytes

    def _walk(self, va: int) -> list[int]:
        table = self.base
        seen: list[int] = []
        for level in self.shape.levels:
            address = self._entry_of(table, va, level)
            seen.append(address)
            entry = self.get_entry(address)
            table = entry & self.shape.address_mask
            if not entry & P or level[0] == 12 or self._is_page(entry, level[0]) or table not in self._tables:
                break
        return seen

    def _is_page(self, entry: int, shift: int) -> bool:
        return shift in self.shape.large and (shift == 12 or bool(entry & PS))

    def _largest(self, va: int, pa: int, left: int) -> int:
        for shift in sorted(self.shape.large - {30}, reverse=True):
            step = 1 << shift
            if va % step == 0 and pa % step == 0 and left >= step:
                return step
        return PAGE_4K

    def _map_one(self, va: int, pa: int, step: int, flags: int) -> None:
        shift = _shift_of(step)
        if shift not in self.shape.large:
            raise ValueError(f"{self.shape.name} has no pages of {step:#x} bytes")
        value = 0 if not flags and not pa else pa | flags | (PS if shift > 12 else 0)
        self.set_entry(self._slot(va, shift), value)

    def _slot(self, va: int, shift: int) -> int:
        table = self.base
        for level in self.shape.levels:
            address = self._entry_of(table, va, level)
            if level[0] == shift:
                return address
            table = self._descend(address, level[0])
        raise ValueError(f"{self.shape.name} has no level for pages of {1 << shift:#x} bytes")

    def _descend(self, address: int, shift: int) -> int:
        """The table below an entry; made if there is none, from the page's own mapping if it was a large page."""
        entry = self.get_entry(address)
        below = entry & self.shape.address_mask
        if entry & P and not self._is_page(entry, shift):
            if below not in self._tables:
                raise ValueError(f"the entry at {address:#x} points outside these tables, to {below:#x}")
            return below
        table = self._new_table()
        if entry & P:
            self._fill_from_large(table, entry, shift)
        top_of_pae = self.shape is PAE and shift == self.shape.levels[0][0]
        self.set_entry(address, table | (P if top_of_pae else self.table_flags))
        return table

    def _fill_from_large(self, table: int, entry: int, shift: int) -> None:
        next_shift, bits = next(level for level in self.shape.levels if level[0] < shift)
        flags = entry & (NX | 0xFFF) & ~PS | (PS if next_shift > 12 else 0)
        if entry & PAT_LARGE:  # the PAT bit lies elsewhere in a 4 KiB entry
            flags |= PAT_LARGE if next_shift > 12 else PAT_4K
        base = entry & self.shape.address_mask & ~((1 << shift) - 1)
        for n in range(1 << bits):
            self.set_entry(table + n * self.shape.entry_bytes, base + (n << next_shift) | flags)


def _shift_of(step: int) -> int:
    if step <= 0 or step & step - 1:
        raise ValueError(f"{step:#x} is no page size")
    return step.bit_length() - 1


class LongTables(Tables):
    """Long-mode tables, 4 levels (or 5): for a 64-bit guest, and nested ones for a 64-bit host."""

    def __init__(
        self, base: int, limit: int | None = None, *, levels: int = 4, table_flags: int = DEFAULT_FLAGS
    ) -> None:
        super().__init__({4: LONG4, 5: LONG5}[levels], base, limit, table_flags)


class PaeTables(Tables):
    """Legacy PAE tables. The top table takes a whole page of its own, of which 32 bytes are used."""

    def __init__(self, base: int, limit: int | None = None) -> None:
        super().__init__(PAE, base, limit)


class LegacyTables(Tables):
    """Two-level 32-bit tables, with 4 MiB pages (the guest needs CR4.PSE for those)."""

    def __init__(self, base: int, limit: int | None = None) -> None:
        super().__init__(LEGACY, base, limit)


class NestedTables(LongTables):
    """Nested tables of a 64-bit host. Every entry needs U/S=1: nested walks are user accesses (APM2 15.25.5)."""


def pdpe_reserved_mask(maxphyaddr: int) -> int:
    """Bits of a present legacy PAE page-directory-pointer entry that must be 0 (APM2 5.2.3)."""
    return 0b1_1110_0110 | ~((1 << maxphyaddr) - 1) & 0xFFFF_FFFF_FFFF_FFFF
