"""Whose control bits count for which tables.

Nested entries are read by L1's EFER.NXE and CR4 as they were at VMRUN, L2's entries by L2's. CR0.WP of L1 has no say:
nested walks are a user's, so read-only is read-only (APM2 15.25.2, 15.25.5, 15.25.7). An L0 that walks L1's tables with
L2's EFER, as it stands in the registers then, runs code that L1 made non-executable or reports a fault where there
is none.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked
from harness.svm import npf_info
from suites.lib.nested_maps import NX, OPEN, VMMCALL_BYTES, P, U, access_code, far_guest, nested_guest, own_tables

NXE, WP = 1 << 11, 1 << 16
PF = 0x4E
WITHOUT_NXE = "mov ecx, 0xC0000080\nrdmsr\nbtr eax, 11\nwrmsr"
WITH_NXE = "mov ecx, 0xC0000080\nrdmsr\nbts eax, 11\nwrmsr"
WITHOUT_WP = "mov rax, cr0\nbtr rax, 16\nmov cr0, rax"
PAGE = ~0xFFF


def host_nxe(guest, on):
    """EFER.NXE of L1 during the run, and 1 again afterwards, as the executor has it."""
    if not on:
        guest.setup(WITHOUT_NXE)
        guest.teardown(WITH_NXE)


@clause("np.attributes.nxe_of_host")
@pytest.mark.parametrize("guest_nxe", [0, NXE], ids=["l2_nxe0", "l2_nxe1"])
@pytest.mark.parametrize("mode", ["long64", "pae32", "prot32", "real16"])
def test_nested_nx_counts_whatever_l2s_nxe(l1, mode, guest_nxe):
    """L1 has NXE=1. In modes whose own tables know no NX as well."""
    page = 0x2_5000 if mode == "real16" else l1.scratch(1)
    guest, nested = nested_guest(
        l1, access_code("fetch", mode), mode=mode, regs={"rbx": page - 0x2_0000 if mode == "real16" else page}
    )
    guest.vmcb["efer"] |= guest_nxe
    nested.set(page, page | OPEN | NX)

    assert guest.run().matches(
        code=VMEXIT.NPF, info1=npf_info(present=True, write=False, fetch=True), info2=masked(page, PAGE)
    )


@clause("np.attributes.nxe_of_guest")
@pytest.mark.parametrize("guest_nxe", [0, NXE], ids=["l2_nxe0", "l2_nxe1"])
@pytest.mark.parametrize("host", [0, 1], ids=["l1_nxe0", "l1_nxe1"])
def test_l2s_own_nx_follows_l2s_nxe(l1, host, guest_nxe):
    """NX in L2's entry: a fetch is refused with L2's NXE=1; with NXE=0 the bit is reserved. L1's NXE has no say."""
    page = l1.scratch(1)
    guest, _ = nested_guest(l1, access_code("fetch"), regs={"rbx": page})
    guest.vmcb["efer"] |= guest_nxe
    own_tables(l1, guest).set(page, page | OPEN | NX)
    host_nxe(guest, host)

    # With NXE=0 the RSV bit is what counts; P next to it and I/D are not this clause's.
    info = 0x11 if guest_nxe else masked(8, 8)
    assert guest.run().matches(code=PF, rip=page, info1=info, info2=page)


@clause("np.attributes.nx_reserved")
@pytest.mark.parametrize("guest_nxe", [0, NXE], ids=["l2_nxe0", "l2_nxe1"])
@pytest.mark.parametrize("access", ["read", "write"])
def test_nested_nx_is_reserved_without_l1s_nxe(l1, access, guest_nxe):
    """Any access faults then, whatever L2's NXE."""
    page = l1.scratch(1)
    guest, nested = nested_guest(l1, access_code(access), regs={"rbx": page})
    guest.vmcb["efer"] |= guest_nxe
    nested.set(page, page | OPEN | NX)
    host_nxe(guest, 0)

    assert guest.run().matches(
        code=VMEXIT.NPF,
        rip=guest["probe"],
        info1=npf_info(present=True, write=access == "write", rsv=True),
        info2=page,
    )


@clause("np.attributes.nx_reserved")
@pytest.mark.parametrize("access", ["read", "write", "fetch"])
def test_page_without_nx_needs_no_nxe(l1, access):
    """The legal neighbour: L1's NXE is 0, and no entry has bit 63."""
    page = l1.scratch(1)
    guest, _ = nested_guest(l1, access_code(access), regs={"rbx": page})
    guest.write(page, VMMCALL_BYTES)
    host_nxe(guest, 0)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=page if access == "fetch" else guest["done"])


@clause("np.attributes.fetch_bit_without_nxe")
def test_fetch_of_a_missing_page_without_l1s_nxe(l1):
    """I/D may be 0, as for an ordinary page fault without NXE, or 1."""
    page = l1.scratch(1)
    guest, nested = nested_guest(l1, access_code("fetch"), regs={"rbx": page})
    nested.set(page, 0)
    host_nxe(guest, 0)

    info = any_of(*(npf_info(present=False, write=False, fetch=fetch) for fetch in (False, True)))
    assert guest.run().matches(code=VMEXIT.NPF, rip=page, info1=info, info2=masked(page, PAGE))


@clause("np.attributes.wp_of_host")
@pytest.mark.parametrize("cpl", [0, 3], ids=["cpl0", "cpl3"])
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_read_only_counts_with_l1s_wp_clear(l1, mode, cpl):
    page = l1.scratch(1)
    guest, nested = nested_guest(l1, access_code("write", mode), mode=mode, cpl=cpl, regs={"rbx": page})
    nested.set(page, page | P | U)
    guest.setup(WITHOUT_WP)

    exit = guest.run(read={"page": (page, 1)})

    assert exit.matches(code=VMEXIT.NPF, rip=guest["probe"], info1=npf_info(present=True, write=True), info2=page)
    assert l1.expect("the byte in the page", exit.memory["page"][0], 0, width_bytes=1)


@clause("np.attributes.wp_of_guest")
@pytest.mark.parametrize("own_flags", [P | U, OPEN], ids=["l2_ro", "l2_rw"])
@pytest.mark.parametrize("wp", [0, WP], ids=["wp0", "wp1"])
def test_read_only_counts_whatever_l2s_wp(l1, wp, own_flags):
    """Where L2's own entry and WP forbid the write already, L2's fault comes first."""
    page = l1.scratch(1)
    guest, nested = nested_guest(l1, access_code("write"), regs={"rbx": page})
    own_tables(l1, guest).set(page, page | own_flags)
    guest.vmcb["cr0"] |= wp
    nested.set(page, page | P | U)

    exit = guest.run()

    if wp and own_flags == P | U:
        assert exit.matches(code=PF, rip=guest["probe"], info1=3, info2=page)
    else:
        assert exit.matches(code=VMEXIT.NPF, rip=guest["probe"], info1=npf_info(present=True, write=True), info2=page)


@clause("np.attributes.wp_of_guest")
def test_l2_without_wp_writes_its_own_read_only_page(l1):
    """The legal neighbour: the nested entry allows writes."""
    page = l1.scratch(1)
    guest, _ = nested_guest(l1, access_code("write"), regs={"rbx": page})
    own_tables(l1, guest).set(page, page | P | U)
    guest.vmcb["cr0"] &= ~WP

    exit = guest.run(read={"page": (page, 1)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte in the page", exit.memory["page"][0], 0x77, width_bytes=1)


@clause("np.attributes.ignored_bits")
@pytest.mark.parametrize("access", ["write", "fetch"])
@pytest.mark.parametrize(
    "bits", [1 << 8, 7 << 9, 0x7F << 52, 3 << 3], ids=["global", "avl_11_9", "avl_58_52", "pwt_pcd"]
)
def test_bits_without_a_meaning_for_permission(l1, bits, access):
    guest, _, nested_walk, _, _ = far_guest(l1, access)
    nested_walk.set(1, nested_walk.value(1) | bits)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest.regs["rbx"] if access == "fetch" else guest["done"])
