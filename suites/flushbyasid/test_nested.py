"""TLB_CONTROL 03h after L1 has changed its nested tables.

What L1 takes away from L2, or turns elsewhere, and another N_CR3 under the same ASID, count after 03h as after 01h; 07h
is for L2's own tables and not enough (APM2 15.16.1). An L0 keeps shadows of these tables: one that outlives the flush
gives L2 memory that L1 has taken back.
"""

from harness import VMEXIT, cases, clause, masked
from harness.svm import npf_info
from suites.lib.nested_maps import NX, OPEN, PAGES, Map, P, U, W, access_code, entry_bytes, nested_guest

READ = "again: movzx eax, byte ptr [rbx]\nend: vmmcall"
TAKEN = {
    "missing_read": (0, "read", npf_info(present=False, write=False)),
    "missing_fetch": (0, "fetch", npf_info(present=False, write=False, fetch=True)),
    "read_only": (P | U, "write", npf_info(present=True, write=True)),
    "supervisor": (P | W, "read", npf_info(present=True, write=False)),
    "nx": (OPEN | NX, "fetch", npf_info(present=True, write=False, fetch=True)),
}


@clause("flushbyasid.nested_changes")
@cases("flags, access, info", TAKEN)
def test_permission_taken_away(l1, flags, access, info):
    """L2 has read, written and executed the page before."""
    page = l1.scratch(1)
    code = "mov al, [rbx]\nmov byte ptr [rbx + 8], 1\ncall rbx\nfirst: vmmcall\n" + access_code(access)
    guest, nested = nested_guest(l1, code, regs={"rbx": page})
    guest.write(page, b"\xc3")
    assert guest.run().reached("first")
    l1.write(nested.entry(page), entry_bytes(page | flags if flags else 0))

    exit = guest.resume("probe", tlb_control=3)

    rip = page if access == "fetch" else guest["probe"]
    assert exit.matches(code=VMEXIT.NPF, rip=rip, info1=info, info2=masked(page, ~0xFFF))


@clause("flushbyasid.nested_changes")
@cases("g", {"plain": 0, "global": 1 << 8})
@cases("mode", ["long64", "prot32"])
def test_page_turned_elsewhere(l1, mode, g):
    """With the global bit in the nested entry too, where it means nothing."""
    page, other = l1.scratch(1), l1.scratch(1)
    guest, nested = nested_guest(
        l1, READ if mode == "long64" else READ.replace("rbx", "ebx"), mode=mode, regs={"rbx": page}
    )
    nested.set(page, page | OPEN | g)
    guest.write(page, b"\x11")
    guest.write(other, b"\x22")
    assert guest.run().reached("end", regs={"rax": masked(0x11, 0xFFFF_FFFF)})
    l1.write(nested.entry(page), entry_bytes(other | OPEN | g))

    exit = guest.resume("again", tlb_control=3)

    assert exit.reached("end", regs={"rax": masked(0x22, 0xFFFF_FFFF)})


@clause("flushbyasid.n_cr3")
def test_another_n_cr3(l1):
    """Two views that take turns under one ASID, with 03h at each."""
    page = l1.scratch(1)
    guest, first = nested_guest(l1, READ, regs={"rbx": page})
    second = Map(guest, l1.scratch(PAGES))
    for view, byte in ((first, 0x11), (second, 0x22)):
        target = l1.scratch(1)
        view.set(page, target | OPEN)
        guest.write(target, bytes([byte]))
    assert guest.run().reached("end", rax=0x11)
    for view, byte in ((second, 0x22), (first, 0x11), (second, 0x22)):
        assert guest.resume("again", n_cr3=view.base, tlb_control=3).reached("end", rax=byte)
