"""The general register of an intercepted MOV CRn.

With DecodeAssists EXITINFO1 bit 63 says that the instruction was MOV, and bits 3:0 which general register it names,
REX.B included; CLTS, LMSW and SMSW leave bit 63 clear, for they name no register in this way (APM2 15.8.1). L1 then
emulates without reading L2's code. A wrong L0 forgets bit 63 for reads, loses the upper eight registers, or leaves
what an earlier exit had there: L1 writes the value into another register.
"""

import pytest

from harness import VMEXIT, cases, clause, masked, unchanged
from suites.lib.general_registers import GPRS, GPRS_32

MOV = 1 << 63
CRS = [0, 2, 3, 4, 8]
DIRECTIONS = pytest.mark.parametrize("direction", ["read", "write"])


def _mov(direction, cr, gpr):
    return f"mov {gpr}, cr{cr}" if direction == "read" else f"mov cr{cr}, {gpr}"


def _guest(l1, direction, cr, code, mode="long64"):
    """A guest with `code` at `start`; every general register holds what the control register does, a legal value."""
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", mode=mode, intercept=[f"cr{cr}_{direction}"])
    value = guest.vmcb[f"cr{cr}"] if cr != 8 else 5
    guest.regs |= dict.fromkeys(GPRS, value)
    guest.vmcb.update({"rax": value, "rsp": value})
    return guest


def _code(direction, cr):
    return (VMEXIT.CR0_READ if direction == "read" else VMEXIT.CR0_WRITE) + cr


@clause("decodeassists.cr.mov")
@DIRECTIONS
@pytest.mark.parametrize("gpr", GPRS)
def test_each_general_register(l1, gpr, direction):
    cr = 3 if direction == "read" else 0
    guest = _guest(l1, direction, cr, _mov(direction, cr, gpr))

    exit = guest.run()

    assert exit.matches(code=_code(direction, cr), rip=guest["start"], info1=MOV | GPRS.index(gpr))


@clause("decodeassists.cr.mov")
@DIRECTIONS
@cases("cr", CRS, prefix="cr")
@pytest.mark.parametrize("gpr", ["rdx", "r13"])
def test_each_control_register(l1, gpr, cr, direction):
    """CR8 needs REX.R, which is none of the general register's."""
    guest = _guest(l1, direction, cr, _mov(direction, cr, gpr))

    exit = guest.run()

    assert exit.matches(code=_code(direction, cr), rip=guest["start"], info1=MOV | GPRS.index(gpr))


@clause("decodeassists.cr.mov")
@DIRECTIONS
@pytest.mark.parametrize("gpr", ["ecx", "esp", "edi"])
@pytest.mark.parametrize("mode", ["compat32", "pae32", "prot32", "real16"])
def test_other_modes(l1, mode, gpr, direction):
    """Eight registers, and three bits of number."""
    cr = 4 if direction == "read" else 0
    guest = _guest(l1, direction, cr, _mov(direction, cr, gpr), mode)

    exit = guest.run()

    assert exit.matches(code=_code(direction, cr), rip=guest["start"], info1=MOV | GPRS_32.index(gpr))


@clause("decodeassists.cr.mov")
@DIRECTIONS
@cases("prefixes", {"66": "0x66", "f3": "0xf3", "67": "0x67", "rex_w": "0x48", "rex_x": "0x42", "rex_b": "0x41"})
def test_prefixes(l1, prefixes, direction):
    """Of the prefixes only REX.B has a say: 41h turns RBP into R13."""
    opcode = "0x20" if direction == "read" else "0x22"
    guest = _guest(l1, direction, 0, f".byte {prefixes}, 0x0f, {opcode}, 0xc5")

    exit = guest.run()

    number = 13 if prefixes == "0x41" else 5
    assert exit.matches(code=_code(direction, 0), rip=guest["start"], info1=MOV | number)


@clause("decodeassists.cr.mod_ignored")
@DIRECTIONS
@cases("modrm", {"mod0_rsp": 0x1C, "mod0_rbp": 0x1D, "mod1_rbx": 0x5B, "mod2_rsp": 0x9C})
def test_modrm_mod_has_no_say(l1, modrm, direction):
    """The operand is a register whatever ModRM.mod is: CR3, with the register of ModRM.rm."""
    opcode = "0x20" if direction == "read" else "0x22"
    guest = _guest(l1, direction, 3, f".byte 0x0f, {opcode}, {modrm}")

    exit = guest.run()

    assert exit.matches(code=_code(direction, 3), rip=guest["start"], info1=MOV | modrm & 7)


MSW = {
    "smsw_register": ("smsw r9d", "smsw edx", "cr0_read"),
    "smsw_memory": ("smsw [rbx]", "smsw [ebx]", "cr0_read"),
    "lmsw_register": ("lmsw r9w", "lmsw dx", "cr0_write"),
    "lmsw_memory": ("lmsw [rbx]", "lmsw [ebx]", "cr0_write"),
    "clts": ("clts", "clts", "cr0_write"),
}


@clause("decodeassists.cr.not_mov")
@pytest.mark.parametrize("mode", ["long64", "compat32", "prot32", "real16"])
@pytest.mark.parametrize("form", MSW)
def test_machine_status_word(l1, form, mode):
    """Bit 63 is clear. Of the other bits it is said only that they tell nothing."""
    long_code, code, name = MSW[form]
    guest = l1.guest(f"nop\nstart: {long_code if mode == 'long64' else code}\nvmmcall", mode=mode, intercept=[name])
    guest.regs |= {"rbx": 0x1000 if mode == "real16" else l1.scratch(1), "rdx": 1, "r9": 1}

    exit = guest.run()

    exitcode = VMEXIT.CR0_READ if name == "cr0_read" else VMEXIT.CR0_WRITE
    assert exit.matches(code=exitcode, rip=guest["start"], info1=masked(0, MOV), cr0=unchanged)


@clause("decodeassists.cr.not_mov")
def test_clts_after_mov(l1):
    """What the exit before had in EXITINFO1 is gone."""
    guest = l1.guest("first: mov cr0, r15\nsecond: clts\nvmmcall", intercept=["cr0_write"])
    guest.regs["r15"] = guest.vmcb["cr0"]
    assert guest.run().matches(code=VMEXIT.CR0_WRITE, info1=MOV | 15)

    exit = guest.resume("second")

    assert exit.matches(code=VMEXIT.CR0_WRITE, rip=guest["second"], info1=masked(0, MOV))


@clause("decodeassists.cr.alternate_cr8")
@DIRECTIONS
@pytest.mark.parametrize("gpr", ["ecx", "edi"])
@pytest.mark.parametrize("mode", ["prot32", "compat32"])
def test_lock_mov_cr0_is_mov_cr8(l1, mode, gpr, direction):
    """The form that 32-bit code has for CR8 is a MOV as well."""
    modrm = 0xC0 | GPRS_32.index(gpr)
    opcode = "0x20" if direction == "read" else "0x22"
    guest = _guest(l1, direction, 8, f".byte 0xf0, 0x0f, {opcode}, {modrm}", mode)

    exit = guest.run()

    assert exit.matches(code=_code(direction, 8), rip=guest["start"], info1=MOV | GPRS_32.index(gpr))
