"""Where fewer than 15 instruction bytes can be fetched, and where they lie in two pages.

The processor fetches the bytes as it fetches code: through L2's tables and the nested ones, up to the limit of CS. It
stores fewer than 15 only where that fetch would fault, and the fault itself is not seen (APM2 15.8.4). A wrong L0 reads
on in the physical page that follows, stores bytes that L2 may not see, or raises the fault of a fetch that L2 never
made.
"""

import pytest

from harness import EFER, VMEXIT, any_of, clause, masked
from suites.lib.data_faults import FETCHED, TAIL, at_page_end, faulting, first, mask, stream
from suites.lib.nested_maps import NX, P, U, W

KINDS = ["pf", "npf"]
CODES = {"pf": VMEXIT.EXCP_PF, "pf_np": VMEXIT.EXCP_PF, "npf": VMEXIT.NPF}


@clause("decodeassists.bytes.across_pages")
@pytest.mark.parametrize("before", [1, 2, 7, 14])
@pytest.mark.parametrize("where", ["guest", "nested"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_pages(l1, kind, where, before):
    """The second page is elsewhere, and ends in other bytes than the page that lies behind the first one."""
    guest, border, own, outer = at_page_end(l1, kind, before, nested=where == "nested")
    elsewhere = l1.scratch(1)
    second = stream(guest)[before:].replace(TAIL, TAIL[::-1]) if before <= 5 else TAIL[::-1]
    (outer if where == "nested" else own).set(border, elsewhere | P | W | U)
    guest.write(elsewhere, second)

    exit = guest.run()

    expected = stream(guest)[:before] + second
    assert exit.matches(code=CODES[kind], rip=guest["at"], insn_len=FETCHED, insn_bytes=first(expected))


# The entry of the next page in L2's tables, or in the nested ones, and whether L2 runs at CPL 3.
NEXT = {
    "guest_absent": ("guest", 0, 0),
    "guest_nx": ("guest", P | W | U | NX, 0),
    "guest_supervisor": ("guest", P | W, 3),
    "nested_absent": ("nested", 0, 0),
    "nested_nx": ("nested", P | W | U | NX, 0),
    "nested_supervisor": ("nested", P | W, 0),
}


@clause("decodeassists.bytes.page_that_faults")
@pytest.mark.parametrize("before", [2, 9, 14])
@pytest.mark.parametrize("name", NEXT)
@pytest.mark.parametrize("kind", KINDS)
def test_next_page_cannot_be_fetched(l1, kind, name, before):
    """The instruction ends in the first page. Its own fault is reported, not that of the fetch."""
    guest = _next_page(l1, kind, name, before)

    exit = guest.run()

    assert exit.matches(code=CODES[kind], rip=guest["at"], insn_len=any_of(*range(1, before + 1)))
    count = exit.vmcb["insn_len"]
    assert exit.matches(insn_bytes=masked(first(stream(guest), count), mask(count)))


@clause("decodeassists.bytes.fifteen")
@pytest.mark.parametrize("name", ["guest_absent", "nested_nx"])
@pytest.mark.parametrize("kind", KINDS)
def test_fifteen_bytes_in_the_first_page(l1, kind, name):
    """The neighbour: the next page has no say."""
    guest = _next_page(l1, kind, name, FETCHED)

    exit = guest.run()

    assert exit.matches(code=CODES[kind], rip=guest["at"], insn_len=FETCHED, insn_bytes=first(stream(guest)))


def _next_page(l1, kind, name, before):
    where, flags, cpl = NEXT[name]
    guest, border, own, outer = at_page_end(l1, kind, before, nested=where == "nested", cpl=cpl)
    (outer if where == "nested" else own).set(border, border | flags if flags else 0)
    guest.vmcb["efer"] |= EFER.NXE
    return guest


LIMITED = [
    ("pf", "compat32"),
    ("pf", "paged32"),
    ("pf_np", "pae32"),
    ("npf", "compat32"),
    ("npf", "prot32"),
    ("npf", "real16"),
]


def _limited(l1, kind, mode, room):
    """A guest whose CS ends `room` bytes behind the beginning of the instruction."""
    base = "bx" if mode == "real16" else "rbx" if mode == "long64" else "ebx"
    guest = faulting(l1, kind, f"at: mov al, [{base}]\nvmmcall", mode)
    guest.vmcb.update({"cs.limit": room - 1, "cs.attrib": guest.vmcb["cs.attrib"] & ~0x800})
    if mode not in ("real16", "long64"):
        guest.vmcb.update({"cs.base": guest.code_base, "rip": 0})
    return guest


@clause("decodeassists.bytes.cs_limit")
@pytest.mark.parametrize("room", [2, 9, 14])
@pytest.mark.parametrize(("kind", "mode"), LIMITED)
def test_limit_of_cs(l1, kind, mode, room):
    guest = _limited(l1, kind, mode, room)

    exit = guest.run()

    assert exit.matches(code=CODES[kind], rip=0, insn_len=any_of(*range(1, room + 1)))
    count = exit.vmcb["insn_len"]
    assert exit.matches(insn_bytes=masked(first(stream(guest), count), mask(count)))


@clause("decodeassists.bytes.cs_limit")
@pytest.mark.parametrize(
    ("kind", "mode", "room"),
    [("pf", "compat32", 15), ("npf", "prot32", 15), ("npf", "real16", 15), ("pf", "long64", 3), ("npf", "long64", 3)],
)
def test_limit_that_has_no_say(l1, kind, mode, room):
    """15 bytes lie within it; and 64-bit code has none."""
    guest = _limited(l1, kind, mode, room)

    exit = guest.run()

    assert exit.matches(code=CODES[kind], insn_len=FETCHED, insn_bytes=first(stream(guest)))
