"""Nested page faults on L2's own page tables.

The processor reaches L2's page tables through the nested ones, and each such access counts as a user's write, whatever
L2 was doing and whether an accessed or dirty bit needs setting or not (APM2 15.25.5). A nested entry that does not
allow it exits with 400h and bit 33 set, R/W and U/S set, I/D clear even for a fetch (15.25.6). An L0 that walks L2's
tables as reads lets L2 run on tables that L1 protected, so that L1 never learns of its changes.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked
from harness.svm import npf_info
from suites.lib.needs import need_reserved_address_bit
from suites.lib.nested_maps import FAR_GPA, NX, OPEN, P, U, W, far_guest, nested_guest, own_tables

ENTRIES = {"not_present": 0, "read_only": P | U, "supervisor": P | W}
LEVEL_NAME = {3: "pdpt", 2: "pd", 1: "pt"}
ALL_SET = 0x60  # accessed and dirty


def protected(l1, level, flags, access="read", *, filled=True):
    """FAR_LINEAR is walked through a table of this level that lies in a nested page with these flags."""
    guest, walk, _, nested, page = far_guest(l1, access)
    if filled:
        for number in (4, 3, 2, 1):
            walk.set(number, walk.value(number) | ALL_SET)
    table = walk.tables[level]
    nested.set(table, table | flags if flags else 0)
    return guest, walk, page


def walk_fault(*, present, rsv=False):
    return npf_info(present=present, write=True, rsv=rsv, table_walk=True)


@clause("np.walk.table_page", "np.walk.always_write", "np.fault.final_address")
@pytest.mark.parametrize(
    ("entry", "access"),
    [*((entry, "read") for entry in ENTRIES), ("read_only", "write"), ("read_only", "fetch"), ("not_present", "fetch")],
    ids=lambda name: name,
)
@pytest.mark.parametrize("level", [3, 2, 1], ids=LEVEL_NAME.get)
def test_table_page_that_nested_tables_protect(l1, level, entry, access):
    """Accessed and dirty bits are all set, so that nothing would have to be written. The access does not show."""
    flags = ENTRIES[entry]
    guest, walk, _ = protected(l1, level, flags, access)

    exit = guest.run()

    at = walk.entry(level)
    assert exit.matches(
        code=VMEXIT.NPF,
        rip=guest.regs["rbx"] if access == "fetch" else guest["probe"],
        info1=walk_fault(present=bool(flags)),
        info2=any_of(at, at & ~0xFFF),
    )


@clause("np.walk.table_page")
@pytest.mark.parametrize("level", [3, 2, 1], ids=LEVEL_NAME.get)
def test_table_page_that_is_missing_with_bits_to_set(l1, level):
    """The same with accessed and dirty bits clear."""
    guest, walk, _ = protected(l1, level, 0, filled=False)

    at = walk.entry(level)
    assert guest.run().matches(
        code=VMEXIT.NPF, rip=guest["probe"], info1=walk_fault(present=False), info2=any_of(at, at & ~0xFFF)
    )


@clause("np.walk.root")
@pytest.mark.parametrize("entry", ENTRIES)
def test_root_table_that_nested_tables_protect(l1, entry):
    """The page that CR3 names: L2's first fetch ends there. Its entry is the first of the page."""
    guest, nested = nested_guest(l1, "start: vmmcall")
    own = own_tables(l1, guest)
    flags = ENTRIES[entry]
    nested.set(own.base, own.base | flags if flags else 0)

    assert guest.run().matches(
        code=VMEXIT.NPF, rip=guest["start"], info1=walk_fault(present=bool(flags)), info2=own.base
    )


@clause("np.walk.reserved_bits")
@pytest.mark.parametrize("access", ["read", "fetch"])
@pytest.mark.parametrize("level", [3, 2, 1], ids=LEVEL_NAME.get)
def test_reserved_bit_in_the_nested_entry_of_a_table_page(l1, level, access):
    need_reserved_address_bit(l1)
    guest, walk, _ = protected(l1, level, OPEN | 1 << 51, access)

    exit = guest.run()

    at = walk.entry(level)
    assert exit.matches(code=VMEXIT.NPF, info1=walk_fault(present=True, rsv=True), info2=any_of(at, at & ~0xFFF))


@clause("np.walk.reserved_bits")
@pytest.mark.parametrize("level", [4, 3, 2], ids=["pml4e", "pdpe", "pde"])
def test_reserved_bit_in_an_upper_nested_entry(l1, level):
    """L2's first fetch walks its own tables through that entry: the fault is the walk's."""
    need_reserved_address_bit(l1)
    guest, nested = nested_guest(l1, "start: vmmcall")
    own = own_tables(l1, guest)
    table = {4: nested.base + 0x1000, 3: nested.base + 0x2000, 2: nested.entry(own.base) & ~0xFFF}[level]
    nested.set(own.base, table | OPEN | 1 << 51, level)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.NPF, info1=walk_fault(present=True, rsv=True), info2=masked(own.base, ~0xFFF))


@clause("np.walk.always_write")
@pytest.mark.parametrize("access", ["read", "write", "fetch"])
def test_open_table_pages(l1, access):
    """The legal neighbour: nothing is protected."""
    guest, _, _ = protected(l1, 1, OPEN, access)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest.regs["rbx"] if access == "fetch" else guest["done"])


@clause("np.walk.nx_table_page")
@pytest.mark.parametrize("access", ["read", "fetch"])
@pytest.mark.parametrize("level", [3, 2, 1], ids=LEVEL_NAME.get)
def test_table_page_without_execute_permission(l1, level, access):
    """A walk is no fetch, even where a fetch is what it is made for."""
    guest, _, _ = protected(l1, level, OPEN | NX, access)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest.regs["rbx"] if access == "fetch" else guest["done"])


# --- Which fault comes first

PF = 0x4E
GUEST_FAULTS = {
    # name: flags of L2's own entry, access, CPL, error code
    "not_present": (0, "read", 0, 0),
    "read_only": (P | U, "write", 3, 7),
    "supervisor": (P | W, "read", 3, 5),
    "nx": (P | W | U | NX, "fetch", 0, 0x11),
}


def guest_fault(l1, name):
    flags, access, cpl, error = GUEST_FAULTS[name]
    guest, walk, nested_walk, nested, _page = far_guest(l1, access, cpl=cpl)
    guest.vmcb["cr0"] |= 1 << 16
    guest.vmcb["efer"] |= 1 << 11
    walk.set(1, walk.value(1, flags) if flags else 0)
    return guest, walk, nested_walk, nested, error


@clause("np.walk.guest_fault_before_final_address")
@pytest.mark.parametrize("name", GUEST_FAULTS)
def test_guest_page_fault_comes_before_the_final_address(l1, name):
    """The address that L2's own entry forbids is not mapped by the nested tables either: #PF, not 400h."""
    guest, _, nested_walk, _, error = guest_fault(l1, name)
    nested_walk.set(1, 0)

    assert guest.run().matches(code=PF, info1=error, info2=guest.regs["rbx"])


@clause("np.walk.guest_fault_before_final_address")
def test_guest_reserved_bit_comes_before_the_final_address(l1):
    """An address bit beyond MAXPHYADDR in L2's entry is L2's own fault: no nested walk is made for such an address."""
    need_reserved_address_bit(l1)
    guest, walk, nested_walk, _, _ = far_guest(l1, "read")
    walk.set(1, walk.value(1) | 1 << 51)
    nested_walk.set(1, 0)

    # RSV; P next to it is what core clauses about #PF ask for.
    assert guest.run().matches(code=PF, rip=guest["probe"], info1=masked(8, 0x18), info2=guest.regs["rbx"])


@clause("np.walk.guest_fault_before_final_address")
def test_allowed_access_reaches_the_final_address(l1):
    """The neighbour: L2's entry allows the access, so the missing nested page is what counts."""
    guest, _, nested_walk, _, page = far_guest(l1, "read")
    nested_walk.set(1, 0)

    assert guest.run().matches(
        code=VMEXIT.NPF, rip=guest["probe"], info1=npf_info(present=False, write=False), info2=FAR_GPA + page
    )


@clause("np.walk.table_fault_before_lower_levels")
@pytest.mark.parametrize(
    ("level", "name"),
    [(3, "not_present"), (2, "not_present"), *((1, name) for name in GUEST_FAULTS)],
    ids=lambda value: LEVEL_NAME.get(value, value),
)
def test_missing_table_page_comes_before_the_fault_of_a_lower_level(l1, level, name):
    """The entry that would raise #PF lies in, or below, a table page that cannot be reached."""
    guest, walk, _, nested, _ = guest_fault(l1, name)
    nested.set(walk.tables[level], 0)

    exit = guest.run()

    at = walk.entry(level)
    assert exit.matches(code=VMEXIT.NPF, info1=walk_fault(present=False), info2=any_of(at, at & ~0xFFF))


@clause("np.walk.table_fault_before_lower_levels")
@pytest.mark.parametrize("level", [4, 3, 2], ids=["pml4e", "pdpe", "pde"])
def test_fault_of_an_upper_entry_comes_before_the_missing_table_page(l1, level):
    """The other way round: L2's own entry is not present, so the walk never comes to the table below it."""
    guest, walk, _, nested, _ = far_guest(l1, "read")
    nested.set(walk.tables[level - 1], 0)
    walk.set(level, walk.tables[level - 1] | OPEN & ~P)

    assert guest.run().matches(code=PF, rip=guest["probe"], info1=0, info2=guest.regs["rbx"])


# --- CR3


@clause("np.walk.cr3_is_guest_physical")
@pytest.mark.parametrize("how", ["vmrun", "mov_cr3"])
def test_cr3_is_translated(l1, how):
    """L2's root table lies where the nested tables lead, and a page of zeros lies at the address itself."""
    root = l1.scratch(1)
    code = "mov cr3, rcx\nnop\nprobe: vmmcall"
    guest, nested = nested_guest(l1, code, regs={"rcx": root})
    own = own_tables(l1, guest)
    nested.set(root, own.base | OPEN)
    if how == "vmrun":
        guest.vmcb["cr3"] = root

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["probe"], cr3=root)


@clause("np.walk.cr3_is_guest_physical")
@pytest.mark.parametrize("how", ["vmrun", "mov_cr3"])
def test_cr3_that_nested_tables_do_not_map(l1, how):
    """Loading it is no access; the first walk is."""
    root = l1.scratch(1)
    guest, nested = nested_guest(l1, "mov cr3, rcx\nnext: vmmcall", regs={"rcx": root})
    nested.set(root, 0)
    if how == "vmrun":
        guest.vmcb["cr3"] = root

    exit = guest.run()

    rip = guest["next"] if how == "mov_cr3" else guest["next"] - 3
    assert exit.matches(code=VMEXIT.NPF, rip=rip, info1=walk_fault(present=False), info2=root, cr3=root)
