"""The selective CR0 write intercept.

It catches MOV to CR0 that changes a bit other than TS and MP, which an operating system turns all the time, and LMSW
whatever it writes; CLTS does not look at it; the intercept of all CR0 writes wins over it (APM2 15.9, Table 15-7).
A wrong L0 compares the value instead of the change, forgets LMSW, or exits for every write and slows L2 down.
"""

import pytest

from harness import VMEXIT, clause

MP, EM, TS, NE, WP, AM = (1 << bit for bit in (1, 2, 3, 5, 16, 18))


def writes(change):
    """L2 code that turns these bits of CR0 by MOV."""
    return f"mov rax, cr0\nxor rax, {change}\nstart: mov cr0, rax\nend: vmmcall"


@clause("core.intercept.cr0_sel")
@pytest.mark.parametrize(
    ("before", "change"),
    [(0, 0), (0, MP), (0, TS), (0, MP | TS), (MP | TS, MP), (MP | TS, TS), (MP | TS, MP | TS)],
    ids=["none", "mp_set", "ts_set", "both_set", "mp_cleared", "ts_cleared", "both_cleared"],
)
def test_change_of_ts_and_mp_is_let_through(l1, before, change):
    """Setting and clearing them; and a write that changes nothing."""
    guest = l1.guest(writes(change), intercept=["cr0_sel"])
    guest.vmcb["cr0"] |= before
    wanted = guest.vmcb["cr0"] ^ change

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr0=wanted)


@clause("core.intercept.cr0_sel")
@pytest.mark.parametrize(
    "change",
    [EM, NE, WP, AM, AM | TS, AM | MP],
    ids=["em", "ne", "wp", "am", "am_ts", "am_mp"],
)
def test_change_of_another_bit_exits(l1, change):
    """One bit at a time, and with TS or MP beside it; CR0 is as it was."""
    guest = l1.guest(writes(change), intercept=["cr0_sel"])
    cr0 = guest.vmcb["cr0"]

    assert guest.run().matches(code=VMEXIT.CR0_SEL_WRITE, rip=guest["start"], cr0=cr0, rax=cr0 ^ change)


@clause("core.intercept.cr0_sel")
@pytest.mark.parametrize("change", [TS, AM], ids=["ts", "am"])
def test_all_writes_intercepted_wins(l1, change):
    """Code 10h for any write."""
    guest = l1.guest(writes(change), intercept=["cr0_sel", "cr0_write"])

    assert guest.run().matches(code=VMEXIT.CR0_WRITE, rip=guest["start"])


@clause("core.intercept.cr0_sel")
@pytest.mark.parametrize(
    ("form", "change"),
    [("ax", 0), ("ax", MP), ("ax", TS), ("ax", EM), ("word ptr [rbx]", 0), ("word ptr [rbx]", EM)],
    ids=["none", "mp", "ts", "em", "memory_none", "memory_em"],
)
def test_lmsw_always_exits(l1, form, change):
    """Even where it writes what is there."""
    code = f"smsw eax\nxor eax, {change}\nmov [rbx], eax\nstart: lmsw {form}\nend: vmmcall"
    guest = l1.guest(code, intercept=["cr0_sel"], regs={"rbx": l1.scratch(1)})
    cr0 = guest.vmcb["cr0"]

    assert guest.run().matches(code=VMEXIT.CR0_SEL_WRITE, rip=guest["start"], cr0=cr0)


@clause("core.intercept.cr0_sel")
@pytest.mark.parametrize("mode", ["prot32", "real16"])
def test_lmsw_exits_in_other_modes(l1, mode):
    guest = l1.guest("smsw ax\nstart: lmsw ax\nend: vmmcall", mode=mode, intercept=["cr0_sel"])

    assert guest.run().matches(code=VMEXIT.CR0_SEL_WRITE, rip=guest["start"])


@clause("core.intercept.cr0_sel")
@pytest.mark.parametrize("before", [0, TS], ids=["ts_clear", "ts_set"])
def test_clts_never_exits(l1, before):
    guest = l1.guest("clts\nend: vmmcall", intercept=["cr0_sel"])
    guest.vmcb["cr0"] |= before
    wanted = guest.vmcb["cr0"] & ~TS

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr0=wanted)


@clause("core.intercept.cr0_sel")
@pytest.mark.parametrize("code", ["mov cr0, rax", "lmsw ax"], ids=["mov", "lmsw"])
def test_privilege_is_checked_first(l1, code):
    guest = l1.guest(f"xor eax, eax\nstart: {code}\nvmmcall", cpl=3, intercept=["cr0_sel"])

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0)
