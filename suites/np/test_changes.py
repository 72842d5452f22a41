"""L1 changes its nested tables.

A permission that L1 takes away is gone at the next VMRUN that flushes, and an entry that becomes present is used
without a flush; another N_CR3 or another ASID brings another view (APM2 15.16, 15.25). An L0 keeps shadows of these
tables, and L1 tells it nothing of its writes: a shadow that outlives the flush gives L2 memory that L1 has taken back.
That something old is still seen is never asked for.
"""

import pytest

from harness import VMEXIT, clause, masked
from harness.svm import npf_info
from suites.lib.needs import need_two_asids
from suites.lib.nested_maps import (
    NX,
    OPEN,
    PAGES,
    VMMCALL_BYTES,
    Map,
    P,
    U,
    W,
    access_code,
    entry_bytes,
    far_guest,
    nested_guest,
)

TWICE = "mov al, [rbx]\nvmmcall\nnext: "


def resumed(guest, **fields):
    guest.vmcb.update({"rip": guest["next"]} | fields)
    return guest.run()


@clause("np.changes.taken_away")
@pytest.mark.parametrize(
    ("flags", "access", "info"),
    [
        (0, "read", npf_info(present=False, write=False)),
        (0, "fetch", npf_info(present=False, write=False, fetch=True)),
        (P | U, "write", npf_info(present=True, write=True)),
        (P | W, "read", npf_info(present=True, write=False)),
        (OPEN | NX, "fetch", npf_info(present=True, write=False, fetch=True)),
    ],
    ids=["missing_read", "missing_fetch", "read_only", "supervisor", "nx"],
)
def test_permission_taken_away(l1, flags, access, info):
    """L2 has used the page in all ways before: read, written, executed."""
    page = l1.scratch(1)
    # The page holds a RET, so that an L2 that is let in comes back.
    again = "probe: call rbx\ndone: vmmcall" if access == "fetch" else access_code(access)
    code = f"mov al, [rbx]\nmov byte ptr [rbx + 8], 1\ncall rbx\nvmmcall\nnext:\n{again}"
    guest, nested = nested_guest(l1, code, regs={"rbx": page})
    guest.write(page, b"\xc3")
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["next"] - 3)
    l1.write(nested.entry(page), entry_bytes(page | flags if flags else 0))

    exit = resumed(guest, tlb_control=1)

    rip = page if access == "fetch" else guest["probe"]
    assert exit.matches(code=VMEXIT.NPF, rip=rip, info1=info, info2=masked(page, ~0xFFF))


@clause("np.changes.remapped")
@pytest.mark.parametrize("g", [0, 1 << 8], ids=["plain", "global"])
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_page_turned_elsewhere(l1, mode, g):
    """With the global bit in the nested entry too: it means nothing there."""
    page, other = l1.scratch(1), l1.scratch(1)
    base = "rbx" if mode == "long64" else "ebx"
    code = f"mov al, [{base}]\nvmmcall\nnext: mov al, [{base}]\ndone: vmmcall"
    guest, nested = nested_guest(l1, code, mode=mode, regs={"rbx": page})
    nested.set(page, page | OPEN | g)
    guest.write(page, b"\x11")
    guest.write(other, b"\x22")
    first = guest.run()
    assert first.matches(code=VMEXIT.VMMCALL)
    assert l1.expect("the byte that L2 reads first", first.regs["rax"] & 0xFF, 0x11, width_bytes=1)
    l1.write(nested.entry(page), entry_bytes(other | OPEN | g))

    exit = resumed(guest, tlb_control=1)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte that L2 reads after the change", exit.regs["rax"] & 0xFF, 0x22, width_bytes=1)


@clause("np.changes.made_present")
@pytest.mark.parametrize("level", [4, 3, 2, 1], ids=["pml4e", "pdpe", "pde", "pte"])
def test_entry_made_present_without_a_flush(l1, level):
    """At each level, after L2 has missed it."""
    guest, _, walk, _, page = far_guest(l1, "read")
    walk.set(level, 0)
    guest.write(page, VMMCALL_BYTES)
    assert guest.run().matches(code=VMEXIT.NPF, rip=guest["probe"])
    l1.write(walk.entry(level), entry_bytes(walk.value(level)))
    guest.vmcb["tlb_control"] = 0

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte that L2 reads", exit.regs["rax"] & 0xFF, VMMCALL_BYTES[0], width_bytes=1)


@clause("np.changes.permission_added")
@pytest.mark.parametrize(
    ("flags", "access"),
    [(P | U, "write"), (P | W, "read"), (OPEN | NX, "fetch")],
    ids=["writable", "user", "executable"],
)
def test_permission_added_without_a_flush(l1, flags, access):
    """After L2 has missed it."""
    page = l1.scratch(1)
    guest, nested = nested_guest(l1, access_code(access), regs={"rbx": page})
    guest.write(page, VMMCALL_BYTES)
    nested.set(page, page | flags)
    assert guest.run().matches(code=VMEXIT.NPF, rip=page if access == "fetch" else guest["probe"])
    l1.write(nested.entry(page), entry_bytes(page | OPEN))

    exit = guest.resume("probe", tlb_control=0)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=page if access == "fetch" else guest["done"])


def two_views(l1, code):
    """Two nested maps in which one page leads to different targets."""
    page = l1.scratch(1)
    guest, first = nested_guest(l1, code, regs={"rbx": page})
    second = Map(guest, l1.scratch(PAGES))
    for view, byte in ((first, 0x11), (second, 0x22)):
        target = l1.scratch(1)
        view.set(page, target | OPEN)
        guest.write(target, bytes([byte]))
    return guest, first, second


@clause("np.changes.n_cr3")
@pytest.mark.parametrize("how", ["flush", "new_asid"])
def test_another_n_cr3(l1, how):
    if how == "new_asid":
        need_two_asids(l1)
    guest, _, second = two_views(l1, TWICE + "mov al, [rbx]\ndone: vmmcall")
    first_exit = guest.run()
    assert l1.expect("the byte in the first view", first_exit.regs["rax"] & 0xFF, 0x11, width_bytes=1)

    exit = resumed(
        guest, n_cr3=second.base, **({"tlb_control": 1} if how == "flush" else {"asid": 2, "tlb_control": 0})
    )

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"], n_cr3=second.base)
    assert l1.expect("the byte in the second view", exit.regs["rax"] & 0xFF, 0x22, width_bytes=1)


@clause("np.changes.asids")
def test_two_asids_with_views_of_their_own(l1):
    """They take turns without a flush, and with the same CR3."""
    need_two_asids(l1)
    guest, first, second = two_views(l1, "next: mov al, [rbx]\nmov ah, [rbx + 8]\ndone: vmmcall")
    for turn in range(6):
        view, asid, byte = ((first, 1, 0x11), (second, 2, 0x22))[turn % 2]
        exit = resumed(guest, n_cr3=view.base, asid=asid, tlb_control=1 if turn == 0 else 0)
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
        assert l1.expect(f"the byte that ASID {asid} reads", exit.regs["rax"] & 0xFF, byte, width_bytes=1)


APIC_VERSION = 0xFEE0_0030


@clause("np.changes.mmio")
def test_l2_reads_a_device_of_l1(l1):
    """L2 is given L1's own local APIC by its address: the same register, and no exit."""
    mine = l1.code("mov eax, [rbx]", {"rbx": APIC_VERSION, "rax": 0})
    guest, _ = nested_guest(l1, "mov eax, [rbx]\ndone: vmmcall", regs={"rbx": APIC_VERSION})

    exit = guest.run()

    assert mine.returned
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the APIC's version that L2 reads", exit.regs["rax"], mine.reg("rax"))


@clause("np.changes.l0_faults_stay_hidden")
def test_l2_walks_over_a_mebibyte(l1):
    """256 pages that L2 never touched before, each read and written: L1 sees the VMMCALL and nothing else."""
    pages = l1.scratch(256)
    code = "mov rdi, rbx\nmov ecx, 256\nagain: inc byte ptr [rdi + 0x10]\nadd rdi, 0x1000\nloop again\ndone: vmmcall"
    guest, _ = nested_guest(l1, code, regs={"rbx": pages})

    exit = guest.run(read={"last": (pages + 0xFF010, 1), "first": (pages + 0x10, 1)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the bytes", exit.memory["first"][0] + exit.memory["last"][0], 2)
