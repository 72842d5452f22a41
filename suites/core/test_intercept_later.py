"""Instruction intercepts that came later: INVLPGB, TLBSYNC, MCOMMIT, and the write traps of EFER and CRn.

INVLPGB, TLBSYNC and MCOMMIT have intercepts of their own in 014h, and do not exist where CPUID does not offer them
(APM2 15.9; APM3, #UD of each). The write traps exit behind the instruction and were made for guests with encrypted
state; what they do for others no page says (15.35.9). A wrong L0 passes an intercept of its host through, and L1 meets
an exit that its processor cannot have; or it loses a write on the way.
"""

import pytest

from harness import VMEXIT, any_of, cases, clause

INVLPGB, TLBSYNC, MCOMMIT = (f".byte {text}" for text in ("0x0f,0x01,0xfe", "0x0f,0x01,0xff", "0xf3,0x0f,0x01,0xfa"))
SHORT = {"invlpgb": INVLPGB, "tlbsync": TLBSYNC, "mcommit": MCOMMIT}


def _guest(l1, name, intercept, **options):
    vmcb = {"rax": 0, "invlpgb_enable": int(l1.cpuid.has("INVLPGB"))}
    guest = l1.guest(f"nop\nstart: {SHORT[name]}\nvmmcall", intercept=intercept, vmcb=vmcb, **options)
    guest.regs.update({"rcx": 0, "rdx": 0})
    return guest


@clause("core.intercept.invlpgb", "core.intercept.invlpgb_absent")
@cases("name", ["invlpgb", "tlbsync"])
def test_invlpgb_and_tlbsync(l1, name):
    """With 090h bit 7, without which neither exists in L2."""
    l1.need("!INVLPGB" if not l1.cpuid.has("INVLPGB") else "TlbiCtl")
    guest = _guest(l1, name, [name])

    exit = guest.run()

    if l1.cpuid.has("INVLPGB"):
        assert exit.matches(code=VMEXIT[name.upper()], rip=guest["start"])
    else:
        assert exit.matches(code=VMEXIT.EXCP_UD, rip=guest["start"])


@clause("core.intercept.invlpgb", "core.intercept.invlpgb_absent")
@cases("name", ["invlpgb", "tlbsync"])
def test_privilege_of_invlpgb_comes_first(l1, name):
    """#GP(0) at CPL 3, ahead of the intercept; without the instruction #UD."""
    l1.need("!INVLPGB" if not l1.cpuid.has("INVLPGB") else "TlbiCtl")
    guest = _guest(l1, name, [name], cpl=3)

    code = l1.either("INVLPGB", offered=VMEXIT.EXCP_GP, absent=VMEXIT.EXCP_UD)
    assert guest.run().matches(code=code, rip=guest["start"])


@clause("core.intercept.mcommit", "core.intercept.mcommit_absent")
@cases("intercepted", [False, True])
def test_mcommit_that_is_not_turned_on(l1, intercepted):
    """EFER.MCOMMIT is 0, or the instruction does not exist: #UD, whatever the intercept says."""
    guest = _guest(l1, "mcommit", ["mcommit"] if intercepted else [])

    assert guest.run().matches(code=VMEXIT.EXCP_UD, rip=guest["start"])


@clause("core.intercept.mcommit")
def test_mcommit_exits(l1):
    """EFER.MCOMMIT (bit 17) is set."""
    guest = _guest(l1, "mcommit", ["mcommit"])
    guest.vmcb["efer"] |= 1 << 17

    assert guest.run().matches(code=VMEXIT.MCOMMIT, rip=guest["start"])


MCE, SCE, WP = 1 << 6, 1, 1 << 16
WRITES = {
    "efer": ("mov ecx, 0xc0000080\nrdmsr\nxor eax, 1\nwrmsr", "efer_write_trap", VMEXIT.EFER_WRITE_TRAP, "efer", SCE),
    "cr0": (f"mov rax, cr0\nxor eax, {WP}\nmov cr0, rax", "cr0_write_trap", VMEXIT.CR0_WRITE_TRAP, "cr0", WP),
    "cr4": (f"mov rax, cr4\nxor eax, {MCE}\nmov cr4, rax", "cr4_write_trap", VMEXIT.CR4_WRITE_TRAP, "cr4", MCE),
}


@clause("core.intercept.write_trap")
@pytest.mark.dangerous
@cases("code, own, trap, field, flipped", WRITES)
def test_write_trap_of_an_ordinary_guest(l1, code, own, trap, field, flipped):
    """The write is done, and L2 stands behind it or has gone on to its end."""
    guest = l1.guest(f"{code}\nbehind: nop\nend: vmmcall", intercept=[own])
    written = guest.vmcb[field] ^ flipped

    exit = guest.run()

    rip = guest["behind"] if exit.code == trap else guest["end"]
    assert exit.matches(code=any_of(trap, VMEXIT.VMMCALL), rip=rip, fields={field: written})
