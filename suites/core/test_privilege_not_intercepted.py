"""Privileged instructions at CPL 3 that nobody intercepts.

They raise #GP(0) at the instruction and do nothing (APM2 15.7; APM3, each instruction), as without SVM. An L0 that
intercepts the instruction for itself checks the privilege in its own code, or forgets to; then an application of L2
halts the processor, flushes its caches or turns off write protection.
"""

import pytest

from harness import VMEXIT, cases, clause, unchanged
from suites.lib.intercepting import LDT_SELECTOR, OSXSAVE, TSS_SELECTOR, with_tables

INSTRUCTIONS = {
    "wbinvd": "wbinvd", "hlt": "hlt", "clts": "clts", "lmsw": "lmsw bx", "rdmsr": "rdmsr", "wrmsr": "wrmsr",
    "xsetbv": "xsetbv", "lgdt": "lgdt [rsi]", "lidt": "lidt [rsi]", "lldt": "lldt di", "ltr": "ltr bp",
    "invlpg": "invlpg [rsi]", "rdpmc": "rdpmc", "cli": "cli", "sti": "sti", "in": "in al, 0xe0", "out": "out 0xe0, al",
    "outsb": "outsb", "swapgs": "swapgs", "sysret": "sysretq", "stgi": "stgi", "clgi": "clgi", "vmload": "vmload",
    "vmsave": "vmsave", "invlpga": "invlpga", "vmrun": "vmrun",
    **{f"cr{n}_read": f"mov rax, cr{n}" for n in (0, 2, 3, 4, 8)},
    **{f"cr{n}_write": f"mov cr{n}, rax" for n in (0, 2, 3, 4, 8)},
    **{f"dr{n}_read": f"mov rax, dr{n}" for n in (0, 6, 7)},
    **{f"dr{n}_write": f"mov dr{n}, rax" for n in (0, 6, 7)},
}  # fmt: skip
INVD = pytest.param("invd", id="invd", marks=pytest.mark.dangerous)
STATE = ("cr0", "cr2", "cr3", "cr4", "dr6", "dr7", "efer", "rflags", "rsp", "rax", "gdtr.base", "idtr.base")


def _check(l1, code, cpl):
    page = l1.scratch(1)
    guest = l1.guest(f"nop\nat: {code}\nvmmcall", cpl=cpl, vmcb=OSXSAVE | {"rax": page})
    guest.regs.update({"rbx": 1, "rcx": 0xC000_0084, "rdx": 0, "rsi": page, "rdi": LDT_SELECTOR, "rbp": TSS_SELECTOR})
    if code in ("xsetbv", "rdpmc"):
        guest.regs["rcx"] = 0
    guest.vmcb["efer"] |= 1  # SCE: without it SYSRET is no instruction
    with_tables(l1, guest)

    exit = guest.run()

    same = dict.fromkeys(STATE, unchanged)
    assert exit.matches(code=VMEXIT.EXCP_GP, rip=guest["at"], info1=0, cpl=cpl, fields=same)


@clause("core.exceptions.privilege")
@cases("code", INSTRUCTIONS)
def test_cpl3(l1, code):
    """IOPL is 0, and CR4.PCE and the SVM instructions are as L2's kernel would have them."""
    _check(l1, code, 3)


@clause("core.exceptions.privilege")
@pytest.mark.parametrize("code", [INVD])
def test_invd(l1, code):
    _check(l1, code, 3)


@clause("core.exceptions.privilege")
@cases("code", ["hlt", "clts", "rdmsr", "mov rax, cr0"])
@cases("cpl", [1, 2], prefix="cpl")
def test_cpl1_and_cpl2(l1, cpl, code):
    """No more than CPL 3."""
    _check(l1, code, cpl)
