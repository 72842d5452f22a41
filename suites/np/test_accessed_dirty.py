"""Accessed and dirty bits, L1's and L2's.

A nested walk sets the accessed bit in each entry that it uses and the dirty bit of the last one when the access is a
write; for L2's page tables both are always set, for each of their accesses is a write (APM2 15.25.5). L2's own bits
are set as without nested paging. An L0 that answers from tables of its own sets L1's bits late or never: L1 then drops
a page that L2 has written. What speculation may set besides that is not asked about.
"""

import pytest

from harness import VMEXIT, clause, masked
from harness.svm import npf_info
from suites.lib.nested_maps import NX, VMMCALL_BYTES, A, D, P, U, W, access_code, far_guest, nested_guest, own_tables

LEVELS = [4, 3, 2, 1]


def entry(exit, name):
    return int.from_bytes(exit.memory[name], "little")


@clause("np.dirty.final")
@pytest.mark.parametrize("size", ["4k", "2m"])
@pytest.mark.parametrize("access", ["read", "write", "fetch", "rmw"])
def test_final_walk(l1, access, size):
    """Accessed at every level, dirty at the last one for writes."""
    guest, _, walk, _, _page = far_guest(l1, access, nested_size=size)
    levels = [level for level in LEVELS if level >= walk.leaf]

    exit = guest.run(read={f"level{level}": (walk.entry(level), 8) for level in levels})

    assert exit.matches(code=VMEXIT.VMMCALL)
    for level in levels:
        wanted = A | (D if level == walk.leaf and access in ("write", "rmw") else 0)
        assert l1.expect(f"nested entry at level {level}", entry(exit, f"level{level}"), masked(wanted, wanted))


@clause("np.dirty.walk")
@pytest.mark.parametrize("access", ["read", "write", "fetch"])
def test_pages_of_l2s_tables(l1, access):
    """Accessed and dirty, though L2 itself writes nothing there and its own bits were set before."""
    guest, walk, _, nested, _ = far_guest(l1, access)
    for level in LEVELS:
        walk.set(level, walk.value(level) | A | D)

    exit = guest.run(read={f"level{level}": (nested.entry(walk.tables[level]), 8) for level in LEVELS})

    assert exit.matches(code=VMEXIT.VMMCALL)
    for level in LEVELS:
        what = f"nested entry of the page of L2's level {level} table"
        assert l1.expect(what, entry(exit, f"level{level}"), masked(A | D, A | D))


@clause("np.dirty.guest_entries")
@pytest.mark.parametrize("size", ["4k", "2m"])
@pytest.mark.parametrize("access", ["read", "write", "fetch"])
def test_l2s_own_bits(l1, access, size):
    guest, walk, _, _, _ = far_guest(l1, access, guest_size=size)
    levels = [level for level in LEVELS if level >= walk.leaf]

    exit = guest.run(read={f"level{level}": (walk.entry(level), 8) for level in levels})

    assert exit.matches(code=VMEXIT.VMMCALL)
    for level in levels:
        wanted = A | (D if level == walk.leaf and access == "write" else 0)
        assert l1.expect(f"L2's entry at level {level}", entry(exit, f"level{level}"), masked(wanted, wanted))


@clause("np.dirty.first_write")
@pytest.mark.parametrize("flush", [0, 1], ids=["no_flush", "flush"])
@pytest.mark.parametrize("exits", [False, True], ids=["one_run", "two_runs"])
def test_dirty_after_the_first_write(l1, exits, flush):
    """The page is read first, so that a translation for reading exists when the write comes."""
    between = "vmmcall" if exits else "nop"
    page = l1.scratch(1)
    code = f"mov al, [rbx]\nmov ah, [rbx + 8]\n{between}\nresume: mov byte ptr [rbx], 0x77\ndone: vmmcall"
    guest, nested = nested_guest(l1, code, regs={"rbx": page})
    where = {"entry": (nested.entry(page), 8)}
    exit = guest.run(read=where)
    if exits:
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["resume"] - 3)
        guest.vmcb.update({"rip": guest["resume"], "tlb_control": flush})
        exit = guest.run(read=where)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("nested entry of the page", entry(exit, "entry"), masked(A | D, A | D))


@clause("np.dirty.set_again")
def test_bits_that_l1_cleared_are_set_again(l1):
    """L1 clears both bits and flushes, as for a new round of dirty logging; the next write must show."""
    page = l1.scratch(1)
    guest, nested = nested_guest(
        l1, "mov byte ptr [rbx], 1\nvmmcall\nresume: mov byte ptr [rbx], 2\ndone: vmmcall", regs={"rbx": page}
    )
    where = {"entry": (nested.entry(page), 8)}
    assert guest.run(read=where).matches(code=VMEXIT.VMMCALL)
    l1.write(nested.entry(page), (page | P | W | U).to_bytes(8, "little"))
    guest.vmcb.update({"rip": guest["resume"], "tlb_control": 1})

    exit = guest.run(read=where)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("nested entry of the page", entry(exit, "entry"), masked(A | D, A | D))


@clause("np.dirty.permission_stays")
@pytest.mark.parametrize("cpl", [0, 3], ids=["cpl0", "cpl3"])
@pytest.mark.parametrize(("flags", "access"), [(P | U, "write"), (P | W | U | NX, "fetch")], ids=["read_only", "nx"])
def test_permission_stays_after_a_permitted_read(l1, flags, access, cpl):
    """The read fills translations; they must not allow more than the nested entry does."""
    page = l1.scratch(1)
    code = "mov al, [rbx]\nmov ah, [rbx + 8]\n" + access_code(access)
    guest, nested = nested_guest(l1, code, regs={"rbx": page}, cpl=cpl)
    nested.set(page, page | flags)
    guest.write(page, VMMCALL_BYTES)

    exit = guest.run(read={"page": (page, 1)})

    assert exit.matches(
        code=VMEXIT.NPF,
        rip=page if access == "fetch" else guest["probe"],
        info1=npf_info(present=True, write=access == "write", fetch=access == "fetch"),
        info2=masked(page, ~0xFFF),
    )
    assert l1.expect("the byte that L2 read", exit.regs["rax"] & 0xFF, VMMCALL_BYTES[0], width_bytes=1)
    assert l1.expect("the byte in the page", exit.memory["page"][0], VMMCALL_BYTES[0], width_bytes=1)


@clause("np.dirty.permission_stays")
def test_permission_stays_over_runs(l1):
    """Read in one run, written in the next, without a flush between them."""
    page = l1.scratch(1)
    guest, nested = nested_guest(
        l1, "mov al, [rbx]\nvmmcall\nprobe: mov byte ptr [rbx], 0x77\nvmmcall", regs={"rbx": page}
    )
    nested.set(page, page | P | U)
    assert guest.run().matches(code=VMEXIT.VMMCALL)
    guest.vmcb.update({"rip": guest["probe"], "tlb_control": 0})

    exit = guest.run(read={"page": (page, 1)})

    assert exit.matches(code=VMEXIT.NPF, rip=guest["probe"], info1=npf_info(present=True, write=True), info2=page)
    assert l1.expect("the byte in the page", exit.memory["page"][0], 0, width_bytes=1)


@clause("np.dirty.guest_entries")
def test_l2s_dirty_bit_after_a_read_and_a_write(l1):
    """A translation for reading exists when the write comes; L2's own entry must show it."""
    page = l1.scratch(1)
    guest, _ = nested_guest(l1, "mov al, [rbx]\n" + access_code("write"), regs={"rbx": page})
    own = own_tables(l1, guest)

    exit = guest.run(read={"entry": (own.entry(page), 8)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("L2's entry of the page", entry(exit, "entry"), masked(A | D, A | D))
