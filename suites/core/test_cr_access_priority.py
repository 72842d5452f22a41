"""What comes first: the exceptions of a control register access, or its intercept.

Hardware checks the exceptions that have nothing to do with memory before the CR intercepts: CPL, and for CR0 illegal
combinations of bits; a page-directory pointer or a memory operand is looked at after them (APM2 15.9, Table 15-7). An
L0 that hands an access to L1 unseen shows L1 exits for accesses that L2 could not make, and L1 may then carry them out.
"""

import pytest

from harness import VMEXIT, any_of, clause, unchanged

ALL_CRS = {"intercept_cr_read": 0xFFFF, "intercept_cr_write": 0xFFFF}
PRIVILEGED = {
    **{f"cr{n}_read": f"mov rbx, cr{n}" for n in (0, 2, 3, 4, 8)},
    **{f"cr{n}_write": f"mov cr{n}, rbx" for n in (0, 2, 3, 4, 8)},
    "lmsw": "lmsw bx",
    "clts": "clts",
}


@clause("core.cr_access.cpl_first")
@pytest.mark.parametrize("name", PRIVILEGED)
def test_user_mode_faults(l1, name):
    """#GP(0) at CPL 3, with every CR intercept set."""
    guest = l1.guest(f"nop\nstart: {PRIVILEGED[name]}\nvmmcall", cpl=3, intercept=["cr0_sel"], vmcb=ALL_CRS)

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0)


@clause("core.cr_access.cpl_first")
@pytest.mark.parametrize("code", ["mov ebx, cr0", "mov cr0, ebx"], ids=["read", "write"])
@pytest.mark.parametrize("cpl", [1, 2, 3], ids=lambda cpl: f"cpl{cpl}")
def test_less_privileged_32_bit_code_faults(l1, cpl, code):
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", mode="prot32", cpl=cpl, vmcb=ALL_CRS)

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0)


@clause("core.cr_access.smsw_in_user_mode")
@pytest.mark.parametrize("mode", ["long64", "compat32", "prot32"])
def test_smsw_in_user_mode_exits(l1, mode):
    """SMSW needs no privilege, so nothing comes before the intercept."""
    guest = l1.guest("nop\nstart: smsw edx\nvmmcall", mode=mode, cpl=3, intercept=["cr0_read"])

    assert guest.run().matches(code=VMEXIT.CR0_READ, rip=guest["start"], regs={"rdx": unchanged})


# Which bits of CR0 are inverted, and the mode.
ILLEGAL_CR0 = [
    pytest.param("prot32", 1 << 31 | 1, id="pg_without_pe"),
    pytest.param("long64", 1 << 29, id="nw_without_cd"),
    pytest.param("prot32", 1 << 29, id="nw_without_cd_32"),
    pytest.param("long64", 1 << 32, id="bit32"),
    pytest.param("long64", 1 << 63, id="bit63"),
]


@clause("core.cr_access.cr0_illegal_first")
@pytest.mark.parametrize(
    ("mode", "flip", "intercept"),
    [
        *(pytest.param(*p.values, "cr0_write", id=p.id) for p in ILLEGAL_CR0),
        pytest.param("long64", 1 << 29, "cr0_sel", id="selective-nw_without_cd"),
        pytest.param("long64", 1 << 32, "cr0_sel", id="selective-bit32"),
    ],
)
def test_illegal_cr0_faults(l1, mode, flip, intercept):
    guest = l1.guest(
        f"nop\nstart: mov cr0, {'rbx' if mode == 'long64' else 'ebx'}\nvmmcall", mode=mode, intercept=[intercept]
    )
    guest.regs["rbx"] = guest.vmcb["cr0"] ^ flip

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0, cr0=unchanged)


@clause("core.cr_access.cr0_illegal_first")
@pytest.mark.parametrize("intercept", ["cr0_write", "cr0_sel"])
@pytest.mark.parametrize("flip", [1 << 30, 1 << 30 | 1 << 29], ids=["cd", "cd_and_nw"])
def test_legal_cr0_exits(l1, flip, intercept):
    """The legal neighbours of NW without CD."""
    guest = l1.guest("nop\nstart: mov cr0, rbx\nvmmcall", intercept=[intercept])
    guest.regs["rbx"] = guest.vmcb["cr0"] ^ flip
    code = VMEXIT.CR0_WRITE if intercept == "cr0_write" else VMEXIT.CR0_SEL_WRITE

    assert guest.run().matches(code=code, rip=guest["start"], cr0=unchanged)


@clause("core.cr_access.before_pdpe_load")
@pytest.mark.parametrize("intercept", ["cr0_write", "cr0_sel"])
def test_paging_is_turned_on_with_bad_pdpes(l1, intercept):
    """CR0.PG is set with CR4.PAE set and pointers that have reserved bits: the exit comes, no #GP."""
    guest = l1.guest("nop\nstart: mov cr0, ebx\nvmmcall", mode="prot32", intercept=[intercept], vmcb={"cr4": 0x20})
    guest.vmcb["cr3"] = _bad_pdpes(l1)
    guest.regs["rbx"] = guest.vmcb["cr0"] | 1 << 31
    code = VMEXIT.CR0_WRITE if intercept == "cr0_write" else VMEXIT.CR0_SEL_WRITE

    assert guest.run().matches(code=code, rip=guest["start"], cr0=unchanged)


@clause("core.cr_access.before_pdpe_load")
def test_cr3_is_pointed_at_bad_pdpes(l1):
    """With legacy PAE paging on: exit 13h, and CR3 is the old one."""
    guest = l1.guest("nop\nstart: mov cr3, ebx\nvmmcall", mode="pae32", intercept=["cr3_write"])
    guest.regs["rbx"] = _bad_pdpes(l1)

    assert guest.run().matches(code=VMEXIT.CR3_WRITE, rip=guest["start"], cr3=unchanged)


def _bad_pdpes(l1):
    """Four page-directory pointers with P and the reserved bits 2:1 and 8:5."""
    page = l1.scratch()
    l1.write(page, (0x1E7).to_bytes(8, "little") * 4)
    return page


ILLEGAL = [
    pytest.param("cr3", 3, 1 << 62, id="cr3_bit62"),
    pytest.param("cr4", 4, 1 << 31, id="cr4_bit31"),
    pytest.param("cr4", 4, 1 << 63, id="cr4_bit63"),
    pytest.param("cr4", 4, 1 << 5, id="cr4_pae_cleared"),
    pytest.param("v_tpr", 8, 1 << 4, id="cr8_bit4"),
    pytest.param("v_tpr", 8, 1 << 63, id="cr8_bit63"),
]


@clause("core.cr_access.illegal_value")
@pytest.mark.parametrize(("field", "cr", "flip"), ILLEGAL)
def test_illegal_value(l1, field, cr, flip):
    """#GP or the exit, but neither a write nor anything else."""
    guest = l1.guest(f"nop\nstart: mov cr{cr}, rbx\nvmmcall", intercept=[f"cr{cr}_write"])
    guest.regs["rbx"] = guest.vmcb[field] ^ flip
    code = any_of(VMEXIT.EXCP_GP, VMEXIT.CR0_WRITE + cr)

    assert guest.run().matches(code=code, rip=guest["start"], fields={field: unchanged})


@clause("core.cr_access.before_memory")
@pytest.mark.parametrize(("code", "intercept"), [("smsw", "cr0_read"), ("lmsw", "cr0_write")], ids=["smsw", "lmsw"])
def test_operand_that_is_not_mapped(l1, code, intercept):
    guest = l1.guest(f"nop\nstart: {code} [rbx]\nvmmcall", intercept=[intercept], regs={"rbx": 0x7FFF_FFFF_0000})
    exits = VMEXIT.CR0_READ if code == "smsw" else VMEXIT.CR0_WRITE

    assert guest.run().matches(code=any_of(exits, VMEXIT.EXCP_PF), rip=guest["start"], cr0=unchanged)
