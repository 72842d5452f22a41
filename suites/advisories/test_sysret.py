"""XSA-7 (CVE-2012-0217) and XSA-204 (CVE-2016-10013): SYSRET and SYSCALL.

Neither concerns nesting, nor an L0 on AMD hardware; L2 is where an L0 that emulates too much would show them.

XSA-7: Xen, FreeBSD and Windows on Intel. SYSRET with a non-canonical RCX raised #GP there while still at CPL 0, but on
the stack that user mode had chosen. AMD's SYSRET does not look at RCX: it drops to CPL 3, and the fetch at the target
raises #GP(0) there, with the user's stack as it was. Xen before 4.1.3 had it, for paravirtual guests on Intel alone.

XSA-204: Xen from 4.0 to 4.8 emulated SYSCALL and took the single-step trap by RFLAGS as they were before it. Hardware
goes by what SYSCALL made of them: a kernel that masks TF in SFMASK is not stepped on its first instruction, on a stack
that it does not have yet. With TF not masked, the trap is at the first instruction of the kernel.
"""

from harness import EFER, RFLAGS, VMEXIT, any_of, cases, clause, sign_extended

STAR = 0x0010_0008 << 32  # SYSCALL: CS 8; SYSRET: CS 20h, SS 18h, with RPL 3
SYSRET = ".byte 0x48, 0x0f, 0x07"
NOT_CANONICAL = {"bit63": 0x8000_0000_0000_0000, "bit47": 0x0000_8000_0000_0000, "top": 0xFFFF_7FFF_FFFF_FFFF}


def _guest(l1, code, **options):
    guest = l1.guest(code, **options)
    guest.vmcb["efer"] |= EFER.SCE
    guest.vmcb["star"] = STAR
    return guest


@clause("advisories.sysret.not_canonical")
@cases("rcx", NOT_CANONICAL)
def test_sysret_to_an_address_that_is_not_canonical(l1, rcx):
    guest = _guest(l1, f"nop\nat: {SYSRET}\nvmmcall", regs={"rcx": rcx, "r11": 2})

    exit = guest.run(vmload=True)

    target = any_of(rcx, sign_extended(rcx, 48))
    assert exit.matches(code=VMEXIT.EXCP_GP, info1=0, cpl=3, rip=target, rsp=guest.stack_top)


@clause("advisories.sysret.not_canonical")
def test_sysret_to_user_mode(l1):
    """The legal neighbour: the same with an address that is one."""
    guest = _guest(l1, f"nop\nat: {SYSRET}\nvmmcall\nuser: vmmcall", regs={"r11": 2})
    guest.regs["rcx"] = guest["user"]

    assert guest.run(vmload=True).reached("user", cpl=3, rsp=guest.stack_top)


@clause("advisories.syscall.single_step")
@cases("sfmask", {"tf_masked": RFLAGS.TF, "tf_kept": 0})
def test_syscall_that_is_stepped(l1, sfmask):
    guest = _guest(l1, "start: syscall\nback: vmmcall\nentry: vmmcall", cpl=3)
    guest.vmcb.update({"lstar": guest["entry"], "sfmask": sfmask, "rflags": RFLAGS.TF | 2})

    exit = guest.run(vmload=True)

    code = VMEXIT.VMMCALL if sfmask else VMEXIT.EXCP_DB
    assert exit.matches(code=code, rip=guest["entry"], cpl=0, regs={"rcx": guest["back"]})
