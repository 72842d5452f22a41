"""The #PF intercept: error code, address, and a CR2 that is left alone.

At an intercepted #PF EXITINFO1 holds the error code and EXITINFO2 the linear address, and CR2 is not written: it is
L1 that writes it if it wants L2 to see the fault (APM2 15.12.15). The error code's bits follow L2's own paging: ID only
with NXE and PAE. A wrong L0 writes CR2 (L2 can then tell, and loses what it had there), gives the address of its own
shadow walk, or the rights of its own tables instead of L2's.
"""

import pytest

from harness import VMEXIT, clause, masked
from harness.scenario.steps import TABLE_SIZES, TableKind

PAGE = 0x4020_0000
VA = PAGE + 0x1234
BACKING = 0x100_0000  # 4 MiB of the arena
P, W, U, LARGE, NX = 1, 2, 4, 0x80, 1 << 63
ALL = P | W | U
WP, NXE = 1 << 16, 1 << 11
DECOY = 0x1122_3344

TABLES = {
    "long64": (TableKind.LONG, 8, 0x2000, 21),
    "compat32": (TableKind.LONG, 8, 0x2000, 21),
    "pae32": (TableKind.PAE, 8, 0x1000, 21),
    "paged32": (TableKind.LEGACY, 4, 0, 22),
}


def paged(l1, mode, code, flags, *, at=PAGE, **options):
    """A guest with tables of its own in which the page at `at` has those flags; RBX and RDI are in it."""
    kind, width, first, shift = TABLES[mode]
    guest = l1.guest(f"{code}\nend: vmmcall", mode=mode, regs={"rbx": VA, "rdi": VA, "rax": 0x5EED}, **options)
    tables = l1.scratch(TABLE_SIZES[kind] // 0x1000)
    entry = BACKING | LARGE | flags if flags & P else flags
    guest.tables(tables, kind)
    guest.write(tables + first + (PAGE >> shift) * width, entry.to_bytes(width, "little"))
    guest.vmcb.update({"cr3": tables})
    return guest


READ, WRITE, FETCH = "at: mov ecx, [ebx]", "at: mov [ebx], ecx", "jmp {b}"


def text(mode, access):
    """The access in the mode's own registers."""
    if mode == "long64":
        return access.replace("ebx", "rbx").replace("{b}", "rbx")
    return access.replace("{b}", "ebx")


# Access, CPL, flags of the page, CR0.WP, EFER.NXE, error code (None: no fault).
COMMON = [
    pytest.param(READ, 0, 0, 0, 0, 0x0, id="read_absent"),
    pytest.param(WRITE, 0, 0, 0, 0, 0x2, id="write_absent"),
    pytest.param(READ, 3, 0, 0, 0, 0x4, id="user_read_absent"),
    pytest.param(WRITE, 3, 0, 0, 0, 0x6, id="user_write_absent"),
    pytest.param(WRITE, 0, P | U, WP, 0, 0x3, id="write_protected"),
    pytest.param(WRITE, 0, P | U, 0, 0, None, id="write_protected_without_wp"),
    pytest.param(READ, 0, P | U, WP, 0, None, id="read_of_write_protected"),
    pytest.param(WRITE, 3, P | U, 0, 0, 0x7, id="user_write_protected"),
    pytest.param(READ, 3, P | W, 0, 0, 0x5, id="user_read_of_supervisor"),
    pytest.param(WRITE, 3, P | W, 0, 0, 0x7, id="user_write_of_supervisor"),
    pytest.param(READ, 0, P | W, 0, 0, None, id="read_of_supervisor"),
    pytest.param(WRITE, 3, ALL, WP, 0, None, id="user_write"),
    pytest.param(FETCH, 0, 0, 0, 0, 0x0, id="fetch_absent_without_nxe"),
    pytest.param(FETCH, 3, P | W, 0, 0, 0x5, id="user_fetch_of_supervisor_without_nxe"),
]
EXTENDED = [
    pytest.param(FETCH, 0, 0, 0, NXE, 0x10, id="fetch_absent"),
    pytest.param(FETCH, 3, 0, 0, NXE, 0x14, id="user_fetch_absent"),
    pytest.param(FETCH, 0, ALL | NX, 0, NXE, 0x11, id="fetch_nx"),
    pytest.param(FETCH, 3, ALL | NX, 0, NXE, 0x15, id="user_fetch_nx"),
    pytest.param(READ, 0, ALL | NX, 0, NXE, None, id="read_of_nx"),
    pytest.param(READ, 0, ALL | 1 << 13, 0, 0, 0x9, id="reserved_read"),
    pytest.param(WRITE, 0, ALL | 1 << 13, 0, 0, 0xB, id="reserved_write"),
    pytest.param(READ, 3, ALL | 1 << 13, 0, 0, 0xD, id="reserved_user_read"),
    pytest.param(READ, 0, ALL | NX, 0, 0, 0x9, id="nx_without_nxe"),
]


def check(l1, mode, access, cpl, flags, wp, nxe, error, *, np=False):
    """One access and its fault, or none."""
    guest = paged(l1, mode, text(mode, access), flags, cpl=cpl, np=np)
    guest.vmcb["cr0"] |= wp
    guest.vmcb["efer"] |= nxe
    exit = guest.run()

    if error is None:
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
        return
    rip = VA if access == FETCH else guest["at"]
    none = masked(0, 1 << 31)
    assert exit.matches(code=VMEXIT.EXCP_PF, info1=error, info2=VA, rip=rip, intinfo=none)


@clause("core.exceptions.page_fault_error_code")
@pytest.mark.parametrize(("access", "cpl", "flags", "wp", "nxe", "error"), COMMON + EXTENDED)
def test_page_fault(l1, access, cpl, flags, wp, nxe, error):
    """Long mode."""
    check(l1, "long64", access, cpl, flags, wp, nxe, error)


@clause("core.exceptions.page_fault_error_code")
@pytest.mark.parametrize(("access", "cpl", "flags", "wp", "nxe", "error"), [COMMON[1], *EXTENDED[:7]])
def test_page_fault_with_legacy_pae(l1, access, cpl, flags, wp, nxe, error):
    check(l1, "pae32", access, cpl, flags, wp, nxe, error)


@clause("core.exceptions.page_fault_error_code")
@pytest.mark.parametrize(
    ("access", "cpl", "flags", "wp", "nxe", "error"),
    [*COMMON[1:5], COMMON[8], COMMON[-1], pytest.param(FETCH, 0, 0, 0, NXE, 0x0, id="fetch_absent_nxe_without_pae")],
)
def test_page_fault_without_pae(l1, access, cpl, flags, wp, nxe, error):
    """Two-level tables: they have no NX, and ID is never set."""
    check(l1, "paged32", access, cpl, flags, wp, nxe, error)


@clause("core.exceptions.page_fault_error_code")
@pytest.mark.parametrize("mode", ["long64", "paged32"])
@pytest.mark.parametrize(("access", "cpl", "flags", "wp", "nxe", "error"), COMMON[3:7])
def test_page_fault_with_nested_paging(l1, mode, access, cpl, flags, wp, nxe, error):
    """L2's own fault comes first and is no nested one."""
    l1.need("NP")
    check(l1, mode, access, cpl, flags, wp, nxe, error, np=True)


@clause("core.exceptions.page_fault")
@pytest.mark.parametrize(
    ("mode", "np"),
    [("long64", False), ("long64", True), ("pae32", False), ("paged32", True)],
    ids=["long64-shadow", "long64-nested", "pae32-shadow", "paged32-nested"],
)
@pytest.mark.parametrize("access", [READ, WRITE, FETCH], ids=["read", "write", "fetch"])
def test_page_fault_leaves_cr2(l1, access, mode, np):
    """L2 has put a value into CR2 itself; the address of the fault goes into EXITINFO2 alone."""
    if np:
        l1.need("NP")
    own = f"mov eax, {DECOY}\nmov cr2, {'rax' if mode == 'long64' else 'eax'}\n"
    guest = paged(l1, mode, own + text(mode, access), 0, np=np)

    exit = guest.run()

    rip = VA if access == FETCH else guest["at"]
    assert exit.matches(code=VMEXIT.EXCP_PF, info2=VA, rip=rip, cr2=DECOY, rsp=exit.before["rsp"])


CROSSING = [
    pytest.param("mov [rbx], rax", 8, 4, 2, id="store8"),
    pytest.param("mov rcx, [rbx]", 8, 1, 0, id="load8"),
    pytest.param("mov [rbx], ax", 2, 1, 2, id="store2"),
]


def two_pages(l1, code, **options):
    """A 64-bit guest whose page at PAGE is there and whose next one is not."""
    guest = paged(l1, "long64", code, ALL, **options)
    guest.write(guest.vmcb["cr3"] + 0x2000 + (PAGE + 0x20_0000 >> 21) * 8, bytes(8))
    return guest, PAGE + 0x20_0000


@clause("core.exceptions.page_fault_across_pages")
@pytest.mark.parametrize(("access", "size", "before", "error"), CROSSING)
def test_address_is_that_of_the_first_byte_that_faults(l1, access, size, before, error):
    """An access that begins in a page that is there and ends in one that is not."""
    guest, border = two_pages(l1, f"at: {access}")
    guest.regs["rbx"] = border - before

    assert guest.run().matches(code=VMEXIT.EXCP_PF, info1=error, info2=border, rip=guest["at"])


@clause("core.exceptions.progress")
@pytest.mark.parametrize(("done", "size"), [(0, 1), (8, 1), (3, 8)], ids=["at_once", "after_8_bytes", "after_3_qwords"])
def test_string_instruction_shows_how_far_it_came(l1, done, size):
    """REP STOS into the absent page: RCX and RDI are those of the faulting iteration, RIP is the instruction's."""
    guest, border = two_pages(l1, f"at: rep {'stosb' if size == 1 else 'stosq'}")
    guest.regs |= {"rdi": border - done * size, "rcx": 0x20}

    exit = guest.run()

    regs = {"rdi": border, "rcx": 0x20 - done}
    assert exit.matches(code=VMEXIT.EXCP_PF, info1=2, info2=border, rip=guest["at"], regs=regs)


@clause("core.exceptions.progress")
def test_second_run_goes_on(l1):
    """L1 maps the page and runs L2 again: REP STOS does the rest and no more."""
    guest, border = two_pages(l1, "at: rep stosb")
    guest.regs |= {"rdi": border - 8, "rcx": 0x20}
    first = guest.run()
    assert first.matches(code=VMEXIT.EXCP_PF, info2=border)
    entry = guest.vmcb["cr3"] + 0x2000 + (border >> 21) * 8
    l1.write(entry, (BACKING + 0x20_0000 | LARGE | ALL).to_bytes(8, "little"))
    guest.regs |= {"rdi": first.regs["rdi"], "rcx": first.regs["rcx"]}
    guest.vmcb["tlb_control"] = 1

    second = guest.run()

    assert second.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rdi": border + 0x18, "rcx": 0})
