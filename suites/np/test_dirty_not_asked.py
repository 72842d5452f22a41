"""Dirty bits that no write asked for.

The dirty bit of L1's nested entry says that L2 wrote to the page; a read, a fetch or a refused write does not set it
(APM2 15.25.5, 5.4.2). L1 copies dirty pages, for migration or to disk: an L0 that sets the bit at the first touch, or
when it maps a page for writing in advance, makes L1 copy all of L2 for ever, and L1 cannot tell what has changed.
Accessed bits may be set by speculation, and nothing is said of them.
"""

from harness import VMEXIT, cases, clause, masked
from harness.svm import npf_info
from suites.lib.nested_maps import OPEN, VMMCALL_BYTES, D, P, U, access_code, far_guest, nested_guest


def _entry(exit, name):
    return int.from_bytes(exit.memory[name], "little")


@clause("np.dirty.not_asked")
@cases("size", ["4k", "2m"])
@cases("access", ["read", "fetch"])
def test_page_that_is_not_written(l1, access, size):
    """The entry allows writes."""
    guest, _, walk, _, _ = far_guest(l1, access, nested_size=size)

    exit = guest.run(read={"entry": (walk.entry(walk.leaf), 8)})

    assert exit.matches(code=VMEXIT.VMMCALL)
    assert l1.expect("nested entry of the page", _entry(exit, "entry"), masked(0, D))


@clause("np.dirty.not_asked")
def test_write_that_was_refused(l1):
    """The entry is read-only: exit 400h, and the page is clean."""
    page = l1.scratch(1)
    guest, nested = nested_guest(l1, access_code("write"), regs={"rbx": page})
    nested.set(page, page | P | U)

    exit = guest.run(read={"entry": (nested.entry(page), 8)})

    assert exit.matches(code=VMEXIT.NPF, info1=npf_info(present=True, write=True))
    assert l1.expect("nested entry of the page", _entry(exit, "entry"), masked(0, D))


@clause("np.dirty.not_asked")
@cases("access", ["read", "write"])
def test_neighbours_of_a_page(l1, access):
    """The pages before and behind the one that L2 accesses."""
    pages = l1.scratch(3)
    guest, nested = nested_guest(l1, access_code(access), regs={"rbx": pages + 0x1000})
    where = {f"page{n}": (nested.entry(pages + 0x1000 * n), 8) for n in (0, 2)}

    exit = guest.run(read=where)

    assert exit.reached("done")
    for name in where:
        assert l1.expect(f"nested entry of {name}", _entry(exit, name), masked(0, D))


@clause("np.dirty.not_asked")
@cases("access", ["read", "fetch"])
def test_bit_that_l1_cleared_stays_clear(l1, access):
    """L2 writes the page, L1 clears the bit and flushes, and L2 only reads or executes there."""
    page = l1.scratch(1)
    code = f"mov byte ptr [rbx], 0x0f\nvmmcall\nagain: {access_code(access)}"
    guest, nested = nested_guest(l1, code, regs={"rbx": page})
    guest.write(page, VMMCALL_BYTES)
    assert guest.run().matches(code=VMEXIT.VMMCALL)
    l1.write(nested.entry(page), (page | OPEN).to_bytes(8, "little"))

    exit = guest.resume("again", tlb_control=1, run={"read": {"entry": (nested.entry(page), 8)}})

    assert exit.matches(code=VMEXIT.VMMCALL)
    assert l1.expect("nested entry of the page", _entry(exit, "entry"), masked(0, D))
