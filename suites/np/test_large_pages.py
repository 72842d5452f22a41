"""Large pages, L1's and L2's.

Nested pages of 2 MiB and 1 GiB translate like small ones, and the smaller of the two page sizes holds: the TLB may keep
a large page of L2 as splinters, and a nested page that is missing in the middle of L2's large page is missed there
alone (APM2 15.25.9). An L0 that installs the larger size gives L2 memory that L1 did not; one that forgets a splinter
at INVLPG leaves L2 with an old translation of its own.
"""

import pytest

from harness import VMEXIT, clause
from harness.svm import npf_info
from suites.lib.nested_maps import (
    FAR_GPA,
    OPEN,
    PS,
    SIZES,
    P,
    U,
    access_code,
    entry_bytes,
    far_guest,
    nested_guest,
    own_tables,
)

TWO_MIB = SIZES["2m"]


def need(l1, *sizes):
    if "1g" in sizes:
        l1.need("Page1GB")


@clause("np.large.sizes")
@pytest.mark.parametrize("nested_size", SIZES)
@pytest.mark.parametrize("guest_size", SIZES)
def test_page_sizes(l1, guest_size, nested_size):
    """L2 writes through pages of one size that lie in nested pages of another; all address bits must come through."""
    need(l1, guest_size, nested_size)
    guest, _, _, _, page = far_guest(l1, "write", guest_size=guest_size, nested_size=nested_size)
    guest.regs["rbx"] += 0x9AB

    exit = guest.run(read={"page": (page, 0x1000)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    written = [at for at in range(0x1000) if exit.memory["page"][at] == 0x77]
    assert l1.expect("where in the page L2's byte is", written[0] if written else -1, 0x9AB)


@clause("np.large.permission")
@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("nested_size", ["2m", "1g"])
def test_read_only_large_page(l1, nested_size, access):
    """EXITINFO2 is the address that L2 used, not the large page's."""
    need(l1, nested_size)
    guest, _, walk, _, page = far_guest(l1, access, nested_size=nested_size)
    guest.regs["rbx"] += 0x9AB
    walk.set(walk.leaf, walk.value(walk.leaf, P | U))

    exit = guest.run()

    if access == "read":
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    else:
        assert exit.matches(
            code=VMEXIT.NPF,
            rip=guest["probe"],
            info1=npf_info(present=True, write=True),
            info2=FAR_GPA + page + 0x9AB,
        )


@clause("np.large.hole")
@pytest.mark.parametrize("touched", [False, True], ids=["first_touch", "neighbours_touched"])
@pytest.mark.parametrize("size", ["2m", "1g"])
def test_hole_in_a_large_page_of_l2(l1, size, touched):
    """L2's page is one, the nested ones are 4 KiB, and the one in the middle is missing."""
    need(l1, size)
    pages = l1.scratch(3)
    hole = pages + 0x1000
    walk_over = "mov al, [rbx - 0x1000]\nmov al, [rbx + 0x1000]\n" if touched else ""
    guest, nested = nested_guest(l1, walk_over + access_code("read"), regs={"rbx": hole + 0x123})
    own = own_tables(l1, guest)
    if size == "1g":
        own.set(0, OPEN | PS, 3)
    else:
        own.set(hole, hole & ~(TWO_MIB - 1) | OPEN | PS, 2)
    nested.set(hole, 0)

    assert guest.run().matches(
        code=VMEXIT.NPF, rip=guest["probe"], info1=npf_info(present=False, write=False), info2=hole + 0x123
    )


@clause("np.large.hole")
@pytest.mark.parametrize("size", ["2m", "1g"])
def test_small_page_of_another_target_in_a_large_page_of_l2(l1, size):
    """The nested entry in the middle leads elsewhere; its neighbours do not."""
    need(l1, size)
    pages, other = l1.scratch(3), l1.scratch(1)
    middle = pages + 0x1000
    guest, nested = nested_guest(
        l1, "mov al, [rbx - 0x1000]\nmov ah, [rbx]\nmov cl, [rbx + 0x1000]\ndone: vmmcall", regs={"rbx": middle}
    )
    own = own_tables(l1, guest)
    if size == "1g":
        own.set(0, OPEN | PS, 3)
    else:
        own.set(middle, middle & ~(TWO_MIB - 1) | OPEN | PS, 2)
    nested.set(middle, other | OPEN)
    for number, page in enumerate((pages, middle, pages + 0x2000, other), 1):
        guest.write(page, bytes([number]))

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    read = exit.regs["rax"] & 0xFFFF | (exit.regs["rcx"] & 0xFF) << 16
    assert l1.expect("the three bytes, lowest page first", read, 0x03_04_01, width_bytes=3)


@clause("np.large.invlpg")
@pytest.mark.parametrize("through", [0, 1], ids=["first_splinter", "second_splinter"])
def test_invlpg_drops_all_splinters(l1, through):
    """L2 turns its 2 MiB page elsewhere, invalidates one address in it, and reads at two others."""
    code = """
        mov al, [rbx]
        mov al, [rbx + 0x1000]
        mov [rdi], rsi
        invlpg [rdx]
        mov al, [rbx]
        mov ah, [rbx + 0x1000]
    done: vmmcall
    """
    far = 0x4000_0000  # 1 GiB: L2's own entry there is a 2 MiB page
    first, second = l1.scratch(2), l1.scratch(2)
    guest, nested = nested_guest(l1, code)
    own = own_tables(l1, guest)
    at = far + 0x5000
    # L2's page at 1 GiB leads to guest physical 8 GiB or 9 GiB, of which the nested tables map two small pages each.
    for gpa, target in ((0x2_0000_0000, first), (0x2_4000_0000, second)):
        directory, table = l1.scratch(1), l1.scratch(1)
        nested.set(gpa, directory | OPEN, 3)
        guest.write(directory, entry_bytes(table | OPEN))
        for number in (0, 1):
            guest.write(table + 8 * (5 + number), entry_bytes(target + 0x1000 * number | OPEN))
    for number, page_at in enumerate((first, first + 0x1000, second, second + 0x1000), 1):
        guest.write(page_at, bytes([0x10 * number]))
    own.set(far, 0x2_0000_0000 | OPEN | PS, 2)
    guest.regs.update(
        {"rbx": at, "rdi": own.entry(far, 2), "rsi": 0x2_4000_0000 | OPEN | PS, "rdx": at + 0x1000 * through}
    )

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the two bytes, lower page first", exit.regs["rax"] & 0xFFFF, 0x4030, width_bytes=2)
