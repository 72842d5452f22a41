"""Nested page faults on the address that L2 accesses.

A nested entry that does not allow an access ends it with #VMEXIT 400h before anything of it has happened. EXITINFO1
is an error code as a user's page fault would have, whatever L2's CPL (every nested walk is a user's), with bit 32 set;
EXITINFO2 is the guest physical address, with the access's offset in its page (APM2 15.25.5, 15.25.6). The bits tell of
L1's entry as it stands: an L0 with shadow tables has another entry under it and may report that one (P clear at the
first touch of a read-only page, RSV never). L1 then maps a page where it should have refused, or never sees a write.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked
from harness.svm import npf_info
from suites.lib.needs import need_reserved_address_bit
from suites.lib.nested_maps import FAR_GPA, NX, VMMCALL_BYTES, P, U, W, access_code, far_guest, nested_guest

ENTRIES = {"not_present": 0, "read_only": P | U, "supervisor": P | W, "nx": P | W | U | NX}
ALLOWED = {("read_only", "read"), ("read_only", "fetch"), ("nx", "read"), ("nx", "write")}
OFFSET = 0x678
LOW = 0x2_5000
PAGE = ~0xFFF & 0xFFFF_FFFF_FFFF_FFFF


def fault(access, *, present, rsv=False):
    return npf_info(present=present, write=access not in ("read", "fetch"), fetch=access == "fetch", rsv=rsv)


def attempt(l1, entry, access, mode="long64", cpl=0):
    """L2 accesses one page through that nested entry; gives the exit, the page's address and the RIP expected."""
    page = LOW if mode == "real16" else l1.scratch(1)
    linear = (page & 0xFFFF if mode == "real16" else page) + OFFSET
    guest, nested = nested_guest(l1, access_code(access, mode), mode=mode, cpl=cpl, regs={"rbx": linear})
    flags = ENTRIES[entry]
    nested.set(page, page | flags if flags else 0)
    guest.write(page + OFFSET, VMMCALL_BYTES)
    exit = guest.run(read={"page": (page + OFFSET, 1)})
    allowed = (entry, access) in ALLOWED
    rip = linear if access == "fetch" else guest["done" if allowed else "probe"]
    return exit, page, rip


def judge(l1, entry, access, exit, page, rip):
    if (entry, access) in ALLOWED:
        assert exit.matches(code=VMEXIT.VMMCALL, rip=rip)
        expected = 0x77 if access == "write" else VMMCALL_BYTES[0]
    else:
        # Of a fetch, which comes in blocks, only the page is sure.
        address = masked(page, PAGE) if access == "fetch" else page + OFFSET
        assert exit.matches(
            code=VMEXIT.NPF, rip=rip, info1=fault(access, present=entry != "not_present"), info2=address
        )
        expected = VMMCALL_BYTES[0]
    assert l1.expect("the byte in the page", exit.memory["page"][0], expected, width_bytes=1)


@clause("np.fault.leaf", "np.fault.user", "np.fault.final_address", "np.fault.offset", "np.fault.describes_l1s_entry")
@pytest.mark.parametrize("access", ["read", "write", "fetch"])
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("cpl", [0, 3], ids=["cpl0", "cpl3"])
def test_leaf_entry(l1, cpl, entry, access):
    """Each entry with each access, as the very first touch of the page; those it allows are the neighbours."""
    exit, page, rip = attempt(l1, entry, access, cpl=cpl)

    judge(l1, entry, access, exit, page, rip)


@clause("np.fault.leaf", "np.modes.unpaged")
@pytest.mark.parametrize(
    ("entry", "access"),
    [("not_present", "read"), ("read_only", "write"), ("supervisor", "read"), ("nx", "fetch")],
    ids=lambda name: name,
)
@pytest.mark.parametrize("mode", ["compat32", "pae32", "paged32", "prot32", "real16"])
def test_leaf_entry_in_other_modes(l1, mode, entry, access):
    """Nested entries are read in the same way, whether L2 pages or not. NX counts for 32-bit and real-mode code too."""
    exit, page, rip = attempt(l1, entry, access, mode)

    judge(l1, entry, access, exit, page, rip)


@clause("np.fault.read_modify_write")
@pytest.mark.parametrize("access", ["rmw", "locked"])
def test_read_modify_write_of_a_read_only_page(l1, access):
    """The read would be allowed; the instruction as a whole is not, and nothing is written."""
    exit, page, rip = attempt(l1, "read_only", access)

    judge(l1, "read_only", access, exit, page, rip)


@clause("np.fault.read_modify_write")
@pytest.mark.parametrize("access", ["rmw", "locked"])
def test_read_modify_write_of_a_missing_page(l1, access):
    """Whether its read or its write is reported is not said."""
    exit, page, rip = attempt(l1, "not_present", access)

    assert exit.matches(
        code=VMEXIT.NPF,
        rip=rip,
        info1=any_of(fault("read", present=False), fault("write", present=False)),
        info2=page + OFFSET,
    )


LEVELS = [4, 3, 2, 1]
LEVEL_NAME = {4: "pml4e", 3: "pdpe", 2: "pde", 1: "pte"}


@clause("np.fault.upper_levels", "np.fault.final_address")
@pytest.mark.parametrize(
    ("entry", "access"),
    [
        ("not_present", "read"),
        ("not_present", "write"),
        ("read_only", "write"),
        ("supervisor", "read"),
        ("nx", "fetch"),
    ],
    ids=lambda name: name,
)
@pytest.mark.parametrize("level", LEVELS, ids=LEVEL_NAME.get)
def test_any_level_takes_permission_away(l1, level, entry, access):
    """One entry of the walk is changed, the other three allow everything."""
    guest, _, walk, _, page = far_guest(l1, access)
    flags = ENTRIES[entry]
    walk.set(level, walk.value(level, flags) if flags else 0)

    exit = guest.run()

    gpa = FAR_GPA + page
    assert exit.matches(
        code=VMEXIT.NPF,
        rip=guest.regs["rbx"] if access == "fetch" else guest["probe"],
        info1=fault(access, present=entry != "not_present"),
        info2=masked(gpa, PAGE) if access == "fetch" else gpa,
    )


@clause("np.fault.upper_levels")
@pytest.mark.parametrize("access", ["read", "write", "fetch"])
def test_far_page_that_all_levels_allow(l1, access):
    """The legal neighbour of the faults at upper levels."""
    guest, _, _, _, page = far_guest(l1, access)

    exit = guest.run(read={"page": (page, 1)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest.regs["rbx"] if access == "fetch" else guest["done"])
    assert l1.expect(
        "the byte in the page", exit.memory["page"][0], 0x77 if access == "write" else VMMCALL_BYTES[0], width_bytes=1
    )


@clause("np.fault.reserved_bits")
@pytest.mark.parametrize(
    ("bit", "access"),
    [("maxphyaddr", "read"), ("maxphyaddr", "write"), ("maxphyaddr", "fetch"), ("bit51", "read")],
    ids=lambda name: name,
)
@pytest.mark.parametrize("level", LEVELS, ids=LEVEL_NAME.get)
def test_address_bit_beyond_maxphyaddr(l1, level, bit, access):
    """RSV and P, and whatever the access was."""
    need_reserved_address_bit(l1)
    number = l1.cpuid.maxphyaddr if bit == "maxphyaddr" else 51
    guest, _, walk, _, page = far_guest(l1, access)
    walk.set(level, walk.value(level) | 1 << number)

    exit = guest.run()

    gpa = FAR_GPA + page
    assert exit.matches(
        code=VMEXIT.NPF,
        info1=fault(access, present=True, rsv=True),
        info2=masked(gpa, PAGE) if access == "fetch" else gpa,
    )


@clause("np.fault.reserved_bits")
@pytest.mark.parametrize(("level", "bit"), [(4, 7), (2, 13), (2, 20), (3, 13), (3, 29)], ids=lambda n: str(n))
def test_reserved_bit_of_an_upper_entry(l1, level, bit):
    """PS in a PML4E, and address bits below the page size in the entry of a 2 MiB or 1 GiB page."""
    if level == 3:
        l1.need("Page1GB")
    guest, _, walk, _, page = far_guest(l1, "read", nested_size={4: "4k", 3: "1g", 2: "2m"}[level])
    walk.set(level, walk.value(level) | 1 << bit)

    exit = guest.run()

    assert exit.matches(
        code=VMEXIT.NPF, rip=guest["probe"], info1=fault("read", present=True, rsv=True), info2=FAR_GPA + page
    )


@clause("np.fault.not_an_exception")
@pytest.mark.parametrize("bitmap", [0, 1 << 14, 0xFFFF_FFFF], ids=["none", "pf", "all"])
def test_exception_intercepts_have_no_say(l1, bitmap):
    """400h always, never 4Eh, and never an exception inside L2, whose IDT has no entry at all."""
    page = l1.scratch(1)
    guest, nested = nested_guest(
        l1,
        "mov cr2, rcx\n" + access_code("read"),
        regs={"rbx": page, "rcx": 0x1122_3344_5566_7788},
        vmcb={"intercept_exceptions": bitmap},
    )
    nested.set(page, 0)

    exit = guest.run()

    assert exit.matches(
        code=VMEXIT.NPF,
        rip=guest["probe"],
        info1=fault("read", present=False),
        info2=page,
        intinfo=masked(0, 1 << 31),
        cr2=0x1122_3344_5566_7788,
    )


@clause("np.fault.resumable")
@pytest.mark.parametrize("access", ["read", "write", "fetch", "rmw"])
def test_l1_repairs_and_resumes(l1, access):
    """No exit state to undo: with the entry put right the same instruction runs once, from its beginning."""
    page = l1.scratch(1)
    guest, nested = nested_guest(l1, access_code(access), regs={"rbx": page})
    nested.set(page, 0)
    guest.write(page, VMMCALL_BYTES)
    assert guest.run().matches(code=VMEXIT.NPF)
    l1.write(nested.entry(page), (page | P | W | U).to_bytes(8, "little"))
    guest.vmcb["tlb_control"] = 0

    exit = guest.run(read={"page": (page, 1)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=page if access == "fetch" else guest["done"])
    expected = {"write": 0x77, "rmw": VMMCALL_BYTES[0] + 1}.get(access, VMMCALL_BYTES[0])
    assert l1.expect("the byte in the page", exit.memory["page"][0], expected, width_bytes=1)
