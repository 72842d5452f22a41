"""Page-table builders, judged by a walker that knows only what the APM says about table formats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.svm.paging import (
    NX,
    PAGE_1G,
    PAGE_2M,
    PAGE_4K,
    PAGE_4M,
    PAT_4K,
    PAT_LARGE,
    PCD,
    PWT,
    LegacyTables,
    LongTables,
    NestedTables,
    P,
    PaeTables,
    U,
    W,
    pdpe_reserved_mask,
)

BASE = 0x10_0000


def walk(memory, cr3, va, mode):
    """(physical address, leaf entry) of `va`, or None where something is not present. Shares no code on purpose."""
    shifts = {"long": (39, 30, 21, 12), "long5": (48, 39, 30, 21, 12), "pae": (30, 21, 12), "legacy": (22, 12)}[mode]
    size, bits = (4, 10) if mode == "legacy" else (8, 9)
    table = cr3 & ~0xFFF
    for shift in shifts:
        index = va >> shift & ((1 << (2 if mode == "pae" and shift == 30 else bits)) - 1)
        page = memory[table]
        entry = int.from_bytes(page[index * size : index * size + size], "little")
        if not entry & 1:
            return None
        if mode == "pae" and shift == 30:
            assert entry & pdpe_reserved_mask(52) == 0
        is_page = shift == 12 or (entry & 0x80 and not (mode == "pae" and shift == 30))
        address = entry & (0xFFFF_F000 if mode == "legacy" else 0x000F_FFFF_FFFF_F000)
        if is_page:
            offset = va & (1 << shift) - 1
            return (address & ~((1 << shift) - 1)) + offset, entry
        table = address
    raise AssertionError("a walk must end in a page")


BUILDERS = {
    "long": lambda: LongTables(BASE),
    "long5": lambda: LongTables(BASE, levels=5),
    "pae": lambda: PaeTables(BASE),
    "legacy": lambda: LegacyTables(BASE),
}


@pytest.mark.parametrize("mode", BUILDERS)
def test_identity(mode):
    tables = BUILDERS[mode]()
    tables.identity(64 << 20)

    for va in (0, 0x1234, 0x20_0000, 0x3FF_FFFF):
        assert walk(tables.pages(), tables.cr3, va, mode)[0] == va
    assert walk(tables.pages(), tables.cr3, 64 << 20, mode) is None


@pytest.mark.parametrize("mode", BUILDERS)
def test_small_page_elsewhere(mode):
    tables = BUILDERS[mode]()

    tables.map(0x7000, 0x9_A000, PAGE_4K, P | U)

    pa, entry = walk(tables.pages(), tables.cr3, 0x7ABC, mode)
    assert pa == 0x9_AABC
    assert entry & 7 == P | U
    assert walk(tables.pages(), tables.cr3, 0x8000, mode) is None


@pytest.mark.parametrize("mode", BUILDERS)
def test_large_page_is_split_when_part_of_it_changes(mode):
    large = PAGE_4M if mode == "legacy" else PAGE_2M
    tables = BUILDERS[mode]()
    tables.identity(2 * large, page=large)

    tables.map(large + 0x3000, 0x5000, PAGE_4K, P)

    memory = tables.pages()
    assert walk(memory, tables.cr3, large + 0x3010, mode)[0] == 0x5010
    assert walk(memory, tables.cr3, large + 0x3010, mode)[1] & 7 == P
    for untouched in (0x3000, large + 0x2FFF, large + 0x4000, 2 * large - 1):
        assert walk(memory, tables.cr3, untouched, mode)[0] == untouched
        assert walk(memory, tables.cr3, untouched, mode)[1] & 7 == 7


@given(
    st.sampled_from(["long", "pae", "legacy"]),
    st.lists(st.tuples(st.integers(0, 1023), st.integers(1, 0xFFFF)), min_size=1, max_size=24),
)
def test_last_mapping_of_a_page_wins(mode, mappings):
    tables = BUILDERS[mode]()
    tables.identity(4 << 20)
    expected = {n: n << 12 for n in range(1024)}

    for number, frame in mappings:
        tables.map(number << 12, frame << 12)
        expected[number] = frame << 12

    memory = tables.pages()
    for number, _ in mappings:
        assert walk(memory, tables.cr3, number << 12, mode)[0] == expected[number]
    assert walk(memory, tables.cr3, (4 << 20) - 1, mode)[0] == expected[1023] + 0xFFF


def test_nested_tables_are_user_everywhere():
    tables = NestedTables(BASE)
    tables.identity(PAGE_2M, page=PAGE_4K)

    for address in tables.walk_addresses(0x1000):
        assert tables.get_entry(address) & 7 == P | W | U


def test_pae_top_entries_have_only_p():
    tables = PaeTables(BASE)
    tables.identity(4 << 30)

    for n in range(4):
        assert tables.get_entry(BASE + 8 * n) & pdpe_reserved_mask(52) == 0
        assert tables.get_entry(BASE + 8 * n) & (W | U) == 0
    assert walk(tables.pages(), tables.cr3, 0xFFFF_FFFF, "pae")[0] == 0xFFFF_FFFF


def test_gigabyte_pages_only_when_asked():
    tables = LongTables(BASE)

    tables.identity(PAGE_1G)
    without = tables.leaf_address(0)
    tables.map(0x40_0000_0000, 0x4000_0000, PAGE_1G, page=PAGE_1G)

    assert tables.get_entry(without) & ~0xFFF == 0
    assert len(tables.walk_addresses(0)) == 3
    assert len(tables.walk_addresses(0x40_0000_0000)) == 2
    assert walk(tables.pages(), tables.cr3, 0x40_1234_5678, "long")[0] == 0x5234_5678


def test_splitting_a_gigabyte_page_keeps_the_rest():
    tables = LongTables(BASE)
    tables.map(0, 0, PAGE_1G, page=PAGE_1G)

    tables.unmap(0x1000)

    assert walk(tables.pages(), tables.cr3, 0x1000, "long") is None
    for va in (0, 0x2000, 0x20_0000, 0x3FFF_FFFF):
        assert walk(tables.pages(), tables.cr3, va, "long")[0] == va


def test_splitting_moves_the_pat_bit_and_keeps_nx():
    tables = LongTables(BASE)
    tables.map(0, 0, PAGE_2M, P | W | PWT | PCD | NX | PAT_LARGE)

    address = tables.entry_address(0x5000)

    assert tables.get_entry(address) == 0x5000 | P | W | PWT | PCD | NX | PAT_4K
    assert walk(tables.pages(), tables.cr3, 0x5000, "long")[0] == 0x5000


def test_unmapped_page_keeps_its_neighbours():
    tables = LegacyTables(BASE)
    tables.identity(PAGE_4M)

    tables.unmap(0x3000)

    assert walk(tables.pages(), tables.cr3, 0x3000, "legacy") is None
    assert walk(tables.pages(), tables.cr3, 0x2000, "legacy")[0] == 0x2000


def test_entries_can_be_made_illegal():
    tables = LongTables(BASE)
    tables.identity(PAGE_2M, page=PAGE_4K)

    address = tables.change_leaf(0x1000, set_bits=1 << 51, clear_bits=W)

    assert tables.get_entry(address) == 0x1000 | P | U | 1 << 51
    tables.set_entry(address, 0xFFFF_FFFF_FFFF_FFFF)
    assert tables.get_entry(address) == 0xFFFF_FFFF_FFFF_FFFF


def test_leaf_address_of_a_hole_is_where_the_walk_ends():
    tables = LongTables(BASE)
    tables.identity(PAGE_2M)

    assert tables.leaf_address(1 << 40) == BASE + 8 * 2


def test_walk_addresses_name_every_level():
    tables = LongTables(BASE)
    tables.map(0x8060_4000, 0x1000)

    addresses = tables.walk_addresses(0x8060_4000)

    assert addresses == (BASE, BASE + 0x1000 + 8 * 2, BASE + 0x2000 + 8 * 3, BASE + 0x3000 + 8 * 4)


def test_image_is_the_pages_in_order():
    tables = LongTables(BASE)
    tables.identity(PAGE_4K)

    image = tables.image()

    assert len(image) == tables.end - tables.base
    for address, page in tables.pages().items():
        assert image[address - BASE : address - BASE + PAGE_4K] == page


@pytest.mark.parametrize(
    ("builder", "arguments"),
    [
        ("long", (0x1001, 0, PAGE_4K)),
        ("long", (0, 0x10, PAGE_4K)),
        ("long", (0, 0, 0x800)),
        ("long", (0, 0, 0)),
        ("long", (1 << 48, 0, PAGE_4K)),
        ("legacy", (1 << 32, 0, PAGE_4K)),
        ("pae", (0, 0, PAGE_1G, P, PAGE_1G)),
        ("legacy", (0, 0, PAGE_2M, P, PAGE_2M)),
        ("long", (0, 0, PAGE_4M, P, PAGE_4M)),
        ("legacy", (0, 1 << 32, PAGE_4K)),
    ],
)
def test_what_cannot_be_mapped_is_refused(builder, arguments):
    with pytest.raises(ValueError):
        BUILDERS[builder]().map(*arguments)


def test_room_is_bounded():
    tables = LongTables(BASE, limit=BASE + 3 * PAGE_4K)

    with pytest.raises(ValueError, match="do not fit"):
        tables.map(0, 0, PAGE_4K)


def test_base_must_be_aligned():
    with pytest.raises(ValueError, match="4 KiB"):
        LongTables(0x800)


def test_entries_outside_are_refused():
    with pytest.raises(ValueError, match="no entry"):
        LongTables(BASE).get_entry(0x1000)


def test_pdpe_reserved_mask():
    assert pdpe_reserved_mask(48) == 0xFFFF_0000_0000_01E6
    assert pdpe_reserved_mask(52) == 0xFFF0_0000_0000_01E6
